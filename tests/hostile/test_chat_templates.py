"""Chat templates that want out of the sandbox, or never to end. Each is an InputError in bounded time."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from untorch import InputError
from untorch.tokenizer import sandbox
from untorch.tokenizer.chat import render

CHAT = [{"role": "user", "content": "hello"}]


def text(template, chat=CHAT):
    return render(
        template,
        chat,
        tools=None,
        documents=None,
        add_generation_prompt=False,
        continue_final_message=False,
        variables={},
    )


def refused(template):
    start = time.monotonic()
    with pytest.raises(InputError, match="chat template"):
        text(template)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "messages.__class__.__base__.__subclasses__()",
        "raise_exception.__globals__['__builtins__']",
        "strftime_now.__globals__",
        "self.__init__.__globals__",
        "cycler.__init__.__globals__.os.popen('id').read()",
        "joiner.__init__.__globals__",
        "namespace.__init__.__globals__['os']",
        "(messages|attr('__class__')).__base__.x",
        "'{0.__class__.__mro__}'.format(messages)",
        "'{0.__class__.__mro__[1].x}'.format_map({'0': 1})",
        "range.__self__",
        "(messages|map(attribute='__class__')|list)[0].__base__",
        "messages.append(1)",
        "messages[0].update(role='system')",
        "lipsum(n=10 ** 9)",
    ],
)
def test_ways_out_of_the_sandbox(expression):
    """Each is refused, or gives nothing at all (Jinja's undefined)."""
    try:
        assert "class" not in text("{{ " + expression + " }}")
    except InputError as error:
        assert "chat template" in str(error)


def test_the_chat_is_not_changed():
    chat = [{"role": "user", "content": "hello"}]
    with pytest.raises(InputError):
        text("{% do messages.clear() %}{{ messages.clear() }}", chat)
    assert chat == CHAT


@pytest.mark.parametrize("statement", ["include 'etc/passwd'", "import '/etc/passwd' as x", "extends '/etc/passwd'"])
def test_no_other_file_is_read(statement):
    refused("{% " + statement + " %}")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) if j < 0 %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'x' }}",
        "{{ messages * 10 ** 9 }}",
        "{{ 9 ** 99999999 }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}{{ n.x }}",
        "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
        "{% for i in messages %}" * 60 + "{% endfor %}" * 60,
    ],
    ids=range(13),
)
def test_templates_without_an_end(template):
    refused(template)


def test_each_rendering_has_steps_of_its_own(monkeypatch):
    """The count starts anew for each chat, and threads do not share it."""
    monkeypatch.setattr(sandbox, "MAX_STEPS", 1500)
    template = "{% for i in range(1000) %}{% endfor %}" + "done{# steps #}"
    done = []
    threads = [threading.Thread(target=lambda: done.append(text(template).text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == ["done"] * 8
    assert text(template).text == "done"
    with pytest.raises(InputError, match="1500 steps"):
        text("{% for i in range(2000) %}{% endfor %}")


def test_ordinary_arithmetic_still_works():
    assert text("{{ 3 * 4 }} {{ 'ab' * 3 }} {{ 2 ** 10 }} {{ 1.5 * 2 }} {{ 2 ** -1 }} {{ [1] * 2 }}").text == (
        "12 ababab 1024 3.0 0.5 [1, 1]"
    )
    assert "untorch.tokenizer.sandbox" in sys.modules
