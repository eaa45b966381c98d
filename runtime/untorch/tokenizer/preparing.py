"""Special tokens, types and truncation for sequences of ids that were made without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from untorch.errors import InputError
from untorch.tokenizer.encoding import BatchEncoding
from untorch.tokenizer.strategies import CallOptions

Ids = Sequence[int]


class _Framed(NamedTuple):
    """One or two sequences between special tokens: ids, types, and 1 for each special token."""

    ids: list[int]
    types: list[int]
    special: list[int]


class Preparing:
    """What a tokenizer does with ids instead of texts."""

    def build_inputs_with_special_tokens(
        self: Any, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put the special tokens that a call would add around one or two sequences of ids."""
        return self._framed(token_ids_0, token_ids_1).ids  # type: ignore[no-any-return]

    def create_token_type_ids_from_sequences(
        self: Any, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The token type ids that a call would give one or two sequences of ids, special tokens included."""
        return self._framed(token_ids_0, token_ids_1).types  # type: ignore[no-any-return]

    def get_special_tokens_mask(
        self: Any,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each special token, 0 for each other.

        `token_ids_0` has its special tokens already, or gets those that a call would add. Raises InputError for two
        sequences that have them: they are one then.
        """
        if not already_has_special_tokens:
            return self._framed(token_ids_0, token_ids_1).special  # type: ignore[no-any-return]
        if token_ids_1 is not None:
            raise InputError("with already_has_special_tokens=True both sequences are one: pass it as token_ids_0")
        special = set(self.all_special_ids)
        return [int(index in special) for index in token_ids_0]

    def truncate_sequences(
        self: Any,
        ids: list[int],
        pair_ids: list[int] | None = None,
        num_tokens_to_remove: int = 0,
        truncation_strategy: str = "longest_first",
        stride: int = 0,
    ) -> tuple[list[int], list[int] | None, list[int]]:
        """Cut one or two sequences of ids. Returns both, and what was cut off with `stride` tokens of what stays.

        `longest_first` cuts the longer one until both are equal, then both in turn; of a pair nothing is returned as
        cut off then. Raises InputError where the sequence to cut is too short.
        """
        if num_tokens_to_remove <= 0 or truncation_strategy == "do_not_truncate":
            return ids, pair_ids, []
        if truncation_strategy == "longest_first" and pair_ids is not None:
            first = _cut_of_first(len(ids), len(pair_ids), num_tokens_to_remove)
            return (
                self._cut(ids, first),
                self._cut(pair_ids, num_tokens_to_remove - first),
                [],
            )
        second = truncation_strategy == "only_second"
        cut = pair_ids or [] if second else ids
        if len(cut) <= num_tokens_to_remove:
            raise InputError(
                f"cannot remove {num_tokens_to_remove} tokens from the {'second' if second else 'first'} sequence, "
                f"which has {len(cut)}; take a larger max_length, or another truncation than {truncation_strategy!r}"
            )
        window = min(len(cut), stride + num_tokens_to_remove)
        overflowing = cut[:window] if self.truncation_side == "left" else cut[-window:]
        kept = self._cut(cut, num_tokens_to_remove)
        return (ids, kept, overflowing) if second else (kept, pair_ids, overflowing)

    def prepare_for_model(
        self: Any,
        ids: list[int],
        pair_ids: list[int] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        prepend_batch_axis: bool = False,
    ) -> BatchEncoding:
        """Make a model's input of one or two sequences of ids: truncate, add special tokens, pad.

        Arguments are those of a call; the answer is one row of lists, or with return_tensors="np" of arrays
        (sequence,), or (1, sequence) with `prepend_batch_axis`. With `return_overflowing_tokens`, `overflowing_tokens`
        and `num_truncated_tokens` are there too. Raises InputError as a call does, and where a pair that is cut
        longest first is asked for what was cut off.
        """
        if return_offsets_mapping:
            raise InputError("prepare_for_model takes no return_offsets_mapping=True: ids have no text to point into")
        strategy = self._strategy(
            CallOptions(padding=padding, truncation=truncation, max_length=max_length, verbose=verbose)
        )
        if return_overflowing_tokens and pair_ids is not None and strategy.truncation == "longest_first":
            raise InputError(
                "what longest_first cuts off a pair cannot be returned; choose truncation='only_first' or 'only_second'"
            )
        added = self.num_special_tokens_to_add(pair_ids is not None) if add_special_tokens else 0
        total = len(ids) + len(pair_ids or ()) + added
        excess = max(0, total - strategy.max_length) if strategy.max_length and strategy.truncation else 0
        ids, pair_ids, overflowing = self.truncate_sequences(ids, pair_ids, excess, strategy.truncation, stride)
        framed = self._framed(ids, pair_ids) if add_special_tokens else _bare(ids, pair_ids)

        row: dict[str, Any] = {}
        if return_overflowing_tokens:
            limit = strategy.max_length if strategy.max_length is not None else total
            row |= {"overflowing_tokens": overflowing, "num_truncated_tokens": total - limit}
        row["input_ids"] = framed.ids
        names = self.model_input_names
        if return_token_type_ids or (return_token_type_ids is None and "token_type_ids" in names):
            row["token_type_ids"] = framed.types
        if return_special_tokens_mask:
            row["special_tokens_mask"] = framed.special
        masked = return_attention_mask or (return_attention_mask is None and "attention_mask" in names)
        if masked or strategy.padding != "do_not_pad":
            padded = self.pad(
                row,
                padding=strategy.padding,
                max_length=strategy.max_length,
                pad_to_multiple_of=pad_to_multiple_of,
                padding_side=padding_side,
                return_attention_mask=masked,
                verbose=verbose,
            )
            row = dict(padded)
        if return_length:
            row["length"] = len(row["input_ids"])
        return BatchEncoding(row, tensor_type=return_tensors, prepend_batch_axis=prepend_batch_axis)

    def _framed(self: Any, first: Ids, second: Ids | None) -> _Framed:
        # A stand-in encoding shows where the post-processor leaves each sequence.
        encoding = self._backend.encode(["a" if second is None else ("a", "a")])[0]
        framed = _Framed([], [], [])
        placed: set[int] = set()
        for index, kind, sequence in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
            if sequence in placed:
                continue
            ids = [index] if sequence is None else list((first, second or ())[sequence])
            framed.ids.extend(ids)
            framed.types.extend([kind] * len(ids))
            framed.special.extend([int(sequence is None)] * len(ids))
            if sequence is not None:
                placed.add(sequence)
        return framed

    def _cut(self: Any, ids: list[int], count: int) -> list[int]:
        if count <= 0:
            return ids
        return ids[count:] if self.truncation_side == "left" else ids[: max(0, len(ids) - count)]


def _cut_of_first(first: int, second: int, remove: int) -> int:
    """How many of `remove` tokens the first of two sequences loses, the longer one first: 9, 4, 7 -> 6."""
    ahead = min(abs(first - second), remove)
    both = remove - ahead
    # An odd token is taken from the one that was not the longer.
    return ahead + both // 2 if first > second else both // 2


def _bare(ids: Ids, pair_ids: Ids | None) -> _Framed:
    joined = [*ids, *(pair_ids or ())]
    return _Framed(joined, [0] * len(joined), [0] * len(joined))
