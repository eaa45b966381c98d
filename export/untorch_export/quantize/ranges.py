"""What the activations of a fused fp32 graph are like: it is run on texts, and the quantizers go by what was seen."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from untorch.ort.session import Session
from untorch_export.graph import files
from untorch_export.graph.attention import read
from untorch_export.graph.head import SELECTED
from untorch_export.graph.rewriting import Floats, Graph, node
from untorch_export.quantize.products import is_product

# Channels of each activation that stay in fp32.
OUTLIERS = 8
# An activation that is zero on every text still has a step.
_LEAST_STEP = 1e-12


@dataclass(frozen=True)
class Range:
    """The least, the largest and the mean value of each channel of an activation: three arrays of K.

    `normalised` says that it comes out of a layer norm.
    """

    low: Floats
    high: Floats
    mean: Floats
    normalised: bool

    @property
    def outliers(self) -> NDArray[np.int64]:
        """The OUTLIERS channels of largest magnitude, ascending."""
        magnitude = np.maximum(-self.low, self.high)
        return np.sort(np.argsort(-magnitude, kind="stable")[:OUTLIERS]).astype(np.int64)

    def levels(self) -> tuple[np.float32, np.uint8]:
        """The step between two of 256 levels and the level of zero, for the channels that are no outliers."""
        rest = np.ones(len(self.low), bool)
        rest[self.outliers] = False
        low = min(0.0, float(self.low[rest].min(initial=0)))
        high = max(0.0, float(self.high[rest].max(initial=0)))
        step = max((high - low) / 255, _LEAST_STEP)
        return np.float32(step), np.uint8(round(-low / step))


@dataclass(frozen=True)
class Activations:
    """What was seen, by name: ranges of what enters a product, shapes of what is added up or attended to.

    The shapes are those of one run over two rows. A selected row of an activation has its activation's entries: two
    names that had one shape before the selection have one shape after it.
    """

    ranges: Mapping[str, Range]
    shapes: Mapping[str, tuple[int, ...]]

    def range(self, name: str) -> Range:
        """The range of an activation that enters a product. Raises KeyError for any other."""
        return self.ranges[name.removesuffix(SELECTED)]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a summand, or of an input of attention; None where it was not seen."""
        return self.shapes.get(name.removesuffix(SELECTED))


def observe(model: onnx.ModelProto, batches: Sequence[dict[str, NDArray[np.int64]]]) -> Activations:
    """Run the fused fp32 graph over `batches`, each a row without padding."""
    graph = Graph(model)
    nodes = graph.nodes
    multiplied = {part.input[0]: part.input[1] for part in nodes if is_product(graph, part)}
    if not multiplied:  # a session asked for nothing gives everything
        return Activations({}, {})
    normalised = {output for part in graph.of("LayerNormalization") for output in part.output}
    # Reduced inside the graph: what comes back is three numbers a channel.
    axis = graph.add_constant("observed.axis", np.array([0], np.int64))
    figures = []
    for name, weight in multiplied.items():
        width = graph.shape(weight)[0]
        rows = graph.add_constant(f"observed.{width}", np.array([-1, width], np.int64))
        graph.append(node("Reshape", [name, rows], f"{name}.rows"))
        for kind in ("ReduceMin", "ReduceMax", "ReduceMean"):
            figures.append(f"{name}.{kind}")
            graph.append(node(kind, [f"{name}.rows", axis], figures[-1], keepdims=0))
            graph.add_output(figures[-1], TensorProto.FLOAT, ["channels"])
    shaped = list(dict.fromkeys(
        name
        for part in nodes
        if part.op_type == "Add" or read(part) is not None
        for name in part.input
        if name and not graph.is_constant(name)
    ))  # fmt: skip
    for name in shaped:
        graph.append(node("Shape", [name], f"{name}.observed_shape"))
        graph.add_output(f"{name}.observed_shape", TensorProto.INT64, ["axes"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.onnx")
        files.save(graph.finish(), path)
        session = Session(path, device="cpu", optimized=True)
        found = [session.run(batch, figures) for batch in batches]
        two = {name: np.concatenate([array, array]) for name, array in batches[0].items()}
        shapes = session.run(two, [f"{name}.observed_shape" for name in shaped]) if shaped else []
    columns = list(zip(*found, strict=True))
    ranges = {
        name: Range(np.min(low, axis=0), np.max(high, axis=0), np.mean(mean, axis=0), name in normalised)
        for name, low, high, mean in zip(multiplied, columns[::3], columns[1::3], columns[2::3], strict=True)
    }
    return Activations(ranges, {name: tuple(map(int, s)) for name, s in zip(shaped, shapes, strict=True)})
