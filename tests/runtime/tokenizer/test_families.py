"""What `tokenizer_class` implies, class by class: the same Rust tokenizer and settings as transformers makes."""

from __future__ import annotations

import importlib
import json
import shutil

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers

from helpers.tokenizers import MAJOR, assert_alike, assert_same, attribute, edit_json
from runtime.tokenizer.conftest import read_both, read_folder_of_4
from untorch.tokenizer import AutoTokenizer
from untorch.tokenizer.families import FAMILIES
from untorch.tokenizer.model_types import TOKENIZER_OF

# transformers adds its own list of language tokens to these; the config of a saved tokenizer names them all.
LANGUAGES = {"MBart": "ro_RO", "MBart50": "ro_RO", "Nllb": "ron_Latn", "SeamlessM4T": "__ron__"}


def base_of(name: str) -> str:
    family = FAMILIES[name]
    if name in ("CLIP", "Funnel", "Pegasus"):
        return name
    if family.sync in ("bert", "bert_latin"):
        return "wordpiece"
    if family.words_need_prefix_space or name in ("GPTNeoX", "Qwen2"):
        return "byte_bpe"
    return "byte_fallback" if family.bos_eos else "unigram"


def suffixed_words(state):
    """CLIP marks the last piece of a word."""
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [state["pre_tokenizer"]]}
    state["model"]["end_of_word_suffix"] = "</w>"


def unknown_in_brackets(state):
    """Funnel's unknown token is <unk>, and transformers 5 tells the model so."""
    state["model"]["vocab"]["<unk>"] = state["model"]["vocab"].pop("[UNK]")
    state["model"]["unk_token"] = "<unk>"
    for token in state["added_tokens"]:
        token["content"] = token["content"].replace("[UNK]", "<unk>")


def unknown_second(state):
    """transformers 5 looks for Pegasus' unknown token from the second one on."""
    pieces, added = state["model"]["vocab"], state["added_tokens"]
    for swapped in (pieces, added):
        swapped[:2] = swapped[1::-1]
    added[0]["id"], added[1]["id"] = 0, 1
    state["model"]["unk_id"] = 1


# Classes that none of the tiny vocabularies fits as it is.
EDITS = {
    "CLIP": ("byte_bpe", suffixed_words),
    "Funnel": ("wordpiece", unknown_in_brackets),
    "Pegasus": ("unigram", unknown_second),
}


