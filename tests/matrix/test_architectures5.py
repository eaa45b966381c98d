"""A sample of the architectures of transformers 5: `make architectures` walks all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from untorch_export.trace import transformers_5

if not transformers_5():
    pytest.skip("these are the mappings of transformers 5", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))

import architectures5

# One of a kind: an encoder, windows, a mixture of experts, shared keys, relative positions, two graphs.
SAMPLE = (
    "roberta/fill-mask",
    "modernbert/token-classification",
    "longformer/question-answering",
    "mixtral/text-generation",
    "gemma2/text-classification",
    "deberta-v2/multiple-choice",
    "marian/text2text-generation",
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cell", SAMPLE)
def test_an_architecture_works(cell, monkeypatch):
    monkeypatch.setattr(architectures5.reference, "LONGEST", 130)
    kind, _, task = cell.partition("/")
    name = next(name for known, head, name in architectures5.cells() if (known, head) == (kind, task))
    result = architectures5.cell(kind, task, name)
    assert result["status"] == "works", result
    assert result["spread"] > 0.01, "answers that hardly differ would hide a wrong graph"


def test_no_head_of_transformers_is_left_out():
    cells = set(architectures5.cells())
    assert {task for _, task, _ in cells} == set(architectures5.MAPPINGS.values())
    assert len({kind for kind, _, _ in cells}) > 400
