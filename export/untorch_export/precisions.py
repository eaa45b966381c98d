"""The precisions that a model can be exported in: one row each, with what its graph is made from and how.

A new precision is a file in `quantize/` or `graph/` that makes its graph, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from untorch.bundle.manifest import INT8_SHARED
from untorch.bundle.precisions import FP16_PACKED, FP32, INT8_KERNELS
from untorch.numerics import Tensor
from untorch.ort import kernels
from untorch.ort.cuda.packing import INDICES
from untorch_export.graph.fp16 import take_int32
from untorch_export.graph.masks import as_bias
from untorch_export.graph.packing import pack
from untorch_export.quantize.int8 import quantize_int8
from untorch_export.quantize.int8_kernels import quantize_kernels

if TYPE_CHECKING:
    from onnx import ModelProto

    from untorch_export.quantize.ranges import Activations


class Sources(Protocol):
    """What graphs are made from. Graphs are those of a role: the whole `model`, or its `head` alone."""

    @property
    def seen(self) -> Activations:
        """What the activations of the fp32 graph were like on the texts for calibration."""

    def fused(self, role: str, device: str) -> ModelProto:
        """The fp32 graph with operators that a kind of device (`cpu` or `cuda`) runs fast."""

    def halved(self, role: str) -> ModelProto:
        """The same for a GPU, in fp16."""


@dataclass(frozen=True)
class Precision:
    """One precision.

    `make` gives its graph of a role, or None where the model has nothing to make it of: then there is no such variant,
    and `absent` is a warning that says so ({kind} is the model's type). Its attention is fused for `device`.

    It may share weights: with all others that name the same data file `shared`, or with the precision `beside`, which
    has to be asked for as well. `calibrated` says that texts decide on its numbers, `feeds` what its graph takes
    besides the model's inputs, `extra` what the manifest says of it. `require` raises where this machine cannot
    compare it with PyTorch.
    """

    name: str
    make: Callable[[Sources, str], ModelProto | None]
    device: str = "cpu"
    beside: str = ""
    shared: str = ""
    calibrated: bool = False
    absent: str = ""
    feeds: tuple[Tensor, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    require: Callable[[], object] = lambda: None


def _require_kernels() -> None:
    kernels.require()


def _int8(sources: Sources, role: str) -> ModelProto:
    return quantize_int8(sources.fused(role, "cpu"), sources.seen)


def _int8_kernels(sources: Sources, role: str) -> ModelProto | None:
    return quantize_kernels(sources.fused(role, "cpu"), sources.seen)


def _fp16(sources: Sources, role: str) -> ModelProto:
    half = as_bias(sources.halved(role))
    # The whole graph is for other readers too, who feed the model's own types.
    return take_int32(half) if role == "head" else half


def _fp16_packed(sources: Sources, role: str) -> ModelProto | None:
    tight = pack(sources.halved(role))
    return take_int32(tight) if tight is not None else None


# In the order in which a bundle lists them, after fp32, which is the traced graph itself. Those that are made from the
# same fused graph stand together: it is then made once, and gone when the next is.
REDUCED = (
    Precision("int8", _int8, calibrated=True, shared=INT8_SHARED),
    Precision(INT8_KERNELS, _int8_kernels, calibrated=True, shared=INT8_SHARED, require=_require_kernels),
    # It is compared with PyTorch on the CPU, whose sums are not a GPU's.
    Precision("fp16", _fp16, device="cuda", extra={"compared_on": "cpu"}),
    Precision(
        FP16_PACKED,
        _fp16_packed,
        device="cuda",
        beside="fp16",
        absent="{kind}'s attention does not allow padding to be removed",
        feeds=INDICES,
    ),
)
NAMES = (FP32, *(precision.name for precision in REDUCED))
