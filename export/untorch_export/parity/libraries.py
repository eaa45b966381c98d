"""The reference library's own call for every task: what a user had before, text in and answer out.

That is transformers' pipeline of the task (with its `generate` behind those that generate), sentence-transformers'
`encode` and `predict` for its folders, and for choices, which have neither, the tokenizer and the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from untorch_export.checkpoint.load import Checkpoint
from untorch_export.parity import gates
from untorch_export.parity.texts import ROAD_TEXTS

# Tokens of a text that is to be longer than the limit; where the limit lies farther, the text stays below it.
LONGEST = 1024
# Tokens that models are asked to write.
WRITTEN = 8
_LABELS = ["travel", "good food", "music"]


class NoReferenceError(Exception):
    """There is no library here whose call could be compared with; the message says why."""


@dataclass(frozen=True)
class Call:
    """How a task is asked in the library and in untorch.

    `inputs` are what both are given, one by one. `ours` are the arguments for untorch's pipeline, where what the
    library does by itself has to be asked for. `tied` says whether the library chose between near-ties on its way to
    an answer, so that another rounding may give another one.
    """

    library: str
    theirs: Callable[[Any], Any]
    inputs: list[Any]
    ours: dict[str, Any] = field(default_factory=dict)
    tied: Callable[[Any], bool] = lambda item: False


def call_of(checkpoint: Checkpoint) -> Call:
    """The library's call for a checkpoint's task. Raises NoReferenceError where there is none."""
    name = checkpoint.task.name
    if name in _OTHERS:
        return _OTHERS[name](checkpoint)
    return _pipeline(checkpoint)


def texts_of(checkpoint: Checkpoint) -> list[str]:
    """Short texts of all kinds, the empty one where it has a token, and one over the limit."""
    tokenizer = checkpoint.tokenizer
    assert tokenizer is not None
    texts = [text for text in ROAD_TEXTS if len(tokenizer(text)["input_ids"])]
    limits = [limit for limit in (checkpoint.limit, tokenizer.model_max_length) if limit is not None]
    limit = min([*limits, LONGEST + 1])
    long = " ".join(ROAD_TEXTS[:2])
    while len(tokenizer(long, verbose=False)["input_ids"]) <= min(limit, LONGEST):
        long = f"{long} {long}"
    return [*texts, long] if limit <= LONGEST else texts


def _pipeline(checkpoint: Checkpoint) -> Call:
    import transformers

    name = checkpoint.task.name
    try:
        pipe = transformers.pipeline(name, model=checkpoint.model, tokenizer=checkpoint.own_tokenizer(), device="cpu")
    except (KeyError, ValueError) as error:
        raise NoReferenceError(f"transformers {transformers.__version__} has no {name} pipeline ({error})") from error
    inputs, theirs, ours = _ASKED[name](checkpoint, pipe.tokenizer)
    call = Call(f"transformers' {name} pipeline", lambda item: _ask(pipe, item, theirs), inputs, ours)
    if _ASKED[name] is not _written:
        return call
    return replace(call, tied=lambda item: _closest(pipe, item, theirs) <= gates.TOLERANCE)


def _ask(pipe: Any, item: Any, arguments: dict[str, Any]) -> Any:
    # A dictionary is one input of a classifier, and the arguments of a reader.
    named = isinstance(item, dict) and "question" in item
    return pipe(**item, **arguments) if named else pipe(item, **arguments)


def _closest(pipe: Any, item: Any, arguments: dict[str, Any]) -> float:
    """How close the two best next tokens ever came while a text was written: their scores, over 1 + the best one."""
    from transformers import LogitsProcessorList

    found = [float("inf")]

    def watch(input_ids: Any, scores: Any) -> Any:
        del input_ids
        best, second = scores.float().topk(2).values.T
        found.append(float(((best - second) / (1 + best.abs())).min()))
        return scores

    _ask(pipe, item, {**arguments, "logits_processor": LogitsProcessorList([watch])})
    return min(found)


Asked = tuple[list[Any], dict[str, Any], dict[str, Any]]


def _cut(checkpoint: Checkpoint, tokenizer: Any) -> dict[str, Any]:
    """Cutting as the library can be told to; where its tokenizer knows no limit it has to be given the model's."""
    limit = checkpoint.limit
    if limit is not None and tokenizer.model_max_length > limit:
        return {"truncation": True, "max_length": limit}
    return {"truncation": True}


def _classified(checkpoint: Checkpoint, tokenizer: Any) -> Asked:
    texts = texts_of(checkpoint)
    pairs = [{"text": texts[0], "text_pair": texts[1]}, {"text": texts[1].upper(), "text_pair": texts[2]}]
    return [*texts, *pairs], {"top_k": None, **_cut(checkpoint, tokenizer)}, {"top_k": None, "truncation": True}


def _tagged(checkpoint: Checkpoint, tokenizer: Any) -> Asked:
    del tokenizer
    return texts_of(checkpoint), {"ignore_labels": []}, {"ignore_labels": [], "truncation": True}


