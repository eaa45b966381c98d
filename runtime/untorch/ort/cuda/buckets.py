"""Fixed shapes for captured CUDA graphs: which there are, which one a batch goes into, how it is padded and cut.

A captured CUDA graph replays its kernels on the same addresses with the same shapes. Small batches are bound by
launches, not by arithmetic, so padding one up to the next of a few bucket sizes costs little, and saves the launches.
Nothing here touches a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from untorch.numerics import Array, Tensor

BATCHES = (1, 2, 4, 8)
LENGTHS = (16, 32, 64, 128, 192, 256, 384, 512)
# Above this a batch keeps the GPU busy by itself, and padding it would cost what the launches save.
MAX_TOKENS = 1024

# Attention with a bias has a fused kernel in ONNX Runtime's CUDA provider where rows are a multiple of so many tokens.
ALIGNMENT = 8


class Bucket(NamedTuple):
    """A fixed shape: rows and tokens a row."""

    batch: int
    length: int

    @property
    def tokens(self) -> int:
        """Rows times tokens a row, padding counted."""
        return self.batch * self.length


def sizes(limit: int | None) -> tuple[Bucket, ...]:
    """Every bucket for a model that takes rows of at most `limit` tokens (None: any number), fewest tokens first.

    The longest length is the limit itself where it is below the last of LENGTHS, so that rows of any length fit.
    """
    longest = LENGTHS[-1] if limit is None else min(limit, LENGTHS[-1])
    lengths = sorted({*(length for length in LENGTHS if length < longest), longest} - {0})
    found = [Bucket(batch, length) for batch in BATCHES for length in lengths]
    kept = [bucket for bucket in found if bucket.tokens <= MAX_TOKENS]
    return tuple(sorted(kept, key=lambda bucket: (bucket.tokens, bucket.batch)))


def choose(batch: int, length: int, buckets: Iterable[Bucket]) -> Bucket | None:
    """The bucket with the fewest tokens that holds `batch` rows of `length` tokens; None if none does."""
    fitting = [bucket for bucket in buckets if bucket.batch >= batch and bucket.length >= length]
    return min(fitting, key=lambda bucket: (bucket.tokens, bucket.batch), default=None)


def width(length: int, limit: int | None) -> int:
    """The length, in tokens, that rows of a batch without a bucket are padded to: a multiple of ALIGNMENT.

    `limit` is the most tokens a row may have; a longer row is not made. None is no limit.
    """
    padded = -(-length // ALIGNMENT) * ALIGNMENT
    return padded if limit is None or padded <= limit else length


def is_bounded(inputs: Sequence[Tensor]) -> bool:
    """Whether a graph's inputs all have the same two named axes: rows and tokens. A cache's growing ones do not."""
    axes = inputs[0].axes if inputs else ()
    named = len(axes) == 2 and all(isinstance(axis, str) for axis in axes) and axes[0] != axes[1]
    return named and all(tensor.axes == axes for tensor in inputs)


def shape(axes: Sequence[str | int], inputs: Sequence[Tensor], bucket: Bucket) -> tuple[int, ...] | None:
    """The shape that axes have in a bucket; None where an axis is not one of the inputs' and has no size."""
    axis_sizes: dict[str | int, int] = dict(zip(inputs[0].axes, (bucket.batch, bucket.length), strict=True))
    found = tuple(axis if isinstance(axis, int) else axis_sizes.get(axis) for axis in axes)
    return None if None in found else found  # type: ignore[return-value]  # None was ruled out


def fill(buffer: Array, array: Array, value: int) -> None:
    """Write `array` (rows, tokens) into the upper left of `buffer`, and `value` everywhere else."""
    rows, length = array.shape
    buffer[:rows, :length] = array
    buffer[:rows, length:] = value
    buffer[rows:] = value


def cut(array: Array, axes: Sequence[str | int], inputs: Sequence[Tensor], used: Bucket) -> Array:
    """The part of an output that belongs to the `used` rows and tokens."""
    axis_sizes: Mapping[str | int, int] = dict(zip(inputs[0].axes, (used.batch, used.length), strict=True))
    return array[tuple(slice(axis_sizes.get(axis)) if isinstance(axis, str) else slice(None) for axis in axes)]
