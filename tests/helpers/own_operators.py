"""Graphs of the package untorch-kernels' operators, and what they should compute, for the tests."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from untorch.bundle.folder import digest

COLUMNS, DEPTH = 64, 4
_ERF = np.vectorize(math.erf, otypes=[np.float64])
HIDDEN, HEADS, VOCABULARY = 32, 2, 207
# Where the frozen bundle's int8 variant has its embeddings: every reader of them reads these.
_TABLE = {"location": "model_int8.onnx_data", "offset": "10496", "length": str(VOCABULARY * HIDDEN)}


class Linear:
    """A random layer: what the operator Linear holds of it, and what it gives by numpy."""

    def __init__(self, seed, in_features, out_features, *, outliers=0, gelu=False, norm=False):
        rng = np.random.default_rng(seed)
        self.gelu, self.norm = gelu, norm
        self.places = np.sort(rng.choice(in_features, min(outliers, in_features), replace=False)).astype(np.int64)
        self.integers = rng.integers(-127, 128, (in_features, out_features)).astype(np.int8)
        self.integers[self.places] = 0
        self.scale = rng.uniform(0.5, 1.5, out_features).astype(np.float32) / np.float32(127 * in_features**0.5)
        self.bias = rng.normal(size=out_features).astype(np.float32)
        self.rows = rng.normal(size=(len(self.places), out_features)).astype(np.float32)
        self.norm_weight, self.norm_bias = rng.normal(size=(2, out_features)).astype(np.float32)

    @property
    def constants(self):
        """The arrays that the operator takes beside its inputs: `weight`, `columns` and `places`."""
        in_features, out_features = self.integers.shape
        tiles, steps = -(-out_features // COLUMNS), -(-in_features // DEPTH)
        padded = np.zeros((steps * DEPTH, tiles * COLUMNS), np.int8)
        padded[:in_features, :out_features] = self.integers
        lines = [self.scale, self.bias, self.integers.sum(0, dtype=np.int64) * self.scale, *self.rows]
        lines += [self.norm_weight, self.norm_bias] if self.norm else []
        columns = np.zeros((len(lines), tiles * COLUMNS), np.float32)
        columns[:, :out_features] = lines
        weight = padded.reshape(steps, DEPTH, tiles, COLUMNS).transpose(2, 0, 3, 1)
        return {"weight": np.ascontiguousarray(weight), "columns": columns, "places": self.places}

    def tensors(self, name):
        """The constants as tensors NAME.weight, NAME.columns and NAME.places."""
        return [numpy_helper.from_array(array, f"{name}.{key}") for key, array in self.constants.items()]

    def node(self, x="x", y="y", *, name="", residual="", **changed):
        """The operator's node; its constants are called NAME.weight and so on, `changed` are other attributes."""
        in_features, out_features = self.integers.shape
        attributes = {"in_features": in_features, "out_features": out_features, "gelu": int(self.gelu)}
        attributes |= {"norm": int(self.norm), "epsilon": 1e-5} | changed
        held = [f"{name}.{key}" if name else key for key in self.constants]
        return helper.make_node(
            "Linear", [x, *held, *([residual] if residual else [])], [y], domain="untorch", **attributes
        )

    def compute(self, x, residual=None):
        """The same arithmetic: levels in single precision, as they are defined, everything else in double."""
        rest = x.copy()
        rest[..., self.places] = 0
        low, high = np.minimum(rest.min(-1, keepdims=True), 0), np.maximum(rest.max(-1, keepdims=True), 0)
        step = (high - low) / np.float32(255)
        with np.errstate(divide="ignore"):
            per_level = np.where(step > 0, np.float32(1) / step, np.float32(0))
        levels = np.rint((rest - low) * per_level).astype(np.float64)
        y = (levels * step + low) @ (self.integers * self.scale.astype(np.float64)) + self.bias
        y += x[..., self.places] @ self.rows.astype(np.float64)
        if self.gelu:
            y = gelu(y)
        if residual is not None:
            y = y + residual
        if self.norm:
            centred = y - y.mean(-1, keepdims=True)
            y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * self.norm_weight + self.norm_bias
        return y


def gelu(x):
    """GELU by the error function."""
    return x * (1 + _ERF(x / math.sqrt(2))) / 2


