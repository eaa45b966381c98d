"""Attention read from the standard's operator: the same numbers in every form that is made of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from untorch.ort import kernels
from untorch.ort.session import Session
from untorch_export.graph import files, fusion
from untorch_export.graph.attention import read
from untorch_export.graph.fp16 import take_int32, to_fp16
from untorch_export.graph.head import head_only
from untorch_export.graph.masks import as_bias
from untorch_export.graph.packing import pack
from untorch_export.graph.rewriting import CONTRIB, Graph
from untorch_export.quantize.int8 import quantize_int8
from untorch_export.quantize.int8_kernels import quantize_kernels
from untorch_export.quantize.ranges import observe

VOCABULARY, LAYERS = 50, 2
# Ways to say which keys a query attends to: the exporter's, which indexes the mask; short; as something to add;
# a window; every query another; none.
MASKS = ("indexed", "unsqueezed", "added", "window", "two axes", "none")


class Model:
    """An encoder of two layers as PyTorch's exporter writes it, with the standard's Attention on split arrays."""

    def __init__(self, *, mask="indexed", heads=4, kv_heads=4, size=16, scale=None, causal=False, bias=True, same=True):
        self.heads, self.kv_heads, self.size, self.bias, self.same = heads, kv_heads, size, bias, same
        self.attributes = {"is_causal": int(causal), **({} if scale is None else {"scale": scale})}
        self.width = heads * size
        self.random = np.random.default_rng(0)
        self.nodes, self.weights = [], {}
        self.batch = self.node("Shape", ["input_ids"], "batch", start=0, end=1)
        self.length = self.node("Shape", ["input_ids"], "length", start=1, end=2)
        x = self.node("Gather", [self.weight("words", VOCABULARY, self.width), "input_ids"], "x0")
        self.mask = getattr(self, f"mask_{mask.replace(' ', '_')}")()
        for layer in range(LAYERS):
            x = self.layer(x, f"layer{layer}", last=layer == LAYERS - 1)
        first = self.node("Gather", [x, self.constant("first", 0)], "token", axis=1)
        self.node("Gemm", [first, self.weight("classifier", self.width, 2), self.weight("c", 2)], "logits")

    def node(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name, value):
        self.weights[name] = np.asarray(value, None if isinstance(value, np.ndarray | np.generic) else np.int64)
        return name

    def weight(self, name, *shape):
        return self.constant(name, (self.random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32))

    def linear(self, x, name, inputs, outputs):
        product = self.node("MatMul", [x, self.weight(f"{name}.w", inputs, outputs)], f"{name}.product")
        return self.node("Add", [product, self.weight(f"{name}.b", outputs)], name) if self.bias else product

    def split(self, x, name, heads):
        shape = self.node(
            "Concat", [self.batch, self.length, self.constant("open", [-1]), self.constant("size", [self.size])],
            f"{name}.split", axis=0,
        )  # fmt: skip
        split = self.node("Reshape", [x, shape], f"{name}.4d", allowzero=1)
        return self.node("Transpose", [split], f"{name}.inside", perm=[0, 2, 1, 3])

    def layer(self, x, name, *, last):
        kv = self.kv_heads * self.size
        widths = {"q": (self.width, self.heads), "k": (kv, self.kv_heads), "v": (kv, self.kv_heads)}
        parts = [
            self.split(self.linear(x, f"{name}.{part}", self.width, width), f"{name}.{part}", heads)
            for part, (width, heads) in widths.items()
        ]
        attended = self.node("Attention", [*parts, *filter(None, [self.mask])], f"{name}.attended", **self.attributes)
        if self.same:  # a Reshape that changes nothing, as the exporter writes
            shape = self.node(
                "Concat", [self.batch, self.constant("open", [-1]), self.length, self.constant("size", [self.size])],
                f"{name}.same", axis=0,
            )  # fmt: skip
            attended = self.node("Reshape", [attended, shape], f"{name}.unchanged", allowzero=1)
        merged = self.node("Transpose", [attended], f"{name}.merged", perm=[0, 2, 1, 3])
        rows = self.node("Concat", [self.batch, self.length, self.constant("open", [-1])], f"{name}.rows", axis=0)
        joined = self.node("Reshape", [merged, rows], f"{name}.joined", allowzero=1)
        x = self.norm(self.node("Add", [self.linear(joined, f"{name}.o", self.width, self.width), x], f"{name}.sum"))
        up = self.node("Gelu", [self.linear(x, f"{name}.up", self.width, 2 * self.width)], f"{name}.gelu")
        down = self.node("Add", [self.linear(up, f"{name}.down", 2 * self.width, self.width), x], f"{name}.sum2")
        return self.norm(down, "last_hidden_state" if last else None)

    def norm(self, x, name=None):
        weight = self.constant(f"{x}.scale", np.ones(self.width, np.float32))
        inputs = [x, weight, self.constant(f"{x}.shift", np.zeros(self.width, np.float32))]
        return self.node("LayerNormalization", inputs, name or f"{x}.norm", axis=-1)

    # ---- masks ----

    def mask_none(self):
        return ""

    def real(self):
        return self.node("Cast", ["attention_mask"], "real", to=TensorProto.BOOL)

    def mask_unsqueezed(self):
        return self.wide(self.node("Unsqueeze", [self.real(), self.constant("axes", [1, 2])], "keys_mask"))

    def wide(self, mask):
        """With a row for each query, which ONNX Runtime wants for the standard's operator."""
        one = self.constant("one axis", [1])
        shape = self.node("Concat", [self.batch, one, self.length, self.length], f"{mask}.shape", axis=0)
        return self.node("Expand", [mask, shape], f"{mask}.wide")

    def mask_added(self):
        lowest = self.constant("lowest", np.float32(np.finfo(np.float32).min))
        return self.node("Where", [self.mask_unsqueezed(), self.constant("none", np.float32(0)), lowest], "to_add")

    def counted(self, size, name, axes):
        scalar = self.node("Squeeze", [size], f"{name}.size")
        counted = self.node("Range", [self.constant("zero", 0), scalar, self.constant("one", 1)], f"{name}.counted")
        return self.node("Unsqueeze", [counted, self.constant(f"{name}.axes", axes)], name)

    def mask_indexed(self):
        """As transformers' masks are traced, whose functions of places torch.vmap makes arrays of."""
        row, key = self.counted(self.batch, "row", [1, 2, 3]), self.counted(self.length, "key", [0, 1, 2])
        query = self.counted(self.length, "query", [0, 1, 3])
        always = self.node("GreaterOrEqual", [query, self.constant("zero", 0)], "always")
        shape = self.node("Shape", [self.node("Max", [row, key], "both")], "shape")
        places = []
        for name in (row, key):
            wide = self.node("Expand", [name, shape], f"{name}.wide")
            places.append(self.node("Unsqueeze", [wide, self.constant("last", [-1])], f"{name}.place"))
        table = self.node("Concat", places, "places", axis=-1)
        gathered = self.node("GatherND", [self.real(), table], "gathered")
        return self.node(
            "And", [self.node("And", [self.constant("true", np.array(True)), always], "all"), gathered], "mask"
        )

    def mask_window(self):
        """Keys at most two away from the query, and no padding."""
        away = self.node(
            "Sub", [self.counted(self.length, "query", [0, 1, 3]), self.counted(self.length, "key", [0, 1, 2])], "away"
        )
        near = self.node("LessOrEqual", [self.node("Abs", [away], "distance"), self.constant("two", 2)], "near")
        return self.node("And", [near, self.mask_unsqueezed()], "mask")

    def mask_two_axes(self):
        """Each query attends to itself and to the keys before it."""
        query, key = self.counted(self.length, "query", [1]), self.counted(self.length, "key", [0])
        return self.node("GreaterOrEqual", [query, key], "mask")

    def proto(self):
        inputs = (
            ["input_ids", "attention_mask"]
            if "attention_mask" in {n for one in self.nodes for n in one.input}
            else ["input_ids"]
        )
        graph = helper.make_graph(
            self.nodes,
            "standard",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2]),
                helper.make_tensor_value_info(
                    "last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", self.width]
                ),
            ],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def fuse(model, folder, device="cpu"):
    path = folder / "model.onnx"
    onnx.save(model, path)
    return fusion.fuse(path, {"model_type": "bert", "num_attention_heads": 4}, device=device)


