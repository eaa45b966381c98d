"""Marian's two SentencePiece models and `vocab.json` as one fast tokenizer, with the ids of `MarianTokenizer`.

`MarianTokenizer` splits a text with the source language's model, and looks the pieces up in `vocab.json`, where the
target language's pieces are, too. One Unigram model does both: its pieces are those of `vocab.json` in their order,
with the scores of `source.spm`. Pieces that only the target language has must not be found in a text; they stand
between two marks that no text holds. A run of characters that the source language does not know is looked up as a
whole, so that such runs stand between the marks in the text, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch_export.errors import ExportError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Code points that Unicode keeps for a program's own use: the two marks, and what takes their place in a text.
_START, _END, _OTHER = "\ufdd0", "\ufdd1", "\ufdd2"
_SPACE = "▁"
_UNIGRAM, _NORMAL, _CONTROL, _USER_DEFINED = 1, 1, 3, 4


def convert(slow: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The fast form of a `MarianTokenizer`.

    Raises ExportError for one that has none: separate vocabularies, another algorithm than Unigram, byte fallback,
    user-defined pieces or sampling.
    """
    from transformers import PreTrainedTokenizerFast

    source, target = (_model(Path(path)) for path in slow.spm_files)
    vocabulary = slow.encoder
    reason = _obstacle(slow, source)
    if reason:
        raise ExportError(f"{slow.name_or_path}: the tokenizer cannot be made a fast one: {reason}")
    codes = slow.supported_language_codes
    special = [slow.eos_token, slow.unk_token, slow.pad_token]
    tokenizer = _unigram(source, vocabulary, [*special, *codes])
    control = {piece.piece for piece in target.pieces if piece.type == _CONTROL} - {*special}
    tokenizer.decoder = _decoder(special, control)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=slow.unk_token,
        eos_token=slow.eos_token,
        pad_token=slow.pad_token,
        model_max_length=slow.model_max_length,
        padding_side=slow.padding_side,
        truncation_side=slow.truncation_side,
        clean_up_tokenization_spaces=slow.clean_up_tokenization_spaces,
        model_input_names=slow.model_input_names,
    )
    fast.add_tokens([token for _, token in slow.added_tokens_decoder.items()])
    return fast


def _model(path: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2 as messages

    model = messages.ModelProto()  # type: ignore[attr-defined]  # protobuf makes it at run time
    model.ParseFromString(path.read_bytes())
    return model


def _obstacle(slow: PreTrainedTokenizerBase, source: Any) -> str:
    """Why a tokenizer has no fast form; empty if it has one."""
    if slow.separate_vocabs:
        return "it has separate vocabularies for the two languages (separate_vocabs), and a tokenizer.json has one"
    if slow.sp_model_kwargs:
        return f"it samples its pieces (sp_model_kwargs {slow.sp_model_kwargs})"
    if sorted(slow.encoder.values()) != list(range(len(slow.encoder))):
        return "the ids in vocab.json are not the numbers from 0 up"
    if source.trainer_spec.model_type != _UNIGRAM:
        return "source.spm is not a Unigram model"
    if source.trainer_spec.byte_fallback:
        return "source.spm falls back to bytes"
    if any(piece.type == _USER_DEFINED for piece in source.pieces):
        return "source.spm has user-defined pieces"
    return ""


def _unigram(source: Any, vocabulary: dict[str, int], added: list[str]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, models, processors

    scores = {piece.piece: piece.score for piece in source.pieces if piece.type == _NORMAL}
    pieces = [
        (token, 0.0)
        if token in added
        else (token, scores[token])
        if token in scores
        else (f"{_START}{token}{_END}", 0.0)
        for token in sorted(vocabulary, key=lambda token: vocabulary[token])
    ]
    eos, unknown, pad, *codes = added
    tokenizer = Tokenizer(models.Unigram(pieces, vocabulary[unknown]))
    tokenizer.normalizer = _normalizer(source, (token for token in vocabulary if len(token) == 1 and token in scores))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (eos, unknown, pad)])
    tokenizer.add_tokens([AddedToken(code, normalized=False) for code in codes])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A $B {eos}", special_tokens=[(eos, vocabulary[eos])]
    )
    return tokenizer


def _normalizer(source: Any, known: Iterable[str]) -> Any:
    """What SentencePiece does to a text before it is split, and the marks around runs of unknown characters."""
    from tokenizers import Regex, normalizers

    spec = source.normalizer_spec
    steps: list[Any] = [normalizers.Replace(mark, _OTHER) for mark in (_START, _END)]
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("\\A +| +\\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps.append(normalizers.Replace(" ", _SPACE))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    unknown = f"[^{_SPACE}{''.join(re.escape(character) for character in known)}]"
    steps += [
        normalizers.Replace(Regex(f"(?<!{unknown})(?={unknown})"), _START),
        normalizers.Replace(Regex(f"(?<={unknown})(?!{unknown})"), _END),
    ]
    return normalizers.Sequence(steps)


def _decoder(special: list[str], control: Iterable[str]) -> Any:
    """A space after every special token, none at the ends; control pieces have no text."""
    from tokenizers import Regex, decoders

    steps: list[Any] = [decoders.Replace(mark, "") for mark in (_START, _END)]
    steps += [decoders.Replace(Regex(f"\\A{re.escape(piece)}\\z"), "") for piece in sorted(control)]
    behind = "|".join(re.escape(token) for token in special)
    return decoders.Sequence(
        [
            *steps,
            decoders.Fuse(),
            decoders.Replace(Regex(f"(?<={behind}){_SPACE}?"), " "),
            decoders.Replace(_SPACE, " "),
            decoders.Replace(Regex("\\A\\s+|\\s+\\z"), ""),
        ]
    )
