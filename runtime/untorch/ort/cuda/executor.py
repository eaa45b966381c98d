"""Runs one session on a GPU: bound buffers, and captured CUDA graphs for small batches.

Everything that is decided is in `buckets.py`; here is what touches the GPU. One run at a time, through the run queue:
ONNX Runtime allows no other while graphs are captured, and a GPU has nothing to gain from two.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from untorch import native
from untorch.numerics import Array, Tensor
from untorch.ort.cuda import buckets, libraries
from untorch.ort.cuda.buckets import Bucket
from untorch.ort.cuda.queue import allocating, run_queue
from untorch.ort.devices import Device, onnxruntime
from untorch.ort.executor import Executor, Value

logger = logging.getLogger("untorch")

# The number that tells ONNX Runtime to run without capturing.
_NO_GRAPH = -1


@dataclass
class _Captured:
    """One captured shape: host buffers in pinned memory, values on the GPU, and the binding that names them.

    ONNX Runtime keeps what was captured by thread; in another one the first run captures it anew.
    """

    hosts: dict[str, Array]
    inputs: dict[str, Any]
    outputs: list[Any]
    binding: Any
    options: Any
    captured_by: threading.Thread | None = None


class CudaExecutor(Executor):
    """Runs a session on a GPU. `graphs` says that it was opened for capturing CUDA graphs.

    They are captured for the shapes that `capture` sets, each at its first run.
    """

    def __init__(
        self, session: Any, device: Device, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, graphs: bool
    ) -> None:
        super().__init__(session, device, inputs, outputs)
        self._graphs = graphs and buckets.is_bounded(inputs)
        self._buckets: tuple[Bucket, ...] = ()
        self._fills: Mapping[str, int] = {}
        self._limit: int | None = 0
        self._captured: dict[tuple[Bucket, tuple[str, ...]], _Captured | None] = {}
        self._failed: set[tuple[Bucket, tuple[str, ...]]] = set()
        self._numbers = 0
        self._hosts: dict[str, Array] = {}
        self._devices: dict[str, Any] = {}
        self._plain = self._run_options(_NO_GRAPH)

    def capture(self, limit: int | None, fills: Mapping[str, int]) -> None:
        """Set a row's most tokens, which sets the shapes to capture, and what padding is filled with (default 0)."""
        self._buckets, self._captured = (buckets.sizes(limit) if self._graphs else ()), {}
        self._fills, self._limit = dict(fills), limit

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The shapes that graphs are captured for; empty where this session cannot be captured."""
        return self._buckets

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None) -> list[Array]:
        """Run once; see `Executor`."""
        wanted = tuple(self.outputs) if names is None else tuple(names)
        return native.calls(run_queue, lambda: self._turn(feeds, wanted))

    def run_values(
        self, feeds: Mapping[str, Array | Value], arrays: Sequence[str], values: Sequence[str]
    ) -> tuple[list[Array], list[Value]]:
        """Run once without a CUDA graph; see `Executor`."""

        def run(binding: Any) -> None:
            self.session.run_with_iobinding(binding, self._plain)

        return native.calls(run_queue, lambda: self._bound(feeds, arrays, values, run))

    def value(self, array: Array) -> Value:
        """The array as a value on the GPU."""
        return run_queue(lambda: onnxruntime().OrtValue.ortvalue_from_numpy(array, self._memory, self._index))

    def _turn(self, feeds: Mapping[str, Array], names: tuple[str, ...]) -> list[Array]:
        used = self._shape(feeds)
        bucket = buckets.choose(used.batch, used.length, self._buckets) if used else None
        if used is not None and bucket is not None and (captured := self._launched(bucket, names, feeds)) is not None:
            inputs, found = tuple(self.inputs.values()), zip(names, captured.outputs, strict=True)
            return [buckets.cut(self._fetched(value), self.outputs[name].axes, inputs, used) for name, value in found]
        return self.run_plain(feeds, names, used)

    def _shape(self, feeds: Mapping[str, Array]) -> Bucket | None:
        """The rows and tokens that all feeds share; None where they do not."""
        shapes = {array.shape for array in feeds.values()}
        (only,) = shapes if len(shapes) == 1 else ((),)
        return Bucket(*only) if len(only) == 2 else None

    def _launched(self, bucket: Bucket, names: tuple[str, ...], feeds: Mapping[str, Array]) -> _Captured | None:
        """The captured shape, run with these feeds; at its first use it is captured on the way.

        None, and nothing was run, where an output's size is not known beforehand, where capturing failed, and while a
        session is being opened.
        """
        key, thread = (bucket, names), threading.current_thread()
        captured = self._captured.get(key)
        if captured is not None and captured.captured_by is thread:
            self.replay(captured, feeds)
            return captured
        if (key in self._captured and captured is None) or not allocating.acquire(blocking=False):
            return None
        try:
            captured = captured or self._made(bucket, names)
            if captured is not None:
                self.replay(captured, feeds)
                captured.captured_by = thread
        except Exception as error:
            # A run without it gives the same answer, or says what is wrong. It is tried once more: a capture is broken
            # off by whatever else in the process allocates on a GPU meanwhile.
            logger.warning("no CUDA graph could be captured for %d rows of %d tokens: %s", *bucket, error)
            if key not in self._failed:
                self._failed.add(key)
                return None
            captured = None
        finally:
            allocating.release()
        self._captured[key] = captured
        return captured

    def replay(self, captured: _Captured, feeds: Mapping[str, Array]) -> None:
        """Run a captured shape with these feeds, padded up to it."""
        for name, host in captured.hosts.items():
            buckets.fill(host, feeds[name], self._fills.get(name, 0))
            captured.inputs[name].update_inplace(host)
        self.session.run_with_iobinding(captured.binding, captured.options)

    def _made(self, bucket: Bucket, names: tuple[str, ...]) -> _Captured | None:
        inputs = tuple(self.inputs.values())
        shapes = {name: buckets.shape(self.outputs[name].axes, inputs, bucket) for name in names}
        sizes = {name: size for name, size in shapes.items() if size is not None}
        if len(sizes) < len(names):
            return None
        size = (bucket.batch, bucket.length)
        hosts = {tensor.name: libraries.pinned(size, tensor.dtype, self._index) for tensor in inputs}
        values = {tensor.name: self._on_gpu(size, tensor.dtype) for tensor in inputs}
        outputs = [self._on_gpu(sizes[name], self.outputs[name].dtype) for name in names]
        binding = self.session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        self._numbers += 1
        return _Captured(hosts, values, outputs, binding, self._run_options(self._numbers))

    def run_plain(self, feeds: Mapping[str, Array], names: Sequence[str], used: Bucket | None) -> list[Array]:
        """Run without a CUDA graph: pinned host buffers and outputs on the GPU, both kept and grown."""
        inputs = tuple(self.inputs.values())
        bounded = used is not None and buckets.is_bounded(inputs)
        run = Bucket(used.batch, buckets.width(used.length, self._limit)) if used and bounded else None
        sizes = {name: buckets.shape(self.outputs[name].axes, inputs, run) if run else None for name in names}
        # Rows are padded only where every output can be cut back afterwards.
        padded = run if None not in sizes.values() else None
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, self._pinned(name, array, padded or array.shape))
        for name, size in sizes.items():
            if size is None or padded is None:
                binding.bind_output(name, "cpu")
            else:
                kind = self.outputs[name].dtype
                place = self._reserved(name, int(np.prod(size)), kind)
                binding.bind_output(name, self._memory, self._index, np.dtype(kind), size, place)
        self.session.run_with_iobinding(binding, self._plain)
        found = [self._fetched(value) for value in binding.get_outputs()]
        if padded is None or used is None:
            return found
        axes = (self.outputs[name].axes for name in names)
        return [buckets.cut(array, one, inputs, used) for array, one in zip(found, axes, strict=True)]

    def _pinned(self, name: str, array: Array, shape: tuple[int, ...]) -> Array:
        """The array in pinned memory that the next run overwrites, padded to `shape`, in the type of the graph."""
        host, size = self._hosts.get(name), int(np.prod(shape))
        if host is None or host.size < size:
            host = self._hosts[name] = libraries.pinned((size,), self.inputs[name].dtype, self._index)
        view = host[:size].reshape(shape)
        if view.shape == array.shape:
            view[...] = array
        else:
            buckets.fill(view, array, self._fills.get(name, 0))
        return view

    def _reserved(self, name: str, size: int, dtype: str) -> int:
        """Address on the GPU of room for `size` elements, which the next run overwrites."""
        value = self._devices.get(name)
        if value is None or value.shape()[0] < size:
            value = self._devices[name] = self._on_gpu((size,), dtype)
        return int(value.data_ptr())

    def _on_gpu(self, size: Sequence[int], dtype: str) -> Any:
        return onnxruntime().OrtValue.ortvalue_from_shape_and_type(
            list(size), np.dtype(dtype), self._memory, self._index
        )

    def _fetched(self, value: Any) -> Array:
        """A value on the GPU as an array: `numpy` copies what is not in the host's memory."""
        array: Array = value.numpy()
        return array

    def _run_options(self, graph: int) -> Any:
        options = onnxruntime().RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options
