"""Graph files that want more than to be run: each is refused with a typed error before ONNX Runtime sees it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from helpers import fuzzing
from helpers.fuzzing import cases
from untorch import AutoModel, FormatError, IntegrityError, UntorchError
from untorch.bundle.folder import digest
from untorch.bundle.inspection import inspect


def graph(nodes=(), initializers=(), inputs=("input_ids",), domains=(), functions=()):
    """A model that turns input_ids into last_hidden_state, with whatever else is put into it."""
    table = numpy_helper.from_array(np.ones((8, 2), np.float32), "table")
    standard = [helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])]
    return helper.make_model(
        helper.make_graph(
            [*standard, *nodes],
            "attack",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", 2])],
            [table, *initializers],
        ),
        opset_imports=[helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)],
        functions=functions,
        ir_version=9,
    )


def external(location, offset=0, length=8, dims=(2,)):
    """A tensor whose bytes are said to lie in `location`."""
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.fixture
def folder(tmp_path):
    """A folder without a manifest, next to a secret."""
    (tmp_path / "secret.bin").write_bytes(b"secret!!" * 4)
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def load(folder, model):
    onnx.save(model, folder / "model.onnx")
    return AutoModel.from_pretrained(folder)


def test_the_harmless_graph_runs(folder):
    assert load(folder, graph())([[1, 2]]).last_hidden_state.shape == (1, 2, 2)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/hostname", "..", ".", "", "sub/../../secret.bin", "a\\..\\secret.bin", "x\0.bin", "C:x"],
)
def test_weights_outside_the_folder(folder, location):
    with pytest.raises(IntegrityError, match="outside its own folder"):
        load(folder, graph(initializers=[external(location)]))


def test_weights_through_a_symbolic_link(folder):
    (folder / "weights.bin").symlink_to(folder.parent / "secret.bin")
    with pytest.raises(IntegrityError, match="leads out of the bundle"):
        load(folder, graph(initializers=[external("weights.bin")]))


def test_the_graph_itself_through_a_symbolic_link(folder):
    onnx.save(graph(), folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")
    with pytest.raises(IntegrityError, match="leads out of the bundle"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize(("offset", "length"), [(0, 33), (32, 8), (-8, 8), (0, -8), (1 << 62, 8)])
def test_weights_past_the_end_of_their_file(folder, offset, length):
    (folder / "weights.bin").write_bytes(bytes(32))
    with pytest.raises((IntegrityError, FormatError), match=r"past the end|declares"):
        load(folder, graph(initializers=[external("weights.bin", offset, length)]))


def test_weights_that_are_not_there(folder):
    with pytest.raises(IntegrityError, match="is missing"):
        load(folder, graph(initializers=[external("weights.bin")]))


def test_weights_in_a_subgraph_are_seen_too(folder):
    branch = helper.make_graph([], "branch", [], [], [external("../secret.bin")])
    node = helper.make_node("If", ["condition"], ["nothing"], then_branch=branch, else_branch=branch)
    with pytest.raises(IntegrityError, match="outside its own folder"):
        load(folder, graph([node]))


def test_weights_in_an_attribute_are_seen_too(folder):
    node = helper.make_node("Constant", [], ["nothing"], value=external("../secret.bin"))
    with pytest.raises(IntegrityError, match="outside its own folder"):
        load(folder, graph([node]))


@pytest.mark.parametrize("dims", [(1 << 40,), (1 << 31, 1 << 31), (-1,), (1 << 20, 1 << 20, 1 << 20)])
def test_gigantic_tensors(folder, dims):
    tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 8)
    with pytest.raises(FormatError, match=r"declares|negative"):
        load(folder, graph(initializers=[tensor]))
    (folder / "weights.bin").write_bytes(bytes(8))
    with pytest.raises(FormatError, match=r"declares|negative"):
        load(folder, graph(initializers=[external("weights.bin", dims=dims)]))


def test_operators_of_unknown_domains(folder):
    node = helper.make_node("RunShell", ["input_ids"], ["nothing"], domain="evil.example")
    with pytest.raises(FormatError, match=r"operators of evil\.example"):
        load(folder, graph([node], domains=["evil.example"]))


def test_local_functions(folder):
    function = helper.make_function("com.microsoft", "Gelu", ["x"], ["y"], [], [helper.make_opsetid("", 17)])
    with pytest.raises(FormatError, match="functions of its own"):
        load(folder, graph(domains=["com.microsoft"], functions=[function]))


def test_deeply_nested_subgraphs(folder):
    inner = helper.make_graph([], "leaf", [], [])
    for depth in range(20):
        node = helper.make_node("If", ["condition"], [f"out{depth}"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], f"level{depth}", [], [])
        if depth > 12:
            break
    with pytest.raises(FormatError, match="too deeply"):
        load(folder, graph([helper.make_node("If", ["condition"], ["top"], then_branch=inner, else_branch=inner)]))


def test_inputs_that_the_manifest_does_not_state(tiny_bundle, tmp_path):
    import shutil

    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = copy / "onnx/model.onnx"
    model = onnx.load(path, load_external_data=False)
    model.graph.input.append(helper.make_tensor_value_info("backdoor", TensorProto.INT64, [1]))
    onnx.save(model, path)
    manifest = json.loads((copy / "untorch.json").read_text())
    manifest["files"]["onnx/model.onnx"] = {"size": path.stat().st_size, "sha256": digest(path)}
    (copy / "untorch.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="backdoor"):
        AutoModel.from_pretrained(copy, precision="fp32")


@cases(800)
@given(data=st.data())
def test_any_damage_is_a_typed_error_or_harmless(tmp_path_factory, data):
    content = bytearray(graph().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        inspect(path)
    except UntorchError as error:
        assert "damaged.onnx" in str(error)


# Loads and runs the frozen bundle's graph, without a manifest, each time with other bits flipped.
DAMAGE = """
import random, sys
from pathlib import Path
from untorch import UntorchError, pipeline
folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
path = folder / "onnx/model.onnx"
content = path.read_bytes()
typed = 0
for seed in range(first, last):
    chance = random.Random(seed)
    changed = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    path.write_bytes(changed)
    try:
        pipeline("text-classification", folder, precision="fp32", device="cpu", threads=1)(["hello world", "hi"])
    except UntorchError:
        typed += 1
print(typed, file=sys.stderr)
"""


@pytest.mark.fuzz
def test_a_damaged_graph_that_is_run_all_the_same_never_brings_the_process_down(frozen_bundle):
    """Unverified, so that ONNX Runtime parses and runs it: a crash there would end the process with a signal."""
    (frozen_bundle / "untorch.json").unlink()
    (frozen_bundle / "onnx/head.onnx").unlink()
    count = 2_000 if fuzzing.is_long() else 100
    command = [sys.executable, "-c", DAMAGE, str(frozen_bundle), "0", str(count)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stderr.splitlines()[-1]) > count / 2
