"""One Rust tokenizer, safe to call from many threads.

Truncation is mutable state on a Rust tokenizer, so each truncation setting gets a view of its own, made
once and never changed. Views share the vocabulary, the merges and every other component: one costs
well under a millisecond and little memory. Padding is never enabled here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as RustTokenizer

from untorch import native
from untorch.errors import InputError

_VIEWS_KEPT = 16


class TruncationSettings(NamedTuple):
    """Where to cut: lengths in tokens, special tokens included."""

    max_length: int
    stride: int = 0
    strategy: str = "longest_first"
    direction: str = "right"


class Backend:
    """Encodes and looks up; holds no per-call state."""

    def __init__(self, tokenizer: RustTokenizer) -> None:
        """Take over `tokenizer`, whose baked-in truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = False
        self.tokenizer = tokenizer
        # Without a post-processor, encoding without offsets gives both texts of a pair type 0.
        self.types_pairs = tokenizer.post_processor is not None
        self._views: OrderedDict[tuple[TruncationSettings | None, bool], RustTokenizer] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Backend], tuple[RustTokenizer]]:
        return Backend, (self.tokenizer,)

    def encode(
        self,
        inputs: Sequence[Any],
        *,
        add_special_tokens: bool = True,
        is_pretokenized: bool = False,
        truncation: TruncationSettings | None = None,
        split_special_tokens: bool = False,
        offsets: bool = True,
    ) -> list[Encoding]:
        """Encode texts, pairs of texts, or (pre-tokenized) lists of words and pairs of those.

        Without `offsets` it is faster and the encodings' offsets are all zero. Raises InputError for
        anything that is not text, and for a truncation that cannot be done.
        """
        # As a rule nothing is cut and no special token split, and there is nothing to look up.
        plain = truncation is None and not split_special_tokens
        tokenizer = self.tokenizer if plain else self._view(truncation, split_special_tokens)
        encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
        try:
            encodings: list[Encoding] = native.calls(
                encode, inputs, is_pretokenized=is_pretokenized, add_special_tokens=add_special_tokens
            )
        except BaseException as error:
            # A panic in Rust arrives as a BaseException of its own kind; interrupts must pass.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise InputError(_diagnose(inputs, is_pretokenized, truncation, error)) from error
        return encodings

    def add(self, tokens: Sequence[str | AddedToken], *, special: bool) -> int:
        """Add tokens to the vocabulary; how many are new. No other thread may be encoding."""
        with self._lock:
            add = self.tokenizer.add_special_tokens if special else self.tokenizer.add_tokens
            count: int = add(list(tokens))
            self._views.clear()
            return count

    def _view(self, truncation: TruncationSettings | None, split_special_tokens: bool) -> RustTokenizer:
        key = (truncation, split_special_tokens)
        with self._lock:
            view = self._views.get(key)
            if view is None:
                view = self._views[key] = self._make_view(truncation, split_special_tokens)
                if len(self._views) > _VIEWS_KEPT:
                    self._views.popitem(last=False)
            else:
                self._views.move_to_end(key)
            return view

    def _make_view(self, truncation: TruncationSettings | None, split_special_tokens: bool) -> RustTokenizer:
        base = self.tokenizer
        view = RustTokenizer(base.model)
        for component in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if (value := getattr(base, component)) is not None:
                setattr(view, component, value)
        # Added one by one in the order of their ids, they get the same ids again.
        for _, token in sorted(base.get_added_tokens_decoder().items()):
            (view.add_special_tokens if token.special else view.add_tokens)([token])
        view.encode_special_tokens = split_special_tokens
        if truncation is not None:
            try:
                view.enable_truncation(
                    truncation.max_length,
                    stride=truncation.stride,
                    strategy=truncation.strategy,
                    direction=truncation.direction,
                )
            except (ValueError, OverflowError, TypeError) as error:
                raise InputError(
                    f"cannot truncate to max_length={truncation.max_length} with stride={truncation.stride}: {error}"
                ) from error
        return view


def _diagnose(
    inputs: Sequence[Any], is_pretokenized: bool, truncation: TruncationSettings | None, error: BaseException
) -> str:
    for index, item in enumerate(inputs):
        where = f"text {index}" if len(inputs) > 1 else "the text"
        if problem := _problem(item, where, pairs=True, words=is_pretokenized):
            return problem
    if truncation is not None and ("stride" in str(error) or "runcat" in str(error) or "equence" in str(error)):
        return (
            f"cannot truncate {truncation.strategy} to max_length={truncation.max_length} "
            f"with stride={truncation.stride}: {error}"
        )
    return f"the tokenizer could not encode this text: {error}"


def _problem(item: object, where: str, *, pairs: bool, words: bool) -> str | None:
    if isinstance(item, str):
        if words:
            return f"{where} is one string; is_split_into_words=True takes a list of words"
        return surrogate_problem(item, where)
    if not isinstance(item, list | tuple):
        return f"{where} is {type(item).__name__}, not str"
    if words and not (pairs and len(item) == 2 and all(isinstance(part, list | tuple) for part in item)):
        problems = (_problem(word, f"word {i} of {where}", pairs=False, words=False) for i, word in enumerate(item))
        return next((problem for problem in problems if problem), None)
    if not pairs or len(item) != 2:
        return f"{where} is a {type(item).__name__} of {len(item)}; a text is a str, and a pair has two"
    first = _problem(item[0], f"the first of {where}", pairs=False, words=words)
    return first or _problem(item[1], f"the second of {where}", pairs=False, words=words)


def surrogate_problem(text: str, where: str) -> str | None:
    """Say where `text` has half a surrogate pair, which no encoding can hold; None if it has none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"{where} has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}; "
            "decode the text properly, or drop it with text.encode(errors='ignore').decode()"
        )
    return None