@pytest.fixture
def class_folder(tiny_folder, tmp_path):
    """`class_folder(kind, **config)`: a tiny vocabulary with no more than this in its config."""

    def folder(kind: str, /, **config):
        target = tmp_path / "tokenizer"
        target.mkdir()
        kind, edit = EDITS.get(kind, (kind, None))
        shutil.copy(tiny_folder(kind) / "tokenizer.json", target)
        if edit is not None:
            state = json.loads((target / "tokenizer.json").read_text(encoding="utf-8"))
            edit(state)
            (target / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
        edit_json(target / "tokenizer_config.json", **config)
        return target

    return folder


def components(tokenizer) -> dict[str, str]:
    rust = tokenizer.backend_tokenizer
    parts = {name: getattr(rust, name) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
    return {name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()}


def assert_alike_inside(theirs, ours):
    for name in (
        "model_input_names", "padding_side", "truncation_side", "model_max_length", "special_tokens_map",
        "all_special_tokens", "all_special_ids", "additional_special_tokens", "pad_token_type_id",
        "clean_up_tokenization_spaces", "pad_token_id", "mask_token_id", "cls_token", "vocab_size",
    ):  # fmt: skip
        assert getattr(ours, name) == attribute(theirs, name), name
    assert len(ours) == len(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert {k: repr(v) for k, v in ours.added_tokens_decoder.items()} == {
        k: repr(v) for k, v in theirs.added_tokens_decoder.items()
    }
    assert components(ours) == components(theirs)


TEXTS = ["The Quick naïve 北京 fox <mask>, [MASK]  <s>", "", "two words <new><extra_id_0>"]


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {*LANGUAGES, "TokenizersBackend"}))
def test_class_defaults(name, class_folder):
    folder = class_folder(base_of(name), tokenizer_class=f"{name}Tokenizer")
    theirs, ours = read_folder_of_4(folder)
    assert_alike_inside(theirs, ours)
    assert_same(theirs, ours, "__call__", TEXTS, return_special_tokens_mask=True, return_offsets_mapping=True)
    assert_alike(theirs, ours, "__call__", TEXTS, padding=True)
    assert_alike(theirs, ours, "__call__", [["two", "words"]], is_split_into_words=True)
    assert_same(theirs, ours, "batch_decode", ours(TEXTS)["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("name", "config"), [*((name, {}) for name in LANGUAGES), ("Nllb", {"legacy_behaviour": True})]
)
def test_language_tokens(name, config, class_folder):
    language = LANGUAGES[name]
    additional = [language]
    if name.startswith("MBart"):
        of_4 = "_fast" if MAJOR < 5 else ""
        module = importlib.import_module(f"transformers.models.{name.lower()}.tokenization_{name.lower()}{of_4}")
        additional = module.FAIRSEQ_LANGUAGE_CODES
    folder = class_folder("unigram", tokenizer_class=f"{name}Tokenizer", additional_special_tokens=list(additional))
    edit_json(folder / "tokenizer_config.json", src_lang=language, tgt_lang=language, **config)
    theirs, ours = read_folder_of_4(folder)
    assert_same(theirs, ours, "__call__", TEXTS, padding=True)
    assert_same(theirs, ours, "__call__", "One", "two")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Bert", {"do_lower_case": False}),
        ("Bert", {"strip_accents": False, "tokenize_chinese_chars": False}),
        ("MPNet", {"do_lower_case": False, "strip_accents": True}),
        ("GPT2", {"add_prefix_space": True}),
        ("Roberta", {"add_prefix_space": True, "trim_offsets": False}),
        ("Bloom", {"add_prefix_space": True}),
        ("Llama", {"add_bos_token": False, "add_eos_token": True}),
        ("Gemma", {"add_eos_token": True}),
        ("GPTNeoX", {"add_bos_token": True, "add_eos_token": True}),
        ("PreTrained", {"add_prefix_space": True}),
        ("XLNet", {"padding_side": "right"}),
        ("T5", {"extra_ids": 3}),
        ("T5", {"additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"], "extra_ids": 2}),
        ("Roberta", {"mask_token": "[MASK]", "pad_token": None}),
        ("Bert", {"model_input_names": ["input_ids", "attention_mask"]}),
        ("Llama", {"extra_special_tokens": {"image_token": "<img>"}}),
        ("GPT2", {"split_special_tokens": True}),
        ("PreTrained", {"max_len": 7}),
    ],
)
def test_class_settings(name, config, class_folder):
    suffix = "Fast" if name == "PreTrained" else ""
    base = "byte_bpe" if name in ("PreTrained", "GPT2", "GPTNeoX", "Roberta", "Bloom") else base_of(name)
    folder = class_folder(base)
    content = {"tokenizer_class": f"{name}Tokenizer{suffix}", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    theirs, ours = read_folder_of_4(folder)
    assert_alike_inside(theirs, ours)
    assert_same(theirs, ours, "__call__", TEXTS, return_offsets_mapping=True)
    assert_alike(theirs, ours, "__call__", [["two", "words"]], is_split_into_words=True)


@pytest.mark.parametrize("read", [read_both, read_folder_of_4])
def test_a_models_own_special_tokens_are_attributes(read, class_folder):
    folder = class_folder("wordpiece", tokenizer_class="BertTokenizer", extra_special_tokens={"image_token": "<img>"})
    theirs, ours = read(folder)
    assert (
        (ours.image_token, ours.image_token_id)
        == (theirs.image_token, theirs.image_token_id)
        == ("<img>", len(ours) - 1)
    )


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "gpt2", "llama", "xlnet", "t5", "opt"])
def test_the_class_follows_from_the_model_type(model_type, class_folder):
    base = base_of(TOKENIZER_OF[model_type].removesuffix("Tokenizer"))
    folder = class_folder(base)
    (folder / "tokenizer_config.json").unlink()
    edit_json(folder / "config.json", model_type=model_type)
    theirs, ours = read_folder_of_4(folder)
    assert_alike_inside(theirs, ours)


@pytest.mark.skipif(MAJOR >= 5, reason="the table is that of transformers 4; what 5 saves names its class")
def test_model_types_are_transformers():
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    for model_type, name in TOKENIZER_OF.items():
        assert TOKENIZER_MAPPING_NAMES[model_type][1] == f"{name}Fast"


def test_an_unknown_class_is_the_generic_one(class_folder):
    ours = AutoTokenizer.from_pretrained(class_folder("wordpiece", tokenizer_class="SomebodysOwnTokenizer"))
    assert ours.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]
    assert ours.special_tokens_map == {}


def test_components_inside_a_sequence_are_left_alone(class_folder):
    folder = class_folder("wordpiece", tokenizer_class="BertTokenizer", do_lower_case=False)
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.normalizer = normalizers.Sequence([normalizers.Lowercase()])
    rust.save(str(folder / "tokenizer.json"))
    theirs, ours = read_folder_of_4(folder)
    assert_alike_inside(theirs, ours)
