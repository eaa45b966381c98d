"""text-generation, text2text-generation, summarization and translation against transformers' own pipelines."""

from __future__ import annotations

import sys

import pytest
import transformers

from helpers.comparing import generation_settings, same, transformers_pipeline
from helpers.generators import generator, many_languages
from helpers.tokenizers import MAJOR
from untorch import InputError, SequenceTooLongError, TaskError, pipeline
from untorch.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SPECIFIC = {
    "summarization": {"prefix": "summarize: ", "num_beams": 2, "min_length": 6, "early_stopping": True},
    "translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 9, "num_beams": 1},
}
PROMPTS = ["hello people", "a", "Ça va 世界 🙂 'quoted' , and . spaced", "the movie is"]
CHAT = [{"role": "system", "content": "be nice"}, {"role": "user", "content": "hello people"}]
PREFILL = [*CHAT, {"role": "assistant", "content": "good and"}]

_built = {}

dropped = pytest.mark.skipif(
    MAJOR >= 5,
    reason="transformers 5 has no translation pipeline, no older MBart vocabularies, and other stop sequences",
)


@pytest.fixture(scope="module")
def bundles(make_bundle):
    """`bundles(family)` → (checkpoint, bundle)."""

    def get(family, generation=None, **config):
        return make_bundle(
            f"{family}-{bool(generation)}-{'-'.join(sorted(config))}",
            lambda folder: generator(folder, family, generation, **config),
            precisions=["fp32"],
        )

    return get


@pytest.fixture(scope="module")
def pipelines(bundles):
    """`pipelines(task, family)` → (ours, transformers')."""

    def get(task, family, generation=None, **config):
        key = f"{task}-{family}-{generation}-{sorted(config)}"
        if key not in _built:
            source, bundle = bundles(family, generation, **config)
            transformers.logging.set_verbosity_error()
            _built[key] = pipeline(task, bundle), transformers_pipeline(task, str(source))
        return _built[key]

    return get


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"return_full_text": False},
        {"return_text": True},
        {"return_tensors": True},
        {"num_beams": 3, "num_return_sequences": 2},
        {"prefix": "hello "},
        {"prefix": "hello ", "max_length": 60, "max_new_tokens": None},
        pytest.param({"stop_sequence": "e"}, marks=dropped),
        {"add_special_tokens": False, "clean_up_tokenization_spaces": False, "skip_special_tokens": False},
        {"truncation": True, "max_length": 3, "max_new_tokens": 5},
        {"repetition_penalty": 1.5, "min_new_tokens": 3},
    ],
    ids=str,
)
def test_text_generation(pipelines, family, arguments):
    ours, theirs = pipelines("text-generation", family)
    arguments = {"max_new_tokens": 10, "do_sample": False, **arguments}
    same(ours(PROMPTS, **arguments), theirs(PROMPTS, **arguments))
    same(ours(PROMPTS[0], **arguments), theirs(PROMPTS[0], **arguments))


@pytest.mark.parametrize("arguments", [{}, {"return_full_text": False}, {"continue_final_message": False}], ids=str)
def test_chats(pipelines, arguments):
    ours, theirs = pipelines("text-generation", "Llama")
    arguments = {"max_new_tokens": 8, "do_sample": False, **arguments}
    for chat in (CHAT, PREFILL, [CHAT, PREFILL]):
        same(ours(chat, **arguments), theirs(chat, **arguments))
    with pytest.raises(InputError, match="a chat is a list of messages"):
        ours([{"role": "user"}])


def test_the_prompts_and_the_form_of_the_answer_by_transformers_own_names(pipelines):
    ours, theirs = pipelines("text-generation", "GPT2")
    arguments = {"max_new_tokens": 4, "do_sample": False}
    same(ours(text_inputs="hello", **arguments), theirs(text_inputs="hello", **arguments))
    for kind in transformers.pipelines.text_generation.ReturnType:
        same(ours("hello", return_type=kind, **arguments), theirs("hello", return_type=kind, **arguments))
    with pytest.raises(InputError, match="return_type"):
        ours("hello", return_type=7)


def test_batches_and_generators_give_the_same_texts(pipelines):
    ours, theirs = pipelines("text-generation", "Llama")
    arguments = {"max_new_tokens": 10, "do_sample": False}
    expected = theirs(PROMPTS, **arguments)
    same(ours(PROMPTS, batch_size=3, **arguments), expected)
    same(list(ours((prompt for prompt in PROMPTS), **arguments)), expected)
    assert ours([], **arguments) == []


def test_an_empty_prompt_begins_with_bos(pipelines):
    ours, theirs = pipelines("text-generation", "GPT2")
    same(ours("", max_new_tokens=5, do_sample=False), theirs("", max_new_tokens=5, do_sample=False))


@pytest.mark.parametrize(("task", "family"), [("text-generation", "Llama"), ("text2text-generation", "T5")])
@pytest.mark.parametrize(
    "generation", [None, {"max_length": 17, "do_sample": False}, {"max_new_tokens": 7, "num_beams": 2}], ids=str
)
def test_defaults_are_those_of_transformers(pipelines, task, family, generation):
    ours, theirs = pipelines(task, family, generation)
    expected = generation_settings(theirs)
    got = ours.generation_config.to_dict()
    assert {name: expected.get(name) for name in got} == got


