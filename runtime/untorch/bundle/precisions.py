"""What the name of a variant says: its operators, the device it is made for, and the variant it stands beside.

The manifest names variants `fp32`, `fp16`, `int8`, and with a suffix for operators that not every device has:
`int8_kernels`, `fp16_packed`. `int8_dynamic` is what other tools' dynamic quantisation gives, which a folder without a
manifest may hold under any name. Nothing else in the code looks at a suffix.
"""

from __future__ import annotations

import functools
from enum import Enum
from typing import NamedTuple

FP32 = "fp32"
INT8_KERNELS = "int8_kernels"
FP16_PACKED = "fp16_packed"
INT8_DYNAMIC = "int8_dynamic"


class Operators(Enum):
    """What the nodes of a variant's graphs are."""

    # Those of the ONNX standard, which any reader of ONNX knows.
    STANDARD = "standard"
    # ONNX Runtime's own fused operators too.
    FUSED = "fused"
    # The operators of the package untorch-kernels too, which run on the CPU.
    KERNELS = "kernels"
    # Attention over tokens without their padding, which only the CUDA provider has.
    PACKED = "packed"


# Suffix → the operators it stands for, and the only kind of device that has them.
_SUFFIXES = {"_kernels": (Operators.KERNELS, "cpu"), "_packed": (Operators.PACKED, "cuda")}


class Name(NamedTuple):
    """What a variant's name says.

    `device` is the only kind of device that can run it, None where the name excludes none. `base` is the variant that
    it stands beside, which has the same weights and runs where this one does not; its own name where there is none.
    """

    operators: Operators
    device: str | None
    base: str


@functools.cache
def read_name(precision: str) -> Name:
    """Read a name: `int8_kernels` -> Name(Operators.KERNELS, "cpu", "int8"). Names of others count as fused."""
    for suffix, (operators, device) in _SUFFIXES.items():
        if precision.endswith(suffix):
            return Name(operators, device, precision.removesuffix(suffix))
    return Name(Operators.STANDARD if precision == FP32 else Operators.FUSED, None, precision)


def has_batch_ranges(precision: str) -> bool:
    """Whether activations are quantised with ranges of the whole batch: answers then depend on the rows beside them."""
    return precision == INT8_DYNAMIC
