"""The tokenizer: text → ids, masks and offsets, in transformers' call signature."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike
from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer

from untorch.bundle.arguments import take_source
from untorch.bundle.folder import Bundle, refuse_unverified, side_files
from untorch.bundle.manifest import MANIFEST
from untorch.errors import InputError
from untorch.tokenizer import padding as pads
from untorch.tokenizer.backend import TruncationSettings
from untorch.tokenizer.chat import ChatTemplates
from untorch.tokenizer.editing import Editing
from untorch.tokenizer.encoding import BatchEncoding, check_tensor_type
from untorch.tokenizer.loading import Settings, check_side, load
from untorch.tokenizer.preparing import Preparing
from untorch.tokenizer.strategies import LARGE_INTEGER, CallOptions, Strategy, resolve
from untorch.tokenizer.vocabulary import Vocabulary
from untorch.values import mapping, read

_log = logging.getLogger("untorch.tokenizer")

_INT64 = np.dtype(np.int64)

Text = str | Sequence[str] | Sequence[Sequence[str]]


class Tokenizer(ChatTemplates, Editing, Preparing, Vocabulary):
    """A tokenizer read from a folder; behaves as transformers' `PreTrainedTokenizerFast` and its subclasses do.

    Any number of threads may call one tokenizer at once, as long as none changes its attributes.
    """

    def __init__(self, tokenizer: RustTokenizer, settings: Settings) -> None:
        """Take over a Rust tokenizer and the settings read with it; see `from_pretrained`."""
        super().__init__(tokenizer, settings)
        self.class_name = settings.class_name
        self.model_max_length = settings.model_max_length
        self.model_input_names = settings.model_input_names
        self.padding_side = settings.padding_side
        self.truncation_side = settings.truncation_side
        self.split_special_tokens = settings.split_special_tokens
        self.add_prefix_space = settings.add_prefix_space
        self._warned: set[str] = set()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **overrides: Any) -> Self:
        """Read a tokenizer from a folder, or from whatever folder a name stands for.

        `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only` and `force_download` say where files come
        from, as in transformers. `overrides` replace what the files say: `padding_side`, `truncation_side`,
        `model_max_length`, `pad_token` and the other special tokens, `extra_special_tokens`,
        `clean_up_tokenization_spaces`, `add_prefix_space`, `chat_template`, …. transformers' other arguments change
        nothing here or are refused by name. Raises BundleError without a `tokenizer.json`, FormatError for a malformed
        file, IntegrityError for one that is not what the bundle's manifest says, InputError for an argument that this
        tokenizer does not take.
        """
        source = take_source(overrides)
        folder = Path(pretrained_model_name_or_path)
        name = str(pretrained_model_name_or_path)
        if source or not folder.is_dir():
            from untorch.bundle.hub import resolve as resolve_name

            folder = resolve_name(pretrained_model_name_or_path, select=None, **source)
        # What a copy in another language, or in another process, is read from.
        name = str(folder) if source else name
        if (folder / MANIFEST).is_file():
            return cls.from_bundle(Bundle(folder), name, **overrides)
        refuse_unverified(folder)
        side_files(folder)  # refuses links that lead out of the folder
        return cls(*load(folder, overrides, name))

    @classmethod
    def from_bundle(cls, bundle: Bundle, name_or_path: str | None = None, /, **overrides: Any) -> Self:
        """Read an opened bundle's tokenizer; see `from_pretrained`."""
        with bundle.held():
            return cls(*load(bundle.path, overrides, name_or_path))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map})"
        )

    def __call__(
        self,
        text: Text | None = None,
        text_pair: Text | None = None,
        text_target: Text | None = None,
        text_pair_target: Text | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
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
        split_special_tokens: bool | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> BatchEncoding:
        """Encode a text, a pair, or a batch of either.

        Arguments, defaults and answer are those of transformers. Without `return_tensors` the values are
        lists (of lists, for a batch); with "np", int64 arrays of shape (batch, sequence), offsets
        (batch, sequence, 2). `tokenizer_kwargs` are further arguments by name. Raises InputError for anything that is
        not text, for padding without a pad token, for an impossible truncation, for rows of different lengths asked
        for as arrays, for `return_tensors` other than "np", and for an argument that there is not, by its name.
        """
        options = CallOptions(
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            is_split_into_words=is_split_into_words,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_tensors=return_tensors,
            return_token_type_ids=return_token_type_ids,
            return_attention_mask=return_attention_mask,
            return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask,
            return_offsets_mapping=return_offsets_mapping,
            return_length=return_length,
            verbose=verbose,
            split_special_tokens=split_special_tokens,
        ).changed(
            {**({} if tokenizer_kwargs is None else read(mapping, "tokenizer_kwargs", tokenizer_kwargs)), **others}
        )
        if text is None and text_target is None:
            raise InputError("no text was given (None): pass a str, a list of str, or text_target")
        if text_target is not None and self._family.language is not None:
            raise InputError("text_target needs the target language's tokens, which translation tokenizers lack here")
        encoded = None if text is None else self._call_one(text, text_pair, options)
        target = None if text_target is None else self._call_one(text_target, text_pair_target, options)
        if encoded is None:
            assert target is not None
            return target
        if target is not None:
            encoded["labels"] = target["input_ids"]
        return encoded

    def encode_plus(self, text: Text, text_pair: Text | None = None, **options: Any) -> BatchEncoding:
        """Encode one text or pair; `options` as in a call."""
        return self._encode_one(text, text_pair, CallOptions().changed(options))

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """Encode a batch of texts or of pairs; `options` as in a call."""
        return self._encode_many(batch_text_or_text_pairs, CallOptions().changed(options))

    def encode(
        self, text: Text, text_pair: Text | None = None, add_special_tokens: bool = True, **options: Any
    ) -> list[int]:
        """The ids of one text or pair; an array of shape (1, sequence) with return_tensors="np"."""
        ids: list[int] = self.encode_plus(text, text_pair, add_special_tokens=add_special_tokens, **options)[
            "input_ids"
        ]
        return ids

    def tokenize(
        self, text: Text, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of one text or pair. A list of two texts is a pair too: one run of tokens."""
        return self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def encode_ids(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
        *,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
    ) -> list[Encoding]:
        """The fast way to ids: no padding, no offsets (all are zero), no dictionary; `collate` makes arrays.

        `truncation` cuts longest first to `max_length`, or to the model's limit; without it the encodings
        are as long as the texts. Raises InputError for anything that is not text, and for lists of
        different lengths.
        """
        if isinstance(texts, str) or isinstance(text_pairs, str):
            raise InputError("encode_ids takes lists of texts; for one text pass [text]")
        if text_pairs is not None and len(texts) != len(text_pairs):
            raise InputError(f"there are {len(texts)} texts and {len(text_pairs)} text_pairs; each text needs one")
        limit = self.model_max_length if max_length is None else max_length
        return self._backend.encode(
            list(texts) if text_pairs is None else list(zip(texts, text_pairs, strict=True)),
            add_special_tokens=add_special_tokens,
            truncation=TruncationSettings(limit, direction=self.truncation_side)
            if truncation and limit <= LARGE_INTEGER
            else None,
            split_special_tokens=self.split_special_tokens,
            offsets=text_pairs is not None and not self._backend.types_pairs,
        )

    def collate(
        self,
        encodings: Sequence[Encoding],
        names: Collection[str],
        pad_to: int | None = None,
        dtype: DTypeLike = _INT64,
        padding_side: str | None = None,
    ) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        """Arrays of shape (batch, sequence) from encodings, padded on `padding_side` (default: the tokenizer's).

        Of `names`, `input_ids`, `attention_mask` and `token_type_ids` are filled; others are left out.
        Rows are as long as the longest, and at least `pad_to`. Types of tokens that are not among `model_input_names`
        are zeros, which is what transformers' models take where they are given none. Raises InputError when rows must
        be padded and there is no pad token.
        """
        arrays = self._collate(encodings, names, pad_to, dtype, padding_side)
        if "token_type_ids" in arrays and "token_type_ids" not in self.model_input_names:
            arrays["token_type_ids"] = np.zeros_like(arrays["token_type_ids"])
        return arrays

    def _collate(
        self,
        encodings: Sequence[Encoding],
        names: Collection[str],
        pad_to: int | None,
        dtype: DTypeLike,
        padding_side: str | None,
    ) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        if len(encodings) == 1 and pad_to is None:
            return pads.stack(encodings, names, dtype)
        lengths = list(map(len, encodings))
        width = max(pad_to or 0, *lengths, 0)
        if lengths.count(width) == len(lengths) > 0:
            return pads.stack(encodings, names, dtype)
        return pads.collate(
            encodings,
            lengths,
            names,
            width=width,
            pad_id=self._pad_id() if lengths else 0,
            pad_type_id=self.pad_token_type_id,
            left=(padding_side or self.padding_side) == "left",
            dtype=dtype,
        )

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad rows of ids that were encoded before: a mapping, a BatchEncoding, or a list of mappings.

        Lists and arrays are accepted; arrays in give arrays out. The ids go by the first of `model_input_names`. Raises
        InputError when there are none, when values differ in their number of rows, and without a pad token.
        """
        check_tensor_type(return_tensors)
        main = self.model_input_names[0]
        if isinstance(encoded_inputs, Mapping):
            columns = dict(encoded_inputs.items())
        else:
            columns = {
                name: [row[name] for row in encoded_inputs] for name in (encoded_inputs[0] if encoded_inputs else ())
            }
            if not encoded_inputs:
                columns = {main: []}
        if main not in columns:
            raise InputError(f"pad needs {main}, but was given {', '.join(columns) or 'nothing'}")
        if len(columns[main]) == 0:
            return BatchEncoding(columns | ({"attention_mask": []} if return_attention_mask else {}))

        if return_tensors is None and isinstance(columns[main][0], np.ndarray | np.integer):
            return_tensors = "np"
        strategy = self._strategy(
            CallOptions(padding=padding, max_length=max_length, padding_side=padding_side, verbose=verbose)
        )
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        fills = {
            main: self.pad_token_id or 0,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
            **({"attention_mask": 0} if return_attention_mask else {}),
        }
        left = check_side("padding_side", padding_side or self.padding_side) == "left"
        columns = pads.pad_columns(columns, strategy, pad_to_multiple_of, fills, left, main)
        return BatchEncoding(columns, tensor_type=return_tensors)

    @property
    def translates(self) -> bool:
        """Whether the tokenizer puts a source language's token with every text (`src_lang`)."""
        return self._family.language is not None

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text, or a pair, gets."""
        count: int = self.backend_tokenizer.num_special_tokens_to_add(pair)
        return count

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of a text fit the model beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair fit the model beside the special ones."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def _call_one(self, text: Text, text_pair: Text | None, options: CallOptions) -> BatchEncoding:
        for value, name in ((text, "text"), (text_pair, "text_pair")):
            if not isinstance(value, str | list | tuple) and not (value is None and name == "text_pair"):
                raise InputError(f"{name} is {type(value).__name__}; pass a str, or a list of str")
        words = options.is_split_into_words
        if isinstance(text, str) or (words and not (text and isinstance(text[0], list | tuple))):
            return self._encode_one(text, text_pair, options)
        if text_pair is None:
            return self._encode_many(text, options)
        if isinstance(text_pair, str) or len(text) != len(text_pair):
            count = "one str" if isinstance(text_pair, str) else f"{len(text_pair)} texts"
            raise InputError(f"text has {len(text)} texts and text_pair {count}; each text needs its own")
        return self._encode_many(list(zip(text, text_pair, strict=True)), options)

    def _encode_one(self, text: Text, text_pair: Text | None, options: CallOptions) -> BatchEncoding:
        batch = self._encode_many([(text, text_pair) if text_pair else text], options)
        if options.return_tensors is not None or options.return_overflowing_tokens:
            return batch
        row = {name: value[0] if value and isinstance(value[0], list) else value for name, value in batch.items()}
        return BatchEncoding(row, batch.encodings)

    def _encode_many(self, inputs: Sequence[Any], options: CallOptions) -> BatchEncoding:
        check_tensor_type(options.return_tensors)
        if options.is_split_into_words and self._family.words_need_prefix_space and not self.add_prefix_space:
            raise InputError("this tokenizer takes pre-split words only when loaded with add_prefix_space=True")
        strategy = self._strategy(options)
        encodings = self._backend.encode(
            inputs,
            add_special_tokens=options.add_special_tokens,
            is_pretokenized=options.is_split_into_words,
            truncation=self._truncation(strategy, options.stride),
            split_special_tokens=self.split_special_tokens
            if options.split_special_tokens is None
            else options.split_special_tokens,
        )
        self._pad_encodings(encodings, strategy, options)

        sources = range(len(encodings))
        if options.return_overflowing_tokens:
            windows = [[encoding, *encoding.overflowing] for encoding in encodings]
            sources = [source for source, rows in enumerate(windows) for _ in rows]  # type: ignore[assignment]
            encodings = [row for rows in windows for row in rows]
        data = self._columns(encodings, options)
        if options.return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = list(sources)
        if strategy.max_length is None:
            longest = max(map(len, data["input_ids"]), default=0)
            if longest > self.model_max_length > 0:
                self._warn(
                    "too long",
                    f"a sequence of {longest} tokens is longer than the model's maximum of {self.model_max_length}; "
                    "pass truncation=True before running it through the model.",
                    options.verbose,
                )
        return BatchEncoding(data, encodings, tensor_type=options.return_tensors)

    def _columns(self, encodings: Sequence[Encoding], options: CallOptions) -> dict[str, list[Any]]:
        def wanted(name: str, asked: bool | None) -> bool:
            return name in self.model_input_names if asked is None else asked

        data: dict[str, list[Any]] = {"input_ids": [encoding.ids for encoding in encodings]}
        if wanted("token_type_ids", options.return_token_type_ids):
            data["token_type_ids"] = [encoding.type_ids for encoding in encodings]
        if wanted("attention_mask", options.return_attention_mask):
            data["attention_mask"] = [encoding.attention_mask for encoding in encodings]
        if options.return_special_tokens_mask:
            data["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
        if options.return_offsets_mapping:
            data["offset_mapping"] = [encoding.offsets for encoding in encodings]
        if options.return_length:
            data["length"] = [len(encoding) for encoding in encodings]
        return data

    def _strategy(self, options: CallOptions) -> Strategy:
        strategy = resolve(
            padding=options.padding,
            truncation=options.truncation,
            max_length=options.max_length,
            pad_to_multiple_of=options.pad_to_multiple_of,
            model_max_length=self.model_max_length,
            warn=lambda kind, message: self._warn(kind, message, options.verbose),
        )
        if strategy.padding != "do_not_pad":
            self._pad_id()
        return strategy

    def _truncation(self, strategy: Strategy, stride: int) -> TruncationSettings | None:
        if strategy.truncation == "do_not_truncate":
            return None
        assert strategy.max_length is not None
        side = check_side("truncation_side", self.truncation_side)
        return TruncationSettings(strategy.max_length, stride, strategy.truncation, side)

    def _pad_encodings(self, encodings: Sequence[Encoding], strategy: Strategy, options: CallOptions) -> None:
        if strategy.padding == "do_not_pad" or not encodings:
            return
        longest = max(map(len, encodings)) if strategy.padding == "longest" else strategy.max_length
        assert longest is not None
        length = pads.padded_length(longest, options.pad_to_multiple_of)
        side = check_side("padding_side", options.padding_side or self.padding_side)
        pad_id, pad_token = self._pad_id(), self.pad_token
        for encoding in encodings:
            encoding.pad(length, direction=side, pad_id=pad_id, pad_type_id=self.pad_token_type_id, pad_token=pad_token)

    def _pad_id(self) -> int:
        pad_id = self.pad_token_id
        if pad_id is None:
            raise InputError(
                "padding was asked for, but this tokenizer has no pad token; choose one, for example "
                "tokenizer.pad_token = tokenizer.eos_token"
            )
        return pad_id

    def _warn(self, kind: str, message: str, verbose: bool) -> None:
        # Each kind of warning once for a tokenizer: a loop over texts must not flood the log.
        if verbose and kind not in self._warned:
            self._warned.add(kind)
            _log.warning(message)