def feeds(batch=3, length=9, seed=1):
    random = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    mask[1:, length // 2 + 1 :] = 0
    mask[-1, 0] = 0  # padding on the left, too
    return {"input_ids": random.integers(0, VOCABULARY, (batch, length)), "attention_mask": mask}


def run(model, given, folder=None):
    if folder is not None:
        files.save(model, folder / "own.onnx")
        session = Session(folder / "own.onnx", device="cpu", optimized=True, kernels=True)
        return dict(
            zip(["logits", "last_hidden_state"], session.run(given, ["logits", "last_hidden_state"]), strict=True)
        )
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    types = {value.name: np.int32 if "int32" in value.type else np.int64 for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    found = session.run(names, {name: given[name].astype(kind) for name, kind in types.items()})
    return dict(zip(names, found, strict=True))


def assert_equal(got, want, given, atol=2e-5):
    """At every token that is no padding, and in what the head says."""
    for name, array in got.items():
        kept = (lambda one: one[given["attention_mask"] != 0]) if name == "last_hidden_state" else lambda one: one
        np.testing.assert_allclose(kept(array), kept(want[name]), atol=atol, err_msg=name)


def kinds(model):
    return Counter(item.op_type for item in model.graph.node)


def without_first_padding(given):
    """The head reads the first token, which is to be one."""
    given["attention_mask"][:, 0] = 1
    return given


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_fused_layer_gives_the_same_numbers(mask, device, tmp_path):
    model = Model(mask=mask).proto()
    fused = fuse(model, tmp_path, device)
    assert kinds(fused)["MultiHeadAttention"] == LAYERS
    assert not kinds(fused).keys() & {"Attention", "Transpose", "Reshape"}
    assert fusion.layers(tmp_path / "model.onnx") == fusion.fused_attention(files.fused(fused)) == LAYERS
    assert fusion.unfused(fused) == {}
    given = without_first_padding(feeds())
    assert_equal(run(fused, given), run(model, given), given)


@pytest.mark.parametrize("mask", MASKS)
def test_only_a_mask_that_all_queries_share_is_one_of_keys(mask, tmp_path):
    fused = fuse(Model(mask=mask).proto(), tmp_path)
    layers = [layer for item in fused.graph.node if (layer := read(item)) is not None]
    shared = mask in ("indexed", "unsqueezed")
    assert [bool(layer.key_mask) for layer in layers] == [shared] * LAYERS
    assert [bool(layer.added) for layer in layers] == [not shared and mask != "none"] * LAYERS
    # One for all layers.
    assert len({layer.key_mask or layer.added for layer in layers}) == 1


@pytest.mark.parametrize("arguments", [{"scale": 0.7}, {"causal": True}, {"bias": False}, {"same": False}], ids=str)
def test_what_a_layer_may_have(arguments, tmp_path):
    model = Model(**{"mask": "none" if "causal" in arguments else "indexed", **arguments}).proto()
    fused = fuse(model, tmp_path)
    assert kinds(fused)["MultiHeadAttention"] == LAYERS
    given = without_first_padding(feeds())
    if "causal" in arguments:
        given["attention_mask"][:] = 1
    assert_equal(run(fused, given), run(model, given), given)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("mask", ["indexed", "two axes"])
def test_heads_that_share_keys_and_values(mask, kv_heads, device, tmp_path):
    """ONNX Runtime's operator has as many of either: on the CPU the standard's stays, for a GPU they are repeated."""
    model = Model(mask=mask, kv_heads=kv_heads).proto()
    fused = fuse(model, tmp_path, device)
    assert kinds(fused)["Attention" if device == "cpu" else "MultiHeadAttention"] == LAYERS
    assert fusion.fused_attention(files.fused(fused)) == LAYERS
    given = without_first_padding(feeds())
    assert_equal(run(fused, given), run(model, given), given)
    layers = [layer for item in fused.graph.node if (layer := read(item)) is not None]
    assert {(layer.heads, layer.kv_heads) for layer in layers} == {(4, kv_heads if device == "cpu" else 4)}


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from(MASKS),
    st.sampled_from([(4, 4), (4, 2), (4, 1), (2, 2), (3, 1)]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_any_layer_at_any_shape(tmp_path_factory, mask, heads, bias, same, batch, length):
    model = Model(mask=mask, heads=heads[0], kv_heads=heads[1], size=8, bias=bias, same=same).proto()
    fused = fuse(model, tmp_path_factory.mktemp("any"))
    assert fusion.unfused(fused) == {}
    given = without_first_padding(feeds(batch, length, seed=length))
    assert_equal(run(fused, given), run(model, given), given)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_int8_is_close(kv_heads, tmp_path):
    model = Model(kv_heads=kv_heads).proto()
    fused = fuse(model, tmp_path)
    one = [{name: array[:1] for name, array in feeds(seed=seed).items()} for seed in range(8)]
    seen = observe(fused, one)
    given = without_first_padding(feeds())
    want = run(model, given)
    eight_bit = quantize_int8(fused, seen)
    assert not seen.ranges.keys() & {item.input[0] for item in eight_bit.graph.node if item.op_type == "MatMul"}
    assert_equal(run(eight_bit, given), want, given, atol=0.25)
    own = quantize_kernels(fused, seen)
    assert kinds(own)["Linear"] == LAYERS * (4 if kv_heads == 4 else 6)
    # Queries, keys and values are one product where one operator takes all three.
    assert {item.domain for item in own.graph.node if item.op_type == "Attention"} == {
        "untorch" if kv_heads == 4 else ""
    }
    if kernels.usable():
        assert_equal(run(own, given, tmp_path), want, given, atol=0.25)


def test_fp16_is_close_and_takes_its_mask_as_a_bias(tmp_path):
    model = Model().proto()
    half = to_fp16(fuse(model, tmp_path, "cuda"))
    biased = as_bias(half)
    assert all(layer.added == "attention_mask.bias" for item in biased.graph.node if (layer := read(item)) is not None)
    given = without_first_padding(feeds())
    for form in (half, biased, take_int32(biased)):
        assert_equal(run(form, given), run(model, given), given, atol=0.05)


def test_padding_is_removed_where_the_mask_is_one_of_keys(tmp_path):
    packed = pack(fuse(Model().proto(), tmp_path, "cuda"))
    assert kinds(packed)["PackedMultiHeadAttention"] == LAYERS
    assert "attention_mask" not in {value.name for value in packed.graph.input}
    assert pack(fuse(Model(mask="window").proto(), tmp_path, "cuda")) is None


def test_the_head_alone_asks_for_one_token(tmp_path):
    model = Model().proto()
    head = head_only(fuse(model, tmp_path), "logits")
    given = without_first_padding(feeds())
    assert_equal(run(head, given), {"logits": run(model, given)["logits"]}, given)
    graph = Graph(head)
    layers = [layer for item in graph.nodes if (layer := read(item)) is not None]
    selected = [graph.upstream(layer.query, "MatMul")[0].input[0].endswith(".selected") for layer in layers]
    assert selected == [False, True]


def broken(**changes):
    """A model whose first layer has something that the fused operators have not."""
    model = Model(mask="none").proto()
    layer = next(item for item in model.graph.node if item.op_type == "Attention")
    if "softcap" in changes:
        layer.attribute.append(helper.make_attribute("softcap", 5.0))
    else:
        layer.input.extend(["", "past_key", "past_value"])
        layer.output.extend(["present_key", "present_value"])
        axes = ["batch", 4, "past", 16]
        model.graph.input.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, axes) for name in ("past_key", "past_value")
        )
    return model


@pytest.mark.parametrize(("change", "reason"), [("softcap", "capped"), ("past", "earlier tokens")])
def test_what_is_not_fused_says_why(change, reason, tmp_path):
    model = broken(**{change: True})
    fused = fuse(model, tmp_path)
    assert kinds(fused)["MultiHeadAttention"] == LAYERS - 1
    [(why, count)] = fusion.unfused(fused).items()
    assert (reason in why, count) == (True, 1)


def test_gelu_in_its_two_forms_is_onnx_runtimes_own(tmp_path):
    model = Model(mask="none").proto()
    second = [item for item in model.graph.node if item.op_type == "Gelu"][1]
    second.attribute.append(helper.make_attribute("approximate", "tanh"))
    fused = fuse(model, tmp_path)
    assert [(item.op_type, item.domain) for item in fused.graph.node if "Gelu" in item.op_type] == [
        ("Gelu", CONTRIB), ("FastGelu", CONTRIB),
    ]  # fmt: skip
    given = without_first_padding(feeds())
    assert_equal(run(fused, given), run(model, given), given, atol=1e-3)


def test_reading_back_what_was_written(tmp_path):
    fused = fuse(Model(scale=0.5).proto(), tmp_path)
    graph = Graph(fused)
    [first, _] = [layer for item in graph.nodes if (layer := read(item)) is not None]
    assert (first.heads, first.kv_heads, first.scale, first.causal) == (4, 4, 0.5, False)
    assert graph.shape(first.bias) == (3 * 64,)
    assert [graph.upstream(name, "MatMul")[0].input[0] for name in first.parts] == ["x0"] * 3
    assert first.output == "layer0.joined"
