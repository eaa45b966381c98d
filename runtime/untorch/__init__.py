"""untorch: run exported transformers without torch.

    from untorch import pipeline
    pipeline("sentiment-analysis")("I hate this so much!")

Names, arguments and results are those of `transformers`. The parts are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from untorch.batcher import Batcher, BatcherClosedError
    from untorch.bundle import Bundle
    from untorch.errors import (
        BundleError,
        DependencyError,
        DeviceError,
        FormatError,
        InputError,
        IntegrityError,
        SequenceTooLongError,
        TaskError,
        UntorchError,
    )
    from untorch.heads import (
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )
    from untorch.model import AutoModel
    from untorch.numerics import softmax
    from untorch.pipelines import pipeline
    from untorch.tokenizer import AutoTokenizer, BatchEncoding

_HOME = {
    "AutoModel": "model",
    "AutoModelForMaskedLM": "heads",
    "AutoModelForMultipleChoice": "heads",
    "AutoModelForQuestionAnswering": "heads",
    "AutoModelForSequenceClassification": "heads",
    "AutoModelForTokenClassification": "heads",
    "AutoTokenizer": "tokenizer",
    "BatchEncoding": "tokenizer",
    "Batcher": "batcher",
    "BatcherClosedError": "batcher",
    "Bundle": "bundle",
    "BundleError": "errors",
    "DependencyError": "errors",
    "DeviceError": "errors",
    "FormatError": "errors",
    "InputError": "errors",
    "IntegrityError": "errors",
    "SequenceTooLongError": "errors",
    "TaskError": "errors",
    "UntorchError": "errors",
    "pipeline": "pipelines",
    "softmax": "numerics",
}

__all__ = [
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BatchEncoding",
    "Batcher",
    "BatcherClosedError",
    "Bundle",
    "BundleError",
    "DependencyError",
    "DeviceError",
    "FormatError",
    "InputError",
    "IntegrityError",
    "SequenceTooLongError",
    "TaskError",
    "UntorchError",
    "pipeline",
    "softmax",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'untorch' has no attribute {name!r}")
    value = getattr(import_module(f"untorch.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
