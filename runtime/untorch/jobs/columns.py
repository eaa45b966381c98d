"""Which columns a task's answers become, and of which Arrow types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from untorch.errors import InputError, TaskError
from untorch.jobs.arrow import pa
from untorch.numerics import Array
from untorch.pipelines.base import Pipeline

Vectors = Literal["float32", "int8", "bits"]
VECTORS: tuple[Vectors, ...] = ("float32", "int8", "bits")

_SCORE = pa.float64()


class Columns(NamedTuple):
    """The fields that answers become, and how one answer becomes one value for each of them."""

    fields: list[pa.Field]
    values: Callable[[Any], tuple[Any, ...]]

    def arrays(self, answers: list[Any]) -> list[pa.Array]:
        """One array a field; an answer that is None is a null in each."""
        nothing = (None,) * len(self.fields)
        rows = [nothing if answer is None else self.values(answer) for answer in answers]
        return [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(self.fields)]


def columns_for(answerer: Pipeline[Any], arguments: Mapping[str, Any], vectors: Vectors) -> Columns:
    """The columns of a loaded pipeline's answers under a call's arguments. Raises TaskError for a task without any."""
    task = "translation" if answerer.task.startswith("translation") else answerer.task
    if task == "sentence-embeddings":
        return _embedding(answerer, vectors)
    if vectors != "float32":
        raise InputError(f"vectors={vectors!r} is for sentence-embeddings; {task} gives no vectors")
    if task not in _BY_TASK:
        raise TaskError(f"the answers of {task} have no columns; use {', '.join(['sentence-embeddings', *_BY_TASK])}")
    return _BY_TASK[task](answerer, arguments)


def int8(vector: Array) -> Array:
    """A vector times 127 / its largest absolute value, rounded: cosines stay, lengths do not."""
    largest = float(np.abs(vector).max(initial=0))
    return np.rint(vector * (127 / largest if largest else 0)).astype(np.int8)


def bits(vector: Array) -> Array:
    """The signs of a vector, eight a byte, the first highest: sentence-transformers' `ubinary`."""
    return np.packbits(vector > 0)


def _embedding(answerer: Pipeline[Any], vectors: Vectors) -> Columns:
    form = {"float32": lambda vector: vector, "int8": int8, "bits": bits}[vectors]
    # How many dimensions there are depends on pooling and truncation; one text tells.
    sample = form(answerer(["a"])[0])
    kind = pa.list_(pa.from_numpy_dtype(sample.dtype), len(sample))
    return Columns([pa.field("embedding", kind)], lambda vector: (form(vector),))


def _struct(**kinds: pa.DataType) -> pa.StructType:
    return pa.struct([pa.field(name, kind) for name, kind in kinds.items()])


def _as_list(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]


def _classification(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    if not {"top_k", "return_all_scores"} & arguments.keys():
        fields = [pa.field("label", pa.string()), pa.field("score", _SCORE)]
        return Columns(fields, lambda answer: (answer["label"], answer["score"]))

    def split(answer: Any) -> tuple[Any, ...]:
        scored = _as_list(answer)
        return [one["label"] for one in scored], [one["score"] for one in scored]

    return Columns(_LABELS, split)


_LABELS = [pa.field("labels", pa.list_(pa.string())), pa.field("scores", pa.list_(_SCORE))]


def _zero_shot(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    return Columns(_LABELS, lambda answer: (answer["labels"], answer["scores"]))


def _tokens(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    grouped = str(arguments.get("aggregation_strategy") or "none").lower() != "none" or arguments.get(
        "grouped_entities"
    )
    named: dict[str, pa.DataType] = {"entity_group": pa.string()} if grouped else {"entity": pa.string()}
    place: dict[str, pa.DataType] = {} if grouped else {"index": pa.int64()}
    entity = _struct(**named, score=_SCORE, **place, word=pa.string(), start=pa.int64(), end=pa.int64())
    return Columns([pa.field("entities", pa.list_(entity))], lambda answer: (answer,))


def _question(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    kinds = {"answer": pa.string(), "score": _SCORE, "start": pa.int64(), "end": pa.int64()}
    if (arguments.get("top_k") or arguments.get("topk") or 1) > 1:
        return Columns([pa.field("answers", pa.list_(_struct(**kinds)))], lambda answer: (_as_list(answer),))
    fields = [pa.field(name, kind) for name, kind in kinds.items()]
    # A context in which no span is allowed has an empty list of answers.
    return Columns(fields, lambda answer: tuple((answer or {}).get(name) for name in kinds))


def _fill_mask(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    filling = _struct(score=_SCORE, token=pa.int64(), token_str=pa.string(), sequence=pa.string())
    field = pa.field("fillings", pa.list_(pa.list_(filling)))
    # One list a mask, also where there is one mask.
    return Columns([field], lambda answer: (answer if answer and isinstance(answer[0], list) else [answer],))


def _ranking(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    ranked = _struct(index=pa.int64(), score=_SCORE, text=pa.string())
    return Columns([pa.field("ranking", pa.list_(ranked))], lambda answer: (answer,))


def _states(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    width = int(np.shape(answerer(["a"])[0])[-1])
    kind = pa.list_(pa.list_(pa.float32(), width))
    return Columns([pa.field("states", kind)], lambda answer: (list(np.asarray(answer, np.float32)[0]),))


def _generated(answerer: Pipeline[Any], arguments: Mapping[str, Any]) -> Columns:
    prefix = {"summarization": "summary", "text-generation": "generated", "text2text-generation": "generated"}
    name = f"{prefix.get(answerer.task, 'translation')}_text"
    if arguments.get("return_tensors"):
        raise InputError("return_tensors gives ids, which have no column; leave it out for texts")
    if (arguments.get("num_return_sequences") or 1) > 1:
        field = pa.field(f"{name}s", pa.list_(pa.string()))
        return Columns([field], lambda answer: ([record[name] for record in _as_list(answer)],))
    return Columns([pa.field(name, pa.string())], lambda answer: (_as_list(answer)[0][name],))


_BY_TASK: dict[str, Callable[[Pipeline[Any], Mapping[str, Any]], Columns]] = {
    "text-classification": _classification,
    "zero-shot-classification": _zero_shot,
    "token-classification": _tokens,
    "question-answering": _question,
    "fill-mask": _fill_mask,
    "text-ranking": _ranking,
    "multiple-choice": _ranking,
    "feature-extraction": _states,
    "text-generation": _generated,
    "text2text-generation": _generated,
    "summarization": _generated,
    "translation": _generated,
}
