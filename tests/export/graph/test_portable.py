"""What ONNX Runtime's CPU provider or an older reader lacks, in operators that it has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime import InferenceSession

from untorch_export.graph import files
from untorch_export.graph.portable import OPSET, expand_masks, expand_rotary_caches, inline

BATCH, HEADS, LENGTH, SIZE = 3, 4, 5, 8


def rotary(*, rows=1, positions=False):
    """Queries and keys, turned by one cache of cosines and sines, attended to, then normalised."""
    names = ["cos", "sin", *(["positions"] if positions else [])]
    nodes = [
        helper.make_node("RotaryEmbedding", ["q", *names], ["turned_q"]),
        helper.make_node("RotaryEmbedding", ["k", *names], ["turned_k"]),
        helper.make_node("Attention", ["turned_q", "turned_k", "k"], ["attended"]),
        helper.make_node("RMSNormalization", ["attended", "scale"], ["y"], axis=-1),
    ]
    axes = ["batch", HEADS, "sequence", SIZE]
    table = [LENGTH] if positions else [rows, LENGTH] if rows != "batch" else ["batch", "sequence"]
    inputs = {"q": axes, "k": axes, "cos": [*table, SIZE // 2], "sin": [*table, SIZE // 2]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    if positions:
        values.append(helper.make_tensor_value_info("positions", TensorProto.INT64, ["batch", "sequence"]))
    graph = helper.make_graph(
        nodes,
        "rotary",
        values,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, axes)],
        [numpy_helper.from_array(np.ones(SIZE, np.float32), "scale")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def feeds(rows=1):
    random = np.random.default_rng(0)
    given = {name: random.normal(size=(BATCH, HEADS, LENGTH, SIZE)).astype(np.float32) for name in ("q", "k")}
    angles = random.random((rows, LENGTH, SIZE // 2)).astype(np.float32)
    return given | {"cos": np.cos(angles), "sin": np.sin(angles)}


def run(model, given):
    return InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)[0]


def test_one_row_of_angles_serves_a_batch_once_it_is_repeated():
    model = rotary()
    with pytest.raises(Exception, match="cos_cache"):
        run(model, feeds())
    expanded = expand_rotary_caches(model)
    assert [item.op_type for item in expanded.graph.node].count("Expand") == 2  # cosines and sines, once each
    whole = {name: np.repeat(array, BATCH, 0) if name in ("cos", "sin") else array for name, array in feeds().items()}
    np.testing.assert_allclose(run(expanded, feeds()), run(rotary(rows="batch"), whole), atol=1e-6)


@pytest.mark.parametrize("arguments", [{"rows": "batch"}, {"positions": True}], ids=str)
def test_angles_for_every_row_stay_as_they_are(arguments):
    model = rotary(**arguments)
    assert expand_rotary_caches(model) is model


def masked(rows):
    axes = ["batch", HEADS, "sequence", SIZE]
    nodes = [helper.make_node("Attention", ["q", "k", "k", "mask"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("q", "k")]
    values.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", 1, rows, "sequence"]))
    graph = helper.make_graph(nodes, "masked", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, axes)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def test_one_row_of_a_mask_serves_all_queries_once_it_is_repeated():
    mask = np.random.default_rng(0).random((BATCH, 1, 1, LENGTH)) < 0.7
    mask[..., 0] = True
    given = {name: feeds()[name] for name in ("q", "k")}
    with pytest.raises(Exception, match="inconsistent q_sequence_length"):
        run(masked(1), given | {"mask": mask})
    whole = given | {"mask": np.repeat(mask, LENGTH, 2)}
    expected = run(masked("sequence"), whole)
    np.testing.assert_allclose(run(expand_masks(masked(1)), given | {"mask": mask}), expected, atol=1e-6)
    assert expand_masks(masked("sequence")).graph.node == masked("sequence").graph.node


def test_newer_operators_are_written_out_for_older_readers():
    model = expand_rotary_caches(rotary())
    older = inline(model)
    assert {item.version for item in older.opset_import if not item.domain} == {OPSET}
    assert not {item.op_type for item in older.graph.node} & {"Attention", "RotaryEmbedding", "RMSNormalization"}
    onnx.checker.check_model(older, full_check=True)
    np.testing.assert_allclose(run(older, feeds()), run(model, feeds()), atol=1e-5)
    # The standard's own evaluator, which knows nothing of ONNX Runtime.
    got = ReferenceEvaluator(older).run(None, feeds())[0]
    np.testing.assert_allclose(got, run(model, feeds()), atol=1e-5)
    assert inline(older) is older


def test_no_file_names_the_machine_that_made_it(tmp_path):
    model = rotary()
    function = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [])
    model.functions.append(function)
    secret = "/home/somebody/model.py"
    model.doc_string = model.graph.doc_string = secret
    inner = helper.make_graph([helper.make_node("Neg", ["q"], ["n"], doc_string=secret)], "inner", [], [
        helper.make_tensor_value_info("n", TensorProto.FLOAT, None, doc_string=secret),
    ], doc_string=secret)  # fmt: skip
    inner.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
    model.graph.node.append(
        helper.make_node("If", ["flag"], ["z"], then_branch=inner, else_branch=inner, doc_string=secret)
    )
    model.graph.value_info.append(helper.make_tensor_value_info("attended", TensorProto.FLOAT, None, doc_string=secret))
    items = [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]
    for item in (*items, *model.graph.value_info, model.functions[0], *model.functions[0].node):
        item.metadata_props.add(key="stack_trace", value=secret)
    assert secret.encode() in model.SerializeToString()
    files.anonymise(model)
    assert secret.encode() not in model.SerializeToString()
