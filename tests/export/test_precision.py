"""fp16 and its variant without padding, against PyTorch and against the graph they come from."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import architectures
from fuzzing import cases
from untorch import AutoModelForSequenceClassification, Bundle, packing, pipeline
from untorch.errors import DeviceError
from untorch.manifest import preferred
from untorch.session import Session
from untorch_export import graph, masks, optimize, precision
from untorch_export.errors import ExportError, ExportWarning
from untorch_export.export import export
from untorch_export.packing import pack


@pytest.fixture(scope="module")
def halved(make_bundle):
    """A random two-label BERT: its checkpoint and its bundle with fp32, fp16 and fp16_packed."""
    from checkpoints import small_bert

    return make_bundle("halved", small_bert, precisions=("fp32", "fp16", "fp16_packed"))


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


def test_what_removes_padding_is_not_vouched_for_without_a_card(bundle):
    variant = bundle.variant("fp16_packed")
    assert variant.verdict == "unverified"
    assert "card" in variant.parity["gate"]["rule"]
    assert set(variant.graphs["model"].data) == set(bundle.variant("fp16").graphs["model"].data)
    assert preferred(bundle.variants, device="cuda:0").precision != "fp16_packed"


def test_what_removes_padding_needs_a_card(bundle):
    with pytest.raises(DeviceError, match=r"fp16_packed variant .* cpu has not.*can run fp32, fp16"):
        pipeline(model=bundle.path, device="cpu", precision="fp16_packed")


def test_verify_leaves_out_what_the_device_cannot_run(bundle):
    from untorch.verification import verify

    report = verify(bundle, device="cpu")
    assert report.passed
    assert [replay.precision for replay in report.replays] == ["fp32", "fp16"]


def test_packed_wants_fp16_beside_it(halved, tmp_path):
    with pytest.raises(ExportError, match="ask for fp16 as well"):
        export(halved[0], tmp_path / "out", precisions=("fp32", "fp16_packed"))


def test_generators_have_no_fp16(tmp_path):
    from generators import generator

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
    model = precision.to_fp16(masked_softmax())
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
    graph.save(precision.to_fp16(model), tmp_path / "norm.onnx")
    x = np.array([[600, -600, 300, 0]], np.float32)
    (got,) = Session(tmp_path / "norm.onnx", device="cpu").run({"x": x})
    np.testing.assert_allclose(got, (x - x.mean()) / x.std(), atol=5e-3)


# Padding removal. No CPU has its operators, so they are written out here, in numpy.


def attend(query, key, value, heads, keep):
    """Attention of one row: (tokens, hidden) each, `keep` (tokens,) the keys to look at."""
    split = [part.reshape(len(part), heads, -1).transpose(1, 0, 2) for part in (query, key, value)]
    scores = split[0] @ split[1].transpose(0, 2, 1) / np.sqrt(split[0].shape[-1]) + np.where(keep, 0, -1e4)
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True) @ split[2]).transpose(1, 0, 2).reshape(query.shape)


class MultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, query, key, value, bias=None, mask=None, num_heads=None, **_):
        parts = (query, key, value) if bias is None else _biased((query, key, value), bias)
        rows = [attend(*row, num_heads, keep != 0) for *row, keep in zip(*parts, mask, strict=True)]
        return (np.stack(rows).astype(query.dtype),)


class PackedMultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, query, key, value, bias, offset, starts, num_heads=None, **_):
        parts = (query, key, value) if bias is None else _biased((query, key, value), bias)
        out = np.empty_like(query)
        for begin, end in pairwise(starts):
            row = [part[begin:end] for part in parts]
            out[begin:end] = attend(*row, num_heads, np.ones(end - begin, bool))
        return (out,)


def _biased(parts, bias):
    return [part + one for part, one in zip(parts, np.split(bias, 3), strict=True)]


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, skip, gamma, beta, bias=0, epsilon=None, **_):
        total = np.asarray(x + skip + bias, np.float32)  # as the kernels do
        centred = total - total.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + (epsilon or 1e-12))
        return ((scaled * gamma + beta).astype(x.dtype),)


class BiasGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, bias):
        from scipy.special import erf

        total = x + bias
        return ((total * 0.5 * (1 + erf(total / np.sqrt(2)))).astype(x.dtype),)


OPERATORS = [MultiHeadAttention, PackedMultiHeadAttention, SkipLayerNormalization, BiasGelu]


class InNumpy:
    """A session of a graph that no provider here runs."""

    device = "cpu"

    def __init__(self, model, inputs, outputs):
        self._evaluator = ReferenceEvaluator(model, new_ops=OPERATORS)
        self.inputs, self.outputs = inputs, outputs
        self.runs = 0

    def run(self, feeds, names=None):
        self.runs += 1
        types = {tensor.name: tensor.dtype for tensor in self.inputs}
        assert {name: array.dtype.name for name, array in feeds.items()} == types
        return self._evaluator.run(names, feeds)


def session_in_numpy(bundle, role):
    """A fp16_packed graph as it was written."""
    entry = bundle.variant("fp16_packed").graphs[role]
    return InNumpy(onnx.load(bundle.file(entry.file)), entry.inputs, entry.outputs)


@pytest.fixture(scope="module")
def in_numpy(bundle):
    return session_in_numpy(bundle, "model")


@pytest.fixture(scope="module")
def fused(bundle):
    return optimize.fuse(bundle.file("onnx/model.onnx"), bundle_config(bundle), device="cuda")


def bundle_config(bundle):
    from untorch.bundle import read_json

    return read_json(bundle.path / "config.json")


@pytest.fixture(scope="module")
def pair(fused):
    """Evaluators of the fused fp32 graph and of what `pack` makes of it."""
    return tuple(ReferenceEvaluator(model, new_ops=OPERATORS) for model in (fused, pack(fused)))


def both(pair, mask):
    """Outputs by name with padding and without, for random ids under a mask."""
    ids = np.random.default_rng(0).integers(5, 90, mask.shape)
    given = {"input_ids": np.where(mask, ids, 0), "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}
    whole, tight = pair
    indexed = {name: array for name, array in {**given, **packing.indices(mask)}.items() if name in tight.input_names}
    names = whole.output_names
    return zip(names, whole.run(names, given), tight.run(names, indexed), strict=True)


def assert_tokens_are_equal(pair, mask):
    for name, want, have in both(pair, mask):
        assert want.shape == have.shape
        if want.ndim == 3:
            want, have = want[mask != 0], have[mask != 0]
        else:  # the head reads the first token
            want, have = want[mask[:, 0] != 0], have[mask[:, 0] != 0]
        np.testing.assert_allclose(have, want, atol=1e-4, err_msg=name)


def test_no_padding_is_left_in_the_layers(fused):
    packed = pack(fused)
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (fused, packed))
    assert after["PackedMultiHeadAttention"] == before["MultiHeadAttention"] > 0
    # One more gather than outputs that are restored, and nothing that a card has no kernel for.
    assert after - before == Counter(
        Flatten=1, Gather=after["Gather"] - before["Gather"], PackedMultiHeadAttention=before["MultiHeadAttention"]
    )
    assert 2 <= after["Gather"] - before["Gather"] <= 3
    assert [value.name for value in packed.graph.output] == [value.name for value in fused.graph.output]
    assert "attention_mask" not in {value.name for value in packed.graph.input}


def test_the_manifest_lists_the_indices(bundle):
    from untorch import inspection

    entry = bundle.variant("fp16_packed").graphs["model"]
    tensors = {tensor.name: tensor for tensor in entry.inputs}
    assert set(tensors) == {"input_ids", "token_type_ids", *(tensor.name for tensor in packing.INDICES)}
    assert {tensor.dtype for tensor in entry.inputs} == {"int32"}
    assert all(tensors[tensor.name] == tensor for tensor in packing.INDICES)
    path = bundle.file(entry.file)
    names = [[tensor.name for tensor in group] for group in (entry.inputs, entry.outputs)]
    inspection.check(path, files=None, inputs=names[0], outputs=names[1])
    declared = {
        value.name: tuple(axis.dim_param for axis in value.type.tensor_type.shape.dim)
        for value in onnx.load(path, load_external_data=False).graph.input
    }
    assert declared == {tensor.name: tensor.axes for tensor in entry.inputs}


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param([[1] * 7], id="one full row"),
        pytest.param([[1, 1, 1, 0, 0]], id="one padded row"),
        pytest.param([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], id="right"),
        pytest.param([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]], id="left"),
        pytest.param([[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 1]], id="holes"),
        pytest.param([[1] * 5] * 3, id="full"),
    ],
)
def test_packing_changes_no_token(pair, mask):
    assert_tokens_are_equal(pair, np.array(mask))


@cases(25)
@given(
    arrays.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.integers(0, 1)).filter(
        lambda mask: mask.any(axis=1).all()
    )
)
def test_packing_changes_no_token_under_any_mask(pair, mask):
    assert_tokens_are_equal(pair, mask)


@pytest.mark.parametrize("role", ["model", "head"])
def test_a_packed_model_answers_as_the_plain_one(bundle, role, monkeypatch):
    """All but the card: the file as written, what the model feeds it, and what goes to the graph beside it."""
    in_numpy = session_in_numpy(bundle, role)
    variant = bundle.variant("fp16_packed")
    plain = AutoModelForSequenceClassification.from_bundle(bundle, precision="fp16", device="cpu")
    monkeypatch.setattr("untorch.model.open_model", lambda *given, **named: (variant, [in_numpy]))
    packed = AutoModelForSequenceClassification.from_bundle(bundle, precision="fp16_packed", device="cpu")
    assert packed.packed is in_numpy
    assert packed.input_names == plain.input_names
    lengths = np.random.default_rng(0).integers(3, 48, 40)
    lengths[0] = 48
    mask = (np.arange(48) < lengths[:, None]).astype(np.int64)
    given = {"input_ids": np.where(mask, np.random.default_rng(1).integers(5, 90, mask.shape), 0)}
    before = in_numpy.runs
    for one in (mask, np.ones_like(mask)):
        given["attention_mask"] = one
        # Half precision all the way in numpy, fp32 sums in ONNX Runtime; logits have a spread of about 2.
        np.testing.assert_allclose(packed(**given).logits, plain(**given).logits, atol=0.1)
    # The second mask has no padding, and went to the plain graph.
    assert in_numpy.runs == before + 1


def test_a_packed_head_has_one_query_a_row_in_its_last_layer(bundle):
    head = onnx.load(bundle.file(bundle.variant("fp16_packed").graphs["head"].file), load_external_data=False)
    kinds = Counter(node.op_type for node in head.graph.node)
    assert (kinds["PackedMultiHeadAttention"], kinds["MultiHeadAttention"]) == (1, 1)
    # Keys and values go back to their rows; attention reads the mask there.
    assert "attention_mask" in {value.name for value in head.graph.input}
    assert bundle.variant("fp16_packed").role_for(["logits"], "cuda:0") == "head"


def test_verify_replays_what_removes_padding(bundle, in_numpy, monkeypatch):
    from untorch import golden, verification
    from untorch.bundle import GOLDEN

    monkeypatch.setattr(verification, "open_session", lambda *given, **named: in_numpy)
    stored = golden.load(bundle.file(GOLDEN))
    replay = verification._replay(bundle, bundle.variant("fp16_packed"), stored, "cuda:0")
    # Numpy sums in half precision, a card in fp32, for which the tolerance is.
    assert replay.difference < 0.1
    assert replay.cases == len(stored) > 1


def test_attention_that_looks_at_more_than_a_mask_is_not_packed(fused):
    biased = onnx.ModelProto()
    biased.CopyFrom(fused)
    node = next(node for node in biased.graph.node if node.op_type == "MultiHeadAttention")
    node.input.extend(["input_ids"])  # in the place of what is added to the scores
    assert pack(biased) is None


def test_attention_that_does_not_look_ahead_is_not_packed(fused):
    causal = onnx.ModelProto()
    causal.CopyFrom(fused)
    node = next(node for node in causal.graph.node if node.op_type == "MultiHeadAttention")
    node.attribute.append(helper.make_attribute("unidirectional", 1))
    assert pack(causal) is None


def test_a_mask_that_is_read_elsewhere_stays_an_input(fused):
    model = onnx.ModelProto()
    model.CopyFrom(fused)
    model.graph.node.append(helper.make_node("Identity", ["attention_mask"], ["mask"]))
    model.graph.output.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", "sequence"]))
    assert "attention_mask" in {value.name for value in pack(model).graph.input}


def test_a_graph_without_fused_attention_is_not_packed():
    assert pack(masked_softmax()) is None


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
    narrow = precision.take_int32(model)
    onnx.checker.check_model(narrow)
    given = np.array([[1, 2, 3]], np.int32)
    got = ReferenceEvaluator(narrow).run(None, {"input_ids": given})
    assert got[0].tolist() == [[2, 4, 6]]
    assert got[0].dtype == np.int64
    assert got[1].tolist() == [[[2, 3], [4, 5], [6, 7]]]


def test_a_mask_is_a_bias_where_a_card_has_a_kernel_for_it(bundle):
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
    half = precision.to_fp16(fused)
    biased = onnx.ModelProto()
    biased.CopyFrom(half)
    masks.as_bias(biased)
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
