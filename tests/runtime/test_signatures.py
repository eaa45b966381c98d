"""No argument is swallowed: every name in the signatures of the installed transformers is taken, or refused by name.

The table that says what becomes of each is the docs' own (docs/arguments.py), and each of its rows is tried.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import warnings

import numpy as np
import pytest
import transformers
from transformers import pipelines as theirs

import untorch
from helpers.paths import BUNDLE_V1, ROOT
from helpers.tasks import ARGUMENTS, INPUTS, small_pipeline
from helpers.tokenizers import MAJOR
from untorch import AutoConfig, AutoTokenizer, GenerationConfig, InputError
from untorch.bundle.arguments import CONFIG, MODEL, TOKENIZER, Source
from untorch.generation import config as generation
from untorch.pipelines import TASKS, class_of
from untorch.tokenizer import chat, editing, overrides, strategies, vocabulary

_spec = importlib.util.spec_from_file_location("arguments_page", ROOT / "docs" / "arguments.py")
arguments_page = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(arguments_page)
TABLE = dict(arguments_page.sections())

# Arguments that collect others, and those of transformers' own classes to each other.
_NOT_THE_CALLERS = {"self", "cls", "args", "kwargs", "inputs", "init_inputs", "model_args", "tokenizer_kwargs"}


def names_of(*functions, popped=False):
    """The names of the functions' arguments; also those that they read from what collects others, if `popped`."""
    found = set()
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        found |= {one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
        if popped:
            found |= set(re.findall(r"kwargs\.(?:pop|get)\(\"(\w+)\"", inspect.getsource(function)))
    return {name for name in found - _NOT_THE_CALLERS if not name.startswith("_")}


def test_the_page_is_what_the_tables_say():
    """Write it again with: python docs/arguments.py."""
    assert arguments_page.PAGE.read_text(encoding="utf-8") == arguments_page.page()


@pytest.mark.parametrize(
    ("where", "functions", "popped"),
    [
        ("AutoModel….from_pretrained", ["PreTrainedModel.from_pretrained", "AutoModel.from_pretrained"], True),
        ("AutoTokenizer.from_pretrained", ["AutoTokenizer.from_pretrained"], True),
        ("AutoTokenizer.from_pretrained", ["PreTrainedTokenizerBase.from_pretrained"], True),
        (
            "AutoTokenizer.from_pretrained",
            ["PreTrainedTokenizerBase.__init__", "PreTrainedTokenizerFast.__init__"],
            True,
        ),
        ("AutoConfig.from_pretrained", ["AutoConfig.from_pretrained"], True),
        ("AutoConfig.from_pretrained", ["PretrainedConfig.from_pretrained"], False),
        ("pipeline", ["pipeline"], False),
        ("a call of a tokenizer", ["PreTrainedTokenizerBase.__call__"], False),
        ("tokenizer.apply_chat_template", ["PreTrainedTokenizerBase.apply_chat_template"], False),
        ("generate", ["GenerationMixin.generate"], False),
    ],
)
def test_every_name_of_a_signature_is_known(where, functions, popped):
    found = set()
    for name in functions:
        owner = transformers
        for part in name.split("."):
            owner = getattr(owner, part)
        found |= names_of(owner, popped=popped)
    # What transformers' loading passes to itself.
    internal = {
        "files_loaded", "init_inputs", "model_specific_special_tokens", "post_processor", "tokenizer",
        "tokenizer_padding", "tokenizer_truncation", "unk_id", "adapter_kwargs", "init_kwargs",
    }  # fmt: skip
    assert not found - internal - set(TABLE[where])


@pytest.mark.parametrize("method", arguments_page.METHODS)
def test_every_name_of_a_tokenizers_method_is_known(method):
    reference = getattr(transformers.PreTrainedTokenizerFast, method, None)
    if reference is None:
        pytest.skip("this transformers has no such method")
    known = set(TABLE[f"tokenizer.{method}"])
    assert not names_of(reference) - known


@pytest.mark.parametrize("task", [task for task in TASKS if hasattr(theirs, TASKS[task][1])])
def test_every_name_of_a_pipelines_call_is_known(task):
    kind = getattr(theirs, TASKS[task][1])
    names = names_of(kind.__call__, kind._sanitize_parameters, theirs.base.Pipeline.__call__)
    assert not names - {"generate_kwargs", "preprocess_parameters"} - set(TABLE[f"a call of {task}"])


def heads():
    """Every model class of transformers whose task untorch has, by the name of its Auto class's mapping."""
    from transformers.models.auto import modeling_auto as auto

    for name in (
        "MODEL_MAPPING_NAMES", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
        "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    ):  # fmt: skip
        mapping = getattr(auto, name)
        for family in ("bert", "distilbert", "roberta", "albert", "electra", "t5", "bart", "gpt2", "llama", "qwen2"):
            if family in mapping:
                yield mapping[family]


@pytest.mark.parametrize("name", sorted(set(heads())))
def test_every_name_of_a_models_call_is_known(name):
    assert not names_of(getattr(transformers, name).forward) - set(TABLE["a call of a model"])


def test_every_setting_of_generation_is_known():
    names = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    assert not names - set(TABLE["GenerationConfig"])


# ---- each row of the table is so ----


class Something:
    """A value that no argument can be meant to have."""


def check(rules, name, use):
    """What a rule says becomes of an argument does become of it; `use` calls with keywords."""
    rule = rules[name]
    for value in (None, *(rule.neutral or ())):
        use(**{name: value})
    if rule.neutral is None:
        use(**{name: Something()})
        return
    with pytest.raises(InputError, match=rf"takes no {name}=.*Something"):
        use(**{name: Something()})


@pytest.mark.parametrize("name", [name for name in MODEL if name != "file_name"])  # which folders of others take
def test_rules_of_loading_a_model(name):
    check(MODEL, name, lambda **given: untorch.AutoModel.from_pretrained(BUNDLE_V1, precision="fp32", **given))


@pytest.mark.parametrize("name", TOKENIZER)
def test_rules_of_loading_a_tokenizer(name):
    check(TOKENIZER, name, lambda **given: AutoTokenizer.from_pretrained(BUNDLE_V1, **given))


@pytest.mark.parametrize("name", CONFIG)
def test_rules_of_loading_a_config(name):
    check(CONFIG, name, lambda **given: AutoConfig.from_pretrained(BUNDLE_V1, **given))


@pytest.mark.parametrize("name", generation.RULES)
def test_rules_of_generate(name):
    model = small_pipeline("text-generation").model
    check(generation.RULES, name, lambda **given: model.generate(np.array([[5, 6]]), max_new_tokens=1, **given))


@pytest.mark.parametrize(
    ("rules", "use"),
    [
        (strategies.RULES, lambda tokenizer: lambda **given: tokenizer("hello", **given)),
        (strategies.RULES, lambda tokenizer: lambda **given: tokenizer.encode("hello", **given)),
        (vocabulary.DECODING, lambda tokenizer: lambda **given: tokenizer.decode([5], **given)),
        (vocabulary.DECODING, lambda tokenizer: lambda **given: tokenizer.batch_decode([[5]], **given)),
        (
            chat.RULES,
            lambda tokenizer: (
                lambda **given: tokenizer.apply_chat_template(
                    [{"role": "user", "content": "hello"}], chat_template="{{ messages[0].content }}", **given
                )
            ),
        ),
    ],
)
def test_rules_of_a_tokenizer(rules, use):
    for name in rules:
        check(rules, name, use(AutoTokenizer.from_pretrained(BUNDLE_V1)))


def test_rules_of_saving_a_tokenizer(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(BUNDLE_V1)
    for name in editing.SAVING:
        check(editing.SAVING, name, lambda **given: tokenizer.save_pretrained(tmp_path, **given))


@pytest.mark.parametrize("task", TASKS)
def test_rules_of_a_pipelines_call(task):
    kind, pipeline = class_of(task), small_pipeline(task)

    def use(**given):
        return pipeline(INPUTS[task][0], **{**ARGUMENTS.get(task, {}), **given})

    for name in kind.rules:
        if name not in (*kind.parameters_class.declared, *kind.input_names, "inputs"):
            check(kind.rules, name, use)


def test_settings_that_are_not_supported_are_refused_but_for_what_changes_nothing():
    for name, neutral in generation.UNSUPPORTED.items():
        assert GenerationConfig(**{name: neutral}) == GenerationConfig() == GenerationConfig(**{name: None})
        with pytest.raises(InputError, match=rf"{name}=.*is not supported"):
            GenerationConfig(**{name: Something()})
    for name in generation.IGNORED:
        assert GenerationConfig(**{name: Something()}) == GenerationConfig()


UNKNOWN = {
    "model": lambda **given: untorch.AutoModel.from_pretrained(BUNDLE_V1, precision="fp32", **given),
    "tokenizer": lambda **given: AutoTokenizer.from_pretrained(BUNDLE_V1, **given),
    "config": lambda **given: AutoConfig.from_pretrained(BUNDLE_V1, **given),
    "pipeline": lambda **given: untorch.pipeline(None, BUNDLE_V1, **given),
    "call of a tokenizer": lambda **given: AutoTokenizer.from_pretrained(BUNDLE_V1)("hello", **given),
    "encode": lambda **given: AutoTokenizer.from_pretrained(BUNDLE_V1).encode("hello", **given),
    "batch": lambda **given: AutoTokenizer.from_pretrained(BUNDLE_V1).batch_encode_plus(["hello"], **given),
    "decode": lambda **given: AutoTokenizer.from_pretrained(BUNDLE_V1).decode([5], **given),
    "call of a model": lambda **given: small_pipeline("text-classification").model([[5, 6]], **given),
    "generate": lambda **given: small_pipeline("text-generation").model.generate([[5, 6]], **given),
    "generation config": GenerationConfig,
}


@pytest.mark.parametrize("where", UNKNOWN)
def test_a_name_that_nobody_knows_is_refused(where):
    with pytest.raises(InputError, match=r"no argument '?nobody_knows_this"):
        UNKNOWN[where](nobody_knows_this=1)


@pytest.mark.parametrize(
    ("where", "wrong", "meant"),
    [
        ("model", "subfolde", "subfolder"),
        ("tokenizer", "padding_sid", "padding_side"),
        ("tokenizer", "revison", "revision"),
        ("config", "hiden_size", "hidden_size"),
        ("call of a tokenizer", "max_lenght", "max_length"),
        ("decode", "skip_special_token", "skip_special_tokens"),
        ("call of a model", "atention_mask", "attention_mask"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(where, wrong, meant):
    with pytest.raises(InputError, match=rf"no argument {wrong}; did you mean {meant}\?"):
        UNKNOWN[where](**{wrong: 1})


# ---- what is taken does what it does there ----


OVERRIDES = {
    "padding_side": "left",
    "truncation_side": "left",
    "model_max_length": 7,
    "pad_token": "[SEP]",
    "additional_special_tokens": ["world"],
    "extra_special_tokens": {"image_token": "film"},
    "clean_up_tokenization_spaces": True,
    "split_special_tokens": True,
    "model_input_names": ["input_ids"],
    "do_lower_case": False,
    "chat_template": "{{ messages }}",
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_an_override_of_a_tokenizer_does_what_it_does_in_transformers(name):
    ours, theirs = (
        module.AutoTokenizer.from_pretrained(BUNDLE_V1, **{name: OVERRIDES[name]}) for module in (untorch, transformers)
    )
    texts = ["hello world film , Hello", "good [MASK] movie is great and people"]
    for options in ({"padding": True}, {"truncation": True, "max_length": 5}):
        assert ours(texts, **options)["input_ids"] == theirs(texts, **options)["input_ids"]
    assert list(ours(texts)) == list(theirs(texts))
    ids = theirs(texts[0])["input_ids"]
    if MAJOR < 5:  # which cleans up the text of a folder that 4 wrote otherwise than 4 does
        assert ours.decode(ids) == theirs.decode(ids)
    assert (ours.model_max_length, ours.padding_side) == (theirs.model_max_length, theirs.padding_side)
    assert ours.chat_template == theirs.chat_template


def test_every_setting_of_a_tokenizer_is_read():
    for name, reader in overrides.SETTINGS.items():
        with pytest.raises(ValueError, match=r"a |one of|True"):
            reader(Something())
        with pytest.raises(InputError, match=rf"{name} is .*Something"):
            AutoTokenizer.from_pretrained(BUNDLE_V1, **{name: Something()})


def test_where_files_come_from_is_read_by_every_loader():
    for load in (UNKNOWN["model"], UNKNOWN["tokenizer"], UNKNOWN["config"]):
        for name in Source.__annotations__:
            with pytest.raises(InputError, match=rf"{name} is .*Something"):
                load(**{name: Something()})


def test_a_tokenizer_is_that_of_the_revision_and_the_folder(tmp_path):
    import json
    import shutil
    import subprocess
    import sys

    repository = tmp_path / "hub/models--acme--model"
    (repository / "refs").mkdir(parents=True)
    for name, digest, length in (("main", "a" * 40, 512), ("v1", "b" * 40, 64)):
        folder = repository / "snapshots" / digest
        for place, size in ((folder, length), (folder / "inner", length + 1)):
            place.mkdir(parents=True)
            for file in ("tokenizer.json", "config.json"):
                shutil.copy(BUNDLE_V1 / file, place)
            config = json.loads((BUNDLE_V1 / "tokenizer_config.json").read_text()) | {"model_max_length": size}
            (place / "tokenizer_config.json").write_text(json.dumps(config))
        (repository / "refs" / name).write_text(digest)
    code = (
        "import untorch\n"
        "def length(**given):\n"
        "    try: return untorch.AutoTokenizer.from_pretrained('acme/model', **given).model_max_length\n"
        "    except untorch.UntorchError as error: return type(error).__name__\n"
        f"cache = {str(tmp_path / 'hub')!r}\n"
        "for given in ({}, {'revision': 'v1'}, {'revision': 'nope'}, {'subfolder': 'inner'},\n"
        "              {'revision': 'v1', 'subfolder': 'inner'}, {'subfolder': 'nothing'}):\n"
        "    print(length(cache_dir=cache, local_files_only=True, **given))\n"
        "print(untorch.AutoConfig.from_pretrained('acme/model', cache_dir=cache, revision='v1').model_type)\n"
        "print(length(local_files_only=True, cache_dir='/nowhere'))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["512", "64", "BundleError", "513", "65", "BundleError", "bert", "BundleError"], (
        ran.stderr
    )


def test_a_config_has_the_attributes_of_transformers():
    ours, theirs = (module.AutoConfig.from_pretrained(BUNDLE_V1) for module in (untorch, transformers))
    values = theirs.to_dict()
    for name in (
        "model_type",
        "hidden_size",
        "vocab_size",
        "num_attention_heads",
        "id2label",
        "label2id",
        "architectures",
    ):
        assert getattr(ours, name) == getattr(theirs, name)
        assert ours.to_dict()[name] == values[name]
    for name in (
        "num_labels", "problem_type", "is_encoder_decoder", "output_attentions", "output_hidden_states", "return_dict",
        "chunk_size_feed_forward",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name)
    with pytest.raises(AttributeError, match="no_such"):
        ours.no_such
    assert ours == untorch.AutoModelForSequenceClassification.from_pretrained(BUNDLE_V1, precision="fp32").config


def test_overrides_of_a_config_do_what_they_do_in_transformers():
    for given in ({"hidden_size": 8}, {"num_labels": 3}, {"id2label": {0: "a"}}, {"problem_type": "regression"}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = (module.AutoConfig.from_pretrained(BUNDLE_V1, **given) for module in (untorch, transformers))
        for name in (*given, "num_labels", "id2label"):
            assert getattr(ours, name) == getattr(theirs, name)
    for module in (untorch, transformers):
        config, unused = module.AutoConfig.from_pretrained(BUNDLE_V1, foo=1, vocab_size=7, return_unused_kwargs=True)
        assert (config.vocab_size, unused) == (7, {"foo": 1})
    with pytest.raises(InputError, match="read a config with"):
        AutoConfig()
