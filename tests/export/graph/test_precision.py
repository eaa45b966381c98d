"""fp16, against PyTorch and against the graph it comes from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from helpers import architectures
from untorch import Bundle, pipeline
from untorch.bundle.manifest import preferred
from untorch.ort.session import Session
from untorch_export.errors import ExportWarning
from untorch_export.export import export
from untorch_export.graph import files as graph
from untorch_export.graph import fp16, masks


@pytest.fixture(scope="module")
def bundle(halved):
    return Bundle(halved[1])


def test_fp16_passed_its_gate_and_says_where(bundle):
    variant = bundle.variant("fp16")
    assert variant.verdict == "close"
    assert variant.extra["compared_on"] == "cpu"
    assert variant.extra["fused_layers"] == variant.extra["layers"]
    assert variant.parity["any_mask"] == {"finite": True}
    assert variant.parity["gate"]["limit"] == 0.999
    assert variant.parity["gate"]["measured"] >= 0.999
    assert {tensor.dtype for tensor in variant.graphs["model"].outputs} == {"float32"}
    weights = sum((bundle.path / name).stat().st_size for name in variant.graphs["model"].data)
    whole = sum((bundle.path / name).stat().st_size for name in bundle.variant("fp32").graphs["model"].data)
    assert weights < 0.6 * whole


def test_auto_takes_what_is_fast_on_the_device(bundle):
    assert preferred(bundle.variants, device="cuda:0").precision == "fp16"
    assert preferred(bundle.variants, device="cpu").precision == "fp32"
    assert preferred(bundle.variants, device="openvino").precision == "fp32"
    assert bundle.variant("fp32").role_for(["logits"], "openvino") == "model"
    assert bundle.variant("fp32").role_for(["logits"], "cpu") == "head"


def test_fp16_gives_fp32s_answers(bundle):
    texts = ["a good day", "a bad film, of course", "so " * 60]
    half, whole = (pipeline(model=bundle.path, device="cpu", precision=name) for name in ("fp16", "fp32"))
    for ours, theirs in zip(half(texts), whole(texts), strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=0.01)


def test_verify_leaves_out_what_the_device_cannot_run(bundle):
    from untorch.tools.verification import verify

    report = verify(bundle, device="cpu")
    assert report.passed
    assert [replay.precision for replay in report.replays] == ["fp32", "fp16"]


def test_generators_have_no_fp16(tmp_path):
    from helpers.generators import generator

    with pytest.warns(ExportWarning, match="no fp16 variant yet"):
        manifest = export(generator(tmp_path / "gpt2", "GPT2"), tmp_path / "out", precisions=("fp32", "fp16"))
    assert list(manifest.variants) == ["fp32"]


# Masks.


def masked_softmax():
    """softmax(x + (1 - mask) * lowest + (1 - mask) * lowest), unfused: two masks, as sliding windows have."""
    lowest = helper.make_tensor("lowest", TensorProto.FLOAT, [], [np.finfo(np.float32).min / 2])
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    nodes = [
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "m"], ["off"]),
        helper.make_node("Mul", ["off", "lowest"], ["bias"]),
        helper.make_node("Add", ["x", "bias"], ["once"]),
        helper.make_node("Add", ["once", "bias"], ["twice"]),
        helper.make_node("Softmax", ["twice"], ["y"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "masks",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "s"]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["b", "s"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "s"])],
        [lowest, one],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_masks_do_not_overflow(tmp_path):
    model = fp16.to_fp16(masked_softmax())
    onnx.checker.check_model(model)
    graph.save(model, tmp_path / "masks.onnx")
    x = np.array([[1, 2, 3, 4]] * 3, np.float32)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    (got,) = Session(tmp_path / "masks.onnx", device="cpu").run({"x": x, "mask": mask})
    assert np.isfinite(got).all()
    assert (got[:2][mask[:2] == 0] == 0).all()
    np.testing.assert_allclose(got.sum(-1), 1, atol=2e-3)


def test_an_unfused_layer_norm_keeps_its_squares_in_fp32(tmp_path):
    """Values of 300 have squares of 90 000, which fp16 does not hold."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Pow", ["centred", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[-1]),
        helper.make_node("Add", ["variance", "epsilon"], ["safe"]),
        helper.make_node("Sqrt", ["safe"], ["deviation"]),
        helper.make_node("Div", ["centred", "deviation"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]), helper.make_tensor("epsilon", 1, [], [1e-6])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    graph.save(fp16.to_fp16(model), tmp_path / "norm.onnx")
    x = np.array([[600, -600, 300, 0]], np.float32)
    (got,) = Session(tmp_path / "norm.onnx", device="cpu").run({"x": x})
    np.testing.assert_allclose(got, (x - x.mean()) / x.std(), atol=5e-3)


def _marked(architecture):
    """Those that take longest to export are left to `make matrix`."""
    slow = architecture.prefix in ("DebertaV2", "Longformer", "T5")
    return pytest.param(architecture, id=architecture.id, marks=pytest.mark.matrix if slow else ())


