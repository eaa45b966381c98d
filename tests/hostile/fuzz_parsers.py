"""The parsers of what a stranger may send, fuzzed with coverage: graphs, manifests, configs, references.

    python tests/hostile/fuzz_parsers.py [CORPUS] [libFuzzer options]

Each input is read by one parser, which its first byte names, and either that parser takes it or raises an
UntorchError; anything else is a finding that atheris reports. The frozen bundle is where inputs start from.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "tests/data/bundle-v1"

with atheris.instrument_imports(include=["untorch"]):
    from untorch import UntorchError
    from untorch.bundle import golden, inspection
    from untorch.bundle.config import ModelConfig
    from untorch.bundle.folder import Bundle, read_json
    from untorch.bundle.manifest import Manifest
    from untorch.generation import GenerationConfig

# A bundle of its own, whose files the inputs take the places of.
FOLDER = shutil.copytree(BUNDLE, Path(tempfile.mkdtemp(prefix="untorch-fuzz-")) / "bundle")
PLACE = FOLDER / "input"


def manifest(content):
    PLACE.write_bytes(content)
    read = Manifest.from_json(read_json(PLACE))
    assert Manifest.from_json(read.to_json()) == read


def bundle(content):
    (FOLDER / "untorch.json").write_bytes(content)
    Bundle(FOLDER)


def config(content):
    (FOLDER / "config.json").write_bytes(content)
    ModelConfig.load(FOLDER).to_dict()


def generation_config(content):
    (FOLDER / "generation_config.json").write_bytes(content)
    GenerationConfig.load(FOLDER, {})


def graph(content):
    PLACE.write_bytes(content)
    inspection.inspect(PLACE)


def reference(content):
    PLACE.write_bytes(content)
    golden.load(PLACE)


PARSERS = {
    manifest: "untorch.json",
    bundle: "untorch.json",
    config: "config.json",
    generation_config: None,
    graph: "onnx/head.onnx",
    reference: "golden.npz",
}


def one_input(data):
    if data:
        with suppress(UntorchError):
            list(PARSERS)[data[0] % len(PARSERS)](data[1:])


def mutate(data, max_size, seed):
    """JSON is mutated as JSON half the time, so that more than its first bracket gets through."""
    if seed % 2 and data and list(PARSERS)[data[0] % len(PARSERS)] in (manifest, bundle, config, generation_config):
        try:
            document = json.loads(data[1:])
        except (ValueError, RecursionError):
            return atheris.Mutate(data, max_size)
        return (data[:1] + json.dumps(changed(document, seed)).encode())[:max_size]
    return atheris.Mutate(data, max_size)


def changed(document, seed):
    """The document with one value replaced by another kind of value."""
    parent, key, node = None, None, document
    while isinstance(node, dict | list) and node and (parent is None or seed % 5):
        key = sorted(node)[seed % len(node)] if isinstance(node, dict) else seed % len(node)
        parent, node, seed = node, node[key], seed // 7 + len(node)
    if parent is None:
        return document
    strange = [None, True, -1, 10**400, 1e300, float("nan"), "", "../x", "\0", [], {}, [[]], {"": None}, "9" * 99]
    parent[key] = strange[seed % len(strange)]
    return document


def corpus(folder):
    """One file a parser, to start from."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (parser, name) in enumerate(PARSERS.items()):
        content = (BUNDLE / name).read_bytes() if name else b'{"max_new_tokens": 20, "eos_token_id": [1, 2]}'
        (folder / parser.__name__).write_bytes(bytes([number]) + content)
    return str(folder)


if __name__ == "__main__":
    arguments = [sys.argv[0], corpus(FOLDER.with_name("corpus")), "-max_len=40000", *sys.argv[1:]]
    atheris.Setup(arguments, one_input, custom_mutator=mutate)
    atheris.Fuzz()
