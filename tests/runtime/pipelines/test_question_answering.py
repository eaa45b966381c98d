"""Question answering against transformers' own pipeline on the same weights."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.checkpoints import small_bert
from helpers.comparing import both, same
from untorch import InputError, SequenceTooLongError, pipeline

QUESTION = "Where does it live?"
SHORT = "Hello people, it lives in a nice city, so good! HuggingFace too."
CONTEXTS = [
    SHORT,
    "a",
    " ",
    "nice",
    "Ça va très bien, 世界! 🙂 مرحبا Привет, city.",
    "new\nlines\tand \u0000 control \x07 characters",
    "This movie is great, and that film was awful. I love people. " * 20,
]

pytestmark = pytest.mark.filterwarnings("ignore:Passing (a list|the)", "ignore:topk parameter is deprecated")


@pytest.fixture(scope="module", params=["bert", "roberta"])
def made(request, make_bundle, roberta):
    """(checkpoint, bundle)."""
    if request.param == "roberta":
        return roberta("ForQuestionAnswering")
    return make_bundle("qa", lambda folder: small_bert(folder, "BertForQuestionAnswering"), precisions=["fp32"])


@pytest.fixture(scope="module")
def ours(made):
    return pipeline("question-answering", made[1], precision="fp32")


@pytest.fixture(scope="module")
def pipelines(made):
    return both("question-answering", *made)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"top_k": 3},
        {"topk": 2},
        {"top_k": 20, "max_answer_len": 2},
        {"handle_impossible_answer": True},
        {"handle_impossible_answer": True, "top_k": 4},
        {"max_answer_len": 1},
        {"max_answer_len": 100, "top_k": 2},
        {"align_to_words": False},
        {"align_to_words": False, "top_k": 6},
        {"max_seq_len": 40, "doc_stride": 4},
        {"max_seq_len": 50, "doc_stride": 0, "top_k": 3},
        {"max_question_len": 3},
    ],
    ids=json.dumps,
)
def test_options(pipelines, arguments):
    ours, theirs = pipelines
    questions = [QUESTION] * len(CONTEXTS)
    same(
        ours(question=questions, context=CONTEXTS, **arguments),
        theirs(question=questions, context=CONTEXTS, **arguments),
    )


_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(question=_text, context=st.lists(_text, min_size=1, max_size=4).map(" ".join), align=st.booleans())
def test_any_text(pipelines, question, context, align):
    ours, theirs = pipelines
    call = {"question": question[:8], "context": context, "align_to_words": align, "top_k": 2}
    same(ours(**call), theirs(**call))


def test_spans_are_characters_of_the_context(ours):
    for context in CONTEXTS:
        answer = ours(question="Who?", context=context)
        assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_every_spelling_of_the_inputs(pipelines):
    ours, theirs = pipelines
    one, other = {"question": QUESTION, "context": SHORT}, {"question": "Who?", "context": CONTEXTS[4]}
    calls = [
        lambda qa: qa(question=QUESTION, context=SHORT),
        lambda qa: qa(question=[QUESTION], context=[SHORT]),
        lambda qa: qa(question=[QUESTION, "Why?"], context=SHORT),
        lambda qa: qa(question=[QUESTION, "Why?"], context=[SHORT, CONTEXTS[4]], top_k=2),
        lambda qa: qa(one),
        lambda qa: qa([one]),
        lambda qa: qa([one, other]),
        lambda qa: qa(one, other),
        lambda qa: qa(QUESTION, SHORT),
        lambda qa: list(qa(item for item in (one, other))),
    ]
    for call in calls:
        same(call(ours), call(theirs))


def test_many_questions_at_once(pipelines):
    ours, theirs = pipelines
    questions = [f"Is number {number} nice?" for number in range(14)]
    contexts = [CONTEXTS[number % len(CONTEXTS)] for number in range(14)]
    expected = theirs(question=questions, context=contexts)
    for batch_size in (None, 1, 5):
        same(ours(question=questions, context=contexts, batch_size=batch_size), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": "", "context": "a"}, "question is ''"),
        ({"question": "a", "context": ""}, "context is ''"),
        ({"question": "a", "context": None}, "give question"),
        ({"question": ["a"], "context": ["b", "c"]}, "1 questions and 2 contexts"),
        ({"question": "a", "context": "b", "top_k": 0}, "top_k"),
        ({"question": "a", "context": "b", "max_answer_len": 0}, "max_answer_len"),
        ({"question": "a", "context": "b", "doc_stride": 30, "max_seq_len": 20}, "doc_stride"),
        ({"question": "good " * 100, "context": "b"}, "only_second"),
        ({"question": "a", "context": "b", "colour": 1}, "colour"),
        ({"question": "a", "context": "b", "truncation": True}, "windows"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(ours, arguments, message):
    with pytest.raises(InputError, match=message):
        ours(**arguments)


def test_windows_longer_than_the_model_takes_are_refused(ours):
    with pytest.raises(SequenceTooLongError, match="max_seq_len"):
        ours(question=QUESTION, context=CONTEXTS[-1], max_seq_len=200, doc_stride=10)


@pytest.mark.parametrize("bad", [None, 3, ["nested"], {"question": "a"}, "text"])
def test_what_is_no_question_is_refused(ours, bad):
    with pytest.raises(InputError, match="a question is"):
        ours([bad, bad])
