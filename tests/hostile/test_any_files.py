"""Any manifest, config, tokenizer, reference or template: it works, or says in a typed error that it does not."""

from __future__ import annotations

import json
import random
import shutil
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.fuzzing import cases, mutated, values
from helpers.paths import BUNDLE_V1
from untorch import AutoTokenizer, InputError, UntorchError, pipeline
from untorch.bundle import golden
from untorch.bundle.config import ModelConfig
from untorch.bundle.manifest import Manifest
from untorch.generation import GenerationConfig
from untorch.tokenizer.chat import render

GENERATION = {
    "max_new_tokens": 20, "num_beams": 4, "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9,
    "eos_token_id": [1, 2], "pad_token_id": 0, "bad_words_ids": [[1]], "forced_eos_token_id": 3, "stop_strings": ["x"],
    "no_repeat_ngram_size": 2, "repetition_penalty": 1.1, "suppress_tokens": [4], "length_penalty": 1.0,
}  # fmt: skip


def content(name):
    return json.loads((BUNDLE_V1 / name).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the frozen bundle, whose files the cases of a test write over."""
    return shutil.copytree(BUNDLE_V1, tmp_path_factory.mktemp("any") / "bundle")


@pytest.fixture
def unverified(folder):
    """The same without a manifest; the other files are put back."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "golden.npz"):
        shutil.copy(BUNDLE_V1 / name, folder / name)
    (folder / "untorch.json").unlink(missing_ok=True)
    return folder


def classify(folder):
    return pipeline("text-classification", folder, precision="fp32", device="cpu", threads=1)("hello world")


@cases(80)
@given(manifest=mutated(content("untorch.json")))
def test_any_manifest(folder, manifest):
    """It may rename a tool, or drop or exchange variants; an answer that is given is one of the bundle's own."""
    (folder / "untorch.json").write_text(json.dumps(manifest))
    with suppress(UntorchError):
        (answer,) = classify(folder)
        assert answer["label"] == "POSITIVE"
        assert min(abs(answer["score"] - score) for score in ANSWERS) < 1e-5


ANSWERS = [
    pipeline(None, BUNDLE_V1, precision=precision, device="cpu", threads=1)("hello world")[0]["score"]
    for precision in ("fp32", "int8")
]


@cases(500)
@given(manifest=mutated(content("untorch.json")))
def test_a_manifest_that_is_read_is_written_back_whole(manifest):
    with suppress(UntorchError):
        read = Manifest.from_json(manifest)
        written = read.to_json()
        assert Manifest.from_json(written) == read
        assert written.keys() >= manifest.keys()


@cases(100)
@given(config=mutated(content("config.json")))
def test_any_config(unverified, config):
    (unverified / "config.json").write_text(json.dumps(config))
    with suppress(UntorchError):
        assert len(classify(unverified)) == 1


@cases(400)
@given(config=st.dictionaries(st.sampled_from(sorted(content("config.json"))), values))
def test_any_values_of_a_config(config):
    with suppress(UntorchError):
        read = ModelConfig(config)
        assert read.max_sequence_length is None or read.max_sequence_length > 0
        if read.num_labels < 100:
            assert len(read.labels(read.num_labels)) == read.num_labels


@cases(400)
@given(
    name=st.sampled_from(["tokenizer_config.json", "tokenizer_config.json", "special_tokens_map.json"]), data=st.data()
)
def test_any_settings_of_a_tokenizer(unverified, name, data):
    (unverified / name).write_text(json.dumps(data.draw(mutated(content(name)))))
    with suppress(UntorchError):
        tokenizer = AutoTokenizer.from_pretrained(unverified)
        texts = ["hello world", "", "[MASK] hello " * 3]
        rows = tokenizer(texts, truncation=True, max_length=8)["input_ids"]
        assert len(rows) == len(texts)
        assert tokenizer(texts, padding=True, return_tensors="np")["input_ids"].shape[0] == len(texts)
        tokenizer.decode(rows[0], skip_special_tokens=True)
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}])


@cases(100)
@given(tokenizer=mutated({**content("tokenizer.json"), "truncation": {"max_length": 8}, "padding": {"pad_id": 0}}))
def test_any_tokenizer(unverified, tokenizer):
    (unverified / "tokenizer.json").write_text(json.dumps(tokenizer))
    with suppress(UntorchError):
        assert len(classify(unverified)) == 1


@cases(300)
@given(config=mutated(GENERATION))
def test_any_generation_config(unverified, config):
    (unverified / "generation_config.json").write_text(json.dumps(config))
    try:
        GenerationConfig.load(unverified, {})
    except UntorchError:
        pass
    finally:
        (unverified / "generation_config.json").unlink()


@cases(300)
@given(seed=st.integers(0, 1 << 32))
def test_any_reference(unverified, seed):
    chance = random.Random(seed)
    damaged = bytearray((BUNDLE_V1 / "golden.npz").read_bytes())
    for _ in range(chance.randint(1, 8)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    (unverified / "golden.npz").write_bytes(damaged[: chance.randint(0, 2 * len(damaged))])
    with suppress(UntorchError):
        golden.load(unverified / "golden.npz")


PIECES = [
    "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] * 99 }}", "{% if m.role %}",
    "{% endif %}", "{% else %}", "{% set x = messages %}", "{{ x|tojson }}", "{% macro f(n) %}", "{% endmacro %}",
    "{{ f(f) }}", "{{ range(99999)|list|length }}", "{{ messages|map(attribute='role')|join }}", "{{ '%s' % x }}",
    "{{ x ** x }}", "{{ x.__class__ }}", "{{ raise_exception('no') }}", "{% break %}", "{{ strftime_now('%Y') }}",
    "{{- '' -}}", "{#", "#}", "{% generation %}", "{% endgeneration %}", "{{ namespace(x=1).x }}", "{{ loop.index }}",
    "{{ none.x }}", "{{ 1 / 0 }}", "{{ '{0.x}'.format(x) }}", "{{ x|sort|batch(2)|list }}", "{% call f(1) %}",
    "{% endcall %}", "{{ (1, 2)[5] }}", "{%", "{{ x|e|striptags|wordwrap(1) }}", "{% filter upper %}",
    "{% endfilter %}", "{{ m|attr('pop') }}", "\0", "text",
]  # fmt: skip


@cases(400)
@given(template=st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_any_chat_template(template):
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    start = time.monotonic()
    with suppress(InputError):
        render(
            template,
            chat,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            continue_final_message=False,
            variables={"bos_token": "<s>"},
        )
    assert time.monotonic() - start < 60
