"""Files of every age and shape, and what overrides them."""

from __future__ import annotations

import json

import pytest
import transformers
from tokenizers import Tokenizer as RustTokenizer

from helpers.tokenizers import MAJOR, VARIANTS, assert_same, attribute, edit_json
from runtime.tokenizer.conftest import REAL, read_both
from untorch.errors import BundleError, FormatError, InputError
from untorch.tokenizer import AutoTokenizer

ATTRIBUTES = (
    "vocab_size", "model_max_length", "model_input_names", "padding_side", "truncation_side", "special_tokens_map",
    "all_special_tokens", "all_special_ids", "additional_special_tokens", "additional_special_tokens_ids", "bos_token",
    "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "bos_token_id", "eos_token_id",
    "unk_token_id", "sep_token_id", "pad_token_id", "cls_token_id", "mask_token_id", "pad_token_type_id", "is_fast",
    "max_len_single_sentence", "max_len_sentences_pair", "clean_up_tokenization_spaces", "chat_template",
    "added_tokens_encoder", "vocab", "split_special_tokens",
)  # fmt: skip


def once(value):
    """transformers may list a special token twice, when older files name it both as a string and as an object."""
    if isinstance(value, dict):
        return {name: once(item) for name, item in value.items()}
    special = isinstance(value, list) and all(isinstance(item, str | int) for item in value)
    return list(dict.fromkeys(value)) if special else value


def assert_same_attributes(theirs, ours):
    for name in ATTRIBUTES:
        assert getattr(ours, name) == once(attribute(theirs, name)), name
    assert len(ours) == len(theirs)
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)


@pytest.mark.parametrize("name", REAL)
def test_attributes_of_published_tokenizers(name, real_pair):
    theirs, ours = real_pair(name)
    assert_same_attributes(theirs, ours)
    one, two = (theirs(text, add_special_tokens=False)["input_ids"] for text in ("One two", "three"))
    assert ours.build_inputs_with_special_tokens(one) == theirs("One two")["input_ids"]
    assert ours.build_inputs_with_special_tokens(one, two) == theirs("One two", "three")["input_ids"]
    ids = ours("One two", "three")["input_ids"]
    assert ours.get_special_tokens_mask(ids, already_has_special_tokens=True) == theirs.get_special_tokens_mask(
        ids, already_has_special_tokens=True
    )


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "word_level"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_attributes_of_every_variant(kind, variant, tiny_pair):
    assert_same_attributes(*tiny_pair(kind, variant))


