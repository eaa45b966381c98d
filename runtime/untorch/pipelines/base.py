"""What every pipeline shares: one text, many or a stream in; batches through the model; answers in order out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, pairwise
from types import GeneratorType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from untorch import batching
from untorch.errors import InputError, SequenceTooLongError
from untorch.model.base import AutoModel
from untorch.numerics import Array
from untorch.ort.devices import Device

if TYPE_CHECKING:
    from tokenizers import Encoding

    from untorch.tokenizer import Tokenizer
    from untorch.tokenizer.strategies import Truncation


# How many texts of a stream are tokenized, sorted and answered together.
STREAM_WINDOW = 1024

# Tokenizer arguments the fast path understands. Padding is always the shortest that fits, which changes no answer.
_FAST_ARGUMENTS = {"truncation", "max_length", "add_special_tokens", "padding"}


def truncates(truncation: Any) -> bool:
    """Whether a `truncation` argument, in any of the tokenizer's spellings, asks to cut."""
    return truncation not in (None, False, "do_not_truncate")


class Pipeline:
    """A task: preprocess, forward, postprocess. Call it with one input, a list, or a generator.

    One input gives one answer, a list a list of answers in the same order, a generator a generator. Arguments given
    to the constructor are defaults for every call.
    """

    model_class: ClassVar[type[AutoModel]]
    # Whether many inputs may be answered in windows side by side, where the device gains by it.
    overlapping: ClassVar[bool] = True
    # The fields of one input, as a file's columns name them; an input with the first alone is that text itself.
    input_fields: ClassVar[tuple[str, ...]] = ("text",)
    # What to do about a text over the limit.
    if_too_long: ClassVar[str] = "Cut it with truncation=True"

    def __init__(
        self, task: str, model: AutoModel, tokenizer: Tokenizer, *, batch_size: int | None = None, **defaults: Any
    ) -> None:
        self.task = task
        self.model = model
        self.tokenizer = tokenizer
        self._batch_size = batch_size
        self._defaults = defaults
        # A GPU leaves the processor's cores free for the steps before and after the model.
        self._overlaps = self.overlapping and self.device.is_gpu
        # The tokenizer takes all cores, so where windows are answered side by side, they take turns.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self._overlaps else nullcontext()
        self._default_parameters = self._parameters(defaults)

    @property
    def device(self) -> Device:
        """Where the model runs: `cpu`, `cuda:N` or `openvino`. Its `reason` says why it was taken."""
        return self.model.device

    def warmup(self) -> None:
        """Do now what the first calls would: allocate, and on a card capture the CUDA graphs of small batches."""
        self.model.warmup()

    @property
    def precision(self) -> str:
        """The variant in use: `fp32`, `int8` and so on."""
        return self.model.precision

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **arguments: Any) -> Any:
        """Answer one input, a list, or a generator; `batch_size` fixes the rows of a batch (default: by tokens)."""
        parameters = self._parameters({**self._defaults, **arguments}) if arguments else self._default_parameters
        batch_size = batch_size or self._batch_size
        if isinstance(inputs, GeneratorType):
            return self._stream(inputs, batch_size, parameters)
        if isinstance(inputs, list):
            return (self._overlapped if self._overlaps else self._answers)(inputs, batch_size, parameters)
        return self._answers([inputs], batch_size, parameters)[0]

    def _stream(self, inputs: Iterator[Any], batch_size: int | None, parameters: Any) -> Iterator[Any]:
        def answer(window: list[Any]) -> list[Any]:
            return self._answers(window, batch_size, parameters)

        answers: Iterator[list[Any]]
        if self._overlaps:
            from untorch.pipelines import overlap

            answers = overlap.streamed(answer, batching.windows(inputs, overlap.CHUNK))
        else:
            answers = map(answer, batching.windows(inputs, STREAM_WINDOW))
        yield from chain.from_iterable(answers)

    def _overlapped(self, inputs: list[Any], batch_size: int | None, parameters: Any) -> list[Any]:
        """The same as `_answers`, in windows side by side where there is more than one."""
        # Imported here: a start on the CPU should not pay for it.
        from untorch.pipelines import overlap

        if len(inputs) > overlap.WINDOW:
            try:
                return overlap.answered(lambda window: self._answers(window, batch_size, parameters), inputs)
            except InputError:
                pass  # a window does not know which of all the inputs is at fault: below it is raised again, or not
        return self._answers(inputs, batch_size, parameters)

    @classmethod
    def from_words(cls, words: list[str]) -> list[Any]:
        """The inputs that the words of a command line stand for: each is one, unless the task says otherwise."""
        return list(words)

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
        if arguments and (unknown := set(arguments) - _FAST_ARGUMENTS):
            raise InputError(
                f"{self.task} takes no argument {', '.join(sorted(unknown))}; "
                f"of the tokenizer's it takes {', '.join(sorted(_FAST_ARGUMENTS))}"
            )
        truncation = truncates(arguments.get("truncation"))
        with self._turn:
            encodings = self.tokenizer.encode_ids(
                texts,
                pairs,
                truncation=truncation,
                max_length=(arguments.get("max_length") or self.max_length) if truncation else None,
                add_special_tokens=arguments.get("add_special_tokens", True),
            )
        self._check_lengths(encodings)
        return encodings

    def _encode_spans(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None = None,
        *,
        truncation: Truncation = "do_not_truncate",
        max_length: int | None = None,
        stride: int | None = None,
        words: bool = False,
    ) -> tuple[list[Encoding], list[range]]:
        """Tokenize with character offsets and without padding. Gives the rows, and which of them are each text's.

        With a `stride`, a text over `max_length` (default: the model's limit) becomes several rows, its windows,
        that share `stride` tokens; otherwise a text is one row. With `words` a text is a list of words.
        """
        with self._turn:
            batch = self.tokenizer(
                list(texts),
                None if pairs is None else list(pairs),
                truncation=truncation,
                max_length=None if truncation == "do_not_truncate" else max_length or self.max_length,
                stride=stride or 0,
                return_overflowing_tokens=stride is not None,
                is_split_into_words=words,
                return_token_type_ids=False,
                return_attention_mask=False,
                verbose=False,
            )
        rows = list(batch.encodings or ())
        owners = batch.get("overflow_to_sample_mapping", range(len(rows)))
        self._check_lengths(rows, owners)
        starts = np.searchsorted(owners, np.arange(len(texts) + 1)).tolist()
        return rows, [range(start, end) for start, end in pairwise(starts)]

    def _check_lengths(self, rows: Sequence[Encoding], owners: Sequence[int] | None = None) -> None:
        """Raise SequenceTooLongError for a row over the limit; `owners` are the numbers of the rows' texts."""
        limit = self.limit
        if limit is None:
            return
        for index, row in enumerate(rows):
            if len(row) > limit:
                text = index if owners is None else owners[index]
                raise SequenceTooLongError(
                    f"{f'text {text}' if len(rows) > 1 else 'the text'} has {len(row)} tokens and the model takes at "
                    f"most {limit}. {self.if_too_long}"
                )

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of a batch, padding counted, where no `batch_size` is given."""
        return self.model.max_batch_tokens

    @property
    def limit(self) -> int | None:
        """Most tokens a row may have; None if there is no limit."""
        return self.model.max_sequence_length

    @property
    def max_length(self) -> int | None:
        """Where truncation cuts: the tighter of `limit` and the tokenizer's own; None if neither has one."""
        limits = [self.limit, self.tokenizer.model_max_length]
        return min((limit for limit in limits if limit is not None and limit < 1_000_000), default=None)

    def count_tokens(self, item: Any) -> int:
        """How many tokens the texts of one input have. Raises InputError for an input that is not text."""
        texts = [text for text in item.values() if isinstance(text, str)] if isinstance(item, dict) else [item]
        return sum(len(encoding) for encoding in self.tokenizer.encode_ids(texts))

    def _forward(
        self, encodings: Sequence[Encoding], batch_size: int | None
    ) -> Iterable[tuple[list[int], list[Array]]]:
        """Run length-sorted batches. Gives (row numbers, this model's outputs for those rows, padding included).

        Padding stands on the right, whatever the tokenizer's side: a row's positions are then those it has alone.
        """
        if len(encodings) == 1:
            return [([0], self._run(encodings))]
        return self._run_batches(encodings, batch_size)

    def _run(self, batch: Sequence[Encoding]) -> list[Array]:
        return self.model.forward(self.tokenizer.collate(batch, self.model.input_names, padding_side="right"))

    def _run_batches(
        self, encodings: Sequence[Encoding], batch_size: int | None
    ) -> Iterator[tuple[list[int], list[Array]]]:
        def run(rows: list[int]) -> tuple[list[int], list[Array]]:
            return rows, self._run([encodings[row] for row in rows])

        batches = batching.plan([len(encoding) for encoding in encodings], batch_size, self.max_batch_tokens)
        if len(batches) == 1 or self.model.callers == 1:
            yield from map(run, batches)
            return
        # Imported here: a first answer to one text should not pay for it.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.model.callers, "untorch-forward") as pool:
            # The longest first, so that no core is left alone with one at the end.
            yield from pool.map(run, reversed(batches))

    def _token_rows(self, encodings: Sequence[Encoding], batch_size: int | None) -> list[list[Array]]:
        """For every row its outputs, each cut to the row's own tokens (tokens, …)."""
        results: list[list[Array]] = [[] for _ in encodings]
        for rows, outputs in self._forward(encodings, batch_size):
            for place, row in enumerate(rows):
                results[row] = [output[place, : len(encodings[row])] for output in outputs]
        return results

    def _vectors(self, encodings: Sequence[Encoding], batch_size: int | None) -> Array:
        """The first output of every row, for outputs without a token axis: (rows, …), in order."""
        if len(encodings) == 1:
            return self._run(encodings)[0]
        batches = list(self._forward(encodings, batch_size))
        first = batches[0][1][0]
        vectors = np.empty((len(encodings), *first.shape[1:]), first.dtype)
        for rows, outputs in batches:
            vectors[rows] = outputs[0]
        return vectors
