"""Devices that can be used here, the options of the CUDA provider, and where ONNX Runtime placed a graph's nodes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from untorch.errors import DeviceError, UntorchError
from untorch.ort import openvino
from untorch.ort.cuda import libraries
from untorch.ort.devices import AUTO, Device, device_name

logger = logging.getLogger("untorch")

CPU = "CPUExecutionProvider"

_announced: set[tuple[str, str]] = set()

# Operators that ONNX Runtime computes on the CPU on purpose where a GPU runs the rest: shapes, positions, the choice of
# a branch, a handful of numbers each. No product, sum over features or activation is among them.
_SHAPE_OPERATORS = {
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "CumSum", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "If", "IsNaN",
    "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "Pad", "Range", "ReduceMax",
    "ReduceMin", "ReduceProd", "Reshape", "ScatterND", "Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub",
    "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip


def resolve_device(device: object) -> Device:
    """Turn `auto`, or a device in any of the spellings that `devices.device_name` knows, into one that can be used.

    `auto` takes the first GPU that works, else the CPU, and says once in the log which and why. Raises DeviceError for
    an unknown name and for a device that cannot be had, DependencyError if a package is missing.
    """
    if isinstance(device, Device):
        return device
    name = device_name(device)
    if name == AUTO:
        chosen = choose()
        announce(chosen)
        return chosen
    found = Device(name)
    if found.is_openvino:
        openvino.require()
    elif found.is_gpu:
        libraries.require(found)
    return found


def choose() -> Device:
    """The device that `auto` stands for here."""
    if not libraries.is_built_in():
        return Device("cpu", "the installed ONNX Runtime has no CUDA provider")
    first = Device("cuda:0")
    try:
        found = libraries.require(first)
    except UntorchError as error:
        return on_cpu(error)
    return Device(first, f"{found.gpus[first.index]} is here, and the CUDA libraries load")


def on_cpu(error: UntorchError) -> Device:
    """The CPU, because a GPU cannot be used."""
    return Device("cpu", f"the GPU cannot be used: {error}")


def announce(device: Device) -> None:
    """Say in the log what was taken in place of `auto`, and why; the same only once."""
    if (device, device.reason) not in _announced:
        _announced.add((device, device.reason))
        # Who installed ONNX Runtime's GPU build and gets the CPU should know; who installed the CPU's build knows.
        level = logging.WARNING if device.is_cpu and libraries.is_built_in() else logging.INFO
        logger.log(level, "device auto: %s (%s)", device, device.reason)


def cuda_options(device: Device, *, graphs: bool = False) -> dict[str, str]:
    """The CUDA provider's options for a device `cuda:N`; with `graphs`, runs can be captured as CUDA graphs."""
    options = {
        "device_id": str(device.index),
        # Grow by what is asked for: doubling would hold memory that other processes on the GPU could use.
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 keeps 10 bits of a product's operands, and fp32 promises 1e-4.
        "use_tf32": "0",
        # Attention by flash (1), memory-efficient (2) or plain (16) kernels. cuDNN's, which ONNX Runtime would take by
        # itself wherever it finds cuDNN, are built anew for every shape.
        "sdpa_kernel": "19",
    }
    return {**options, "enable_cuda_graph": "1"} if graphs else options


class Node(NamedTuple):
    """A node of a graph as ONNX Runtime placed it: provider, operator and name."""

    provider: str
    operator: str
    name: str


def placement(session: Any) -> tuple[Node, ...]:
    """Where every node of a session runs, by its own account; the session must have been told to record it."""
    return tuple(
        Node(part.ep_name, node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def require_on_device(nodes: Iterable[Node], device: Device) -> None:
    """Raise DeviceError, naming the operators, if anything but arithmetic on shapes was placed on the CPU."""
    left = [node for node in nodes if node.provider == CPU and node.operator not in _SHAPE_OPERATORS]
    if left:
        operators = ", ".join(sorted({node.operator for node in left}))
        raise DeviceError(
            f"{device} cannot run the whole graph: {len(left)} nodes would run on the CPU ({operators}). "
            "Take another variant (precision='fp32'), or pass device='cpu'"
        )
