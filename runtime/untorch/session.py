"""One ONNX Runtime session: device, threads, and proof of where its nodes run. It does not know text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch import native
from untorch.bundle import Tensor
from untorch.devices import onnxruntime, resolve_device, usable_cores
from untorch.errors import BundleError, DeviceError, UntorchError

# A tensor that ONNX Runtime holds, on whatever device: its OrtValue.
Value = Any

_DTYPES = {
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}


class Session:
    """A loaded graph, ready to run on one device.

    `device` is `auto`, `cpu`, `cuda` or `cuda:N`; `threads` the size of the intra-op pool (default: every usable
    core); `optimized` says that the file is already fused, so that only cheap rewrites are left for loading.

    Raises BundleError if ONNX Runtime cannot load the file, DeviceError if the device cannot be had or would
    not run the graph, DependencyError if ONNX Runtime is not there.
    """

    def __init__(
        self, graph: Path, *, device: str = "auto", threads: int | None = None, optimized: bool = False
    ) -> None:
        ort = onnxruntime()
        self._process = os.getpid()
        self.device = resolve_device(device)
        self.threads = threads or usable_cores()
        options = ort.SessionOptions()
        # Errors are raised with their message; printing them as well would say everything twice.
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Waiting threads that spin steal the cores from everything else: 2-3x slower at batch 1 on small machines.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        # Shapes change from call to call, so a memory plan learnt from one call does not fit the next.
        options.enable_mem_pattern = False
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_BASIC if optimized else level.ORT_ENABLE_ALL
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device != "cpu":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": self.device.partition(":")[2]}))
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no common base below Exception
            raise BundleError(f"ONNX Runtime cannot load {graph}: {_first_line(error)}") from error
        if self.device != "cpu" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise DeviceError(
                f"{self.device} was asked for, but ONNX Runtime's CUDA provider did not start, so the graph would run "
                "on the CPU. Run `untorch doctor` to see which library is missing, or pass device='cpu'"
            )
        self.inputs = tuple(_tensor(item) for item in self._session.get_inputs())
        self.outputs = tuple(_tensor(item) for item in self._session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run the graph once. Returns the arrays named in `outputs` in that order, or all of them.

        Raises UntorchError with ONNX Runtime's own message if the run fails.
        """
        self._refuse_after_fork()
        try:
            with native.calls:
                return self._session.run(outputs, feeds)  # type: ignore[no-any-return]
        except Exception as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            raise UntorchError(f"ONNX Runtime failed on inputs {shapes}: {_first_line(error)}") from error

    def value(self, array: NDArray[Any]) -> Value:
        """The array as a value on the session's device; on the CPU it is the same memory."""
        kind, index = self._place
        return onnxruntime().OrtValue.ortvalue_from_numpy(array, kind, index)

    def run_values(
        self, feeds: Mapping[str, NDArray[Any] | Value], arrays: Sequence[str], values: Sequence[str]
    ) -> tuple[list[NDArray[Any]], list[Value]]:
        """Run the graph once. Returns the outputs `arrays` as arrays, and `values` left where they were computed.

        Raises UntorchError with ONNX Runtime's own message if the run fails.
        """
        self._refuse_after_fork()
        binding = self._session.io_binding()
        kind, index = self._place
        try:
            for name, feed in feeds.items():
                if isinstance(feed, np.ndarray):
                    binding.bind_cpu_input(name, feed)
                else:
                    binding.bind_ortvalue_input(name, feed)
            for name in arrays:
                binding.bind_output(name)
            for name in values:
                binding.bind_output(name, kind, index)
            with native.calls:
                self._session.run_with_iobinding(binding)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(_shape(feed))}" for name, feed in feeds.items())
            raise UntorchError(f"ONNX Runtime failed on inputs {shapes}: {_first_line(error)}") from error
        results = binding.get_outputs()
        return [result.numpy() for result in results[: len(arrays)]], list(results[len(arrays) :])

    def _refuse_after_fork(self) -> None:
        # ONNX Runtime's threads stay behind in the parent: a run in the child would wait for them forever.
        if os.getpid() != self._process:
            raise UntorchError(
                "this model was loaded before os.fork(), and its threads did not come along. "
                "Load it in the child process, or start processes with the spawn method"
            )

    @property
    def _place(self) -> tuple[str, int]:
        """The device as ONNX Runtime names it."""
        kind, _, index = self.device.partition(":")
        return kind, int(index or 0)


def _shape(feed: NDArray[Any] | Value) -> Sequence[int]:
    return feed.shape if isinstance(feed, np.ndarray) else feed.shape()


def _tensor(item: Any) -> Tensor:
    return Tensor(item.name, _DTYPES.get(item.type, item.type), tuple(item.shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
