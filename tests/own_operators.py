"""Graphs of the package untorch-kernels' operators, and what they should compute, for the tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from untorch.bundle import digest

COLUMNS, DEPTH = 64, 4
HIDDEN, HEADS, VOCABULARY = 32, 2, 207
# Where the frozen bundle's int8 variant has its embeddings: every reader of them reads these.
_TABLE = {"location": "model_int8.onnx_data", "offset": "10496", "length": str(VOCABULARY * HIDDEN)}


class Matrix:
    """A random matrix in int8 with a scale a column, as the operator Linear wants it, and as numpy does."""

    def __init__(self, seed, inputs, outputs, *, outliers=(), norm=False, gelu=False):
        rng = np.random.default_rng(seed)
        self.inputs, self.outputs, self.outliers, self.gelu = inputs, outputs, list(outliers), gelu
        self.weight = rng.integers(-127, 128, (inputs, outputs)).astype(np.int8)
        self.weight[self.outliers] = 0
        self.scale = rng.uniform(0.5, 1.5, outputs).astype(np.float32) / (127 * inputs**0.5)
        self.bias = rng.normal(size=outputs).astype(np.float32)
        self.rest = rng.normal(size=(len(self.outliers), outputs)).astype(np.float32)
        self.norm = rng.normal(size=(2, outputs)).astype(np.float32) if norm else None

    def constants(self, name):
        """The tensors NAME.weight, NAME.rows and NAME.places."""
        tiles, steps = -(-self.outputs // COLUMNS), -(-self.inputs // DEPTH)
        whole = np.zeros((steps * DEPTH, tiles * COLUMNS), np.int8)
        whole[: self.inputs, : self.outputs] = self.weight
        packed = whole.reshape(steps, DEPTH, tiles, COLUMNS).transpose(2, 0, 3, 1)
        lines = [self.scale, self.bias, self.scale * self.weight.sum(0, dtype=np.float32), *self.rest]
        lines += [] if self.norm is None else list(self.norm)
        rows = np.zeros((len(lines), tiles * COLUMNS), np.float32)
        rows[:, : self.outputs] = lines
        made = {"weight": packed, "rows": rows, "places": np.array(self.outliers, np.int64)}
        return [numpy_helper.from_array(np.ascontiguousarray(made[key]), f"{name}.{key}") for key in made]

    def node(self, name, x, y, residual=""):
        inputs = [x, f"{name}.weight", f"{name}.rows", f"{name}.places", *([residual] if residual else [])]
        return helper.make_node(
            "Linear", inputs, [y], domain="untorch", in_features=self.inputs, out_features=self.outputs,
            gelu=int(self.gelu), norm=int(self.norm is not None), epsilon=1e-5,
        )  # fmt: skip

    def compute(self, x, residual=None):
        """What the operator should give, the activations on 256 levels a row included."""
        rest = x.copy()
        rest[..., self.outliers] = 0
        low, high = np.minimum(rest.min(-1, keepdims=True), 0), np.maximum(rest.max(-1, keepdims=True), 0)
        step = (high - low) / np.float32(255)
        levels = np.rint((rest - low) / np.where(step > 0, step, 1))
        y = (levels * step + low) @ (self.weight * self.scale) + self.bias + x[..., self.outliers] @ self.rest
        if self.gelu:
            from scipy.special import erf

            y = y * (1 + erf(y / np.sqrt(2))) / 2
        y = y if residual is None else y + residual
        if self.norm is not None:
            centred = y - y.mean(-1, keepdims=True)
            y = centred / np.sqrt(y.var(-1, keepdims=True) + 1e-5) * self.norm[0] + self.norm[1]
        return y


def attention(packed, mask, heads=HEADS):
    """Softmax attention of (batch, length, queries, keys and values of each head)."""
    batch, length, width = packed.shape
    q, k, v = packed.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + np.where(mask == 0, -np.inf, 0)[:, None, None]
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(batch, length, width // 3)


class Network:
    """One layer of a classifier: embeddings, attention, a feed-forward product, two labels of the first token."""

    def __init__(self):
        self.matrices = {
            "qkv": Matrix(1, HIDDEN, 3 * HIDDEN),
            "up": Matrix(2, HIDDEN, 70, outliers=(3, 17), gelu=True),
            "down": Matrix(3, 70, HIDDEN, norm=True),
            "classifier": Matrix(4, HIDDEN, 2),
        }

    def model(self, *, hidden=True, broken=None) -> onnx.ModelProto:
        """The graph, with the embeddings of the frozen bundle's int8. `broken` changes its nodes and constants."""
        shared = TensorProto(name="table", data_type=TensorProto.INT8, dims=[VOCABULARY, HIDDEN])
        shared.data_location = TensorProto.EXTERNAL
        for key, value in _TABLE.items():
            shared.external_data.add(key=key, value=value)
        constants = [shared, numpy_helper.from_array(np.array(0, np.int64), "first")]
        for name, matrix in self.matrices.items():
            constants += matrix.constants(name)
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], ["size"], value_float=1 / 64),
            helper.make_node("Mul", ["levels", "size"], ["x"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.INT32),
            self.matrices["qkv"].node("qkv", "x", "packed"),
            helper.make_node(
                "Attention", ["packed", "mask"], ["mixed"], domain="untorch", num_heads=HEADS, scale=0.0
            ),
            self.matrices["up"].node("up", "mixed", "wide"),
            self.matrices["down"].node("down", "wide", "last_hidden_state", residual="x"),
            helper.make_node("Gather", ["last_hidden_state", "first"], ["token"], axis=1),
            self.matrices["classifier"].node("classifier", "token", "logits"),
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
        mixed = attention(self.matrices["qkv"].compute(x), mask)
        hidden = self.matrices["down"].compute(self.matrices["up"].compute(mixed), residual=x)
        return self.matrices["classifier"].compute(hidden[:, 0])


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
