"""Chat templates: the text and ids that transformers' `apply_chat_template` gives."""

from __future__ import annotations

import builtins
import subprocess
import sys

import pytest
import transformers

from helpers.generators import byte_level
from untorch import AutoTokenizer, DependencyError, InputError
from untorch.tokenizer import chat

TEMPLATES = {
    "plain": None,
    "system and loop controls": (
        "{%- if messages[0]['role'] == 'system' -%}{{ bos_token }}[{{ messages[0]['content'] }}]{%- endif -%}"
        "{% for m in messages %}\n    {% if m.role == 'system' %}{% continue %}{% endif %}\n"
        "{{ m.role }}: {{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    ),
    "tools as json": (
        "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% if documents %}{{ documents | tojson }}{% endif %}"
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ extra }}"
    ),
}
CHATS = [
    [{"role": "user", "content": "hello <b> & 'you' 世界"}],
    [
        {"role": "system", "content": "be nice"},
        {"role": "user", "content": "  hello there "},
        {"role": "assistant", "content": "good, and you"},
    ],
]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Wetter in <Köln>"}}]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    byte_level(folder)
    return AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokenize": False},
        {"tokenize": False, "add_generation_prompt": True},
        {"add_generation_prompt": True, "return_dict": True},
        {"tokenize": False, "tools": TOOLS, "documents": [{"title": "t", "text": "é"}], "extra": "more"},
        {"tokenize": False, "continue_final_message": True},
        {"continue_final_message": True},
        {"truncation": True, "max_length": 7},
    ],
    ids=str,
)
def test_chats_are_rendered_as_in_transformers(tokenizers, template, options):
    ours, theirs = tokenizers
    # transformers 5 answers with a dict unless told not to.
    options = {"return_dict": False, **options, "chat_template": TEMPLATES[template]}
    for conversation in [*CHATS, CHATS]:
        expected = theirs.apply_chat_template(conversation, **options)
        got = ours.apply_chat_template(conversation, **options)
        assert dict(got) == dict(expected) if options.get("return_dict") else got == expected


def test_arrays(tokenizers):
    ours, theirs = tokenizers
    options = {"padding": True, "return_dict": True, "return_tensors": "np"}
    expected, got = theirs.apply_chat_template(CHATS, **options), ours.apply_chat_template(CHATS, **options)
    assert {name: array.tolist() for name, array in got.items()} == {
        name: array.tolist() for name, array in expected.items()
    }


def test_several_templates():
    assert chat.get_chat_template({"default": "d", "tool_use": "t"}, None, None) == "d"
    assert chat.get_chat_template({"default": "d", "tool_use": "t"}, None, TOOLS) == "t"
    assert chat.get_chat_template({"default": "d", "rag": "r"}, "rag", None) == "r"
    with pytest.raises(InputError, match="name one: rag"):
        chat.get_chat_template({"rag": "r"}, None, None)
    with pytest.raises(InputError, match="no chat template"):
        chat.get_chat_template(None, None, None)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only two roles') }}", "only two roles"),
        ("{% for %}", "malformed"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% set _ = messages[0].update({'role': 'x'}) %}", "unsafe"),
    ],
)
def test_a_template_cannot_do_harm(tokenizers, template, message):
    with pytest.raises(InputError, match=message):
        tokenizers[0].apply_chat_template(CHATS[0], chat_template=template)


def test_calls_that_make_no_sense(tokenizers):
    ours, _ = tokenizers
    for options, message in (
        ({"return_assistant_tokens_mask": True, "tokenize": False}, "tokenize=True"),
        ({"return_assistant_tokens_mask": True, "return_dict": False}, "return_dict=True"),
        ({"return_assistant_tokens_mask": True, "continue_final_message": True}, "choose one"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "choose one"),
        ({"tools": [print]}, "JSON schema"),
    ):
        with pytest.raises(InputError, match=message):
            ours.apply_chat_template(CHATS[0], **options)
    with pytest.raises(InputError, match="no messages"):
        ours.apply_chat_template([])


def test_without_jinja2_the_error_names_the_extra(tokenizers, monkeypatch):
    original = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("jinja2"):
            raise ImportError("No module named 'jinja2'")
        return original(name, *arguments, **options)

    chat._compiled.cache_clear()
    monkeypatch.delitem(sys.modules, "untorch.tokenizer.sandbox", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DependencyError, match=r"pip install 'untorch\[chat\]'"):
        tokenizers[0].apply_chat_template(CHATS[0])


def test_jinja2_is_not_imported_before_it_is_needed():
    code = "import sys, untorch.tokenizer, untorch.pipelines.text_generation; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
