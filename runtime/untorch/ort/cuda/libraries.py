"""The CUDA libraries, driver and GPUs, as this process finds them. It does not know graphs.

ONNX Runtime's CUDA provider links a handful of NVIDIA's libraries, which come from pip packages outside the loader's
path. They are loaded here first, one by one, so that the one that is missing can be named: ONNX Runtime itself only
prints what the loader said, and runs on the CPU.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from untorch.errors import DeviceError
from untorch.ort.devices import Device, installed_wheels, onnxruntime

PROVIDER = "CUDAExecutionProvider"

# What the provider of onnxruntime-gpu 1.31.1 links, by `readelf -d` and by loading it with nothing else there: the
# library's name without the version that is CUDA's own, and the package that brings it. cuDNN and nvrtc are not
# among them. The order is that of their dependencies.
LIBRARIES = {
    "libcudart.so.{cuda}": "nvidia-cuda-runtime",
    "libcublasLt.so.{cuda}": "nvidia-cublas",
    "libcublas.so.{cuda}": "nvidia-cublas",
    "libcurand.so.10": "nvidia-curand",
}
_DRIVER = "libcuda.so.1"
# Loaded where it is there, for its version; no graph that untorch exports needs it.
_CUDNN = "libcudnn.so.9"
_PACKAGES = (*dict.fromkeys(LIBRARIES.values()), "nvidia-cudnn-cu13")


class Cuda(NamedTuple):
    """A driver and GPUs that answer. Versions are `major.minor`; `gpus` are their names by number."""

    driver: str
    driver_cuda: str
    runtime: str
    cudnn: str
    gpus: tuple[str, ...]


def is_built_in() -> bool:
    """Whether the installed ONNX Runtime was built with the CUDA provider."""
    return PROVIDER in onnxruntime().get_available_providers()


def require(device: str) -> Cuda:
    """What drives `cuda:N`. Raises DeviceError, saying what is missing and what brings it, if nothing does."""
    if not is_built_in():
        raise DeviceError(
            f"device {device!r} needs the CUDA build of ONNX Runtime; installed: {versions(installed_wheels())}. "
            "Run: pip uninstall -y onnxruntime && pip install 'untorch[gpu]'"
        )
    found = _loaded()
    if Device(device).index >= len(found.gpus):
        gpus = ", ".join(f"cuda:{number} {name}" for number, name in enumerate(found.gpus))
        raise DeviceError(f"there is no {device}; the GPUs here are {gpus}")
    return found


@functools.cache
def _loaded() -> Cuda:
    loaded = {}
    for pattern in (*LIBRARIES, _DRIVER):
        try:
            loaded[pattern] = _load(_name(pattern))
        except OSError as error:
            raise DeviceError(explain(str(error))) from error
    runtime = loaded["libcudart.so.{cuda}"]
    count = ctypes.c_int(0)
    if status := runtime.cudaGetDeviceCount(ctypes.byref(count)):
        raise DeviceError(explain(_failure(runtime, status)))
    return Cuda(
        driver=driver_version() or "unknown",
        driver_cuda=_cuda_version(runtime.cudaDriverGetVersion),
        runtime=_cuda_version(runtime.cudaRuntimeGetVersion),
        cudnn=_cudnn_version(),
        gpus=tuple(_gpu_name(loaded[_DRIVER], index) for index in range(count.value)),
    )


def _name(pattern: str) -> str:
    """A library's file name for the CUDA that the installed ONNX Runtime was built with."""
    return pattern.format(cuda=str(getattr(onnxruntime(), "cuda_version", "") or "13").partition(".")[0])


def _failure(runtime: ctypes.CDLL, status: int) -> str:
    """A status of the CUDA runtime in the words that ONNX Runtime uses."""
    runtime.cudaGetErrorString.restype = ctypes.c_char_p
    return f"CUDA failure {status}: {runtime.cudaGetErrorString(status).decode()}"


def _load(name: str) -> ctypes.CDLL:
    """Load a library from NVIDIA's packages, else from where the loader looks. Raises OSError in its words.

    A library that depends on it later finds it by its name, wherever it came from.
    """
    for folder in _nvidia_folders():
        for path in sorted(folder.glob(f"*/lib/{name}")):
            return ctypes.CDLL(str(path))
    return ctypes.CDLL(name)


