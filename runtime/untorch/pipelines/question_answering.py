"""Extractive question answering: the span of a context that answers a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from untorch.errors import InputError
from untorch.model.heads import AutoModelForQuestionAnswering
from untorch.numerics import Array, softmax
from untorch.pipelines import inputs as given_inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import QUESTION_ANSWERING
from untorch.pipelines.parameters import Parameters, argument
from untorch.pipelines.tokenizing import TokenizerParameters, padding, settled, truncates, truncation
from untorch.values import count, flag, size

if TYPE_CHECKING:
    from tokenizers import Encoding

Answer = dict[str, Any]

# Windows are no longer than this unless `max_seq_len` says so, whatever the model takes.
_WINDOW = 384


class QuestionAnsweringParameters(Parameters):
    """The arguments of a call; see the pipeline."""

    top_k: int = argument(1, count)
    topk: int | None = argument(None, count)
    handle_impossible_answer: bool = argument(False, flag)
    max_answer_len: int = argument(15, count)
    align_to_words: bool = argument(True, flag)
    max_seq_len: int = argument(0, count)
    doc_stride: int | None = argument(None, size)
    padding: bool | str = argument(False, padding)
    truncation: bool | str | None = argument(None, truncation)


class QuestionAnsweringPipeline(Pipeline[QuestionAnsweringParameters]):
    """`{"score", "start", "end", "answer"}` for a question and its context; `start` and `end` are its characters.

    Call it with `question=…, context=…`, each a text or a list of texts (one context serves a list of questions), with
    `{"question": …, "context": …}`, with a list of those, or with a generator. One question gives one answer, also
    when it comes in a list; with `top_k` over 1, a list of answers, best first.

    Arguments of a call: `top_k` (default 1), `handle_impossible_answer` (lets "" compete), `max_answer_len` (tokens,
    default 15), `align_to_words` (default True: answers are whole words), `max_seq_len` (tokens of a window, question
    included; default 384 or the model's limit), `doc_stride` (tokens that windows share; default 128 or half a
    window). A context of any length is read whole, in windows. `max_question_len` is accepted and, as with every
    fast tokenizer in transformers, questions are never cut; one that leaves no room for the context raises InputError.
    """

    model_class = AutoModelForQuestionAnswering
    parameters_class = QuestionAnsweringParameters
    rules = QUESTION_ANSWERING
    default_task = "question-answering"
    # `X` and `data` are transformers' older names for the questions with their contexts.
    input_names = ("question", "context", "X", "data")
    input_fields = ("question", "context")
    if_too_long = "Choose a max_seq_len that fits; the context is then read in windows"

    @classmethod
    def from_words(cls, words: list[str]) -> list[Any]:
        """A question, then its context."""
        if len(words) != 2:
            raise InputError(f"question-answering takes a question and a context; got {len(words)} texts")
        return [{"question": words[0], "context": words[1]}]

    def __call__(self, *inputs: Any, **arguments: Any) -> Any:
        """Answer; see the class for the inputs and arguments."""
        items, arguments = _items(inputs, arguments)
        if isinstance(items, list) and len(items) == 1:
            items = items[0]
        return super().__call__(items, **arguments)

    def _together(self, answers: list[Any]) -> Any:
        return answers[0] if len(answers) == 1 else answers

    def _settled(self, parameters: QuestionAnsweringParameters) -> QuestionAnsweringParameters:
        if truncates(parameters.truncation, parameters.max_seq_len or _WINDOW):
            raise InputError("question-answering reads a long context in windows; there is nothing to truncate")
        settled(
            TokenizerParameters(padding=parameters.padding), None
        )  # padding changes no answer; is it spelled right?
        length = parameters.max_seq_len or min(self.max_length or _WINDOW, _WINDOW)
        stride = min(length // 2, 128) if parameters.doc_stride is None else parameters.doc_stride
        if stride > length:
            raise InputError(f"doc_stride ({stride}) is larger than max_seq_len ({length})")
        # `topk` is the older name, which counts where the other was not given.
        top_k = parameters.topk if parameters.topk and "top_k" not in vars(parameters) else parameters.top_k
        return parameters.changed(top_k=top_k, max_seq_len=length, doc_stride=stride)

    def _answers(self, items: list[Any], batch_size: int | None, parameters: QuestionAnsweringParameters) -> list[Any]:
        if not items:
            return []
        questions, contexts = zip(*(_question(item) for item in items), strict=True)
        # Where padding goes left, the context does too.
        first, second = (contexts, questions) if self._context_first else (questions, contexts)
        rows, windows = self._encode_spans(
            first,
            second,
            truncation="only_first" if self._context_first else "only_second",
            max_length=parameters.max_seq_len,
            stride=parameters.doc_stride,
        )
        logits = self._token_rows(rows, batch_size)
        answers = []
        for context, window in zip(contexts, windows, strict=True):
            found = self._best(context, [rows[row] for row in window], [logits[row] for row in window], parameters)
            answers.append(found[0] if len(found) == 1 else found)
        return answers

    @property
    def _context_first(self) -> bool:
        return self.tokenizer.padding_side == "left"

    def _best(
        self,
        context: str,
        rows: Sequence[Encoding],
        logits: Sequence[list[Array]],
        parameters: QuestionAnsweringParameters,
    ) -> list[Answer]:
        """The best answers of all windows of a context. Equal texts are one answer, their scores added."""
        # Aligning to words makes some spans one, so more are looked at than are asked for.
        count = parameters.top_k * 2 + 10 if parameters.align_to_words else parameters.top_k
        impossible = 1_000_000.0
        answers: dict[str, Answer] = {}
        for row, (start, end) in zip(rows, logits, strict=True):
            allowed = self._allowed(row)
            start, end = (softmax(np.where(allowed, scores, np.float32(-10_000))) for scores in (start, end))
            impossible = min(impossible, float(start[0] * end[0]))
            start[0] = end[0] = 0
            for first, last, score in _spans(start, end, allowed, count, parameters.max_answer_len):
                begin, stop = self._characters(row, first, last, parameters.align_to_words)
                text = context[begin:stop]
                if (known := answers.get(text.lower())) is not None:
                    known["score"] += score
                else:
                    answers[text.lower()] = {"score": score, "start": begin, "end": stop, "answer": text}
        found = list(answers.values())
        if parameters.handle_impossible_answer:
            found.append({"score": impossible, "start": 0, "end": 0, "answer": ""})
        return sorted(found, key=lambda answer: answer["score"], reverse=True)[: parameters.top_k]

    def _allowed(self, row: Encoding) -> Array:
        """(tokens,) which may be in an answer: the context's, and the class token, which stands for no answer."""
        context = 0 if self._context_first else 1
        cls = self.tokenizer.cls_token_id
        inside = [sequence == context for sequence in row.sequence_ids]
        return np.array(inside) if cls is None else np.array(inside) | (np.array(row.ids) == cls)

    def _characters(self, row: Encoding, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
        """Where the tokens first … last lie in the context, or the words that they are parts of."""
        if align_to_words:
            context = 0 if self._context_first else 1
            words = [row.token_to_word(token) for token in (first, last)]
            spans = [None if word is None else row.word_to_chars(word, context) for word in words]
            if spans[0] is not None and spans[1] is not None:
                return spans[0][0], spans[1][1]
        return row.offsets[first][0], row.offsets[last][1]


def _spans(start: Array, end: Array, allowed: Array, count: int, longest: int) -> list[tuple[int, int, float]]:
    """The `count` best (first token, last token, score), without those that leave the context.

    What is chosen, and in which order, is as in transformers to the letter: impossible spans score 0 and stay
    candidates, so they fill up the answers where a context has fewer than `count` spans.
    """
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1).ravel()
    if count == 1:
        best = np.array([scores.argmax()])
    elif len(scores) < count:
        best = np.argsort(-scores)
    else:
        best = np.argpartition(-scores, count)[:count]
        best = best[np.argsort(-scores[best])]
    firsts, lasts = np.divmod(best, len(start))
    kept = allowed[firsts] & allowed[lasts]
    return list(zip(firsts[kept].tolist(), lasts[kept].tolist(), scores[best[kept]].tolist(), strict=True))


