"""Token classification (named entities): a label for every token, or for every run of tokens that belong together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from untorch.errors import InputError
from untorch.model.heads import AutoModelForTokenClassification
from untorch.numerics import Array, softmax
from untorch.pipelines import inputs as given_inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import TOKEN_CLASSIFICATION
from untorch.pipelines.parameters import Parameters, argument
from untorch.pipelines.tokenizing import truncates, truncation
from untorch.values import flag, one_of, size, string, texts

if TYPE_CHECKING:
    from tokenizers import Encoding

Entity = dict[str, Any]

STRATEGIES = ("none", "simple", "first", "average", "max")


def _names(labels: Any) -> frozenset[str]:
    return frozenset(texts(labels))


class TokenClassificationParameters(Parameters):
    """The arguments of a call; see the pipeline."""

    aggregation_strategy: str | None = argument(None, one_of(*STRATEGIES))
    grouped_entities: bool | None = argument(None, flag)
    ignore_subwords: bool | None = argument(None, flag)
    ignore_labels: Collection[str] = argument(("O",), _names)
    stride: int | None = argument(None, size)
    is_split_into_words: bool = argument(False, flag)
    delimiter: str = argument(" ", string)
    truncation: bool | str | None = argument(None, truncation)
    strategy: str = "none"


@dataclass(frozen=True)
class _Token:
    """One token that is no special one: its text, where it lies, its label scores, and whether it continues a word."""

    word: str
    start: int
    end: int
    index: int
    scores: Array
    is_subword: bool


class TokenClassificationPipeline(Pipeline[TokenClassificationParameters]):
    """Entities of a text, as transformers gives them, with scores as Python floats.

    A token's entity is `{"entity", "score", "index", "word", "start", "end"}`; with an aggregation strategy, a run's
    is `{"entity_group", "score", "word", "start", "end"}`. `start` and `end` are characters of the text.

    Arguments of a call: `aggregation_strategy` (`none`, `simple`, `first`, `average`, `max`), `ignore_labels`
    (default `["O"]`), `stride` (read a long text in windows that share so many tokens), `truncation` (cut a long
    text), `is_split_into_words` (a text is a list of words; offsets are those in the words joined by `delimiter`).
    The older `grouped_entities` and `ignore_subwords` still name a strategy. A text over the model's limit raises
    SequenceTooLongError unless `stride` or `truncation` is given.
    """

    model_class = AutoModelForTokenClassification
    parameters_class = TokenClassificationParameters
    rules = TOKEN_CLASSIFICATION
    default_task = "token-classification"
    if_too_long = "Cut it with truncation=True, or read it in windows: stride=16, aggregation_strategy='simple'"

    def _sort(self, inputs: Any, parameters: TokenClassificationParameters) -> tuple[given_inputs.Kind, Any]:
        return given_inputs.split_texts(inputs) if parameters.is_split_into_words else given_inputs.sort(inputs)

    def _settled(self, parameters: TokenClassificationParameters) -> TokenClassificationParameters:
        strategy = parameters.aggregation_strategy or "none"
        grouped, whole = parameters.grouped_entities, parameters.ignore_subwords
        if grouped is not None or whole is not None:
            strategy = ("first" if whole else "simple") if grouped else "none"
        stride = parameters.stride
        if stride is not None and self.max_length is not None and stride >= self.max_length:
            raise InputError(f"stride is {stride}; windows of {self.max_length} tokens cannot share so many")
        if stride is not None and parameters.aggregation_strategy is not None and strategy == "none":
            raise InputError("stride needs an aggregation_strategy: tokens that windows share would come out twice")
        return parameters.changed(strategy=strategy, truncation=truncates(parameters.truncation, self.max_length))

    def _answers(
        self, items: list[Any], batch_size: int | None, parameters: TokenClassificationParameters
    ) -> list[list[Entity]]:
        if not items:
            return []
        words = parameters.is_split_into_words
        for index, item in enumerate(items):
            if not isinstance(item, list if words else str):
                wanted = "a list of words" if words else "a text; for a list of words, is_split_into_words"
                raise InputError(f"input {index} is {type(item).__name__}, not {wanted}")
        cut = parameters.truncation or parameters.stride is not None
        rows, windows = self._encode_spans(
            items,
            truncation="longest_first" if cut and self.max_length is not None else "do_not_truncate",
            stride=parameters.stride,
            words=words,
        )
        logits = [outputs[0] for outputs in self._token_rows(rows, batch_size)]
        return [
            self._entities(item, [rows[row] for row in window], [logits[row] for row in window], parameters)
            for item, window in zip(items, windows, strict=True)
        ]

    def _entities(
        self, item: Any, windows: Sequence[Encoding], logits: Sequence[Array], parameters: TokenClassificationParameters
    ) -> list[Entity]:
        text, places = item, None
        if parameters.is_split_into_words:
            text = parameters.delimiter.join(item)
            places = [0, *accumulate(len(word) + len(parameters.delimiter) for word in item)]
        entities = [
            entity
            for window, row in zip(windows, logits, strict=True)
            for entity in self._aggregate(self._tokens(text, window, softmax(row), places), parameters.strategy)
            if entity.get("entity", entity.get("entity_group")) not in parameters.ignore_labels
        ]
        return _without_overlap(entities) if len(windows) > 1 else entities

    def _tokens(self, text: str, encoding: Encoding, scores: Array, places: list[int] | None) -> list[_Token]:
        """The tokens of a row without the special ones; `places` are where the words of a split text start."""
        marks_subwords = bool(getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None))
        unknown = self.tokenizer.unk_token_id
        word_ids = encoding.word_ids
        tokens = []
        for index, (special, token, (start, end)) in enumerate(
            zip(encoding.special_tokens_mask, encoding.tokens, encoding.offsets, strict=True)
        ):
            if special:
                continue
            word = word_ids[index]
            if places is not None and word is not None:
                start, end = start + places[word], end + places[word]
            covered = text[start:end]
            if encoding.ids[index] == unknown:
                token, is_subword = covered, False
            elif marks_subwords:
                is_subword = len(token) != len(covered)
            else:
                # Nothing in the token says whether it starts a word, so a space in the text has to.
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            tokens.append(_Token(token, start, end, index, scores[index], is_subword))
        return tokens

    def _aggregate(self, tokens: list[_Token], strategy: str) -> list[Entity]:
        if strategy in ("none", "simple"):
            entities = [
                {
                    **self._best(token.scores),
                    "index": token.index,
                    "word": token.word,
                    "start": token.start,
                    "end": token.end,
                }
                for token in tokens
            ]
            return entities if strategy == "none" else self._groups(entities)
        words: list[list[_Token]] = []
        for token in tokens:
            if words and token.is_subword:
                words[-1].append(token)
            else:
                words.append([token])
        return self._groups([self._word(word, strategy) for word in words])

    def _word(self, tokens: list[_Token], strategy: str) -> Entity:
        """One entity for the tokens of a word, however they disagree."""
        if strategy == "first":
            scores = tokens[0].scores
        elif strategy == "max":
            scores = max((token.scores for token in tokens), key=lambda scores: scores.max())
        else:
            scores = np.mean([token.scores for token in tokens], axis=0)
        word = self.tokenizer.convert_tokens_to_string([token.word for token in tokens])
        return {**self._best(scores), "word": word, "start": tokens[0].start, "end": tokens[-1].end}

    def _best(self, scores: Array) -> Entity:
        best = int(scores.argmax())
        return {"entity": self.model.config.labels(len(scores))[best], "score": float(scores[best])}

    def _groups(self, entities: list[Entity]) -> list[Entity]:
        """Neighbours of one kind as one entity; a `B-` label starts a new one."""
        groups: list[list[Entity]] = []
        for entity in entities:
            begins, kind = _split(entity["entity"])
            if groups and not begins and kind == _split(groups[-1][-1]["entity"])[1]:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.mean([entity["score"] for entity in group])),
                "word": self.tokenizer.convert_tokens_to_string([entity["word"] for entity in group]),
                "start": group[0]["start"],
                "end": group[-1]["end"],
            }
            for group in groups
        ]


def _split(label: str) -> tuple[bool, str]:
    """Whether a label says that an entity begins, and the kind: `B-PER` and `I-PER` are both PER."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _without_overlap(entities: list[Entity]) -> list[Entity]:
    """Of entities that overlap because windows do, the longest, and of equally long ones the most certain."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif (entity["end"] - entity["start"], entity["score"]) > (
            kept[-1]["end"] - kept[-1]["start"],
            kept[-1]["score"],
        ):
            kept[-1] = entity
    return kept
