"""Runs one session of ONNX Runtime on one kind of device: the interface, and the one for the CPU and for OpenVINO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from untorch import native
from untorch.numerics import Array, Tensor
from untorch.ort.devices import Device, onnxruntime

if TYPE_CHECKING:
    from untorch.ort.cuda.buckets import Bucket

# A tensor that ONNX Runtime holds, on whatever device: its OrtValue.
Value = Any

# Types that an input of whole numbers is converted to.
_NARROW = ("int32", "float32", "float16")


class Executor(ABC):
    """Runs a session, and holds the buffers that its device wants. Errors are ONNX Runtime's own."""

    def __init__(self, session: Any, device: Device, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        # ONNX Runtime's InferenceSession; every run goes through it.
        self.session = session
        self.inputs = {tensor.name: tensor for tensor in inputs}
        self.outputs = {tensor.name: tensor for tensor in outputs}
        self._memory, self._index = device.memory

    @abstractmethod
    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None) -> list[Array]:
        """Run once; the outputs `names` in that order (None: all), as arrays of the caller's own."""

    @abstractmethod
    def run_values(
        self, feeds: Mapping[str, Array | Value], arrays: Sequence[str], values: Sequence[str]
    ) -> tuple[list[Array], list[Value]]:
        """Run once; the outputs `arrays` as arrays, and `values` left where they were computed."""

    @abstractmethod
    def value(self, array: Array) -> Value:
        """The array as a value in the device's memory; on the CPU it is the same memory."""

    @abstractmethod
    def capture(self, limit: int | None, fills: Mapping[str, int]) -> None:
        """Have small batches run from captured graphs, where the device and the session can; see `Session.capture`."""

    @property
    @abstractmethod
    def buckets(self) -> Sequence[Bucket]:
        """The shapes that graphs are captured for; empty where none are."""

    def _bound(
        self,
        feeds: Mapping[str, Array | Value],
        arrays: Sequence[str],
        values: Sequence[str],
        run: Callable[[Any], None],
    ) -> tuple[list[Array], list[Value]]:
        """Bind, `run` and fetch, in one thread: what is bound is copied on the stream that the thread then runs on."""
        binding = self.session.io_binding()
        for name, feed in feeds.items():
            if isinstance(feed, np.ndarray):
                binding.bind_cpu_input(name, feed)
            else:
                binding.bind_ortvalue_input(name, feed)
        for name in arrays:
            binding.bind_output(name)
        for name in values:
            binding.bind_output(name, self._memory, self._index)
        run(binding)
        results = binding.get_outputs()
        return [result.numpy() for result in results[: len(arrays)]], list(results[len(arrays) :])


class CpuExecutor(Executor):
    """Runs a session whose arrays lie in the CPU's memory: on the CPU itself, or through OpenVINO."""

    def __init__(self, session: Any, device: Device, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        super().__init__(session, device, inputs, outputs)
        # What a tokenizer gives is int64; a graph may want its ids or its mask in another type.
        self._types = {tensor.name: tensor.dtype for tensor in inputs if tensor.dtype in _NARROW}

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None) -> list[Array]:
        """Run once; see `Executor`. Whole numbers are converted to the graph's own types."""
        if self._types:
            feeds = {name: self._typed(name, array) for name, array in feeds.items()}
        return native.calls(self.session.run, names, feeds)

    def _typed(self, name: str, array: Array) -> Array:
        whole = array.dtype.kind in "iu" and name in self._types
        return array.astype(self._types[name], copy=False) if whole else array

    def run_values(
        self, feeds: Mapping[str, Array | Value], arrays: Sequence[str], values: Sequence[str]
    ) -> tuple[list[Array], list[Value]]:
        """Run once; see `Executor`."""
        return self._bound(
            feeds, arrays, values, lambda binding: native.calls(self.session.run_with_iobinding, binding)
        )

    def value(self, array: Array) -> Value:
        """The array as a value, in the same memory."""
        return onnxruntime().OrtValue.ortvalue_from_numpy(array, self._memory, self._index)

    def capture(self, limit: int | None, fills: Mapping[str, int]) -> None:
        """Nothing: there is nothing to capture on a CPU."""

    @property
    def buckets(self) -> Sequence[Bucket]:
        """None."""
        return ()