@pytest.mark.parametrize(
    "architecture", [_marked(one) for one in architectures.ARCHITECTURES if "text-classification" in one.tasks]
)
def test_fp16_of_every_architecture_is_inside_its_gate(architecture, tmp_path):
    source = architectures.checkpoint(tmp_path / "checkpoint", architecture, "text-classification")
    export(source, tmp_path / "bundle", task="text-classification", precisions=("fp32", "fp16"))
    variant = Bundle(tmp_path / "bundle").variant("fp16")
    assert variant.verdict == "close"
    assert {tensor.dtype for tensor in variant.graphs["model"].inputs} == {"int64"}
    if "head" in variant.graphs:
        assert {tensor.dtype for tensor in variant.graphs["head"].inputs} == {"int32"}
        session = Session(tmp_path / "bundle" / variant.graphs["head"].file, device="cpu")
        assert {tensor.dtype for tensor in session.inputs} == {"int32"}
    # Half precision all the way moves MPNet's states by 0.78 (distances become others) and Llama's by 0.53 (angles).
    assert variant.parity["outputs"]["last_hidden_state"]["max_abs_difference"] < 0.1


def test_int32_is_taken_where_it_changes_nothing(bundle):
    """Attention's mask needs no cast any more, and a graph that does sums with ids gets them as int64."""
    head = onnx.load(bundle.path / bundle.variant("fp16").graphs["head"].file, load_external_data=False)
    [*_, last] = [node for node in head.graph.node if node.op_type == "MultiHeadAttention"]
    assert "attention_mask" in last.input

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    sums = helper.make_tensor_value_info("sums", TensorProto.INT64, ["batch", "sequence"])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "sequence", 2])
    table = onnx.numpy_helper.from_array(np.arange(20, dtype=np.float32).reshape(10, 2), "table")
    nodes = [
        helper.make_node("Add", ["input_ids", "input_ids"], ["sums"]),
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "sums", [ids], [sums, rows], [table]), opset_imports=[helper.make_opsetid("", 17)]
    )
    narrow = fp16.take_int32(model)
    onnx.checker.check_model(narrow)
    given = np.array([[1, 2, 3]], np.int32)
    got = ReferenceEvaluator(narrow).run(None, {"input_ids": given})
    assert got[0].tolist() == [[2, 4, 6]]
    assert got[0].dtype == np.int64
    assert got[1].tolist() == [[[2, 3], [4, 5], [6, 7]]]


def test_a_mask_is_a_bias_where_a_gpu_has_a_kernel_for_it(bundle):
    """All queries' scores are many and go through one kernel; those of a head's one query keep the mask of keys."""
    path = bundle.path / bundle.variant("fp16").graphs["head"].file
    head = onnx.load(path, load_external_data=False)
    first, last = [list(node.input) for node in head.graph.node if node.op_type == "MultiHeadAttention"]
    assert (first[4], first[5]) == ("", "attention_mask.bias")
    assert last[4:] == ["attention_mask"]
    whole = onnx.load(bundle.path / bundle.variant("fp16").graphs["model"].file, load_external_data=False)
    attention = [node for node in whole.graph.node if node.op_type == "MultiHeadAttention"]
    assert all(node.input[5] == "attention_mask.bias" for node in attention)


def test_a_bias_masks_what_a_mask_of_keys_does(fused):
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 2, (16, 24))
    mask[:, 0] = 1
    feeds = {"input_ids": rng.integers(5, 90, mask.shape), "attention_mask": mask, "token_type_ids": 0 * mask}
    half = fp16.to_fp16(fused)
    biased = masks.as_bias(half)
    assert any("attention_mask.bias" in node.input for node in biased.graph.node)
    want, have = (run(model, feeds) for model in (half, biased))
    for one, other in zip(want, have, strict=True):
        np.testing.assert_allclose(other, one, atol=0.02)
        assert np.isfinite(other).all()


def run(model, feeds):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, feeds)


@pytest.mark.parametrize("prefix", ["Bert", "DistilBert"])
def test_choices_have_masks_of_their_own(prefix, tmp_path):
    """The model's mask has an axis more than the one that attention reads."""
    architecture = next(one for one in architectures.ARCHITECTURES if one.prefix == prefix)
    source = architectures.checkpoint(tmp_path / "checkpoint", architecture, "multiple-choice")
    export(source, tmp_path / "bundle", task="multiple-choice", precisions=("fp32", "fp16", "fp16_packed"))
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.variant("fp16").verdict == "close"
    question = {"text": "hello people", "choices": ["this city is good", "a movie", "I love it"]}
    half, whole = (pipeline(None, bundle.path, device="cpu", precision=name)(question) for name in ("fp16", "fp32"))
    assert sorted(one["index"] for one in half) == [0, 1, 2]
    for one in whole:
        assert next(h["score"] for h in half if h["index"] == one["index"]) == pytest.approx(one["score"], abs=0.01)
