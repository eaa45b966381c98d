"""Devices by name, and what this machine offers: usable cores, and the installed ONNX Runtime."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import operator
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from untorch.errors import DependencyError, DeviceError

Kind = Literal["cpu", "cuda", "openvino"]

AUTO = "auto"


class Device(str):
    """A device that graphs run on: `cpu`, `cuda:N` or `openvino`. It prints and compares as that name.

    `kind` is the name without a number, `index` the number (0 where there is only one), `reason` why it was taken.
    `cuda` means `cuda:0`. Raises DeviceError for other names.
    """

    kind: Kind
    index: int  # type: ignore[assignment]  # as torch.device has it, in the place of str.index
    reason: str

    def __new__(cls, name: str, reason: str = "it was asked for") -> Device:
        """Read a name."""
        kind, colon, number = name.partition(":")
        # torch names the CPU `cpu:0`, too.
        known = kind == "cuda" or name in ("cpu", "cpu:0", "openvino")
        if not known or bool(colon) != number.isdecimal():
            raise DeviceError(f"unknown device {name!r}; choose auto, cpu, cuda, cuda:N or openvino")
        device = super().__new__(cls, f"cuda:{int(number or 0)}" if kind == "cuda" else kind)
        device.kind = kind  # type: ignore[assignment]  # one of the three, as was looked up
        device.index = int(number or 0)
        device.reason = reason
        return device

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU, by ONNX Runtime's own provider."""
        return self.kind == "cpu"

    @property
    def is_gpu(self) -> bool:
        """Whether it is an NVIDIA GPU."""
        return self.kind == "cuda"

    @property
    def is_openvino(self) -> bool:
        """Whether OpenVINO runs the graphs, on whatever device it offers."""
        return self.kind == "openvino"

    @property
    def memory(self) -> tuple[str, int]:
        """Where its values lie, as ONNX Runtime names it; OpenVINO's lie in the CPU's memory."""
        return ("cuda", self.index) if self.is_gpu else ("cpu", 0)


# Distributions that all install the one module `onnxruntime`.
_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm")


def usable_cores() -> int:
    """Cores this process may use: the affinity mask, cut by the cgroup CPU quota and OMP_NUM_THREADS. At least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    # One number a level of nested parallelism; what is no number says nothing.
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if told.isdecimal() and int(told) > 0:
        cores = min(cores, int(told))
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota))) if quota else cores


def _cgroup_quota() -> float | None:
    """CPU quota in cores from cgroup v2 (`cpu.max`) or v1 (`cpu.cfs_quota_us`), None where there is none."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if limit in ("max", "-1"):
        return None
    return int(limit) / int(period)


def device_name(device: Any) -> str:
    """A device's name for any of its spellings: a name, None (`auto`), a number as in transformers, a `torch.device`.

        device_name(-1)  # cpu
        device_name(torch.device("cuda", 1))  # cuda:1

    Raises DeviceError for what names no device.
    """
    if device is None:
        return AUTO
    if isinstance(device, str):
        return device
    kind = getattr(device, "type", None)
    if isinstance(kind, str):
        number = getattr(device, "index", None)
        return kind if number is None or kind == "cpu" else f"{kind}:{number}"
    if isinstance(device, bool) or not hasattr(device, "__index__"):
        raise DeviceError(f"device is {device!r}; it is a name (cpu, cuda, cuda:N, …) or a number")
    number = operator.index(device)
    return "cpu" if number < 0 else f"cuda:{number}"


def installed_wheels() -> dict[str, str]:
    """The distributions that provide the importable `onnxruntime`, and their versions."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return {}
    found = {}
    # A listing of one folder, because importlib.metadata would cost more than all the rest of a start.
    for entry in Path(spec.origin).parent.parent.glob("onnxruntime*.dist-info"):
        name, _, version = entry.name.removesuffix(".dist-info").rpartition("-")
        if (name := name.replace("_", "-")) in _WHEELS:
            found[name] = version
    return dict(sorted(found.items()))


@functools.cache
def onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its telemetry switched off.

    Raises DependencyError if it is not installed, or if two of its wheels are: they overwrite each other's files.
    """
    # Wheels since 1.29 report usage to their maker unless this is set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if len(wheels := installed_wheels()) > 1:
        raise DependencyError(
            f"{' and '.join(wheels)} are both installed and overwrite each other's files. "
            f"Run: pip uninstall -y {' '.join(wheels)}, then pip install 'untorch[cpu]' or 'untorch[gpu]'"
        )
    try:
        module: ModuleType = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DependencyError(
            f"ONNX Runtime cannot be imported ({error}). Run: pip install 'untorch[cpu]' (or 'untorch[gpu]')"
        ) from error
    return module