def _nvidia_folders() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def explain(message: str) -> str:
    """What a loader's, the driver's or ONNX Runtime's message about CUDA means, and what to do about it."""
    driver = driver_version()
    if missing := re.search(r"(lib[\w.]+\.so[\w.]*): cannot open shared object file", message):
        name = missing[1]
        if name.startswith("libcuda.so"):
            has = f"a driver {driver} is loaded, but its library is not visible here" if driver else "none is loaded"
            return (
                f"CUDA needs NVIDIA's driver, and {name} is missing ({has}). Install the driver, or start the "
                "container with the GPU (docker run --gpus all)"
            )
        package = next((value for key, value in LIBRARIES.items() if key.startswith(name.partition(".so")[0])), None)
        wants = f"{package}, " if package else ""
        return (
            f"the CUDA provider of {versions(installed_wheels())} needs {name}, which is missing ({wants}"
            f"installed: {versions(packages())}). Run: pip install 'untorch[gpu]'"
        )
    if failure := re.search(r"CUDA failure (\d+): ([^;]+?) *(;|$)", message):
        code, text = int(failure[1]), failure[2]
        what = {
            35: f"NVIDIA's driver ({driver or 'version unknown'}) is too old for CUDA "
            f"{getattr(onnxruntime(), 'cuda_version', '')} of {versions(installed_wheels())}. Upgrade the driver",
            100: "NVIDIA's driver is here and sees no GPU. Look at nvidia-smi and at CUDA_VISIBLE_DEVICES",
            2: "the GPU has too little free memory. Close what else uses it, or run smaller batches",
            209: "the GPU's architecture is not one that this ONNX Runtime was built for",
        }.get(code, "Look at nvidia-smi, and run `untorch doctor`")
        return f"CUDA says: {text} ({code}). {what}"
    return f"the CUDA provider of {versions(installed_wheels())} did not start: {message.strip()}"


def packages() -> dict[str, str]:
    """NVIDIA's pip packages that the provider uses and that are installed, with their versions."""
    # Imported here: it costs more than all the rest of a start.
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions(found: dict[str, str]) -> str:
    """Names and versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in found.items()) or "none"


def driver_version() -> str | None:
    """Version of the loaded NVIDIA driver, None where there is none."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text)
    return found[1] if found else None


def _cuda_version(read: ctypes._NamedFuncPointer) -> str:
    value = ctypes.c_int(0)
    return f"{value.value // 1000}.{value.value % 1000 // 10}" if not read(ctypes.byref(value)) else "unknown"


def _cudnn_version() -> str:
    try:
        library = _load(_CUDNN)
    except OSError:
        return "not installed (not needed)"
    library.cudnnGetVersion.restype = ctypes.c_size_t
    value = library.cudnnGetVersion()
    return f"{value // 10000}.{value % 10000 // 100}.{value % 100}"


def _gpu_name(driver: ctypes.CDLL, index: int) -> str:
    name = ctypes.create_string_buffer(256)
    device = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
        return "unknown GPU"
    return name.value.decode() if not driver.cuDeviceGetName(name, 256, device) else "unknown GPU"


def pinned(shape: Sequence[int], dtype: str, gpu: int) -> NDArray[Any]:
    """An array in page-locked host memory, which the GPU of that number reads without a copy.

    It is freed with its last view.

    Raises DeviceError if the driver gives none.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    runtime = _load(_name("libcudart.so.{cuda}"))
    place = ctypes.c_void_p()
    # Memory is bound to the current GPU: without this, the first one would get a context of some hundred megabytes.
    status = runtime.cudaSetDevice(gpu) or runtime.cudaHostAlloc(ctypes.byref(place), ctypes.c_size_t(max(size, 1)), 0)
    if status:
        raise DeviceError(explain(_failure(runtime, status)))
    memory = (ctypes.c_byte * size).from_address(place.value or 0)
    # At the end of the process the driver takes it back by itself, and may be gone before.
    weakref.finalize(memory, runtime.cudaFreeHost, place).atexit = False
    return np.ctypeslib.as_array(memory).view(dtype).reshape(tuple(shape))
