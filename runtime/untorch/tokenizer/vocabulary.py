"""Tokens, ids and special tokens, and the way from ids back to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, overload

import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from untorch.bundle.arguments import Rule, refuse_others
from untorch.errors import InputError
from untorch.tokenizer.backend import Backend, surrogate_problem
from untorch.tokenizer.decoding import DecodeStream, clean_up_tokenization
from untorch.tokenizer.loading import Settings
from untorch.tokenizer.overrides import ADDITIONAL, TOKEN_NAMES

# Arguments of decode that only slow tokenizers have.
DECODING: Mapping[str, Rule] = {
    "spaces_between_special_tokens": Rule((True, False), "fast tokenizers, as here, take it without effect"),
    "use_source_tokenizer": Rule((False,), "only slow tokenizers have it"),
}

Ids = int | Sequence[int] | np.ndarray[Any, np.dtype[Any]]


_SETTINGS = ("do_lower_case", "add_bos_token", "add_eos_token", "src_lang", "tgt_lang")


class _SpecialToken:
    """`tokenizer.pad_token` and its like: a string or None; may be set to any token of the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, vocabulary: None, owner: type) -> Self: ...
    @overload
    def __get__(self, vocabulary: Vocabulary, owner: type) -> str | None: ...
    def __get__(self, vocabulary: Vocabulary | None, owner: type) -> Self | str | None:
        return self if vocabulary is None else vocabulary._special_tokens[self._name]

    def __set__(self, vocabulary: Vocabulary, token: str | None) -> None:
        if token is not None and vocabulary.backend_tokenizer.token_to_id(token) is None:
            raise InputError(f"{self._name}={token!r} is not in the vocabulary; choose a token that is")
        vocabulary._special_tokens[self._name] = token


