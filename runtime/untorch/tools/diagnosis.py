"""Reports what is installed on this machine and which devices work, each found out by trying it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections import Counter
from pathlib import Path

import numpy as np

from untorch.bundle.hub import installed_models
from untorch.errors import UntorchError
from untorch.ort import kernels, providers
from untorch.ort.cuda import libraries
from untorch.ort.devices import installed_wheels, onnxruntime, usable_cores
from untorch.ort.session import Session
from untorch.version import __version__

# A graph with one 4 x 4 matrix product, to show that a device computes.
PROBE = Path(__file__).with_name("probe.onnx")

# The instruction sets that decide how fast reduced precision can be on a CPU.
_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def diagnose() -> dict[str, dict[str, str]]:
    """The facts as text, by section and name.

    The sections are `installed`, `machine`, `cuda`, `devices` (each device was tried) and `models`. It raises no
    UntorchError: what goes wrong is the text of the fact.
    """
    return {
        "installed": _installed(),
        "machine": _machine(),
        "cuda": _cuda(),
        "devices": _devices(),
        "models": installed_models() or {"none": "pip install a model package, or `untorch export` one"},
    }


def _installed() -> dict[str, str]:
    facts = {"untorch": __version__, "python": platform.python_version()}
    for name in ("numpy", "tokenizers", "huggingface-hub"):
        facts[name] = importlib.metadata.version(name)
    facts |= installed_wheels() or {"onnxruntime": "missing: pip install 'untorch[cpu]' or 'untorch[gpu]'"}
    facts |= libraries.packages()
    try:
        facts["onnxruntime-ep-openvino"] = importlib.metadata.version("onnxruntime-ep-openvino")
    except importlib.metadata.PackageNotFoundError:
        facts["onnxruntime-ep-openvino"] = "not installed"
    facts[kernels.PACKAGE] = _kernels()
    try:
        facts["providers"] = ", ".join(onnxruntime().get_available_providers())
    except UntorchError as error:
        facts["problem"] = str(error)
    facts["telemetry"] = f"ORT_DISABLE_TELEMETRY={os.environ.get('ORT_DISABLE_TELEMETRY', 'not set')}"
    return facts


def _kernels() -> str:
    """The version of untorch-kernels, whether it runs here, and whether `precision="auto"` would take it."""
    if (version := kernels.version()) is None:
        return "not installed (pip install 'untorch[kernels]'): int8 runs on ONNX Runtime's operators"
    try:
        kernels.register(onnxruntime().SessionOptions())
    except UntorchError as error:
        return f"{version}, cannot be used: {error}"
    if kernels.preferred():
        return f"{version}, works: precision auto takes int8_kernels before int8"
    return f"{version}, works; precision auto takes int8, which is expected to be faster with this processor's AMX"


def _machine() -> dict[str, str]:
    facts = {"system": platform.platform(), "cores": f"{usable_cores()} usable of {os.cpu_count()}"}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return facts
    lines = dict(line.partition(":")[::2] for line in text.split("\n\n", 1)[0].splitlines())
    values = {key.strip(): value.strip() for key, value in lines.items()}
    facts["cpu"] = values.get("model name", "unknown")
    flags = set(values.get("flags", "").split())
    facts["cpu features"] = ", ".join(name for name in _CPU_FEATURES if name in flags) or "none that matter here"
    return facts


def _cuda() -> dict[str, str]:
    """Driver, CUDA, cuDNN and GPUs, or what keeps them from being used."""
    facts = {"driver": libraries.driver_version() or "none is loaded"}
    try:
        facts["onnxruntime built for"] = f"CUDA {getattr(onnxruntime(), 'cuda_version', '') or 'none'}"
        found = libraries.require("cuda:0")
    except UntorchError as error:
        return facts | {"problem": str(error)}
    facts["driver"] = f"{found.driver}, up to CUDA {found.driver_cuda}"
    facts["CUDA runtime"] = found.runtime
    facts["cuDNN"] = found.cudnn
    return facts | {f"cuda:{index}": name for index, name in enumerate(found.gpus)}


def _devices() -> dict[str, str]:
    facts = {device: _tried(device) for device in ("cpu", "cuda:0", "openvino")}
    try:
        chosen = providers.choose()
        facts["auto"] = f"{chosen} ({chosen.reason})"
    except UntorchError as error:
        facts["auto"] = f"nothing: {error}"
    return facts


def _tried(device: str) -> str:
    try:
        session = Session(PROBE, device=device)
        ones = np.ones((4, 4), np.float32)
        start = time.perf_counter()
        (result,) = session.run({"a": ones})
        elapsed = 1e6 * (time.perf_counter() - start)
    except UntorchError as error:
        return f"does not work: {error}"
    if not np.array_equal(result, ones @ ones):
        return "does not work: a matrix product came out wrong"
    counts = Counter(node.provider for node in session.nodes)
    placed = "".join(f"; {count} of {len(session.nodes)} nodes on {name}" for name, count in sorted(counts.items()))
    return f"works ({elapsed:.0f} µs for a first 4 x 4 product{placed})"
