"""Opens a graph file in ONNX Runtime, with the options and the execution provider of its device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from untorch.errors import BundleError, DeviceError, first_line
from untorch.ort import kernels, openvino, providers
from untorch.ort.cuda import libraries
from untorch.ort.devices import Device, onnxruntime

# How long a thread of the pool stays awake for the next operator (benchmarks/NOTES.md).
SPIN_MICROSECONDS = 50

# ONNX Runtime refuses to capture CUDA graphs of some models, in these words.
_NOT_CAPTURED = "cannot use the graph capture feature"

# Words of ONNX Runtime's errors that are about a GPU, not about the file.
_ABOUT_A_GPU = ("CUDA", "CUBLAS", "Failed to load library", _NOT_CAPTURED)


class Graph(NamedTuple):
    """A graph file, and what has to be known of it to open it.

    `optimized` says that the file is already fused, so that only cheap rewrites are left for loading; `capturable` that
    its shapes are rows and tokens alone, so that CUDA graphs may be captured of it; `own_operators` that it has
    operators of the package untorch-kernels.
    """

    path: Path
    optimized: bool = False
    capturable: bool = False
    own_operators: bool = False


def open_graph(graph: Graph, device: Device, threads: int) -> tuple[Any, bool]:
    """ONNX Runtime's session on the device, and whether CUDA graphs can be captured of it.

    Raises BundleError if ONNX Runtime cannot load the file, DeviceError if the device cannot be had, DependencyError if
    a plugin or untorch-kernels is missing.
    """
    if device.is_gpu:
        return _open_on_gpu(graph, device, threads)
    options = _options(graph, device, threads)
    if device.is_openvino:
        options.add_provider_for_devices(openvino.require(), {})
        return _open(graph.path, device, options, None), False
    return _open(graph.path, device, options, [providers.CPU]), False


def _options(graph: Graph, device: Device, threads: int) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    # Errors are raised with their message; printing them as well would say everything twice.
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Between two operators a thread waits some microseconds, and waking one up takes longer than that. Spinning
    # without an end would steal the cores from everything else: 2-3x slower at batch 1 on small machines.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Shapes change from call to call, so a memory plan learnt from one call does not fit the next.
    options.enable_mem_pattern = False
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_BASIC if graph.optimized else level.ORT_ENABLE_ALL
    if not device.is_cpu:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if graph.own_operators:
        kernels.register(options)
    return options


def _open(path: Path, device: Device, options: Any, chosen: list[Any] | None) -> Any:
    arguments = {} if chosen is None else {"providers": chosen}
    try:
        # Without its fallback: ONNX Runtime would print what failed and run on the CPU.
        return onnxruntime().InferenceSession(str(path), options, enable_fallback=0, **arguments)
    except Exception as error:  # ONNX Runtime's errors have no common base below Exception
        reason = first_line(error)
        if device.is_gpu and any(word in reason for word in _ABOUT_A_GPU):
            raise DeviceError(libraries.explain(reason)) from error
        if device.is_openvino and "OpenVINO" in reason:
            raise DeviceError(f"OpenVINO cannot run {path}: {reason}") from error
        raise BundleError(f"ONNX Runtime cannot load {path}: {reason}") from error


def _open_on_gpu(graph: Graph, device: Device, threads: int) -> tuple[Any, bool]:
    """The session, for capturing CUDA graphs if it can be: ONNX Runtime refuses where the CPU runs a part."""
    from untorch.ort.cuda.queue import allocating

    for captured in (True, False) if graph.capturable else (False,):
        provider = (libraries.PROVIDER, providers.cuda_options(device, graphs=captured))
        try:
            with allocating:
                session = _open(graph.path, device, _options(graph, device, threads), [provider, providers.CPU])
        except DeviceError as error:
            if captured and _NOT_CAPTURED in str(error):
                continue
            raise
        if session.get_providers()[0] != libraries.PROVIDER:
            raise DeviceError(f"{device} was asked for, and ONNX Runtime's CUDA provider did not start")
        return session, captured
    raise AssertionError("unreachable: a session without graphs opens or raises")
