"""The graphs without padding, against those that they come from. No CPU has their operators; here they are in numpy."""

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

from helpers.fuzzing import cases
from untorch import AutoModelForSequenceClassification, Bundle, pipeline
from untorch.bundle.manifest import preferred
from untorch.errors import DeviceError
from untorch.ort.cuda import packing
from untorch_export.errors import ExportError
from untorch_export.export import export
from untorch_export.graph.packing import pack


@pytest.fixture(scope="module")
def bundle(halved):
    return Bundle(halved[1])


def test_what_removes_padding_is_not_vouched_for_without_a_gpu(bundle):
    variant = bundle.variant("fp16_packed")
    assert variant.verdict == "unverified"
    assert "GPU" in variant.parity["gate"]["rule"]
    assert set(variant.graphs["model"].data) == set(bundle.variant("fp16").graphs["model"].data)
    assert preferred(bundle.variants, device="cuda:0").precision != "fp16_packed"


def test_what_removes_padding_needs_a_gpu(bundle):
    with pytest.raises(DeviceError, match=r"fp16_packed variant .* cpu has not.*can run fp32, fp16"):
        pipeline(model=bundle.path, device="cpu", precision="fp16_packed")


def test_packed_wants_fp16_beside_it(halved, tmp_path):
    with pytest.raises(ExportError, match="ask for fp16 as well"):
        export(halved[0], tmp_path / "out", precisions=("fp32", "fp16_packed"))


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
    # One more gather than outputs that are restored, and nothing that a GPU has no kernel for.
    assert after - before == Counter(
        Flatten=1, Gather=after["Gather"] - before["Gather"], PackedMultiHeadAttention=before["MultiHeadAttention"]
    )
    assert 2 <= after["Gather"] - before["Gather"] <= 3
    assert [value.name for value in packed.graph.output] == [value.name for value in fused.graph.output]
    assert "attention_mask" not in {value.name for value in packed.graph.input}


def test_the_manifest_lists_the_indices(bundle):
    from untorch.bundle import inspection

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
    """All but the GPU: the file as written, what the model feeds it, and what goes to the graph beside it."""
    in_numpy = session_in_numpy(bundle, role)
    variant = bundle.variant("fp16_packed")
    plain = AutoModelForSequenceClassification.from_bundle(bundle, precision="fp16", device="cpu")
    monkeypatch.setattr("untorch.model.base.open_model", lambda *given, **named: (variant, [in_numpy]))
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
    from untorch.bundle import golden
    from untorch.bundle.folder import GOLDEN
    from untorch.tools import verification

    monkeypatch.setattr(verification, "open_session", lambda *given, **named: in_numpy)
    stored = golden.load(bundle.file(GOLDEN))
    replay = verification._replay(bundle, bundle.variant("fp16_packed"), stored, "cuda:0")
    # Numpy sums in half precision, a GPU in fp32, for which the tolerance is.
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


def test_a_graph_without_fused_attention_is_not_packed(bundle):
    assert pack(onnx.load(bundle.file("onnx/model.onnx"))) is None
