"""One ONNX Runtime session: device, threads, and proof of where its nodes run. It does not know text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from untorch import native
from untorch.errors import UntorchError, first_line
from untorch.numerics import Array, Tensor
from untorch.ort import providers
from untorch.ort.devices import usable_cores
from untorch.ort.executor import CpuExecutor, Executor, Value
from untorch.ort.opening import Graph, open_graph

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

    `device` is `auto`, `cpu`, `cuda`, `cuda:N` or `openvino`; `threads` the size of the intra-op pool (default: every
    usable core); `optimized` says that the file is already fused, so that only cheap rewrites are left for loading.
    `capturable` says that its shapes are rows and tokens alone, so that on a GPU CUDA graphs may be captured of it;
    `kernels` that it has operators of the package untorch-kernels, which run on the CPU.
    On any device but the CPU every node that does work runs there: ONNX Runtime is asked, node by node. `executor` is
    what runs it.

    Raises BundleError if ONNX Runtime cannot load the file, DeviceError if the device cannot be had or would
    not run the graph, DependencyError if ONNX Runtime, a plugin or untorch-kernels is not there.
    """

    def __init__(
        self,
        graph: Path,
        *,
        device: object = "auto",
        threads: int | None = None,
        optimized: bool = False,
        capturable: bool = False,
        kernels: bool = False,
    ) -> None:
        self._process = native.calls.process
        self.device = providers.resolve_device(device)
        self.threads = threads or usable_cores()
        opened, captured = open_graph(Graph(graph, optimized, capturable, kernels), self.device, self.threads)
        self.nodes: tuple[providers.Node, ...] = ()
        if not self.device.is_cpu:
            self.nodes = providers.placement(opened)
            providers.require_on_device(self.nodes, self.device)
        self.inputs = tuple(_tensor(item) for item in opened.get_inputs())
        self.outputs = tuple(_tensor(item) for item in opened.get_outputs())
        self.executor: Executor
        if self.device.is_gpu:
            # Imported here: a start on the CPU should not pay for it.
            from untorch.ort.cuda.executor import CudaExecutor

            self.executor = CudaExecutor(opened, self.device, self.inputs, self.outputs, graphs=captured)
        else:
            self.executor = CpuExecutor(opened, self.device, self.inputs, self.outputs)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the graph once. Returns the arrays named in `outputs` in that order, or all of them.

        Whole numbers are converted to the graph's own types. Raises UntorchError with ONNX Runtime's own message if
        the run fails.
        """
        if native.calls.process is not self._process:
            raise _after_fork()
        try:
            return self.executor.run(feeds, outputs)
        except Exception as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            raise UntorchError(f"ONNX Runtime failed on inputs {shapes}: {first_line(error)}") from error

    def run_values(
        self, feeds: Mapping[str, Array | Value], arrays: Sequence[str], values: Sequence[str]
    ) -> tuple[list[Array], list[Value]]:
        """Run the graph once. Returns the outputs `arrays` as arrays, and `values` left where they were computed.

        Raises UntorchError with ONNX Runtime's own message if the run fails.
        """
        if native.calls.process is not self._process:
            raise _after_fork()
        try:
            return self.executor.run_values(feeds, arrays, values)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(_shape(feed))}" for name, feed in feeds.items())
            raise UntorchError(f"ONNX Runtime failed on inputs {shapes}: {first_line(error)}") from error

    def value(self, array: Array) -> Value:
        """The array as a value in the memory of the session's device; on the CPU it is the same memory."""
        return self.executor.value(array)

    def capture(self, limit: int | None, fills: Mapping[str, int]) -> None:
        """On a GPU, have small batches run from CUDA graphs, each captured at its first use, or by `warmup`.

        A batch is padded up to the next of a few fixed shapes. `limit` is the most tokens a row may have (None: any
        number; 0: capture nothing), `fills` what padding is filled with, by input. Elsewhere, and for graphs whose
        shapes are not rows and tokens alone, nothing changes.
        """
        self.executor.capture(limit, fills)

    def warmup(self, outputs: Sequence[str]) -> None:
        """Run every shape that graphs are captured for once; where there are none, one row of one token."""
        for size in self.executor.buckets or ((1, 1),):
            # Ones are a mask that counts everything in, and an id that every vocabulary has.
            self.run({tensor.name: np.ones(size, tensor.dtype) for tensor in self.inputs}, outputs)


def _shape(feed: Array | Value) -> Sequence[int]:
    return feed.shape if isinstance(feed, np.ndarray) else feed.shape()


def _tensor(item: Any) -> Tensor:
    return Tensor(item.name, _DTYPES.get(item.type, item.type), tuple(item.shape))


def _after_fork() -> UntorchError:
    # ONNX Runtime's threads stay behind in the parent: a run in the child would wait for them forever.
    return UntorchError(
        "this model was loaded before os.fork(), and its threads did not come along. "
        "Load it in the child process, or start processes with the spawn method"
    )
