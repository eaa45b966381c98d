"""What a tokenizer call answers: a mapping of names to ids and masks, with the way back to the text.

It never talks to a tokenizer: everything it knows came with it.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from tokenizers import Encoding

from untorch.errors import InputError


class CharSpan(NamedTuple):
    """Characters `[start, end)` of the original string."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `[start, end)` of an encoded sequence."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """A tokenizer's answer, usable as `model(**encoding)`.

    A mapping of `input_ids`, `attention_mask`, … to lists of ints, or to int64 arrays of shape
    (batch, sequence) when arrays were asked for; each is an attribute too. An integer index gives the
    `tokenizers.Encoding` of that row. The methods below relate tokens, words and characters; each takes
    `(index)` for row 0 or `(row, index)`.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data)
        self._encodings = [encoding] if isinstance(encoding, Encoding) else encoding
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs, None when unknown."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether the rows' `tokenizers.Encoding`s are here."""
        return self._encodings is not None

    @property
    def encodings(self) -> Sequence[Encoding] | None:
        """The rows' `tokenizers.Encoding`s, or None."""
        return self._encodings

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {key: value[item] for key, value in self.data.items()}
        raise KeyError("keys are names; integers work where the rows' encodings are kept, slices where they are not")

    def __getattr__(self, item: str) -> Any:
        # `data` itself must not recurse while an instance is being unpickled.
        if item != "data" and item in self.data:
            return self.data[item]
        raise AttributeError(f"{type(self).__name__} has no {item!r}; it holds {', '.join(self.data) or 'nothing'}")

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self._encodings, "n_sequences": self._n_sequences}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data = state["data"]
        self._encodings = state["encodings"]
        self._n_sequences = state["n_sequences"]

    def _row(self, row: int) -> Encoding:
        if not self._encodings:
            raise InputError("this BatchEncoding was made without a tokenizer: it cannot relate tokens to the text")
        return self._encodings[row]

    def _locate(self, row_or_index: int, index: int | None) -> tuple[Encoding, int]:
        return (self._row(0), row_or_index) if index is None else (self._row(row_or_index), index)

    def _locate_token(self, row_or_token: int, token: int | None) -> tuple[Encoding, int]:
        row, token = self._locate(row_or_token, token)
        return row, token + len(row) if token < 0 else token

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        tokens: list[str] = self._row(batch_index).tokens
        return tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 or 1 for the text of the pair it came from, None for a special token."""
        sequence_ids: list[int | None] = self._row(batch_index).sequence_ids
        return sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the index of its word, None for a special token."""
        word_ids: list[int | None] = self._row(batch_index).word_ids
        return word_ids

    def words(self, batch_index: int = 0) -> list[int | None]:
        """The same as `word_ids`; transformers' older name for it."""
        return self.word_ids(batch_index)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Which text of the pair a token came from: 0, 1, or None for a special token."""
        row, token = self._locate_token(batch_or_token_index, token_index)
        sequence: int | None = row.token_to_sequence(token)
        return sequence

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The index of a token's word."""
        row, token = self._locate_token(batch_or_token_index, token_index)
        word: int | None = row.token_to_word(token)
        return word

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters a token covers, or None for a special token."""
        row, token = self._locate(batch_or_token_index, token_index)
        span = row.token_to_chars(token)
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word, or None when it has none."""
        row, word = self._locate(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan:
        """The characters of a word. Raises InputError where the row has no such word."""
        row, word = self._locate(batch_or_word_index, word_index)
        span: tuple[int, int] | None = row.word_to_chars(word, sequence_index)
        if span is None:
            raise InputError(f"the row has no word {word}")
        return CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that covers a character, or None where none does (a space, for one)."""
        row, char = self._locate(batch_or_char_index, char_index)
        token: int | None = row.char_to_token(char, sequence_index)
        return token

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that covers a character, or None where none does."""
        row, char = self._locate(batch_or_char_index, char_index)
        word: int | None = row.char_to_word(char, sequence_index)
        return word

    def to(self, device: object, *, non_blocking: bool = False) -> Self:
        """Return the encoding itself: arrays are numpy's, and the model copies them to its own device.

        It is here so that code for transformers runs as it is; neither argument changes anything.
        """
        del device, non_blocking
        return self

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> Self:
        """Turn every value into a numpy array, in place; `tensor_type` is "np" or None (do nothing).

        Integers become int64. Raises InputError for another framework, or for rows of different lengths.
        """
        if tensor_type is None:
            return self
        check_tensor_type(tensor_type)
        for key, value in self.data.items():
            if not isinstance(value, np.ndarray):
                self.data[key] = _array(key, value)
            if prepend_batch_axis:
                self.data[key] = self.data[key][None]
        return self


def check_tensor_type(tensor_type: str | None) -> None:
    """Raise InputError unless `tensor_type` is "np" or None."""
    # Other libraries' enumerations of these names are strings too.
    if tensor_type is not None and tensor_type != "np":
        raise InputError(
            f'return_tensors={str(tensor_type)!r} needs a framework that is not here; use return_tensors="np"'
        )


def _array(key: str, value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(
            f"the rows of {key!r} have different lengths and make no array; pass padding=True (and truncation=True)"
        ) from None
    if array.size == 0 or array.dtype.kind in "iub":
        return array.astype(np.int64, copy=False)
    return array
