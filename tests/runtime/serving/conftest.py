from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from helpers.checkpoints import small_bert
from helpers.generators import generator
from helpers.servers import Server
from untorch import pipeline

ENTITIES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
VERDICTS = {0: "contradiction", 1: "neutral", 2: "entailment"}


def pytest_collection_modifyitems(items):
    missing = [name for name in ("uvicorn", "httptools", "uvloop", "orjson") if importlib.util.find_spec(name) is None]
    if missing:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"the extra `serve` is not installed: {', '.join(missing)}"))


def labelled(folder: Path, head: str, labels: dict[int, str]) -> Path:
    return small_bert(folder, head, id2label=labels, label2id={label: index for index, label in labels.items()})


def embedder(folder: Path) -> Path:
    """A sentence-transformers checkpoint with mean pooling, a prompt, and vectors that may be cut."""
    small_bert(folder, "BertModel", is_matryoshka=True)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    prompts = {"prompts": {"query": "good people: "}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


MAKERS = {
    "sst": (small_bert, {}),
    "ner": (lambda folder: labelled(folder, "BertForTokenClassification", ENTITIES), {}),
    "qa": (lambda folder: small_bert(folder, "BertForQuestionAnswering"), {}),
    "mask": (lambda folder: small_bert(folder, "BertForMaskedLM"), {}),
    "nli": (lambda folder: labelled(folder, "BertForSequenceClassification", VERDICTS), {}),
    "rank": (lambda folder: labelled(folder, "BertForSequenceClassification", {0: "LABEL_0"}), {}),
    "emb": (embedder, {"task": "sentence-embeddings"}),
    "lm": (lambda folder: generator(folder, "Llama"), {}),
    "sum": (lambda folder: generator(folder, "T5"), {"task": "summarization"}),
}


@pytest.fixture(scope="session")
def bundles(make_bundle):
    """Bundles of tiny random checkpoints by the names that the tests serve them under."""
    return {
        name: make_bundle(f"served-{name}", maker, precisions=["fp32"], **arguments)[1]
        for name, (maker, arguments) in MAKERS.items()
    }


@pytest.fixture(scope="session")
def server(bundles):
    """One server of all of them."""
    with Server(bundles, "--threads", "1") as started:
        yield started


@pytest.fixture(scope="session")
def library(bundles):
    """`library("sst")`: the pipeline of a bundle in this process, to compare with."""
    loaded = {}

    def get(name, task=None):
        if (name, task) not in loaded:
            loaded[name, task] = pipeline(task, bundles[name], device="cpu", threads=1)
        return loaded[name, task]

    return get
