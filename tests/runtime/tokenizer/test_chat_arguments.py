"""Arguments of `apply_chat_template`: the mask of the assistant's tokens, the field that is continued, and the rest."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

from helpers.generators import byte_level
from helpers.tokenizers import MAJOR
from untorch import AutoTokenizer, InputError

MARKED = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
TEMPLATES = {
    "marked": MARKED,
    "inside a macro": (
        "{% macro said(m) %}{% generation %}{{ m.content | upper }}{% endgeneration %}{% endmacro %}"
        "{% for m in messages %}{{ said(m) if m.role == 'assistant' else m.content }}\n{% endfor %}"
    ),
    "with spaces around": (
        "{%- for m in messages -%}\n  {%- if m.role == 'assistant' -%}\n  {%- generation -%} {{ m.content }}\n"
        "  {%- endgeneration -%}\n  {%- else -%}{{ m.content }} |{%- endif -%}\n{%- endfor -%}"
    ),
}
CHATS = [
    [
        {"role": "user", "content": "hello world"},
        {"role": "assistant", "content": "this movie is great"},
        {"role": "user", "content": "and that film"},
        {"role": "assistant", "content": "ünï 世界"},
    ],
    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": ""}],
    [{"role": "user", "content": "only a question"}],
]
MASK = {"return_assistant_tokens_mask": True, "return_dict": True}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat-arguments")
    byte_level(folder)
    return AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def values(answer):
    return {name: np.asarray(value).tolist() if hasattr(value, "shape") else value for name, value in answer.items()}


@pytest.mark.parametrize("template", ["marked", "with spaces around"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_tensors": "np", "padding": True},
        {"truncation": True, "max_length": 40},
        {"padding": "max_length", "max_length": 90},
        {"add_generation_prompt": True},
        {"tokenizer_kwargs": {"padding_side": "left"}, "padding": True},
    ],
    ids=str,
)
def test_the_mask_is_that_of_transformers(tokenizers, template, options):
    ours, theirs = tokenizers
    if template == "with spaces around" and MAJOR < 5:
        pytest.skip("transformers 4 leaves out all but the first byte of a span's last character")
    options = {**MASK, **options, "chat_template": TEMPLATES[template]}
    for chats in (CHATS[0], CHATS[0:1], CHATS[:1] * 2) if template == "with spaces around" else (CHATS[0], CHATS):
        expected = values(theirs.apply_chat_template(chats, **options))
        assert values(ours.apply_chat_template(chats, **options)) == expected
        assert "1" in str(expected["assistant_masks"])


def test_what_a_macro_says_is_masked_too(tokenizers):
    """Where transformers' own count of characters goes astray."""
    ours, _ = tokenizers
    answer = ours.apply_chat_template(CHATS[0], **MASK, chat_template=TEMPLATES["inside a macro"])
    masked = [index for index, is_said in zip(answer["input_ids"], answer["assistant_masks"], strict=True) if is_said]
    assert ours.decode(masked) == "THIS MOVIE IS GREATÜNÏ 世界"


def test_without_a_mark_the_mask_is_empty_and_a_warning_says_why(tokenizers):
    ours, _ = tokenizers
    with pytest.warns(UserWarning, match="marks nothing with {% generation %}"):
        answer = ours.apply_chat_template(CHATS[0], **MASK)
    assert set(answer["assistant_masks"]) == {0}


def test_the_text_is_the_same_with_and_without_the_mask(tokenizers):
    ours, _ = tokenizers
    for template in TEMPLATES.values():
        plain = ours.apply_chat_template(CHATS[0], chat_template=template)
        assert plain["input_ids"] == ours.apply_chat_template(CHATS[0], **MASK, chat_template=template)["input_ids"]


@pytest.mark.skipif(MAJOR < 5, reason="transformers 4 continues the content only")
def test_the_field_that_is_named_is_continued(tokenizers):
    ours, theirs = tokenizers
    template = "{% for m in messages %}[{{ m.note }}] {{ m.content }}\n{% endfor %}"
    chat = [
        {"role": "user", "content": "hello", "note": "a"},
        {"role": "assistant", "content": "it is", "note": "so be"},
    ]
    for field in (True, "content", "note"):
        options = {"tokenize": False, "chat_template": template, "continue_final_message": field}
        assert ours.apply_chat_template(chat, **options) == theirs.apply_chat_template(chat, **options)


@pytest.mark.skipif(MAJOR < 5, reason="transformers 4 gives ids alone")
@pytest.mark.parametrize("options", [{}, {"tokenize": False}, {"tokenize": False, "return_dict": True}], ids=str)
def test_the_form_of_the_answer_is_that_of_transformers_5(tokenizers, options):
    ours, theirs = tokenizers
    got, expected = (one.apply_chat_template(CHATS[0], **options) for one in (ours, theirs))
    assert values(got) == values(expected) if hasattr(expected, "items") else got == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_assistant_tokens_mask": True, "return_dict": False}, "needs return_dict=True"),
        ({"return_assistant_tokens_mask": True, "tokenize": False}, "and tokenize=True"),
        ({"return_assistant_tokens_mask": True, "continue_final_message": True}, "choose one"),
        ({"sanitize_control_tokens": True}, "takes no sanitize_control_tokens=True"),
        ({"tools": "weather"}, "tools is 'weather'; it is a list"),
        ({"documents": 7}, "documents is 7; it is a list"),
        ({"continue_final_message": 3}, "continue_final_message is 3; it is True, False or the name"),
        ({"continue_final_message": "nothing"}, "no text to continue in its nothing"),
        ({"tokenizer_kwargs": {"paddin": True}}, "takes no argument paddin; did you mean padding"),
        ({"tokenizer_kwargs": 3}, "tokenizer_kwargs is 3; it is a mapping"),
        ({"padding": "all"}, "padding='all' is not one of"),
        ({"truncation": "some"}, "truncation='some' is not one of"),
        ({"max_length": "x", "truncation": True}, "max_length is 'x'"),
        ({"return_tensors": "pt"}, "return_tensors='pt'"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_by_name(tokenizers, options, message):
    with pytest.raises(InputError, match=message):
        tokenizers[0].apply_chat_template(CHATS[0], **options)


@pytest.mark.parametrize("chat", ["hello", 7, None, {"role": "user"}])
def test_a_chat_is_a_list(tokenizers, chat):
    with pytest.raises(InputError, match="a chat is a list of messages"):
        tokenizers[0].apply_chat_template(chat)
