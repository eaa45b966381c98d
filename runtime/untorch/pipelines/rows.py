"""Texts to rows of ids, and rows through the model in batches: what the tasks build their answers from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from untorch import batching
from untorch.errors import InputError, SequenceTooLongError
from untorch.model.base import AutoModel
from untorch.numerics import Array
from untorch.pipelines import inputs
from untorch.pipelines.tokenizing import TokenizerParameters

if TYPE_CHECKING:
    from tokenizers import Encoding

    from untorch.tokenizer import Tokenizer
    from untorch.tokenizer.strategies import Truncation


class Rows:
    """A model and its tokenizer. A row is what the model reads of one text or pair: its ids, without padding."""

    model: AutoModel
    tokenizer: Tokenizer
    # What to do about a text over the limit.
    if_too_long: ClassVar[str] = "Cut it with truncation=True"
    # Outputs of the graph that the task reads beyond the head's.
    also: tuple[str, ...] = ()
    # Held while the tokenizer works.
    _turn: AbstractContextManager[Any]
    # Whether a warning said already what batches give up.
    _warned = False

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
        texts = [item] if isinstance(item, str) else list(inputs.contained(item))
        return sum(len(encoding) for encoding in self.tokenizer.encode_ids(texts))

    def _encode(
        self,
        texts: Sequence[str],
        seconds: Sequence[str | None] | None,
        parameters: TokenizerParameters,
        *,
        empty: bool = False,
    ) -> list[Encoding]:
        """Tokenize without padding, and refuse what the model cannot take; a text whose second is None stands alone.

        With `empty`, texts of no tokens are let through.
        """
        rows = self._rows(texts, seconds, parameters)
        self._check_lengths(rows, empty=empty)
        return rows

    def _rows(
        self, texts: Sequence[str], seconds: Sequence[str | None] | None, parameters: TokenizerParameters
    ) -> list[Encoding]:
        if seconds is not None and None in seconds:
            rows: list[Any] = [None] * len(texts)
            for paired in (False, True):
                places = [place for place, second in enumerate(seconds) if (second is not None) is paired]
                others = [seconds[place] for place in places] if paired else None
                part = self._rows([texts[place] for place in places], others, parameters)
                for place, row in zip(places, part, strict=True):
                    rows[place] = row
            return rows
        cut = parameters.cut
        longest = None if cut == "do_not_truncate" else parameters.max_length or self.max_length
        pairs: Any = seconds
        with self._turn:
            if cut in ("only_first", "only_second"):
                batch = self.tokenizer(
                    list(texts),
                    pairs,
                    truncation=cut if longest is not None else False,
                    max_length=longest,
                    add_special_tokens=parameters.add_special_tokens,
                    verbose=False,
                )
                return list(batch.encodings or ())
            return self.tokenizer.encode_ids(
                texts,
                pairs,
                truncation=cut != "do_not_truncate",
                max_length=longest,
                add_special_tokens=parameters.add_special_tokens,
            )

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

    def _check_lengths(
        self, rows: Sequence[Encoding], owners: Sequence[int] | None = None, *, empty: bool = False
    ) -> None:
        """Raise SequenceTooLongError for a row over the limit, InputError for one of no tokens (unless `empty`).

        `owners` are the numbers of the rows' texts.
        """
        limit = self.limit
        for index, row in enumerate(rows):
            length = len(row)
            if (limit is None or length <= limit) and (length or empty):
                continue
            name = f"text {index if owners is None else owners[index]}" if len(rows) > 1 else "the text"
            if not length:
                raise InputError(f"{name} is empty: it has no tokens, and the model nothing to read")
            raise SequenceTooLongError(
                f"{name} has {length} tokens and the model takes at most {limit}. {self.if_too_long}"
            )

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
        feeds = self.tokenizer.collate(batch, self.model.input_names, padding_side="right")
        return self.model.forward(feeds, self.also)

    def _run_batches(
        self, encodings: Sequence[Encoding], batch_size: int | None
    ) -> Iterator[tuple[list[int], list[Array]]]:
        def run(rows: list[int]) -> tuple[list[int], list[Array]]:
            return rows, self._run([encodings[row] for row in rows])

        batch_size = self._rows_together(batch_size)
        batches = batching.batches(
            [len(encoding) for encoding in encodings],
            batch_size,
            self.max_batch_tokens,
            padding=self.tokenizer.pad_token_id is not None,
        )
        if len(batches) == 1 or self.model.callers == 1:
            yield from map(run, batches)
            return
        # Imported here: a first answer to one text should not pay for it.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.model.callers, "untorch-forward") as pool:
            # The longest first, so that no core is left alone with one at the end.
            yield from pool.map(run, reversed(batches))

    def _rows_together(self, batch_size: int | None) -> int | None:
        """The rows of a batch: one, where an answer would depend on the others and nobody asks for batches."""
        if not self.model.batch_ranges or batch_size == 1:
            return batch_size
        if batch_size is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.model.bundle.path} is quantised with activation ranges of the whole batch: with "
                f"batch_size={batch_size} an answer depends on the texts beside it. Leave batch_size out for answers "
                "that do not",
                stacklevel=2,
            )
        return batch_size or 1

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
