"""OpenVINO as a plugin of ONNX Runtime: registered once, asked for its devices. It does not know graphs."""

from __future__ import annotations

import functools
import threading
from importlib import import_module
from typing import Any

from untorch.errors import DependencyError, DeviceError, first_line
from untorch.ort.devices import onnxruntime

PROVIDER = "OpenVINOExecutionProvider"

_lock = threading.Lock()


def require() -> list[Any]:
    """The plugin's devices to run on, its CPU device where it has one (ONNX Runtime's OrtEpDevice, in a list).

    Raises DependencyError if the plugin is not installed or cannot be loaded, DeviceError if it offers no device on
    this machine.
    """
    with _lock:
        version = _register()
    found = [device for device in onnxruntime().get_ep_devices() if device.ep_name == PROVIDER]
    if not found:
        raise DeviceError(
            f"OpenVINO's plugin (onnxruntime-ep-openvino {version}) offers no device on this machine; "
            f"it drives Intel processors and graphics, and this processor is by {_maker()}. Pass device='cpu'"
        )
    kinds = onnxruntime().OrtHardwareDeviceType
    return [next((device for device in found if device.device.type == kinds.CPU), found[0])]


@functools.cache
def _register() -> str:
    """Register the plugin with ONNX Runtime, which takes it once a process, and give its version."""
    try:
        plugin = import_module("onnxruntime_ep_openvino")
    except ImportError as error:
        raise DependencyError(
            f"device 'openvino' needs OpenVINO's plugin for ONNX Runtime, which cannot be imported ({error}). "
            "Run: pip install 'untorch[openvino]'"
        ) from error
    ort = onnxruntime()
    if not hasattr(ort, "register_execution_provider_library"):
        raise DependencyError(
            f"onnxruntime {ort.__version__} takes no plugins; run: pip install --upgrade 'untorch[openvino]'"
        )
    try:
        ort.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except Exception as error:  # ONNX Runtime's errors have no common base below Exception
        raise DependencyError(
            f"OpenVINO's plugin cannot be loaded into onnxruntime {ort.__version__}: "
            f"{first_line(error)}. Run: pip install --upgrade 'untorch[openvino]'"
        ) from error
    from importlib.metadata import version  # costs more than all the rest of a start

    return version("onnxruntime-ep-openvino")


def _maker() -> str:
    """Who made the processor, as ONNX Runtime sees it."""
    ort = onnxruntime()
    makers = {
        device.device.vendor for device in ort.get_ep_devices() if device.device.type == ort.OrtHardwareDeviceType.CPU
    }
    return ", ".join(sorted(makers - {""})) or "an unknown maker"
