"""What goes wrong in an export, on top of the runtime's `UntorchError` family."""

from __future__ import annotations

from untorch.errors import UntorchError


class ExportError(UntorchError):
    """A checkpoint that cannot be exported as asked. Nothing was written."""


class GateError(ExportError):
    """No variant came close enough to PyTorch, so that there was nothing to write."""


class ExportWarning(UserWarning):
    """The export works, but not as well as it should: fewer fused layers than the model has, no tokenizer."""
