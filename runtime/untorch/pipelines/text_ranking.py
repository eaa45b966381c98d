"""Text ranking: passages in the order in which they answer a query, by a cross-encoder."""

from __future__ import annotations

from typing import Any

import numpy as np

from untorch.bundle.folder import read_json
from untorch.errors import InputError, TaskError
from untorch.model.heads import AutoModelForSequenceClassification
from untorch.numerics import FUNCTIONS, Array
from untorch.pipelines import inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import TOKENIZER
from untorch.pipelines.parameters import argument
from untorch.pipelines.tokenizing import TokenizerParameters, settled
from untorch.values import count, one_of, string

# The last parts of PyTorch's activation names, which sentence-transformers writes into a cross-encoder's config.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Softmax": "softmax", "Identity": "none"}


class TextRankingParameters(TokenizerParameters):
    """The arguments of a call; see the pipeline."""

    top_k: int | None = argument(None, count, none=True)
    function_to_apply: str | None = argument(None, one_of(*FUNCTIONS))
    label: str | None = argument(None, string)


class TextRankingPipeline(Pipeline[TextRankingParameters]):
    """`[{"index", "score", "text"}, …]` for `{"query": …, "passages": [text, …]}`: the passages, best first.

    `index` is the passage's place in the input. Equal scores keep the order of the input.

    Arguments of a call: `top_k` (how many passages; default all), `function_to_apply` (`sigmoid`, `softmax`, `none`;
    default what the checkpoint's sentence-transformers settings say, else `sigmoid` for a model of one score and
    `none` for more), `truncation`, `max_length`, and, for a model that scores several labels, `label`: the one to rank
    by. Without it such a model raises InputError.
    """

    model_class = AutoModelForSequenceClassification
    parameters_class = TextRankingParameters
    rules = TOKENIZER
    default_task = "text-ranking"
    input_fields = ("query", "passages")

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        # The function that the checkpoint names for its scores, if it does.
        self._activation = self._own_activation()

    @classmethod
    def from_words(cls, words: list[str]) -> list[Any]:
        """A query, then its passages."""
        return [{"query": words[0], "passages": words[1:]}]

    def _own_activation(self) -> str | None:
        """The function that the checkpoint names for its scores, if it does."""
        settings = self.model.bundle.path / "config_sentence_transformers.json"
        config = self.model.config
        name = (
            (read_json(settings) if settings.is_file() else {}).get("activation_fn")
            or (config.get("sentence_transformers") or {}).get("activation_fn")
            or config.get("sbert_ce_default_activation_function")
        )
        if name is None:
            return None
        kind = str(name).rsplit(".", 1)[-1]
        if kind not in _ACTIVATIONS:
            raise TaskError(f"{self.model.bundle.path} asks for the activation {name}, which untorch does not have")
        return _ACTIVATIONS[kind]

    def _settled(self, parameters: TextRankingParameters) -> TextRankingParameters:
        if parameters.label is not None and parameters.label not in self.model.config.label2id:
            raise InputError(
                f"the model has no label {parameters.label!r}; it has {', '.join(self.model.config.label2id)}"
            )
        return settled(parameters, self.max_length)

    def _answers(
        self, items: list[Any], batch_size: int | None, parameters: TextRankingParameters
    ) -> list[list[dict[str, Any]]]:
        asked = [_question(item) for item in items]
        queries = [query for query, passages in asked for _ in passages]
        texts = [text for _, passages in asked for text in passages]
        if not texts:
            return [[] for _ in asked]
        logits = self._vectors(self._encode(queries, texts, parameters), batch_size)
        scores = self._scores(logits, parameters)
        answers, start = [], 0
        for _, passages in asked:
            row = scores[start : start + len(passages)]
            start += len(passages)
            order = np.argsort(-row, kind="stable")[: parameters.top_k]
            answers.append([{"index": i, "score": float(row[i]), "text": passages[i]} for i in order.tolist()])
        return answers

    def _scores(self, logits: Array, parameters: TextRankingParameters) -> Array:
        """(rows,) from logits (rows, labels)."""
        # The graph knows how many labels there are even where no config.json does.
        count = logits.shape[1]
        function = parameters.function_to_apply or self._activation or ("sigmoid" if count == 1 else "none")
        scores = FUNCTIONS[function](logits)
        if count == 1:
            return scores[:, 0]
        if parameters.label is None:
            raise InputError(
                f"the model scores {count} labels: say by which to rank, label=… of "
                f"{', '.join(self.model.config.label2id)}"
            )
        return scores[:, self.model.config.label2id[parameters.label]]


def _question(item: Any) -> tuple[str, list[str]]:
    wanted = 'an input to rank is {"query": text, "passages": [text, …]}'
    query, passages = inputs.fields(item, ("query", "passages"), wanted)
    if not isinstance(query, str) or not isinstance(passages, list):
        raise InputError(f"{wanted}; the query is a text and the passages are a list of texts")
    return query, inputs.texts(passages)