def _featured(checkpoint: Checkpoint, tokenizer: Any) -> Asked:
    return texts_of(checkpoint), {"tokenize_kwargs": _cut(checkpoint, tokenizer)}, {"truncation": True}


def _filled(checkpoint: Checkpoint, tokenizer: Any) -> Asked:
    mask = tokenizer.mask_token
    if mask is None:
        raise NoReferenceError("the tokenizer has no mask token")
    cut = {"tokenizer_kwargs": _cut(checkpoint, tokenizer)}
    return [f"{mask} {text}" for text in texts_of(checkpoint)], cut, {"tokenizer_kwargs": {"truncation": True}}


def _read(checkpoint: Checkpoint, tokenizer: Any) -> Asked:
    del tokenizer
    texts = [text for text in texts_of(checkpoint) if text.strip()]
    questions = ["What was said?", "WHERE is it?"]
    return [{"question": questions[at % 2], "context": text} for at, text in enumerate(texts)], {}, {}


def _judged(checkpoint: Checkpoint, tokenizer: Any) -> Asked:
    del tokenizer
    texts = [text for text in texts_of(checkpoint) if text.strip()]
    return texts, {"candidate_labels": _LABELS}, {"candidate_labels": _LABELS, "truncation": True}


def _written(checkpoint: Checkpoint, tokenizer: Any) -> Asked:
    limit = (checkpoint.limit or LONGEST) - WRITTEN
    texts = [text for text in texts_of(checkpoint) if 0 < len(tokenizer(text, verbose=False)["input_ids"]) <= limit]
    asked = {"max_new_tokens": WRITTEN, "do_sample": False}
    return texts, asked, asked


_ASKED: dict[str, Callable[[Checkpoint, Any], Asked]] = {
    "text-classification": _classified,
    "token-classification": _tagged,
    "feature-extraction": _featured,
    "fill-mask": _filled,
    "question-answering": _read,
    "zero-shot-classification": _judged,
    "text-generation": _written,
    "text2text-generation": _written,
    "summarization": _written,
    "translation": _written,
}


def _embedded(checkpoint: Checkpoint) -> Call:
    model = _sentence_transformers(checkpoint, "SentenceTransformer")
    texts = texts_of(checkpoint)
    return Call(
        "sentence-transformers' encode",
        lambda item: model.encode(item, show_progress_bar=False),
        texts,
        {"truncation": True},
    )


def _ranked(checkpoint: Checkpoint) -> Call:
    if len(checkpoint.config.get("id2label") or ()) != 1:
        raise NoReferenceError("a model that scores several labels ranks by none before one is named")
    model = _sentence_transformers(checkpoint, "CrossEncoder")
    texts = texts_of(checkpoint)

    def predict(item: dict[str, Any]) -> list[dict[str, Any]]:
        pairs = [(item["query"], passage) for passage in item["passages"]]
        scores = model.predict(pairs, show_progress_bar=False)
        rows = [{"index": i, "score": float(scores[i]), "text": pair[1]} for i, pair in enumerate(pairs)]
        return sorted(rows, key=lambda row: -row["score"])

    asked = [{"query": texts[0], "passages": texts[1:5]}, {"query": texts[2].upper(), "passages": texts[-2:]}]
    return Call("sentence-transformers' CrossEncoder.predict", predict, asked, {"truncation": True})


def _sentence_transformers(checkpoint: Checkpoint, kind: str) -> Any:
    """A class of sentence-transformers, loaded from the folder in fp32."""
    if "random_init" in checkpoint.source:
        raise NoReferenceError("sentence-transformers reads weights from the folder, and these are drawn at random")
    try:
        import sentence_transformers
    except ImportError as error:
        raise NoReferenceError(f"sentence-transformers is not installed ({error})") from error
    import torch

    return getattr(sentence_transformers, kind)(
        str(checkpoint.root),
        device="cpu",
        model_kwargs={"dtype": torch.float32},
        trust_remote_code=checkpoint.trusted,
        local_files_only=True,
    )


def _chosen(checkpoint: Checkpoint) -> Call:
    import torch

    tokenizer, texts = checkpoint.own_tokenizer(), texts_of(checkpoint)

    def choose(item: dict[str, Any]) -> list[dict[str, Any]]:
        choices = item["choices"]
        rows = tokenizer(
            [item["text"]] * len(choices), choices, padding=True, return_tensors="pt", **_cut(checkpoint, tokenizer)
        )
        with torch.inference_mode():
            scores = checkpoint.model(**{name: value[None] for name, value in rows.items()}).logits.softmax(-1)[0]
        order = np.argsort(-scores.numpy(), kind="stable").tolist()
        return [{"index": at, "score": float(scores[at]), "text": choices[at]} for at in order]

    asked = [{"text": text, "choices": texts[:3]} for text in texts]
    return Call("transformers' AutoModelForMultipleChoice", choose, asked, {"truncation": True})


_OTHERS: dict[str, Callable[[Checkpoint], Call]] = {
    "sentence-embeddings": _embedded,
    "text-ranking": _ranked,
    "multiple-choice": _chosen,
}
