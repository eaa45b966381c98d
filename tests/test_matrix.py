"""Every task of every architecture: export, parity with PyTorch, and the pipeline against transformers' own.

`make test` walks the diagonal that each line of `architectures.py` marks; `make matrix` walks all of it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers

from helpers import dropped, older_pipelines
from helpers.architectures import ARCHITECTURES, CAUSAL, HEADS, SEQ2SEQ, Architecture, checkpoint, table
from helpers.comparing import same, transformers_pipeline
from helpers.paths import ROOT
from untorch import pipeline
from untorch.bundle.folder import Bundle
from untorch.bundle.manifest import Variant
from untorch.ort import kernels
from untorch_export.errors import ExportWarning
from untorch_export.export import export
from untorch_export.parity import reference
from untorch_export.quantize.ranges import OUTLIERS
from untorch_export.trace import transformers_5

TEXTS = ["hello people, this city is a good movie!", "a", "I love it. " * 5, "Ça va, 世界? not bad"]
QUESTION = {"question": "what is great?", "context": "this movie is great and that film was awful I love it"}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def cells():
    for architecture in ARCHITECTURES:
        for task in architecture.tasks:
            marks = () if task in architecture.first else pytest.mark.matrix
            yield pytest.param(architecture, task, id=f"{architecture.id}-{task}", marks=marks)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Models without a limit are compared on 2048 tokens; on one core that takes a while for what 130 show too."""
    monkeypatch.setattr(reference, "LONGEST", 130)
    torch.set_num_threads(1)


@pytest.mark.parametrize(("architecture", "task"), cells())
def test_every_task_of_every_architecture(architecture: Architecture, task: str, tmp_path):
    source = checkpoint(tmp_path / "checkpoint", architecture, task)
    encoder = task in HEADS
    arguments = {"precisions": None if encoder else ["fp32"], "task": task, "keep_failed": True}
    short_of = encoder and architecture.fused != architecture.layers
    with pytest.warns(ExportWarning, match="attention layers fused") if short_of else nullcontext():
        export(source, tmp_path / "bundle", **arguments)
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.task == task
    assert bundle.variant("fp32").verdict == "exact"
    for precision in set(bundle.variants) - {"fp32"}:
        _check_int8(architecture, bundle.variant(precision))
        assert not _left_in_fp32(bundle.path / bundle.variant(precision).graphs["model"].file)
    assert set(bundle.variants) == {"fp32", *["int8"] * encoder, *["int8_kernels"] * (encoder and kernels.usable())}
    _compare(task, source, bundle.path)


def _check_int8(architecture: Architecture, variant: Variant) -> None:
    layers = variant.extra["layers"]
    assert layers in (architecture.layers, 2)  # a head on an encoder–decoder may read the encoder alone
    short, most = layers - variant.extra["fused_layers"], architecture.layers - (architecture.fused or 0)
    assert 0 < short <= most if most else not short
    # Random weights leave many near-ties, which a gate for trained ones does not allow for; broken is another matter.
    assert variant.parity["gate"]["measured"] > 0.9


def _left_in_fp32(path: Path) -> list[str]:
    """Products of all tokens with a matrix that is more than the channels which int8 leaves out."""
    graph = onnx.load(path, load_external_data=False).graph
    widths = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 2}
    shaped = [node for node in graph.node if node.op_type == "Reshape"]
    flat, whole = {node.output[0] for node in shaped}, {node.input[0] for node in shaped}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    # A head's, for one token a row, stays as it is.
    products += [n for n in graph.node if n.op_type == "Gemm" and n.input[0] in flat and n.output[0] in whole]
    return [node.name for node in products if widths.get(node.input[1], 0) > OUTLIERS + 1]


def _compare(task: str, source: Path, bundle: Path) -> None:
    ours = pipeline(task, bundle, precision="fp32")
    if task == "sentence-embeddings":
        from sentence_transformers import SentenceTransformer

        # One by one: left padding moves GPT-2's positions.
        theirs = SentenceTransformer(str(source), device="cpu").encode(TEXTS, batch_size=1)
        np.testing.assert_allclose(ours(TEXTS), theirs, atol=1e-4)
    elif task == "multiple-choice":
        _compare_choices(ours, source)
    elif task == "text-ranking":
        _compare_ranks(ours, source)
    else:
        transformers.logging.set_verbosity_error()
        if task in SEQ2SEQ:
            theirs = dropped.writer(task, source)
        elif task == "question-answering" and transformers_5():
            theirs = older_pipelines.Reading(str(source))
        else:
            theirs = transformers_pipeline(task, _loadable(source), tokenizer=str(source))
        _compare_answers(task, ours, theirs)


def _loadable(source: Path) -> Any:
    """What transformers' pipeline takes for a checkpoint: its folder, but an encoder alone has to be named."""
    config = transformers.AutoConfig.from_pretrained(source)
    alone = config.architectures[0].endswith("EncoderModel")
    return getattr(transformers, config.architectures[0]).from_pretrained(source) if alone else str(source)


def _compare_answers(task, ours, theirs) -> None:
    if task == "question-answering":
        same(ours(**QUESTION, top_k=3), theirs(**QUESTION, top_k=3))
    elif task == "fill-mask":
        texts = [f"{text} {ours.tokenizer.mask_token} movie" for text in TEXTS]
        same(ours(texts), theirs(texts))
    elif task == "zero-shot-classification":
        labels = ["city", "good movie", "people"]
        same(ours(TEXTS, candidate_labels=labels), theirs(TEXTS, candidate_labels=labels))
        several = {"candidate_labels": labels, "multi_label": True}
        same(ours(TEXTS[0], **several), theirs(TEXTS[0], **several))
    elif task in CAUSAL or task in SEQ2SEQ:
        options = {"max_new_tokens": 6}
        same(ours(TEXTS, do_sample=False, **options), theirs(TEXTS, do_sample=False, **options))
        beams = {"num_beams": 2, "do_sample": False, **options}
        same(ours(TEXTS[0], **beams), theirs(TEXTS[0], **beams))
    else:
        same(ours(TEXTS), theirs(TEXTS))


def _compare_ranks(ours, source: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        pairs = [tokenizer(QUESTION["question"], text, return_tensors="pt") for text in TEXTS]
        expected = np.array([model(**pair).logits.sigmoid().item() for pair in pairs])
    answer = ours({"query": QUESTION["question"], "passages": TEXTS})
    assert [passage["index"] for passage in answer] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([passage["score"] for passage in answer], np.sort(expected)[::-1], atol=1e-4)


def _compare_choices(ours, source: Path) -> None:
    model = transformers.AutoModelForMultipleChoice.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    rows = tokenizer([TEXTS[0]] * 3, TEXTS[1:], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**{name: value[None] for name, value in rows.items()}).logits.softmax(-1)[0].numpy()
    answer = ours({"text": TEXTS[0], "choices": TEXTS[1:]})
    assert [choice["index"] for choice in answer] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([choice["score"] for choice in answer], np.sort(expected)[::-1], atol=1e-4)


def test_the_covering_subset_has_every_architecture_and_every_task():
    assert all(architecture.first for architecture in ARCHITECTURES)
    assert {task for architecture in ARCHITECTURES for task in architecture.first} == {*HEADS, *CAUSAL, *SEQ2SEQ}


def test_the_readme_has_the_table():
    """Names, tasks, fused layers and notes; the measured differences are those of the machine that wrote them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Architectures\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert [_stable(row) for row in rows] == [_stable(row) for row in table({}).splitlines()]


def _stable(row: str) -> list[str]:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    return [*cells[:2], *cells[3:]] if set(row) - set("|-") else []
