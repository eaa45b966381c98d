"""What of transformers' code wants other arguments, or cannot be traced as it stands: one module a kind of quirk.

The replacements compute the same; PyTorch's own code stays the reference that the graph is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from untorch_export.checkpoint.tasks import Task
from untorch_export.trace.dynamo.patches import inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

arguments, has_mask, has_token_types, length = inputs.arguments, inputs.has_mask, inputs.has_token_types, inputs.length


@contextmanager
def applied(model: PreTrainedModel, task: Task | None = None) -> Iterator[None]:
    """While it lasts, the model's code is fit for tracing."""
    with ExitStack():
        yield
