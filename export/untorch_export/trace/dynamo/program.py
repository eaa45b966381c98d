"""A PyTorch module → a graph, through torch.export and torch.onnx: the part that knows no model."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from untorch_export.trace.dynamo import cleaning

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto
    from torch import Tensor

# The first operator set with Attention, RotaryEmbedding and RMSNormalization.
OPSET = 23

# The names of a tensor's dynamic axes, by their index.
Axes = Mapping[int, str]


def convert(
    module: torch.nn.Module, sample: Mapping[str, Tensor], inputs: Mapping[str, Axes], outputs: Mapping[str, Axes]
) -> ModelProto:
    """The graph of `module`, called with the tensors of `sample` in their order; it returns those named in `outputs`.

    The axes named in `inputs` are dynamic. The sample decides what else is: a size of 0 or 1 would stay fixed, and a
    mask without padding would be left out. Inputs that the module does not read are no inputs of the graph. Raises
    whatever PyTorch raises for a module that cannot be traced.
    """
    import torch
    from transformers.exporters.exporter_dynamo import reset_model_state
    from transformers.exporters.exporter_onnx import _ONNX_TRANSLATION_TABLE, apply_onnx_ir_fixes
    from transformers.exporters.utils import apply_fx_node_fixes, apply_patches

    attend = torch.nn.functional.scaled_dot_product_attention
    dynamic = tuple(dict.fromkeys(inputs[name], torch.export.Dim.DYNAMIC) for name in sample)
    patches = apply_patches("onnx"), apply_patches("dynamo"), _attention(attend), _small_constants()
    with torch.no_grad(), patches[0], patches[1], patches[2], patches[3], reset_model_state(module):
        program = torch.export.export(
            module,
            tuple(sample.values()),
            dynamic_shapes=(dynamic,),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        apply_fx_node_fixes("onnx", program.graph_module)
        converted = torch.onnx.export(
            program,
            (),
            input_names=list(sample),
            output_names=list(outputs),
            opset_version=OPSET,
            custom_translation_table={**_ONNX_TRANSLATION_TABLE, torch.ops.aten.expm1.default: _expm1},
            verbose=False,
        )
    apply_onnx_ir_fixes(converted)
    return cleaning.clean(converted.model_proto, inputs, outputs)


def _expm1(x: Any) -> Any:
    """exp(x) - 1 in operators, right to the last digits near 0, where PyTorch's exporter subtracts what is alike.

    exp(x) - 1 = 2t / (1 - t) with t = tanh(x / 2); above 1 the subtraction loses nothing.
    """
    from onnxscript import opset23 as op

    one, two = op.Constant(value_float=1.0), op.Constant(value_float=2.0)
    t = op.Tanh(op.Div(op.Min(x, one), two))
    return op.Where(op.Greater(x, one), op.Sub(op.Exp(x), one), op.Div(op.Mul(two, t), op.Sub(one, t)))


@contextmanager
def _small_constants() -> Iterator[None]:
    """Only 0 is nothing to add, and only 1 is nothing to multiply by.

    PyTorch's exporter drops such operators with onnxscript's rules, which take 1e-8 for 0 and 1.00001 for 1. A norm
    whose epsilon is that small would divide a padding token's embedding, which is all zeros, by nothing.
    """
    from onnxscript.rewriter import _matcher

    def equal(value: float, expected: float, **tolerances: float) -> bool:
        return value == expected if expected in (0, 1) else math.isclose(value, expected, **tolerances)

    with mock.patch.object(_matcher, "math", SimpleNamespace(isclose=equal)):
        yield


@contextmanager
def _attention(attend: Callable[..., Any]) -> Iterator[None]:
    """PyTorch's scaled dot product attention, `attend`, becomes one operator.

    PyTorch's mathematical form is the one that it traces for any mask. Where keys have fewer heads than queries, as in
    grouped and multi-query attention, the operator repeats them by itself. What transformers' exporters put in its
    place, three more operators a layer for rows without any key, is left out: nothing reads such rows.
    """
    from torch.nn import functional
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def attention(query: Any, key: Any, *rest: Any, **options: Any) -> Any:
        if query.shape[-3] != key.shape[-3]:
            options["enable_gqa"] = True
        with sdpa_kernel(SDPBackend.MATH):
            return attend(query, key, *rest, **options)

    # Read by transformers at each call: keys are then not repeated before the operator.
    grouped = mock.patch.dict(os.environ, {"TRANSFORMERS_SDPA_FORCE_GQA": "1"})
    with grouped, mock.patch.object(functional, "scaled_dot_product_attention", attention):
        yield


def reason(error: Exception) -> str:
    """Why `convert` failed, in one line: PyTorch wraps the cause in reports of many pages."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if "conflicts between user-specified ranges and inferred ranges" in str(error):
        return "its code works for texts of the traced length alone, such as by a loop over their tokens"
    if "inputs_embeds" in str(error):
        return "the model also wants decoder_input_ids, the answer's first tokens, which a text alone does not have"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
