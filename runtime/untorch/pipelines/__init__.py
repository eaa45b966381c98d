"""`pipeline(task, model)`: the task's whole way from text to answer. One file a task."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch.background import BackgroundTask
from untorch.bundle.folder import Bundle
from untorch.bundle.hub import default_model, resolve
from untorch.errors import TaskError
from untorch.model.base import AutoModel

if TYPE_CHECKING:
    from untorch.pipelines.base import Pipeline
    from untorch.tokenizer import Tokenizer

# Task → module of this package and class. The module is imported when the task is asked for.
TASKS = {
    "text-classification": ("text_classification", "TextClassificationPipeline"),
    "feature-extraction": ("feature_extraction", "FeatureExtractionPipeline"),
    "sentence-embeddings": ("sentence_embeddings", "SentenceEmbeddingsPipeline"),
    "token-classification": ("token_classification", "TokenClassificationPipeline"),
    "question-answering": ("question_answering", "QuestionAnsweringPipeline"),
    "fill-mask": ("fill_mask", "FillMaskPipeline"),
    "zero-shot-classification": ("zero_shot_classification", "ZeroShotClassificationPipeline"),
    "multiple-choice": ("multiple_choice", "MultipleChoicePipeline"),
    "text-ranking": ("text_ranking", "TextRankingPipeline"),
    "text-generation": ("text_generation", "TextGenerationPipeline"),
    "text2text-generation": ("text2text_generation", "Text2TextGenerationPipeline"),
    "summarization": ("text2text_generation", "SummarizationPipeline"),
    "translation": ("text2text_generation", "TranslationPipeline"),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline(
    task: str | None = None,
    model: str | os.PathLike[str] | AutoModel | None = None,
    tokenizer: str | os.PathLike[str] | Tokenizer | None = None,
    *,
    device: str | int = "auto",
    precision: str = "auto",
    revision: str | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    **arguments: Any,
) -> Pipeline:
    """Build a task's pipeline, as transformers' `pipeline` does.

    `model` is a bundle folder, an installed model package's name, a Hub id, or a loaded model; without one the
    installed default for the task is taken, with a notice. Without a task, the bundle's own is taken. `device` is
    `auto`, `cpu`, `cuda`, `cuda:N`, `openvino` or a number as in transformers (-1 the CPU). Further arguments are
    defaults for every call. Raises TaskError for an unknown task, or one that the bundle cannot do.
    """
    if task is None and model is None:
        raise TaskError(f"name a task ({', '.join([*TASKS, *ALIASES])}) or a model")
    if isinstance(device, int):
        device = "cpu" if device < 0 else f"cuda:{device}"
    if task is not None:
        _canonical(task)
    if isinstance(model, AutoModel):
        bundle = model.bundle
    else:
        folder = (
            default_model(_canonical(str(task)))
            if model is None
            else resolve(model, revision=revision, precision=precision, device=device)
        )
        bundle = Bundle(folder)
    name = _canonical(task or bundle.task or _missing_task(bundle.path))
    module, class_name = TASKS[name]
    pipeline_class = getattr(import_module(f"untorch.pipelines.{module}"), class_name)
    if name == "translation" and task is not None:
        name = task  # translation_xx_to_yy: the languages are the pipeline's to read
    with bundle.held():
        reading = BackgroundTask(lambda: _tokenizer(tokenizer, bundle))
        if not isinstance(model, AutoModel):
            model = pipeline_class.model_class._from_bundle(bundle, device, precision, threads, reading)
        read = reading.result()
        return pipeline_class(name, model, read, batch_size=batch_size, **arguments)  # type: ignore[no-any-return]


def model_class(task: str) -> type[AutoModel]:
    """The class of model that a task's pipeline runs. Raises TaskError for an unknown task."""
    module, name = TASKS[_canonical(task)]
    found: type[AutoModel] = getattr(import_module(f"untorch.pipelines.{module}"), name).model_class
    return found


def _tokenizer(given: str | os.PathLike[str] | Tokenizer | None, bundle: Bundle) -> Tokenizer:
    from untorch.tokenizer import Tokenizer

    if given is None:
        return Tokenizer.from_bundle(bundle)
    return Tokenizer.from_pretrained(given) if isinstance(given, (str, os.PathLike)) else given


def _canonical(task: str) -> str:
    words = task.split("_")
    if len(words) == 4 and words[0] == "translation" and words[2] == "to":
        return "translation"
    name = ALIASES.get(task, task)
    if name not in TASKS:
        raise TaskError(f"unknown task {task!r}; choose from {', '.join(sorted([*TASKS, *ALIASES]))}")
    return name


def _missing_task(path: Path) -> str:
    raise TaskError(f"{path} has no manifest that names its task; name it: pipeline('text-classification', …)")
