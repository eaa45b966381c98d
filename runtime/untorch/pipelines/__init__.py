"""`pipeline(task, model)`: the task's whole way from text to answer. One file a task."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch.background import BackgroundTask
from untorch.bundle.folder import Bundle
from untorch.bundle.hub import default_model, open_bundle
from untorch.errors import InputError, TaskError
from untorch.loading.choice import LoadRequest
from untorch.model.base import AutoModel
from untorch.ort.devices import device_name

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
    device: Any = None,
    precision: str = "auto",
    revision: str | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    threads: int | None = None,
    **arguments: Any,
) -> Pipeline[Any]:
    """Build a task's pipeline, as transformers' `pipeline` does.

    `model` is a bundle folder, an installed model package's name, a Hub id, or a loaded model; without one the
    installed default for the task is taken, with a notice. Without a task, the bundle's own is taken. `device` is
    `auto` (or None), `cpu`, `cuda`, `cuda:N`, `openvino`, a number as in transformers (-1 the CPU) or a
    `torch.device`; a loaded model stays where it is, and another device or precision than its own is an error.
    transformers' other arguments of loading do what they do there or are refused by name (`dtype=torch.float16` is
    `precision="fp16"`). Further arguments are defaults for every call. Raises TaskError for an unknown task, or one
    that the bundle or the model cannot do, and InputError for an argument that cannot be had.
    """
    origin = dict(arguments, task=task, model=model, tokenizer=tokenizer, device=device, precision=precision)
    origin |= {"revision": revision, "batch_size": batch_size, "num_workers": num_workers, "threads": threads}
    if task is None and model is None:
        raise TaskError(f"name a task ({', '.join([*TASKS, *ALIASES])}) or a model")
    if task is not None:
        _canonical(task)
    device, pipeline_class = device_name(device), None
    if arguments:
        from untorch.pipelines.arguments import read

        device, precision, pipeline_class = read(device, precision, arguments)
    if isinstance(model, AutoModel):
        from untorch.pipelines.arguments import require_own

        require_own(model, -1 if origin["device"] == -1 else device, precision, threads, revision)
        bundle = model.bundle
    elif model is not None and not isinstance(model, (str, os.PathLike)):
        raise InputError(
            f"the model is {type(model).__module__}.{type(model).__name__}; export it first: "
            "untorch export CHECKPOINT -o BUNDLE, then pipeline(task, 'BUNDLE')"
        )
    else:
        request = LoadRequest(device, precision, threads)
        if model is None:
            bundle = Bundle(default_model(_canonical(str(task))))
        else:
            bundle = open_bundle(model, select=request.files, revision=revision)
    name = _canonical(task or bundle.task or _missing_task(bundle.path))
    pipeline_class = pipeline_class or class_of(name)
    if name == "translation" and task is not None:
        name = task  # translation_xx_to_yy: the languages are the pipeline's to read
    with bundle.held():
        reading = BackgroundTask(lambda: _tokenizer(tokenizer, bundle, revision))
        if not isinstance(model, AutoModel):
            model = pipeline_class.model_class.load(bundle, replace(request, background=reading))
        read_tokenizer = reading.result()
        built: Pipeline[Any] = pipeline_class(
            model, read_tokenizer, task=name, batch_size=batch_size, num_workers=num_workers, **arguments
        )
    # Whoever asks again may do so from another folder.
    origin |= {"model": _absolute(origin["model"]), "tokenizer": _absolute(tokenizer)}
    built.origin = partial(pipeline, **origin)
    return built


def class_of(task: str) -> type[Pipeline[Any]]:
    """The pipeline class of a task. Raises TaskError for an unknown one."""
    module, name = TASKS[_canonical(task)]
    found: type[Pipeline[Any]] = getattr(import_module(f"untorch.pipelines.{module}"), name)
    return found


def _absolute(name: Any) -> Any:
    """A folder by its full path; every other name as it is."""
    return Path(name).absolute() if isinstance(name, (str, os.PathLike)) and Path(name).is_dir() else name


def _tokenizer(given: Any, bundle: Bundle, revision: str | None) -> Tokenizer:
    """The tokenizer that was given, in any of transformers' forms; else the bundle's own."""
    from untorch.tokenizer import Tokenizer

    if given is None:
        return Tokenizer.from_bundle(bundle)
    if isinstance(given, Tokenizer):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Tokenizer.from_pretrained(given, revision=revision)
    if isinstance(given, tuple) and len(given) == 2:  # a name and the arguments to load it with
        return Tokenizer.from_pretrained(given[0], **{"revision": revision, **given[1]})
    raise InputError(
        f"the tokenizer is {type(given).__module__}.{type(given).__name__}; give untorch's: "
        "AutoTokenizer.from_pretrained(…), a folder or a name"
    )


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
