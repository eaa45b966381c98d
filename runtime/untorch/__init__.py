"""untorch: run exported transformers without torch.

    from untorch import pipeline
    pipeline("sentiment-analysis")("I hate this so much!")

Names, arguments and results are those of `transformers`. The parts are loaded when they are first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from untorch.version import __version__

if TYPE_CHECKING:
    from untorch.bundle.auto import AutoConfig
    from untorch.bundle.folder import Bundle
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
    from untorch.generation import (
        AsyncTextIteratorStreamer,
        BaseStreamer,
        GenerationConfig,
        LogitsProcessor,
        LogitsProcessorList,
        StoppingCriteria,
        StoppingCriteriaList,
        TextIteratorStreamer,
        TextStreamer,
        set_seed,
    )
    from untorch.model.base import AutoModel
    from untorch.model.causal import AutoModelForCausalLM
    from untorch.model.heads import (
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )
    from untorch.model.seq2seq import AutoModelForSeq2SeqLM
    from untorch.numerics import softmax
    from untorch.pipelines import pipeline
    from untorch.pipelines.base import Pipeline
    from untorch.pipelines.batcher import Batcher, BatcherClosedError
    from untorch.pipelines.feature_extraction import FeatureExtractionPipeline
    from untorch.pipelines.fill_mask import FillMaskPipeline
    from untorch.pipelines.multiple_choice import MultipleChoicePipeline
    from untorch.pipelines.question_answering import QuestionAnsweringPipeline
    from untorch.pipelines.sentence_embeddings import SentenceEmbeddingsPipeline
    from untorch.pipelines.text2text_generation import (
        SummarizationPipeline,
        Text2TextGenerationPipeline,
        TranslationPipeline,
    )
    from untorch.pipelines.text_classification import TextClassificationPipeline
    from untorch.pipelines.text_generation import TextGenerationPipeline
    from untorch.pipelines.text_ranking import TextRankingPipeline
    from untorch.pipelines.token_classification import TokenClassificationPipeline
    from untorch.pipelines.zero_shot_classification import ZeroShotClassificationPipeline
    from untorch.tokenizer import AutoTokenizer, BatchEncoding

# From numpy's import on, OpenBLAS keeps its idle threads spinning for a tenth of a second, on the cores that a model is
# being loaded on meanwhile (benchmarks/NOTES.md). 2^20 cycles, half a millisecond, bridge two products just as well.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")

_HOME = {
    "AsyncTextIteratorStreamer": "generation",
    "AutoConfig": "bundle.auto",
    "AutoModel": "model.base",
    "AutoModelForCausalLM": "model.causal",
    "AutoModelForMaskedLM": "model.heads",
    "AutoModelForMultipleChoice": "model.heads",
    "AutoModelForQuestionAnswering": "model.heads",
    "AutoModelForSeq2SeqLM": "model.seq2seq",
    "AutoModelForSequenceClassification": "model.heads",
    "AutoModelForTokenClassification": "model.heads",
    "AutoTokenizer": "tokenizer",
    "BaseStreamer": "generation",
    "BatchEncoding": "tokenizer",
    "Batcher": "pipelines.batcher",
    "BatcherClosedError": "pipelines.batcher",
    "Bundle": "bundle.folder",
    "BundleError": "errors",
    "DependencyError": "errors",
    "DeviceError": "errors",
    "FeatureExtractionPipeline": "pipelines.feature_extraction",
    "FillMaskPipeline": "pipelines.fill_mask",
    "FormatError": "errors",
    "GenerationConfig": "generation",
    "InputError": "errors",
    "IntegrityError": "errors",
    "LogitsProcessor": "generation",
    "LogitsProcessorList": "generation",
    "MultipleChoicePipeline": "pipelines.multiple_choice",
    "Pipeline": "pipelines.base",
    "QuestionAnsweringPipeline": "pipelines.question_answering",
    "SentenceEmbeddingsPipeline": "pipelines.sentence_embeddings",
    "SequenceTooLongError": "errors",
    "StoppingCriteria": "generation",
    "StoppingCriteriaList": "generation",
    "SummarizationPipeline": "pipelines.text2text_generation",
    "TaskError": "errors",
    "Text2TextGenerationPipeline": "pipelines.text2text_generation",
    "TextClassificationPipeline": "pipelines.text_classification",
    "TextGenerationPipeline": "pipelines.text_generation",
    "TextIteratorStreamer": "generation",
    "TextRankingPipeline": "pipelines.text_ranking",
    "TextStreamer": "generation",
    "TokenClassificationPipeline": "pipelines.token_classification",
    "TranslationPipeline": "pipelines.text2text_generation",
    "UntorchError": "errors",
    "ZeroShotClassificationPipeline": "pipelines.zero_shot_classification",
    "pipeline": "pipelines",
    "set_seed": "generation",
    "softmax": "numerics",
}

__all__ = [
    "AsyncTextIteratorStreamer",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BaseStreamer",
    "BatchEncoding",
    "Batcher",
    "BatcherClosedError",
    "Bundle",
    "BundleError",
    "DependencyError",
    "DeviceError",
    "FeatureExtractionPipeline",
    "FillMaskPipeline",
    "FormatError",
    "GenerationConfig",
    "InputError",
    "IntegrityError",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MultipleChoicePipeline",
    "Pipeline",
    "QuestionAnsweringPipeline",
    "SentenceEmbeddingsPipeline",
    "SequenceTooLongError",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "SummarizationPipeline",
    "TaskError",
    "Text2TextGenerationPipeline",
    "TextClassificationPipeline",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextRankingPipeline",
    "TextStreamer",
    "TokenClassificationPipeline",
    "TranslationPipeline",
    "UntorchError",
    "ZeroShotClassificationPipeline",
    "__version__",
    "pipeline",
    "set_seed",
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
