"""Runs one session on a card: bound buffers, and captured CUDA graphs for small shapes.

Everything that is decided is in `buckets.py`; here is what touches the card. One run at a time, through the lane:
ONNX Runtime allows no other while graphs are captured, and a card has nothing to gain from two.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from untorch.bundle.manifest import Tensor
from untorch.ort.cuda import buckets, libraries
from untorch.ort.cuda.buckets import Bucket
from untorch.ort.cuda.queue import allocating, run_queue
from untorch.ort.devices import onnxruntime

Array = NDArray[Any]

Result = TypeVar("Result")

logger = logging.getLogger("untorch")

# The number that tells ONNX Runtime to run without capturing.
_NO_GRAPH = -1


@dataclass
class _Plan:
    """One captured shape: host buffers in pinned memory, values on the card, and the binding that names them.

    ONNX Runtime keeps what was captured by thread; in another one the first run captures it anew.
    """

    hosts: dict[str, Array]
    inputs: dict[str, Any]
    outputs: list[Any]
    binding: Any
    options: Any
    captured_by: threading.Thread | None = None


class CudaExecutor:
    """A session on `cuda:N`. `graphs` says that it was opened for capturing.

    Graphs are captured for the shapes of the ladder that `capture` sets, each at its first run.
    """

    # Where buffers lie, as ONNX Runtime names it.
    _memory: ClassVar[str] = "cuda"

    def __init__(
        self, session: Any, device: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, graphs: bool
    ) -> None:
        self._session = session
        self._index = int(device.partition(":")[2])
        self._inputs = {tensor.name: tensor for tensor in inputs}
        self._outputs = {tensor.name: tensor for tensor in outputs}
        self._graphs = graphs and buckets.is_bounded(inputs)
        self._ladder: tuple[Bucket, ...] = ()
        self._fills: Mapping[str, int] = {}
        self._limit: int | None = 0
        self._plans: dict[tuple[Bucket, tuple[str, ...]], _Plan | None] = {}
        self._failed: set[tuple[Bucket, tuple[str, ...]]] = set()
        self._numbers = 0
        self._hosts: dict[str, Array] = {}
        self._devices: dict[str, Any] = {}
        self._plain = self._run_options(_NO_GRAPH)

    def capture(self, ladder: Sequence[Bucket], fills: Mapping[str, int], limit: int | None = None) -> None:
        """Set the shapes to capture, what padding is filled with, by input (default 0), and a row's most tokens."""
        self._ladder, self._plans = (tuple(ladder) if self._graphs else ()), {}
        self._fills, self._limit = dict(fills), limit

    @property
    def ladder(self) -> tuple[Bucket, ...]:
        """The shapes that graphs are captured for; empty where this graph cannot be captured."""
        return self._ladder

    def run(self, feeds: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        """Run once; the outputs `names` as arrays of the caller's own."""
        return run_queue(lambda: self._turn(feeds, tuple(names)))

    def in_turn(self, work: Callable[[Callable[[Any], None]], Result]) -> Result:
        """Do `work` when it is its turn; it is given what runs a binding without a graph."""
        return run_queue(lambda: work(lambda binding: self._session.run_with_iobinding(binding, self._plain)))

    def value(self, array: Array) -> Any:
        """The array as a value on the card."""
        return run_queue(lambda: onnxruntime().OrtValue.ortvalue_from_numpy(array, self._memory, self._index))

    def _turn(self, feeds: Mapping[str, Array], names: tuple[str, ...]) -> list[Array]:
        used = self._shape(feeds)
        bucket = buckets.choose(used.batch, used.length, self._ladder) if used else None
        if used is not None and bucket is not None and (plan := self._launched(bucket, names, feeds)) is not None:
            inputs, found = tuple(self._inputs.values()), zip(names, plan.outputs, strict=True)
            return [buckets.cut(self._fetched(value), self._outputs[name].axes, inputs, used) for name, value in found]
        return self._run(feeds, names, used)

    def _shape(self, feeds: Mapping[str, Array]) -> Bucket | None:
        """The rows and tokens that all feeds share; None where they do not."""
        shapes = {array.shape for array in feeds.values()}
        (only,) = shapes if len(shapes) == 1 else ((),)
        return Bucket(*only) if len(only) == 2 else None

    def _launched(self, bucket: Bucket, names: tuple[str, ...], feeds: Mapping[str, Array]) -> _Plan | None:
        """The bucket's plan, run with these feeds; at its first use it is captured on the way.

        None, and nothing was run, where an output's size is not known beforehand, where capturing failed, and while a
        session is being opened.
        """
        key, thread = (bucket, names), threading.current_thread()
        plan = self._plans.get(key)
        if plan is not None and plan.captured_by is thread:
            self._replay(plan, feeds)
            return plan
        if (key in self._plans and plan is None) or not allocating.acquire(blocking=False):
            return None
        try:
            plan = plan or self._made(bucket, names)
            if plan is not None:
                self._replay(plan, feeds)
                plan.captured_by = thread
        except Exception as error:
            # A run without it gives the same answer, or says what is wrong. It is tried once more: whatever else in
            # the process allocated on a card just then broke it off.
            logger.warning("no CUDA graph could be captured for %d rows of %d tokens: %s", *bucket, error)
            if key not in self._failed:
                self._failed.add(key)
                return None
            plan = None
        finally:
            allocating.release()
        self._plans[key] = plan
        return plan

    def _replay(self, plan: _Plan, feeds: Mapping[str, Array]) -> None:
        for name, host in plan.hosts.items():
            buckets.fill(host, feeds[name], self._fills.get(name, 0))
            plan.inputs[name].update_inplace(host)
        self._session.run_with_iobinding(plan.binding, plan.options)

    def _made(self, bucket: Bucket, names: tuple[str, ...]) -> _Plan | None:
        inputs = tuple(self._inputs.values())
        shapes = {name: buckets.shape(self._outputs[name].axes, inputs, bucket) for name in names}
        sizes = {name: size for name, size in shapes.items() if size is not None}
        if len(sizes) < len(names):
            return None
        size = (bucket.batch, bucket.length)
        hosts = {tensor.name: libraries.pinned(size, tensor.dtype, self._index) for tensor in inputs}
        values = {tensor.name: self._on_card(size, tensor.dtype) for tensor in inputs}
        outputs = [self._on_card(sizes[name], self._outputs[name].dtype) for name in names]
        binding = self._session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        self._numbers += 1
        return _Plan(hosts, values, outputs, binding, self._run_options(self._numbers))

    def _run(self, feeds: Mapping[str, Array], names: Sequence[str], used: Bucket | None) -> list[Array]:
        """Without a graph: pinned host buffers and outputs on the card, both kept and grown."""
        inputs = tuple(self._inputs.values())
        bounded = used is not None and buckets.is_bounded(inputs)
        run = Bucket(used.batch, buckets.width(used.length, self._limit)) if used and bounded else None
        sizes = {name: buckets.shape(self._outputs[name].axes, inputs, run) if run else None for name in names}
        # What cannot be cut back must not have grown.
        padded = run if None not in sizes.values() else None
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, self._pinned(name, array, padded or array.shape))
        for name, size in sizes.items():
            if size is None or padded is None:
                binding.bind_output(name, "cpu")
            else:
                kind = self._outputs[name].dtype
                place = self._reserved(name, int(np.prod(size)), kind)
                binding.bind_output(name, self._memory, self._index, np.dtype(kind), size, place)
        self._session.run_with_iobinding(binding, self._plain)
        found = [self._fetched(value) for value in binding.get_outputs()]
        if padded is None or used is None:
            return found
        axes = (self._outputs[name].axes for name in names)
        return [buckets.cut(array, one, inputs, used) for array, one in zip(found, axes, strict=True)]

    def _pinned(self, name: str, array: Array, shape: tuple[int, ...]) -> Array:
        """The array in pinned memory that the next run overwrites, padded to `shape`, in the type of the graph."""
        host, size = self._hosts.get(name), int(np.prod(shape))
        if host is None or host.size < size:
            host = self._hosts[name] = libraries.pinned((size,), self._inputs[name].dtype, self._index)
        view = host[:size].reshape(shape)
        if view.shape == array.shape:
            view[...] = array
        else:
            buckets.fill(view, array, self._fills.get(name, 0))
        return view

    def _reserved(self, name: str, size: int, dtype: str) -> int:
        """Address on the card of room for `size` elements, which the next run overwrites."""
        value = self._devices.get(name)
        if value is None or value.shape()[0] < size:
            value = self._devices[name] = self._on_card((size,), dtype)
        return int(value.data_ptr())

    def _on_card(self, size: Sequence[int], dtype: str) -> Any:
        return onnxruntime().OrtValue.ortvalue_from_shape_and_type(
            list(size), np.dtype(dtype), self._memory, self._index
        )

    def _fetched(self, value: Any) -> Array:
        """A value of the card's as an array of its own: `numpy` copies what is not in the host's memory."""
        array: Array = value.numpy()
        return array

    def _run_options(self, graph: int) -> Any:
        options = onnxruntime().RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry("gpu_graph_id", str(graph))
        return options
