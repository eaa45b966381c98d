"""Token classification against transformers' own pipeline on the same weights."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.checkpoints import small_bert
from helpers.comparing import TEXTS, both, same
from untorch import InputError, SequenceTooLongError, pipeline

LABELS = dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]))
LONG = "hello people, I love this city and HuggingFace! " * 20


@pytest.fixture(scope="module")
def bert(make_bundle):
    names = {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
    return make_bundle(
        "ner", lambda folder: small_bert(folder, "BertForTokenClassification", **names), precisions=["fp32"]
    )


@pytest.fixture(scope="module")
def pipelines(bert):
    return both("token-classification", *bert)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def every_family(request, bert, roberta):
    return both("token-classification", *(bert if request.param == "bert" else roberta("ForTokenClassification")))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_strategies(every_family, strategy):
    ours, theirs = every_family
    arguments = {"aggregation_strategy": strategy, "ignore_labels": []}
    same(ours(TEXTS, truncation=True, **arguments), theirs(TEXTS, **arguments))
    same(ours(TEXTS[0], aggregation_strategy=strategy), theirs(TEXTS[0], aggregation_strategy=strategy))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50), strategy=st.sampled_from(["none", "average"])
)
def test_any_text(pipelines, text, strategy):
    ours, theirs = pipelines
    arguments = {"aggregation_strategy": strategy, "ignore_labels": []}
    same(ours(text, truncation=True, **arguments), theirs(text, **arguments))


def test_offsets_point_into_the_text(pipelines):
    for entity in pipelines[0]("  hello   World! ", aggregation_strategy="none", ignore_labels=[]):
        covered = "  hello   World! "[entity["start"] : entity["end"]]
        assert covered.lower().startswith(entity["word"].removeprefix("##"))


@pytest.mark.parametrize("ignored", [None, [], ["MISC"], ["PER", "LOC", "O"], ["B-PER", "I-PER"]])
@pytest.mark.parametrize("strategy", ["none", "first"])
def test_ignored_labels(pipelines, ignored, strategy):
    ours, theirs = pipelines
    arguments = {"aggregation_strategy": strategy, "ignore_labels": ignored}
    same(ours(TEXTS, **arguments), theirs(TEXTS, **arguments))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("stride", [0, 16, 40])
@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_windows_over_a_long_text(every_family, stride, strategy):
    ours, theirs = every_family
    arguments = {"aggregation_strategy": strategy, "stride": stride}
    for texts in (LONG, [LONG, "", "short city", LONG[7:]]):
        same(ours(texts, **arguments), theirs(texts, **arguments))


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_words_split_before(pipelines):
    ours, theirs = pipelines
    words = ["Hello", "people", ",", "", "Ça va", "世界", "HuggingFace"]
    for arguments in (
        {"ignore_labels": []},
        {"aggregation_strategy": "simple", "delimiter": "--"},
        {"aggregation_strategy": "first", "delimiter": ""},
        {"aggregation_strategy": "average", "stride": 4},
    ):
        for item in (words, [words, ["a"]], [words * 20] if "stride" in arguments else [["a"]]):
            same(ours(item, is_split_into_words=True, **arguments), theirs(item, is_split_into_words=True, **arguments))


@pytest.mark.filterwarnings("ignore:`(grouped_entities|ignore_subwords)` is deprecated")
@pytest.mark.parametrize("arguments", [{"grouped_entities": True}, {"grouped_entities": True, "ignore_subwords": True}])
def test_older_names(pipelines, arguments):
    ours, theirs = pipelines
    expected = arguments
    if "grouped_entities" not in inspect.signature(theirs._sanitize_parameters).parameters:  # transformers 5
        expected = {"aggregation_strategy": "first" if "ignore_subwords" in arguments else "simple"}
    same(ours(TEXTS, **arguments), theirs(TEXTS, **expected))


def test_one_a_list_or_a_stream(pipelines):
    ours, theirs = pipelines
    same(ours(TEXTS[:1]), theirs(TEXTS[:1]))
    same(list(ours(text for text in TEXTS)), [theirs(text) for text in TEXTS])
    same(ours(TEXTS, batch_size=3), theirs(TEXTS))
    assert ours([]) == []
    named = pipeline("ner", ours.model, ours.tokenizer, aggregation_strategy="max")
    same(named(TEXTS), theirs(TEXTS, aggregation_strategy="max"))


def test_a_long_text_is_an_error_or_cut_on_request(pipelines):
    ours, theirs = pipelines
    with pytest.raises(SequenceTooLongError, match=r"text 1 has \d+ tokens .* at most 64.*stride"):
        ours(["a", LONG])
    same(ours(["a", LONG], truncation=True), theirs(["a", LONG]))


@pytest.mark.parametrize(
    ("item", "arguments", "message"),
    [
        (3, {}, "int"),
        ([["a", "b"]], {}, "is_split_into_words"),
        (["a"], {"aggregation_strategy": "median"}, "median"),
        (["a"], {"stride": 64, "aggregation_strategy": "simple"}, "stride"),
        (["a"], {"stride": 8, "aggregation_strategy": "none"}, "aggregation_strategy"),
        (["a"], {"colour": 1}, "colour"),
        ("a\ud800", {}, "character 1"),
    ],
)
def test_what_cannot_be_done_is_refused(pipelines, item, arguments, message):
    with pytest.raises(InputError, match=message):
        pipelines[0](item, **arguments)
