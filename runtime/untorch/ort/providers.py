"""Which provider of ONNX Runtime runs a graph on which device, with which options, and what it was left with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from untorch.errors import DeviceError, UntorchError
from untorch.ort import openvino
from untorch.ort.cuda import libraries
from untorch.ort.devices import device_name

logger = logging.getLogger("untorch")

CPU = "CPUExecutionProvider"

_announced: set[tuple[str, str]] = set()

# Operators that ONNX Runtime computes on the CPU on purpose beside a card: shapes, positions, the choice of a branch,
# a handful of numbers each. No product, sum over features or activation is among them.
_SHAPE_OPERATORS = {
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Constant", "ConstantOfShape", "CumSum", "Div", "Equal", "Expand",
    "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity", "If", "IsNaN",
    "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "Pad", "Range", "ReduceMax",
    "ReduceMin", "ReduceProd", "Reshape", "ScatterND", "Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub",
    "Tile", "Transpose", "Trilu", "Unsqueeze", "Where",
}  # fmt: skip


class Device(str):
    """A device's name, with the reason why it was taken."""

    reason: str

    def __new__(cls, name: str, reason: str = "it was asked for") -> Device:
        """The name as a string that also knows its `reason`."""
        device = super().__new__(cls, name)
        device.reason = reason
        return device


def resolve_device(device: str) -> Device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `openvino` into the device that will be used.

    `auto` takes the first CUDA card that works, else the CPU, and says once in the log which and why. Raises
    DeviceError for an unknown name and for a device that cannot be had, DependencyError if a package is missing.
    """
    if isinstance(device, Device):
        return device
    device = device_name(device)
    kind, _, index = device.partition(":")
    if device == "auto":
        device = choose()
        announce(device)
        return device
    if device == "cpu":
        return Device(device)
    if device == "openvino":
        openvino.require()
        return Device(device)
    if kind != "cuda" or not (index.isdigit() or not index):
        raise DeviceError(f"unknown device {device!r}; choose auto, cpu, cuda, cuda:N or openvino")
    libraries.require(device)
    return Device(f"cuda:{index or 0}")


def choose() -> Device:
    """The device that `auto` stands for here."""
    if not libraries.is_built_in():
        return Device("cpu", "the installed ONNX Runtime has no CUDA provider")
    try:
        found = libraries.require("cuda:0")
    except UntorchError as error:
        return on_cpu(error)
    return Device("cuda:0", f"{found.cards[0]} is here, and the CUDA libraries load")


def on_cpu(error: UntorchError) -> Device:
    """The CPU, because a card cannot be used."""
    return Device("cpu", f"the card cannot be used: {error}")


def announce(device: Device) -> None:
    """Say in the log what was taken in place of `auto`, and why; the same only once."""
    if (device, device.reason) not in _announced:
        _announced.add((device, device.reason))
        # A card that was installed for and is not used is worth a warning; a CPU's installation is not.
        level = logging.WARNING if device == "cpu" and libraries.is_built_in() else logging.INFO
        logger.log(level, "device auto: %s (%s)", device, device.reason)


def cuda_options(device: str, *, graphs: bool = False) -> dict[str, str]:
    """The CUDA provider's options for a device `cuda:N`; with `graphs`, runs can be captured as CUDA graphs."""
    options = {
        "device_id": device.partition(":")[2],
        # Grow by what is asked for: doubling would hold memory that other processes on the card could use.
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


def require_on_device(nodes: Iterable[Node], device: str) -> None:
    """Raise DeviceError, naming the operators, if anything but arithmetic on shapes was left to the CPU."""
    left = [node for node in nodes if node.provider == CPU and node.operator not in _SHAPE_OPERATORS]
    if left:
        operators = ", ".join(sorted({node.operator for node in left}))
        raise DeviceError(
            f"{device} cannot run the whole graph: {len(left)} nodes would run on the CPU ({operators}). "
            "Take another variant (precision='fp32'), or pass device='cpu'"
        )