def attention(packed, heads, mask=None, scale=None):
    """Softmax attention of (batch, length, queries, keys and values of each head); a text without a token sees all."""
    batch, length, wide = packed.shape
    if not packed.size:
        return np.zeros((batch, length, wide // 3))
    q, k, v = packed.astype(np.float64).reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.transpose(0, 1, 3, 2) * (scale or 1 / math.sqrt(q.shape[-1]))
    if mask is not None:
        seen = np.where(mask.any(1, keepdims=True), mask, 1)
        scores = np.where(seen[:, None, None, :] != 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, length, wide // 3)


class Network:
    """One layer of a classifier: embeddings, attention, a feed-forward product, two labels of the first token."""

    def __init__(self):
        self.layers = {
            "qkv": Linear(1, HIDDEN, 3 * HIDDEN),
            "up": Linear(2, HIDDEN, 70, outliers=2, gelu=True),
            "down": Linear(3, 70, HIDDEN, norm=True),
            "classifier": Linear(4, HIDDEN, 2),
        }

    def model(self, *, hidden=True, broken=None) -> onnx.ModelProto:
        """The graph, with the embeddings of the frozen bundle's int8. `broken` changes its nodes and constants."""
        shared = TensorProto(name="table", data_type=TensorProto.INT8, dims=[VOCABULARY, HIDDEN])
        shared.data_location = TensorProto.EXTERNAL
        for key, value in _TABLE.items():
            shared.external_data.add(key=key, value=value)
        constants = [shared, numpy_helper.from_array(np.array(0, np.int64), "first")]
        for name, layer in self.layers.items():
            constants += layer.tensors(name)
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["size"], value_float=1 / 64),
            helper.make_node("Mul", ["levels", "size"], ["x"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.INT32),
            self.layers["qkv"].node("x", "packed", name="qkv"),
            helper.make_node(
                "Attention", ["packed", "mask"], ["mixed"], domain="untorch", num_heads=HEADS, scale=0.0
            ),
            self.layers["up"].node("mixed", "wide", name="up"),
            self.layers["down"].node("wide", "last_hidden_state", name="down", residual="x"),
            helper.make_node("Gather", ["last_hidden_state", "first"], ["token"], axis=1),
            self.layers["classifier"].node("token", "logits", name="classifier"),
        ]  # fmt: skip
        if broken is not None:
            broken(nodes, constants)
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
        if hidden:
            axes = ["batch", "sequence", HIDDEN]
            outputs.append(helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, axes))
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names]
        return helper.make_model(
            helper.make_graph(nodes, "own", inputs, outputs, constants),
            opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("untorch", 1)],
            ir_version=9,
        )

    def compute(self, table, ids, mask):
        """The logits."""
        x = table[ids].astype(np.float32) / 64
        mixed = attention(self.layers["qkv"].compute(x), HEADS, mask)
        hidden = self.layers["down"].compute(self.layers["up"].compute(mixed), residual=x)
        return self.layers["classifier"].compute(hidden[:, 0])


def add_variant(folder: Path, *, broken=None) -> Path:
    """Give a copy of the frozen bundle a variant int8_kernels, another model than its int8 with the same embeddings."""
    manifest = json.loads((folder / "untorch.json").read_text())
    graphs = {}
    for role, hidden in (("model", True), ("head", False)):
        name = f"onnx/{role}_int8_kernels.onnx"
        # onnx.save would want to write the shared embeddings anew.
        (folder / name).write_bytes(Network().model(hidden=hidden, broken=broken).SerializeToString())
        graphs[role] = {**manifest["variants"]["int8"]["graphs"][role], "file": name, "optimized": True}
        manifest["files"][name] = {"size": (folder / name).stat().st_size, "sha256": digest(folder / name)}
    parity = {"golden": {"max_abs_difference": 1.0, "tolerance": 1e3}}
    manifest["variants"]["int8_kernels"] = {"graphs": graphs, "verdict": "close", "parity": parity}
    (folder / "untorch.json").write_text(json.dumps(manifest))
    return folder


def shared_table(folder: Path) -> np.ndarray:
    """The embeddings that both variants read."""
    data = (folder / "onnx" / _TABLE["location"]).read_bytes()
    begin = int(_TABLE["offset"])
    return np.frombuffer(data[begin : begin + VOCABULARY * HIDDEN], np.int8).reshape(VOCABULARY, HIDDEN)
