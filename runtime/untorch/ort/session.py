"""One ONNX Runtime session: device, threads, and proof of where its nodes run. It does not know text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from untorch import native
from untorch.bundle.manifest import Tensor
from untorch.errors import BundleError, DeviceError, UntorchError
from untorch.ort import kernels, openvino, providers
from untorch.ort.cuda import buckets, libraries
from untorch.ort.devices import onnxruntime, usable_cores

if TYPE_CHECKING:
    from untorch.ort.cuda.executor import CudaExecutor

# A tensor that ONNX Runtime holds, on whatever device: its OrtValue.
Value = Any

# How long a thread of the pool stays awake for the next operator (benchmarks/NOTES.md).
SPIN_MICROSECONDS = 50
# ONNX Runtime refuses to capture CUDA graphs of some models, in these words.
_NOT_CAPTURED = "cannot use the graph capture feature"

_DTYPES = {
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}
# Types that an input of whole numbers is converted to.
_NARROW = ("int32", "float32", "float16")

# Words of ONNX Runtime's errors that are about a card, not about the file.
_ABOUT_THE_CARD = ("CUDA", "CUBLAS", "Failed to load library", _NOT_CAPTURED)


class Session:
    """A loaded graph, ready to run on one device.

    `device` is `auto`, `cpu`, `cuda`, `cuda:N` or `openvino`; `threads` the size of the intra-op pool (default: every
    usable core); `optimized` says that the file is already fused, so that only cheap rewrites are left for loading.
    `capturable` says that its shapes are rows and tokens alone, so that on a card CUDA graphs may be captured of it;
    `kernels` that it has operators of the package untorch-kernels, which run on the CPU.
    On any device but the CPU every node that does work runs there: ONNX Runtime is asked, node by node.

    Raises BundleError if ONNX Runtime cannot load the file, DeviceError if the device cannot be had or would
    not run the graph, DependencyError if ONNX Runtime, a plugin or untorch-kernels is not there.
    """

    def __init__(
        self,
        graph: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        optimized: bool = False,
        capturable: bool = False,
        kernels: bool = False,
    ) -> None:
        self._process = native.calls.process
        self._own_operators = kernels
        self.device = providers.resolve_device(device)
        self.threads = threads or usable_cores()
        self.nodes: tuple[providers.Node, ...] = ()
        graphs = False
        if self.device == "cpu":
            self._session = self._open(graph, self._options(optimized), ["CPUExecutionProvider"])
        elif self.device == "openvino":
            options = self._options(optimized)
            options.add_provider_for_devices(openvino.require(), {})
            self._session = self._open(graph, options, None)
        else:
            self._session, graphs = self._open_on_card(graph, optimized, capturable)
        if self.device != "cpu":
            self.nodes = providers.placement(self._session)
            providers.require_on_device(self.nodes, self.device)
        self.inputs = tuple(_tensor(item) for item in self._session.get_inputs())
        self.outputs = tuple(_tensor(item) for item in self._session.get_outputs())
        # What the tokenizer gives is int64; a graph may want its ids or its mask in another type.
        self._types = {tensor.name: tensor.dtype for tensor in self.inputs if tensor.dtype in _NARROW}
        self._card: CudaExecutor | None = None
        if self.device.startswith("cuda"):
            # Imported here: a start on the CPU should not pay for it.
            from untorch.ort.cuda.executor import CudaExecutor

            self._card = CudaExecutor(self._session, self.device, self.inputs, self.outputs, graphs=graphs)

    def _options(self, optimized: bool) -> Any:
        ort = onnxruntime()
        options = ort.SessionOptions()
        # Errors are raised with their message; printing them as well would say everything twice.
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Between two operators a thread waits some microseconds, and waking one up takes longer than that. Spinning
        # without an end would steal the cores from everything else: 2-3x slower at batch 1 on small machines.
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        # Shapes change from call to call, so a memory plan learnt from one call does not fit the next.
        options.enable_mem_pattern = False
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_BASIC if optimized else level.ORT_ENABLE_ALL
        if self.device != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self._own_operators:
            kernels.register(options)
        return options

    def _open(self, graph: Path, options: Any, chosen: list[Any] | None) -> Any:
        arguments = {} if chosen is None else {"providers": chosen}
        try:
            # Without its fallback: ONNX Runtime would print what failed and run on the CPU.
            return onnxruntime().InferenceSession(str(graph), options, enable_fallback=0, **arguments)
        except Exception as error:  # ONNX Runtime's errors have no common base below Exception
            reason = _first_line(error)
            if self.device.startswith("cuda") and any(word in reason for word in _ABOUT_THE_CARD):
                raise DeviceError(libraries.explain(reason)) from error
            if self.device == "openvino" and "OpenVINO" in reason:
                raise DeviceError(f"OpenVINO cannot run {graph}: {reason}") from error
            raise BundleError(f"ONNX Runtime cannot load {graph}: {reason}") from error

    def _open_on_card(self, graph: Path, optimized: bool, capturable: bool) -> tuple[Any, bool]:
        """The session, and whether CUDA graphs can be captured of it: ONNX Runtime refuses where the CPU has a part."""
        from untorch.ort.cuda.queue import allocating

        for graphs in (True, False) if capturable else (False,):
            options = providers.cuda_options(self.device, graphs=graphs)
            try:
                with allocating:
                    session = self._open(
                        graph, self._options(optimized), [(libraries.PROVIDER, options), providers.CPU]
                    )
            except DeviceError as error:
                if graphs and _NOT_CAPTURED in str(error):
                    continue
                raise
            if session.get_providers()[0] != libraries.PROVIDER:
                raise DeviceError(f"{self.device} was asked for, and ONNX Runtime's CUDA provider did not start")
            return session, graphs
        raise AssertionError("unreachable: a session without graphs opens or raises")

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Run the graph once. Returns the arrays named in `outputs` in that order, or all of them.

        Whole numbers are converted to the graph's own types. Raises UntorchError with ONNX Runtime's own message if
        the run fails.
        """
        if native.calls.process is not self._process:
            raise _after_fork()
        try:
            if self._card is not None:
                return native.calls(self._card.run, feeds, outputs or [tensor.name for tensor in self.outputs])
            if self._types:
                feeds = {name: self._typed(name, array) for name, array in feeds.items()}
            return native.calls(self._session.run, outputs, feeds)
        except Exception as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            raise UntorchError(f"ONNX Runtime failed on inputs {shapes}: {_first_line(error)}") from error

    def _typed(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        whole = array.dtype.kind in "iu" and name in self._types
        return array.astype(self._types[name], copy=False) if whole else array

    def capture(self, limit: int | None, fills: Mapping[str, int]) -> None:
        """On a card, capture a CUDA graph for each of a ladder of small shapes at its first use, or by `warmup`.

        `limit` is the most tokens a row may have (None: any number; 0: capture nothing), `fills` what padding is
        filled with, by input. Elsewhere, and for graphs whose shapes are not rows and tokens alone, nothing changes.
        """
        if self._card is not None:
            self._card.capture(buckets.ladder(limit), fills, limit)

    def warmup(self, outputs: Sequence[str]) -> None:
        """Run every shape that graphs are captured for once; where there are none, one row of one token."""
        shapes = self._card.ladder if self._card is not None else ()
        for bucket in shapes or (buckets.Bucket(1, 1),):
            size = (bucket.batch, bucket.length)
            # Ones are a mask that counts everything in, and an id that every vocabulary has.
            self.run({tensor.name: np.ones(size, tensor.dtype) for tensor in self.inputs}, outputs)

    def value(self, array: NDArray[Any]) -> Value:
        """The array as a value on the session's device; on the CPU it is the same memory."""
        if self._card is not None:
            return self._card.value(array)
        return onnxruntime().OrtValue.ortvalue_from_numpy(array, *self._place)

    def run_values(
        self, feeds: Mapping[str, NDArray[Any] | Value], arrays: Sequence[str], values: Sequence[str]
    ) -> tuple[list[NDArray[Any]], list[Value]]:
        """Run the graph once. Returns the outputs `arrays` as arrays, and `values` left where they were computed.

        Raises UntorchError with ONNX Runtime's own message if the run fails.
        """
        if native.calls.process is not self._process:
            raise _after_fork()
        try:
            if self._card is not None:
                return native.calls(self._card.in_turn, lambda plain: self._bound(feeds, arrays, values, plain))
            return self._bound(feeds, arrays, values, lambda one: native.calls(self._session.run_with_iobinding, one))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(_shape(feed))}" for name, feed in feeds.items())
            raise UntorchError(f"ONNX Runtime failed on inputs {shapes}: {_first_line(error)}") from error

    def _bound(
        self,
        feeds: Mapping[str, NDArray[Any] | Value],
        arrays: Sequence[str],
        values: Sequence[str],
        run: Callable[[Any], None],
    ) -> tuple[list[NDArray[Any]], list[Value]]:
        """Bind, `run` and fetch, in one thread: what is bound is copied on the stream that the thread then runs on."""
        kind, index = self._place
        binding = self._session.io_binding()
        for name, feed in feeds.items():
            if isinstance(feed, np.ndarray):
                binding.bind_cpu_input(name, feed)
            else:
                binding.bind_ortvalue_input(name, feed)
        for name in arrays:
            binding.bind_output(name)
        for name in values:
            binding.bind_output(name, kind, index)
        run(binding)
        results = binding.get_outputs()
        return [result.numpy() for result in results[: len(arrays)]], list(results[len(arrays) :])

    @property
    def _place(self) -> tuple[str, int]:
        """The memory that values live in, as ONNX Runtime names it; OpenVINO's is the CPU's."""
        kind, _, index = self.device.partition(":")
        return ("cuda", int(index)) if kind == "cuda" else ("cpu", 0)


def _shape(feed: NDArray[Any] | Value) -> Sequence[int]:
    return feed.shape if isinstance(feed, np.ndarray) else feed.shape()


def _tensor(item: Any) -> Tensor:
    return Tensor(item.name, _DTYPES.get(item.type, item.type), tuple(item.shape))


def _after_fork() -> UntorchError:
    # ONNX Runtime's threads stay behind in the parent: a run in the child would wait for them forever.
    return UntorchError(
        "this model was loaded before os.fork(), and its threads did not come along. "
        "Load it in the child process, or start processes with the spawn method"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
