"""Configs, tokenizers and references that are bombs, of the wrong type, or carry code."""

from __future__ import annotations

import io
import json
import pickle
import time
import zipfile

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from untorch import AutoTokenizer, Bundle, FormatError, InputError, UntorchError, pipeline
from untorch.bundle import folder, golden
from untorch.bundle.config import ModelConfig

NESTED = "[" * 200_000 + "]" * 200_000
SIDE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def unverified(frozen_bundle):
    """Nothing vouches for the files: they are read as they are."""
    (frozen_bundle / "untorch.json").unlink()
    return frozen_bundle


def load(folder):
    return pipeline("text-classification", folder, precision="fp32", device="cpu", threads=1)


@pytest.mark.parametrize("name", SIDE_FILES)
@pytest.mark.parametrize("content", [NESTED, '{"a":' * 100_000, "9" * 10_000, '{"a": "\\ud800', "\xff\xfe", "[]", "1"])
def test_json_that_is_no_object(unverified, name, content):
    (unverified / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(FormatError, match=name):
        load(unverified)


@pytest.mark.parametrize("content", [NESTED, '{"format_version":' * 100_000, "null"])
def test_manifests_that_are_no_object(frozen_bundle, content):
    (frozen_bundle / "untorch.json").write_text(content)
    with pytest.raises(FormatError, match=r"untorch\.json"):
        Bundle(frozen_bundle)


@pytest.mark.parametrize("name", ["untorch.json", *SIDE_FILES])
def test_files_of_gigabytes_are_not_read(frozen_bundle, name):
    if name != "untorch.json":
        (frozen_bundle / "untorch.json").unlink()
    with (frozen_bundle / name).open("wb") as file:
        file.truncate(folder.MAX_JSON_BYTES + 1)  # sparse: it takes no room on the disk
    start = time.monotonic()
    with pytest.raises(FormatError, match="larger than"):
        load(frozen_bundle)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "values",
    [
        {"id2label": ["A", "B"]},
        {"id2label": {"a": "A"}},
        {"id2label": "AB"},
        {"num_labels": "many"},
        {"num_labels": -1},
        {"num_labels": 1 << 60},
        {"num_labels": {}},
        {"vocab_size": "300"},
        {"vocab_size": -5},
        {"vocab_size": [300]},
        {"vocab_size": 1.5},
        {"max_position_embeddings": "64"},
        {"max_position_embeddings": -64},
        {"max_position_embeddings": 0},
        {"max_position_embeddings": True},
        {"n_positions": {}},
        {"model_type": "roberta", "max_position_embeddings": 64, "pad_token_id": "x"},
        {"model_type": "roberta", "max_position_embeddings": 1, "pad_token_id": 1},
    ],
)
def test_configs_of_the_wrong_type(values):
    with pytest.raises(FormatError, match=r"config\.json"):
        ModelConfig(values)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_are_never_loaded(unverified, tmp_path):
    proof = tmp_path / "unpickled"
    reference = tmp_path / "golden.npz"
    np.savez(reference, **{"cases.json": np.array([Payload(proof)], dtype=object)})
    with pytest.raises(FormatError, match="not a golden"):
        golden.load(reference)
    reference.write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(FormatError, match="not a golden"):
        golden.load(reference)
    for name in (*SIDE_FILES, "onnx/model.onnx"):
        kept = (unverified / name).read_bytes()
        (unverified / name).write_bytes(pickle.dumps(Payload(proof)))
        with pytest.raises(UntorchError):
            load(unverified)
        (unverified / name).write_bytes(kept)
    assert not proof.exists()


def archive(path, name, content, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, content, **options)


def test_references_that_are_bombs(tmp_path, monkeypatch):
    path = tmp_path / "golden.npz"
    monkeypatch.setattr(golden, "_MAX_BYTES", 1 << 20)
    archive(path, "cases.json.npy", bytes(1 << 21))
    assert path.stat().st_size < 4096
    with pytest.raises(FormatError, match="unpacks to more"):
        golden.load(path)


@pytest.mark.parametrize("shape", [(1 << 55,), (1 << 40,), (-1,)])
def test_references_that_declare_gigantic_arrays(tmp_path, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    archive(tmp_path / "golden.npz", "cases.json.npy", header.getvalue() + b"[]")
    with pytest.raises(FormatError, match="not a golden"):
        golden.load(tmp_path / "golden.npz")


@pytest.mark.parametrize("cases", ["null", "1", "{}", '"x"', "[[", NESTED])
def test_references_whose_cases_are_of_the_wrong_type(tmp_path, cases):
    arrays = {"cases.json": np.frombuffer(cases.encode(), np.uint8), "0/inputs/input_ids": np.zeros(3)}
    np.savez(tmp_path / "golden.npz", **arrays)
    with pytest.raises(FormatError, match="not a golden"):
        golden.load(tmp_path / "golden.npz")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$"])
def test_catastrophic_regular_expressions(unverified, pattern):
    """The regular expressions of the Rust library give up after ten million steps; that is a typed error."""
    tokenizer = Tokenizer.from_file(str(unverified / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.save(str(unverified / "tokenizer.json"))
    start = time.monotonic()
    with pytest.raises(InputError, match="retry-limit"):
        AutoTokenizer.from_pretrained(unverified)("a" * 40 + "b")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "WordPiece", "vocab": {}}},
        {"model": {"type": "WordPiece", "vocab": {"[UNK]": -1}}},
        {"model": {"type": "WordPiece", "vocab": {"[UNK]": 1 << 40}}},
        {"model": {"type": "Shell", "vocab": {}}},
        {"model": None},
        {"added_tokens": {"id": 1}},
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
        {"truncation": {"max_length": -1}},
    ],
)
def test_tokenizers_that_are_malformed(unverified, change):
    path = unverified / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UntorchError):
        load(unverified)("hello world")
