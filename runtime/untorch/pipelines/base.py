"""What every pipeline shares: one text, many or a stream in; batches through the model; answers in order out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import GeneratorType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from untorch import batching
from untorch.errors import InputError
from untorch.model import AutoModel

if TYPE_CHECKING:
    from tokenizers import Encoding

    from untorch.tokenizer import Tokenizer

Array = NDArray[Any]

# How many texts of a stream are tokenized, sorted and answered together.
STREAM_WINDOW = 1024

# Tokenizer arguments the fast path understands. Padding is always the shortest that fits, which changes no answer.
_FAST_ARGUMENTS = {"truncation", "max_length", "add_special_tokens", "padding"}


class Pipeline:
    """A task: preprocess, forward, postprocess. Call it with one input, a list, or a generator.

    One input gives one answer, a list a list of answers in the same order, a generator a generator. Arguments given
    to the constructor are defaults for every call.
    """

    model_class: ClassVar[type[AutoModel]]

    def __init__(
        self, task: str, model: AutoModel, tokenizer: Tokenizer, *, batch_size: int | None = None, **defaults: Any
    ) -> None:
        self.task = task
        self.model = model
        self.tokenizer = tokenizer
        self._batch_size = batch_size
        self._defaults = defaults
        self._parameters(defaults)

    @property
    def device(self) -> str:
        """Where the model runs: `cpu` or `cuda:N`."""
        return self.model.device

    @property
    def precision(self) -> str:
        """The variant in use: `fp32`, `int8` and so on."""
        return self.model.precision

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **arguments: Any) -> Any:
        """Answer one input, a list, or a generator; `batch_size` fixes the rows of a batch (default: by tokens)."""
        parameters = self._parameters({**self._defaults, **arguments})
        batch_size = batch_size or self._batch_size
        if isinstance(inputs, GeneratorType):
            return self._stream(inputs, batch_size, parameters)
        if isinstance(inputs, list):
            return self._answers(inputs, batch_size, parameters)
        return self._answers([inputs], batch_size, parameters)[0]

    def _stream(self, inputs: Iterator[Any], batch_size: int | None, parameters: Any) -> Iterator[Any]:
        for window in batching.windows(inputs, STREAM_WINDOW):
            yield from self._answers(window, batch_size, parameters)

    def _parameters(self, arguments: dict[str, Any]) -> Any:
        """Check the call's arguments. Raises InputError for one this task does not know."""
        raise NotImplementedError

    def _answers(self, items: list[Any], batch_size: int | None, parameters: Any) -> list[Any]:
        """One answer for each item, in order."""
        raise NotImplementedError

    def _encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None, arguments: Mapping[str, Any]
    ) -> list[Encoding]:
        """Tokenize without padding, and refuse what the model cannot take."""
        unknown = set(arguments) - _FAST_ARGUMENTS
        if unknown:
            raise InputError(
                f"{self.task} takes no argument {', '.join(sorted(unknown))}; "
                f"of the tokenizer's it takes {', '.join(sorted(_FAST_ARGUMENTS))}"
            )
        truncation = arguments.get("truncation") not in (None, False, "do_not_truncate")
        limit = self.max_length
        encodings = self.tokenizer.encode_ids(
            texts,
            pairs,
            truncation=truncation,
            max_length=arguments.get("max_length") or limit,
            add_special_tokens=arguments.get("add_special_tokens", True),
        )
        if limit is not None:
            for index, encoding in enumerate(encodings):
                if len(encoding) > limit:
                    self.model.check_length(len(encoding), f"text {index}" if len(encodings) > 1 else "the text")
        return encodings

    @property
    def max_length(self) -> int | None:
        """Most tokens a row may have: the tighter of the model's limit and the tokenizer's; None if neither has one."""
        limits = [self.model.max_sequence_length, self.tokenizer.model_max_length]
        return min((limit for limit in limits if limit is not None and limit < 1_000_000), default=None)

    def _forward(self, encodings: Sequence[Encoding], batch_size: int | None) -> Iterator[tuple[Array, list[Array]]]:
        """Run length-sorted batches. Yields (row numbers, this model's outputs for those rows, padding included)."""
        names = self.model.input_names
        for rows in batching.plan([len(encoding) for encoding in encodings], batch_size):
            feeds = self.tokenizer.collate([encodings[row] for row in rows.tolist()], names)
            yield rows, self.model.forward(feeds)

    def _token_rows(self, encodings: Sequence[Encoding], batch_size: int | None) -> list[list[Array]]:
        """For every row its outputs, each cut to the row's own tokens (tokens, …)."""
        left = self.tokenizer.padding_side == "left"
        results: list[list[Array]] = [[] for _ in encodings]
        for rows, outputs in self._forward(encodings, batch_size):
            for place, row in enumerate(rows.tolist()):
                length = len(encodings[row])
                cut = slice(-length, None) if left else slice(0, length)
                results[row] = [output[place, cut] for output in outputs]
        return results

    def _vectors(self, encodings: Sequence[Encoding], batch_size: int | None) -> Array:
        """The first output of every row, for outputs without a token axis: (rows, …), in order."""
        batches = list(self._forward(encodings, batch_size))
        if len(batches) == 1 and len(batches[0][0]) == 1:
            return batches[0][1][0]
        first = batches[0][1][0]
        vectors = np.empty((len(encodings), *first.shape[1:]), first.dtype)
        for rows, outputs in batches:
            vectors[rows] = outputs[0]
        return vectors
