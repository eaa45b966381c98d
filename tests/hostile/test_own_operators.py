"""Strangers' graphs that name our own operators: where they may not use them, and with sizes that do not fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from helpers.own_operators import add_variant
from untorch import AutoModel, BundleError, FormatError
from untorch.bundle import inspection
from untorch.ort import kernels

NAMED = "int8_kernels"
able = pytest.mark.skipif(not kernels.usable(), reason=str(kernels.problem() or ""))


@pytest.fixture
def folder(frozen_bundle):
    return add_variant(frozen_bundle)


def test_other_variants_may_not_use_them(folder):
    """A graph gets the operators that its variant's name says."""
    (folder / "untorch.json").unlink()
    (folder / "onnx/model_int8_kernels.onnx").rename(folder / "onnx/model_other.onnx")
    with pytest.raises(FormatError, match="uses operators of untorch, which untorch does not load"):
        AutoModel.from_pretrained(folder, precision="other")


def test_their_graphs_may_not_use_others(folder):
    graph = folder / "onnx/model_int8_kernels.onnx"
    model = onnx.load(graph, load_external_data=False)
    model.graph.node.append(onnx.helper.make_node("RunShell", ["x"], ["nothing"], domain="evil.example"))
    model.opset_import.append(onnx.helper.make_opsetid("evil.example", 1))
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"operators of evil\.example"):
        inspection.check(graph, files=None, domains=[kernels.DOMAIN])


def replace(name, array):
    def change(_, constants):
        place = next(index for index, tensor in enumerate(constants) if tensor.name == name)
        constants[place] = numpy_helper.from_array(array, name)

    return change


def attribute(output, name, value):
    def change(nodes, _):
        node = next(node for node in nodes if node.output[0] == output)
        next(item for item in node.attribute if item.name == name).i = value

    return change


def other_operator(nodes, _):
    nodes[5].op_type = "RunShell"


@able
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (replace("up.weight", np.zeros((1, 1, 64, 4), np.int8)), "do not fit each other"),
        (replace("up.columns", np.zeros((4, 128), np.float32)), "do not fit each other"),
        (replace("up.places", np.array([3, 4000])), "outside its matrix"),
        (replace("up.places", np.array([3, -1])), "outside its matrix"),
        (attribute("packed", "in_features", 1 << 40), "larger than it may be"),
        (attribute("packed", "out_features", 0), "larger than it may be"),
        (attribute("mixed", "num_heads", 0), "number of heads"),
        (other_operator, "RunShell"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_as_it_loads(frozen_bundle, broken, says):
    folder = add_variant(frozen_bundle, broken=broken)
    with pytest.raises(BundleError, match=says):
        AutoModel.from_pretrained(folder, precision=NAMED)


@able
def test_sizes_that_do_not_fit_are_refused_as_it_runs(frozen_bundle):
    folder = add_variant(frozen_bundle, broken=attribute("mixed", "num_heads", 5))
    model = AutoModel.from_pretrained(folder, precision=NAMED)
    with pytest.raises(Exception, match="Attention's input is not"):
        model(input_ids=[[1, 2, 3]])