@pytest.mark.parametrize(
    "overrides",
    [
        {"padding_side": "left"},
        {"truncation_side": "left"},
        {"model_max_length": 5},
        {"pad_token": "[SEP]"},
        {"pad_token": "<brand new>"},
        {"clean_up_tokenization_spaces": True},
        {"model_input_names": ["input_ids"]},
        {"additional_special_tokens": ["<one>", "<two>"]},
        {"add_prefix_space": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", sorted({"plain", "legacy"} & {*VARIANTS}))
def test_overrides(overrides, variant, tiny_folder):
    folder = tiny_folder("wordpiece", variant)
    # transformers 5 has another name for it.
    renamed = {"additional_special_tokens": "extra_special_tokens"} if MAJOR >= 5 else {}
    theirs = transformers.AutoTokenizer.from_pretrained(
        folder, **{renamed.get(name, name): value for name, value in overrides.items()}
    )
    ours = AutoTokenizer.from_pretrained(folder, **overrides)
    assert_same_attributes(theirs, ours)
    assert_same(theirs, ours, "__call__", ["The quick <one> fox", "jumps"], padding=True, truncation=True)


def test_baked_in_truncation_and_padding_are_off(tiny_folder):
    ours = AutoTokenizer.from_pretrained(tiny_folder("wordpiece", "baked_in"))
    assert len(ours("The quick brown fox jumps over")["input_ids"]) > 9
    assert len(ours("a")["input_ids"]) == 3
    assert (ours.backend_tokenizer.truncation, ours.backend_tokenizer.padding) == (None, None)


def test_tokenizer_json_alone_is_enough(tiny_folder):
    folder = tiny_folder("wordpiece")
    for path in folder.iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    ours = AutoTokenizer.from_pretrained(str(folder))
    assert ours.tokenize("The lazy dog") == ["the", "lazy", "dog"]
    assert ours.model_max_length == int(1e30)
    assert ours.name_or_path == str(folder)


def test_chat_templates(tiny_folder):
    folder = tiny_folder("wordpiece")
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert_same_attributes(*read_both(folder))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}", encoding="utf-8")
    assert AutoTokenizer.from_pretrained(folder).chat_template == {"default": "{{ messages }}", "tools": "{{ tools }}"}


def test_as_transformers_5_saves(tiny_pair, tiny_folder):
    """transformers 5 writes one config: no maps, no added_tokens_decoder, other names for some things."""
    _, plain = tiny_pair("wordpiece")
    folder = tiny_folder("wordpiece", "no_map")
    edit_json(
        folder / "tokenizer_config.json",
        added_tokens_decoder=None,
        additional_special_tokens=None,
        extra_special_tokens=["<extra>"],
        model_input_names=None,
        tokenizer_class="TokenizersBackend",
        backend="tokenizers",
        is_local=True,
        local_files_only=False,
    )
    ours = AutoTokenizer.from_pretrained(folder)
    texts = ["The quick <extra> fox", "two words <new>"]
    assert ours.model_input_names == ["input_ids", "attention_mask"]
    assert ours(texts, return_token_type_ids=True).data == plain(texts).data
    assert ours.special_tokens_map == plain.special_tokens_map
    assert ours.all_special_ids == plain.all_special_ids


def test_special_tokens_may_be_objects(tiny_folder):
    folder = tiny_folder("wordpiece")
    token = {"content": "[MASK]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    edit_json(folder / "tokenizer_config.json", mask_token={"__type": "AddedToken", "special": True, **token})
    assert_same_attributes(*read_both(folder))


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), BundleError, "no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), FormatError, "is not a tokenizer"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[1]"), FormatError, "holds a list"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{,"), FormatError, "is not valid JSON"),
        (lambda folder: edit_json(folder / "tokenizer_config.json", padding_side="up"), InputError, "padding_side"),
        (
            lambda folder: edit_json(
                folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", bos_token=None, backend=None
            ),
            FormatError,
            "bos_token",
        ),
    ],
)
def test_damaged_folders_are_refused(damage, error, says, tiny_folder):
    folder = tiny_folder("wordpiece")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "[CLS]"}), encoding="utf-8")
    damage(folder)
    with pytest.raises(error, match=says):
        AutoTokenizer.from_pretrained(folder, **({"bos_token": None} if says == "bos_token" else {}))


def test_a_pad_token_may_be_chosen_later(real_folder):
    ours = AutoTokenizer.from_pretrained(real_folder("gpt2"))
    with pytest.raises(InputError, match=r"tokenizer\.pad_token = tokenizer\.eos_token"):
        ours(["One", "two three"], padding=True)
    ours.pad_token = ours.eos_token
    assert ours(["One", "two three"], padding=True)["input_ids"][0] == [3198, 50256]
    assert ours.pad_token_id == ours.eos_token_id == 50256
    with pytest.raises(InputError, match="not in the vocabulary"):
        ours.pad_token = "<nowhere>"


def test_views_keep_the_ids_of_added_tokens(tiny_folder):
    """Truncation works on a second view of the Rust tokenizer; a token's id must be the same there."""
    folder = tiny_folder("wordpiece")
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.add_tokens([f"<t{i}>" for i in range(30)])
    rust.save(str(folder / "tokenizer.json"))
    ours = AutoTokenizer.from_pretrained(folder)
    text = " ".join(f"<t{i}>" for i in range(29, -1, -1))
    assert ours(text, truncation=True, max_length=100)["input_ids"] == ours(text)["input_ids"]