def _items(inputs: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The questions of a call, however they were given, and its other arguments."""
    if len(inputs) == 2 and all(isinstance(text, str) for text in inputs):
        return [{"question": inputs[0], "context": inputs[1]}], arguments
    arguments = dict(arguments)
    if not inputs and (named := next((name for name in ("X", "data", "inputs") if name in arguments), None)):
        inputs = (arguments.pop(named),)
    if inputs:
        items = inputs[0] if len(inputs) == 1 else inputs
        return (list(items) if isinstance(items, tuple) else items), arguments
    question, context = arguments.pop("question", None), arguments.pop("context", None)
    if isinstance(question, str) and isinstance(context, str):
        return [{"question": question, "context": context}], arguments
    if isinstance(question, list) and isinstance(context, (str, list)):
        contexts = [context] * len(question) if isinstance(context, str) else context
        if len(question) != len(contexts):
            raise InputError(f"there are {len(question)} questions and {len(contexts)} contexts; each needs its own")
        return [{"question": one, "context": other} for one, other in zip(question, contexts, strict=True)], arguments
    raise InputError("give question=… and context=…, each a text or a list of texts")


def _question(item: Any) -> tuple[str, str]:
    names = ("question", "context")
    if isinstance(item, Mapping):  # a row of a data set may have more fields
        item = {name: item[name] for name in names if name in item}
    question, context = given_inputs.fields(item, names, 'a question is {"question": …, "context": …}')
    for name, text in zip(names, (question, context), strict=True):
        if not isinstance(text, str) or not text:
            raise InputError(f"the {name} is {text!r}; it is a text that is not empty")
    return question, context