def test_sampling_repeats_with_a_seed(pipelines):
    ours, _ = pipelines("text-generation", "Llama")
    first = ours(["hello", "hello"], seed=1, max_new_tokens=12, temperature=2.0)
    assert first == ours(["hello", "hello"], seed=1, max_new_tokens=12, temperature=2.0)
    assert first[0] != first[1]


def test_streaming(pipelines):
    ours, _ = pipelines("text-generation", "Llama")
    for prompt in (*PROMPTS, CHAT):
        arguments = {"max_new_tokens": 20, "seed": 3, "do_sample": True, "temperature": 3.0}
        pieces = list(ours.stream(prompt, **arguments))
        ids = ours(prompt, return_tensors=True, **arguments)[0]["generated_token_ids"]
        length = len(
            ours.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            if isinstance(prompt, list)
            else ours.tokenizer(prompt)["input_ids"]
        )
        assert "".join(pieces) == ours.tokenizer.decode(ids[length:], True, False)
        assert len(pieces) > 3


def test_long_prompts_are_never_cut_silently(pipelines):
    ours, theirs = pipelines("text-generation", "GPT2")
    long = "hello people " * 100
    with pytest.raises(SequenceTooLongError, match="at most 128"):
        ours(long, max_new_tokens=4)
    arguments = {"handle_long_generation": "hole", "max_new_tokens": 6, "do_sample": False, "return_full_text": False}
    same(ours(long, **arguments), theirs(long, **arguments))


@pytest.mark.parametrize("family", ["T5", "Bart", "Marian"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_beams": 1},
        {"num_return_sequences": 3},
        {"return_tensors": False, "clean_up_tokenization_spaces": True},
        {"truncation": True},
        {"stop_sequence": "e", "num_beams": 1},
    ],
    ids=str,
)
def test_text2text(pipelines, family, arguments):
    ours, theirs = pipelines("text2text-generation", family)
    arguments = {"max_new_tokens": 8, **arguments}
    same(ours(PROMPTS, **arguments), theirs(PROMPTS, **arguments))
    same(ours(PROMPTS[0], **arguments), theirs(PROMPTS[0], **arguments))


@pytest.mark.parametrize(
    "task",
    [
        "summarization",
        pytest.param("translation", marks=dropped),
        "translation_en_to_de",
        "translation_en_to_fr",
    ],
)
def test_the_configs_prefixes_and_defaults(pipelines, task):
    ours, theirs = pipelines(task, "T5", task_specific_params=SPECIFIC)
    arguments = {"max_new_tokens": 8}
    same(ours(PROMPTS, **arguments), theirs(PROMPTS, **arguments))
    same(ours(PROMPTS[0], **arguments), theirs(PROMPTS[0], **arguments))
    assert ours.prefix == (theirs.prefix or "")


def test_translation_without_languages_says_which_it_takes(bundles):
    ours = pipeline("translation", bundles("T5", task_specific_params=SPECIFIC)[1])
    with pytest.warns(UserWarning, match="translation_en_to_de"):
        pipeline("translation", ours.model, ours.tokenizer)


@dropped
def test_a_model_of_many_languages(make_bundle):
    source, bundle = make_bundle("mbart", many_languages, precisions=["fp32"])
    ours, theirs = pipeline("translation", bundle), transformers_pipeline("translation", str(source))
    for source_language, target in (("en_XX", "de_DE"), ("ro_RO", "fr_XX")):
        arguments = {"src_lang": source_language, "tgt_lang": target, "max_new_tokens": 8}
        same(ours(PROMPTS, **arguments), theirs(PROMPTS, **arguments))


@dropped
def test_a_model_of_many_languages_wants_to_know_which(make_bundle):
    _, bundle = make_bundle("mbart", many_languages, precisions=["fp32"])
    with pytest.raises(InputError, match="src_lang and tgt_lang"):
        pipeline("translation", bundle)("hello")


def test_the_command_line_shows_one_text_as_it_comes(pipelines, capsys, monkeypatch):
    ours, _ = pipelines("text-generation", "Llama")
    arguments = ["run", str(ours.model.bundle.path), "hello", "--set", "max_new_tokens=9", "--set", "do_sample=false"]
    expected = ours("hello", max_new_tokens=9, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"hello{expected}  hello\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{expected}\n"


def test_return_tensors_gives_ids(pipelines):
    ours, theirs = pipelines("summarization", "Bart")
    expected = theirs("hello", return_tensors=True, max_new_tokens=6)
    got = ours("hello", return_tensors=True, max_new_tokens=6)
    assert [list(record) for record in got] == [list(record) for record in expected] == [["summary_token_ids"]]
    assert got[0]["summary_token_ids"].tolist() == expected[0]["summary_token_ids"].tolist()


def test_bad_arguments_are_refused(pipelines):
    ours, _ = pipelines("text-generation", "Llama")
    for arguments, message in (
        ({"colour": 1}, "colour"),
        ({"return_full_text": True, "return_tensors": True}, "give one of"),
        ({"handle_long_generation": "cut"}, "hole"),
    ):
        with pytest.raises(InputError, match=message):
            ours("hello", **arguments)
    with pytest.raises(InputError, match="a prompt is a str"):
        ours([3])
    with pytest.raises(TaskError):
        pipeline("translation", ours.model.bundle.path)
