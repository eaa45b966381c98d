"""Which variant of a bundle runs on which device: the one place that decides it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from untorch.background import BackgroundTask
from untorch.bundle.folder import Bundle
from untorch.bundle.manifest import Variant
from untorch.bundle.precisions import FP32, Operators
from untorch.errors import BundleError, UntorchError
from untorch.loading import plans
from untorch.loading.plans import Plan
from untorch.ort import kernels
from untorch.ort.devices import AUTO, Device, device_name
from untorch.ort.providers import resolve_device

# The reduced precision that is fast on each kind of device. OpenVINO chooses its precision itself, from fp32.
_REDUCED = {"cpu": "int8", "cuda": "fp16"}


@dataclass(frozen=True)
class LoadRequest:
    """What a caller asks for when a bundle is loaded.

    `device` is in any spelling that `devices.device_name` knows, `precision` the name of a variant or `auto`, `threads`
    how many a session uses (None: every usable core). `background` begins while ONNX Runtime opens the first graph,
    which leaves the interpreter free.
    """

    device: object = AUTO
    precision: str = AUTO
    threads: int | None = None
    background: BackgroundTask[Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the caller leaves everything to untorch, so that a remembered plan may decide."""
        return (device_name(self.device), self.precision, self.threads) == (AUTO, AUTO, None)

    @property
    def any_device(self) -> bool:
        """Whether untorch may choose the device."""
        return device_name(self.device) == AUTO

    def files(self, variants: Mapping[str, Variant]) -> list[str]:
        """Names of the files that loading will read of these variants: what to download (`hub.Select`).

        Raises BundleError if the precision is not there.
        """
        chosen = choose(variants, self.precision, (), resolve_device(self.device), "the repository")
        # What removes padding runs beside the variant that does not.
        beside = variants.get(chosen.base) if chosen.operators is Operators.PACKED else None
        return list(dict.fromkeys([*chosen.files, *(beside.files if beside else ())]))


def choose(
    variants: Mapping[str, Variant], precision: str, outputs: Iterable[str], device: Device, where: object
) -> Variant:
    """The variant that `precision` names; for `auto` the preferred one on `device` that has `outputs`.

    Raises BundleError, naming those there are and `where`.
    """
    if precision == AUTO:
        return preferred(variants, outputs, device)
    if precision not in variants:
        # A file's name and what it is may differ where there is no manifest.
        for variant in variants.values():
            if variant.precision == precision:
                return variant
        raise BundleError(f"{where} has no {precision} variant; it has {', '.join(variants)}")
    return variants[precision]


def preferred(variants: Mapping[str, Variant], outputs: Iterable[str], device: Device) -> Variant:
    """The variant to take where none is named: the device's reduced precision if it passed its gate, else fp32.

    That is int8 on the CPU and fp16 on a GPU, if it gives `outputs`. Before int8 comes int8_kernels where the operators
    of untorch-kernels are the faster choice, which is asked only if there is such a variant. Variants that remove
    padding are taken by name only.
    """
    wanted = tuple(outputs)
    reduced = [
        variant
        for variant in variants.values()
        if variant.base == _REDUCED.get(device.kind) and variant.operators is not Operators.PACKED
    ]
    for variant in sorted(reduced, key=lambda variant: variant.operators is not Operators.KERNELS):
        if not (variant.trusted and variant.gives(wanted) and roles(variant, device)):
            continue
        if variant.operators is not Operators.KERNELS or kernels.preferred():
            return variant
    return variants.get(FP32) or next(iter(variants.values()))


def roles(variant: Variant, device: Device) -> tuple[str, ...]:
    """The roles of a variant whose graphs have only operators that the device has.

    OpenVINO has those of the ONNX standard, of which the whole graphs of fp32 are made. Whether untorch-kernels is
    installed is not asked.
    """
    if variant.device not in (None, device.kind):
        return ()
    if device.is_openvino:
        return tuple(role for role in variant.graphs if variant.operators is Operators.STANDARD and role != "head")
    return tuple(variant.graphs)


def role_for(variant: Variant, outputs: Iterable[str], device: Device) -> str:
    """The role of the graph to run for these outputs: `head` where there is one and the device has it, else `model`."""
    head = variant.graphs.get("head") if "head" in roles(variant, device) else None
    return "head" if head and {tensor.name for tensor in head.outputs}.issuperset(outputs) else "model"


def problem(variant: Variant, device: Device) -> str | None:
    """Why a variant cannot run on a device here; None if it can."""
    if not roles(variant, device):
        return f"it has operators that {device} has not"
    found: UntorchError | None = kernels.problem() if variant.operators is Operators.KERNELS else None
    return None if found is None else str(found)


def unavailable(bundle: Bundle, device: str) -> dict[str, str]:
    """The variants of a bundle that cannot run on a device here, by precision, and why."""
    found = {precision: problem(variant, Device(device)) for precision, variant in bundle.variants.items()}
    return {precision: reason for precision, reason in found.items() if reason is not None}


def remembered(bundle: Bundle, outputs: Iterable[str]) -> Plan | None:
    """The plan that `untorch tune` remembered for this bundle on this machine, if it still holds.

    It does if its device works and its variant is there, inside its gate, runs on the device and has these `outputs`.
    """
    plan = plans.recall(bundle)
    variant = None if plan is None else bundle.variants.get(plan.precision)
    if plan is None or variant is None or not (variant.trusted and variant.gives(outputs)):
        return None
    device = Device(plan.device)
    # A GPU that was there when the plan was made may be gone; OpenVINO says so itself when it is opened.
    if device.is_gpu and device != resolve_device(AUTO):
        return None
    return None if problem(variant, device) else plan


def planned(bundle: Bundle, request: LoadRequest, outputs: Iterable[str]) -> tuple[LoadRequest, Plan | None]:
    """The request, settled by the remembered plan where it leaves everything open; and that plan."""
    plan = remembered(bundle, outputs) if request.is_open else None
    if plan is None:
        return request, None
    return replace(request, device=plan.device, precision=plan.precision, threads=plan.threads), plan