class _SpecialTokenId:
    """`tokenizer.pad_token_id` and its like: an id, or None where the token is not set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._token = name.removesuffix("_id")

    @overload
    def __get__(self, vocabulary: None, owner: type) -> Self: ...
    @overload
    def __get__(self, vocabulary: Vocabulary, owner: type) -> int | None: ...
    def __get__(self, vocabulary: Vocabulary | None, owner: type) -> Self | int | None:
        if vocabulary is None:
            return self
        token = vocabulary._special_tokens[self._token]
        return None if token is None else vocabulary.backend_tokenizer.token_to_id(token)

    def __set__(self, vocabulary: Vocabulary, index: int | None) -> None:
        setattr(vocabulary, self._token, None if index is None else vocabulary.convert_ids_to_tokens(index))


class Vocabulary:
    """What of a tokenizer needs no text: its tokens, their ids, and decoding."""

    bos_token, eos_token, unk_token, sep_token = _SpecialToken(), _SpecialToken(), _SpecialToken(), _SpecialToken()
    pad_token, cls_token, mask_token = _SpecialToken(), _SpecialToken(), _SpecialToken()
    bos_token_id, eos_token_id, unk_token_id = _SpecialTokenId(), _SpecialTokenId(), _SpecialTokenId()
    sep_token_id, pad_token_id = _SpecialTokenId(), _SpecialTokenId()
    cls_token_id, mask_token_id = _SpecialTokenId(), _SpecialTokenId()

    is_fast = True
    # transformers keeps the positional arguments of its constructors here; a tokenizer that was loaded has none.
    init_inputs: tuple[Any, ...] = ()

    def __init__(self, tokenizer: RustTokenizer, settings: Settings) -> None:
        """Take over a Rust tokenizer and the settings read with it."""
        self._backend = Backend(tokenizer)
        self._family = settings.family
        self._special_tokens = settings.special_tokens
        self._extra_special_tokens = settings.extra_special_tokens
        self.additional_special_tokens = settings.additional_special_tokens
        self.clean_up_tokenization_spaces = settings.clean_up_tokenization_spaces
        self._can_clean_up = settings.can_clean_up
        self.init_kwargs = settings.init_kwargs
        self.name_or_path = settings.name_or_path
        self.chat_template = settings.chat_template

    def __getattr__(self, name: str) -> Any:
        # A model's own special tokens (`image_token`, …) are attributes too.
        extra = self.__dict__.get("_extra_special_tokens", {})
        if name in extra:
            return extra[name]
        if name.endswith("_id") and name.removesuffix("_id") in extra:
            return self.convert_tokens_to_ids(extra[name.removesuffix("_id")])
        # So are the settings that its class follows (`do_lower_case`, …), as they were read.
        settings = self.__dict__.get("init_kwargs", {})
        if name in _SETTINGS and name in settings:
            return settings[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        size: int = self.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def __bool__(self) -> bool:
        return True

    @property
    def backend_tokenizer(self) -> RustTokenizer:
        """The Rust tokenizer. Shared by every thread: do not change it."""
        return self._backend.tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of tokens without the added ones."""
        size: int = self.backend_tokenizer.get_vocab_size(with_added_tokens=False)
        return size

    @property
    def vocab(self) -> dict[str, int]:
        """Every token's id."""
        return self.get_vocab()

    def get_vocab(self) -> dict[str, int]:
        """Every token's id, added tokens included."""
        ids: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return ids

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id."""
        tokens: dict[int, AddedToken] = self.backend_tokenizer.get_added_tokens_decoder()
        return tokens

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The ids of the added tokens, in their order."""
        return {token.content: index for index, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """The ids of the added tokens, in their order."""
        return self.added_tokens_encoder

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """The special tokens that are set, by name."""
        named: dict[str, str | list[str]] = {
            name: token for name in TOKEN_NAMES if (token := self._special_tokens[name])
        }
        if self.additional_special_tokens:
            named[ADDITIONAL] = list(self.additional_special_tokens)
        return named | self._extra_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens, each once."""
        tokens: list[str] = []
        for token in self.special_tokens_map.values():
            tokens += token if isinstance(token, list) else [token]
        return list(dict.fromkeys(tokens))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """The ids of `additional_special_tokens`."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, ids: Sequence[int]) -> None:
        self.additional_special_tokens = self.convert_ids_to_tokens(ids)

    @property
    def pad_token_type_id(self) -> int:
        """The token type id of padding."""
        return self._family.pad_token_type_id

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]
    @overload
    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """A token's id, or a list of them; an unknown token has the id of `unk_token` (None without one).

        Raises InputError for anything that is not a token.
        """
        return self._token_id(tokens) if isinstance(tokens, str) else [self._token_id(token) for token in tokens]

    def _token_id(self, token: str) -> int:
        try:
            index = self.backend_tokenizer.token_to_id(token)
        except (TypeError, UnicodeEncodeError) as error:
            problem = surrogate_problem(token, "the token") if isinstance(token, str) else None
            raise InputError(problem or f"a token is a str, not {type(token).__name__}") from error
        # Typed as transformers types it: None stands for an unknown token where there is no unk_token.
        return index if index is not None else self.unk_token_id  # type: ignore[return-value]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(
        self, ids: Sequence[int] | np.ndarray[Any, np.dtype[Any]], skip_special_tokens: bool = False
    ) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """The token of an id, or of each id of a sequence. Raises InputError for an id outside the vocabulary."""
        if isinstance(ids, int | np.integer):
            return self._tokens([int(ids)])[0]
        skip = set(self.all_special_ids) if skip_special_tokens else ()
        return self._tokens([index for item in ids if (index := int(item)) not in skip])

    def _tokens(self, ids: Iterable[int]) -> list[str]:
        lookup = self.backend_tokenizer.id_to_token
        tokens = []
        for index in ids:
            try:
                token = lookup(index)
            except (OverflowError, TypeError):
                token = None
            if token is None:
                raise InputError(f"id {index!r} is not in the vocabulary; its {len(self)} tokens have ids from 0 up")
            tokens.append(token)
        return tokens

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that the tokens make together."""
        decoder = self.backend_tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def decode(
        self,
        token_ids: Ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> str:
        """The text of one sequence of ids (or of one id).

        `clean_up_tokenization_spaces` removes the spaces before punctuation; None follows the tokenizer's
        config. The text of a BPE model that transformers 5 saved keeps them, as there.
        Raises InputError for an id outside the vocabulary, for a batch, and for transformers' other arguments, by
        name.
        """
        if others:
            refuse_others(others, DECODING, ("skip_special_tokens", "clean_up_tokenization_spaces"), "decode")
        ids = _flat_ids(token_ids)
        self._tokens(set(ids))
        text = self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        if self._family.decodes_word_suffix:
            text = text.replace(self.backend_tokenizer.model.end_of_word_suffix, " ").strip()
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return clean_up_tokenization(text) if clean_up_tokenization_spaces and self._can_clean_up else text

    def batch_decode(
        self,
        sequences: Sequence[Ids] | np.ndarray[Any, np.dtype[Any]],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> list[str]:
        """The text of each sequence; see `decode`."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces, **others) for ids in sequences]

    def decode_stream(
        self, skip_special_tokens: bool = True, clean_up_tokenization_spaces: bool | None = False
    ) -> DecodeStream:
        """Decode id by id: `stream.step(id)` gives the text that became certain, `stream.flush()` the rest.

        The arguments are those of `decode`.
        """
        clean = clean_up_tokenization_spaces
        clean = self.clean_up_tokenization_spaces if clean is None else clean
        special = {index for index, token in self.added_tokens_decoder.items() if token.special}
        return DecodeStream(
            lambda ids: self.decode(ids, clean_up_tokenization_spaces=False),
            self.convert_ids_to_tokens,
            special if skip_special_tokens else frozenset(),
            bool(clean and self._can_clean_up),
        )


def _flat_ids(token_ids: Ids) -> list[int]:
    if isinstance(token_ids, np.ndarray | np.integer):
        token_ids = token_ids.tolist()
    ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
    for position, index in enumerate(ids):
        if not isinstance(index, int):
            if isinstance(index, np.integer):
                ids[position] = int(index)
            elif isinstance(index, list | tuple | np.ndarray):
                raise InputError("decode takes one sequence of ids; for a batch use batch_decode")
            else:
                raise InputError(f"an id is an int, not {type(index).__name__}")
    return ids
