"""Where chat templates run: Jinja's sandbox, and limits on what a template may spend.

A template comes with a bundle, so it may be anybody's. The sandbox keeps it from Python's internals; beyond that its
loop passes and macro calls are counted, products are bounded and a range has at most 100,000 numbers. What one
filter or string method does is not bounded: a template may still take seconds, or memory until MemoryError.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Loop passes and macro calls of one rendering: far more than the longest chat takes, and a second or two of work.
MAX_STEPS = 250_000

# Length of a repeated string or list, and bits of a product or power.
MAX_PRODUCT = 1_000_000
MAX_BITS = 4096


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates are written for, as transformers gives it to them."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, Steps, "jinja2.ext.loopcontrols"]
        )
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        del self.globals["lipsum"]  # filler text, as much as is asked for

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Multiply or raise, unless the result would be gigantic."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_BITS:
                raise jinja2.TemplateRuntimeError(f"{operator} gives a number of more than {MAX_BITS} bits")
        else:
            for sequence, times in ((left, right), (right, left)):
                if hasattr(sequence, "__len__") and isinstance(times, int) and len(sequence) * times > MAX_PRODUCT:
                    raise jinja2.TemplateRuntimeError(f"{operator} repeats something to more than {MAX_PRODUCT} parts")
        return super().call_binop(context, operator, left, right)

    def template(self, source: str) -> jinja2.Template:
        """Compile a template whose loops and macros count their steps. Raises TemplateSyntaxError and others."""
        steps: Any = self.extensions[Steps.identifier]
        tree = self.parse(source)
        for node in list(tree.find_all((nodes.For, nodes.Macro))):
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.And(steps.call_method("step"), node.test)
            node.body.insert(0, nodes.ExprStmt(steps.call_method("step")))  # type: ignore[attr-defined]
        tree.set_environment(self)
        return jinja2.Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render(self, template: jinja2.Template, variables: dict[str, Any], mark: str = "") -> str:
        """The template's text, with `mark` before and after what the assistant said.

        Raises whatever the template brings about.
        """
        steps: Any = self.extensions[Steps.identifier]
        generation: Any = self.extensions[Generation.identifier]
        steps.left.value, generation.mark.value = MAX_STEPS, mark
        return template.render(variables)


class Steps(Extension):
    """Counts down the steps of a rendering, each thread its own."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.left = threading.local()

    def step(self) -> bool:
        """Take one step; the last one is an error."""
        self.left.value -= 1
        if self.left.value < 0:
            raise jinja2.TemplateRuntimeError(f"it takes more than {MAX_STEPS} steps")
        return True


class Generation(Extension):
    """Lets a template mark what the assistant said with `{% generation %}`."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own declaration

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.mark = threading.local()

    def parse(self, parser: Any) -> Any:
        """Read the block up to its end."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        mark: str = self.mark.value
        return f"{mark}{caller()}{mark}"


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
