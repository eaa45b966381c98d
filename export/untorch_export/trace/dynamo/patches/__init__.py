"""What of transformers' code wants other arguments, or cannot be traced as it stands: one module a kind of quirk.

The replacements compute the same; PyTorch's own code stays the reference that the graph is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from untorch_export.checkpoint.tasks import Task
from untorch_export.trace.dynamo.patches import experts, fnet, funnel, generators, inputs, longformer, rope

if TYPE_CHECKING:
    from transformers import PreTrainedModel

arguments, has_mask, has_token_types = inputs.arguments, inputs.has_mask, inputs.has_token_types


@contextmanager
def applied(model: PreTrainedModel, task: Task) -> Iterator[None]:
    """While it lasts, the model's code is fit for tracing. Raises ExportError where it cannot be made so."""
    with _of(model, task), rope.held(model):
        yield


def _of(model: PreTrainedModel, task: Task) -> AbstractContextManager[None]:
    kind = model.config.model_type
    if kind == "longformer":
        return longformer.applied(model, task)
    if kind == "fnet":
        return fnet.applied()
    if kind == "funnel":
        return funnel.applied(model, task)
    if kind == "falcon":
        return generators.falcon(model)
    if kind == "mpt":
        return generators.mpt()
    if experts.has_lists(model):
        return experts.applied(model)
    return nullcontext()


def length(model: PreTrainedModel) -> int:
    """How long a sample text is."""
    return longformer.length(model) if model.config.model_type == "longformer" else inputs.length(model)
