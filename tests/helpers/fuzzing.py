"""What the property tests share: how many cases each is tried on, and hostile JSON.

Where a property takes `@cases(n)`, `make test` tries it on n cases, always the same ones, and `make fuzz` on TIMES as
many new ones: a hundred thousand altogether.
"""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = 20

settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.register_profile("fuzz", parent=settings.get_profile("suite"), derandomize=False, print_blob=True)


def is_long():
    """Whether this is `make fuzz`."""
    return settings.get_current_profile_name() == "fuzz"


def cases(count):
    """Try the property on `count` cases, or on TIMES as many under the profile `fuzz`."""

    def decorate(test):
        return pytest.mark.fuzz(settings(max_examples=count * (TIMES if is_long() else 1))(test))

    return decorate


numbers = st.integers(-3, 70) | st.sampled_from([1 << 31, 1 << 63, -(1 << 63), 1 << 200, 10**400]) | st.floats()
words = st.text(max_size=8) | st.sampled_from(["", "..", "/etc/hostname", "../x", "a\0b", "\ud800", "LABEL_0", "[PAD]"])
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated(draw, document):
    """A JSON document like `document`, with one to four of its values replaced, removed, added or swapped."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        parent, key, node = None, None, document
        while isinstance(node, dict | list) and node and (parent is None or draw(st.integers(0, 3))):
            parent, key = node, draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            node = node[key]
        if parent is None:
            return draw(values)
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "swap"])):
            case "replace":
                parent[key] = draw(values)
            case "remove":
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[draw(words)] = draw(values)
            case "add":
                parent.append(draw(values))
            case "swap":
                other = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
                parent[key], parent[other] = parent[other], parent[key]
    return document
