"""Hugging Face's task bodies, `{"inputs": …, "parameters": {…}}`, on `/` and `/models/{name}`: what InferenceClient
sends. The model's own task says what is done; its answer has the form that the client of that task reads.
"""  # noqa: D205

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from untorch.serving import errors, tei
from untorch.serving.errors import RefusalError
from untorch.serving.fields import Fields, check_texts, kind_of
from untorch.serving.generating import Asked, Writing, begin
from untorch.serving.http import EVENTS, Answer, Request, answer, dump_rows, event
from untorch.serving.models import Model
from untorch.serving.routing import Route
from untorch.serving.texts import (
    EMBEDDINGS,
    admit,
    dimensions_of,
    embedded,
    inputs_of,
    prompt_of,
    truncation_of,
)

if TYPE_CHECKING:
    from untorch.serving.application import Application

_Task = Callable[["Application", Request, Model, Fields, Fields], Awaitable[Answer]]


async def task_body(app: Application, request: Request) -> Answer:
    """`/`, `/invocations`, `/models/{name}`: the model's own task."""
    fields = Fields(await request.json())
    parameters = fields.fields("parameters")
    model = _model(app, request, fields, parameters)
    task = model.task.partition("_")[0]
    if "candidate_labels" in parameters and model.can("zero-shot-classification"):
        task = "zero-shot-classification"
    return await _TASKS[task](app, request, model, fields, parameters)


def _model(app: Application, request: Request, fields: Fields, parameters: Fields) -> Model:
    """The model that the path names, or the `model` field, or that fits the form of the input; else the first."""
    if request.model is not None:
        return app.models.get(request.model)
    name = fields.value("model", None)
    if isinstance(name, str) and name in [model.name for model in app.models]:
        return app.models.get(name)
    if len(app.models) > 1:
        inputs = fields.value("inputs", None)
        wanted = None
        if isinstance(inputs, dict):
            forms = {"question": "question-answering", "source_sentence": EMBEDDINGS, "query": "text-ranking"}
            wanted = next((task for key, task in forms.items() if key in inputs), None)
        elif "candidate_labels" in parameters:
            wanted = "zero-shot-classification"
        if wanted is not None:
            return app.models.choose(None, None, wanted)
    return next(iter(app.models))


# Parameters that are the pipelines' own arguments, and how each is read; what a value may be, they check themselves.
_READERS: dict[str, Callable[[Fields, str], Any]] = {
    "aggregation_strategy": Fields.text,
    "align_to_words": Fields.flag,
    "clean_up_tokenization_spaces": Fields.flag,
    "doc_stride": Fields.integer,
    "function_to_apply": Fields.text,
    "handle_impossible_answer": Fields.flag,
    "hypothesis_template": Fields.text,
    "ignore_labels": Fields.texts,
    "label": Fields.text,
    "max_answer_len": Fields.integer,
    "max_question_len": Fields.integer,
    "max_seq_len": Fields.integer,
    "multi_label": Fields.flag,
    "src_lang": Fields.text,
    "stride": Fields.integer,
    "targets": Fields.text_or_texts,
    "tgt_lang": Fields.text,
    "top_k": Fields.integer,
    "truncation": Fields.value,
}


def _own(parameters: Fields, *names: str) -> dict[str, Any]:
    """Those of the named parameters that were given. Raises RefusalError for one of the wrong kind."""
    found = {name: _READERS[name](parameters, name) for name in names if name in parameters}
    if "truncation" in found and not isinstance(found["truncation"], (bool, str)):
        raise parameters.refuse("truncation", "is true, false or a strategy's name")
    return found


async def _each(
    app: Application, request: Request, model: Model, fields: Fields, task: str | None = None, **arguments: Any
) -> tuple[list[Any], bool]:
    """The answers to a text or a list of texts, and whether it was one."""
    value = fields.value("inputs")
    single = isinstance(value, str)
    texts = [value] if single else value
    if not isinstance(texts, list):
        raise fields.refuse("inputs", f"is {kind_of(texts)}; it is a text or a list of texts")
    if not texts:
        raise RefusalError("empty", "`inputs` cannot be empty", field="inputs")
    check_texts(texts, "inputs")
    admit(app, request, texts)
    answers = await model.answers(texts, task=task or model.task, **arguments)
    return [answered.value for answered in answers], single


def _cut(parameters: Fields) -> dict[str, Any]:
    """Long texts are cut, as in Text Embeddings Inference, unless `truncation` or `truncate` says otherwise."""
    return {"truncation": parameters.flag("truncate", True)} | _own(parameters, "truncation")


async def _text_classification(
    app: Application, request: Request, model: Model, fields: Fields, parameters: Fields
) -> Answer:
    arguments = _cut(parameters) | {"top_k": None} | _own(parameters, "top_k", "function_to_apply")
    values, _ = await _each(app, request, model, fields, **arguments)
    return answer([value if isinstance(value, list) else [value] for value in values])


async def _token_classification(
    app: Application, request: Request, model: Model, fields: Fields, parameters: Fields
) -> Answer:
    arguments = _own(parameters, "aggregation_strategy", "ignore_labels", "stride", "truncation")
    # Without a word on it, groups: what the page and the Hub's widgets show.
    arguments.setdefault("aggregation_strategy", "simple")
    if arguments["aggregation_strategy"] != "none" and "truncation" not in arguments:
        arguments.setdefault("stride", 16)
    values, single = await _each(app, request, model, fields, **arguments)
    return answer(values[0] if single else values)


async def _question_answering(
    app: Application, request: Request, model: Model, fields: Fields, parameters: Fields
) -> Answer:
    value = fields.value("inputs")
    items = value if isinstance(value, list) else [value]
    if not items:
        raise RefusalError("empty", "`inputs` cannot be empty", field="inputs")
    questions = [Fields(item, "inputs") for item in items]
    asked = [{"question": one.text("question"), "context": one.text("context")} for one in questions]
    admit(app, request, [text for one in asked for text in one.values()])
    request.texts = len(asked)
    names = ("top_k", "max_answer_len", "handle_impossible_answer", "doc_stride", "max_seq_len", "max_question_len")
    arguments = _own(parameters, *names, "align_to_words")
    answers = await model.answers(asked, **arguments)
    values = [answered.value for answered in answers]
    return answer(values if isinstance(value, list) else values[0])


async def _fill_mask(app: Application, request: Request, model: Model, fields: Fields, parameters: Fields) -> Answer:
    values, single = await _each(
        app, request, model, fields, **_cut(parameters), **_own(parameters, "targets", "top_k")
    )
    return answer(values[0] if single else values)


async def _zero_shot(app: Application, request: Request, model: Model, fields: Fields, parameters: Fields) -> Answer:
    labels = parameters.value("candidate_labels")
    if isinstance(labels, list):
        check_texts(labels, "candidate_labels")
        admit(app, request, labels)
    elif not isinstance(labels, str):
        raise parameters.refuse("candidate_labels", "is a list of texts, or one text with commas")
    arguments = _own(parameters, "hypothesis_template", "multi_label") | {"candidate_labels": labels}
    _check_template(parameters, arguments.get("hypothesis_template", "{}"))
    arguments["truncation"] = True
    values, single = await _each(app, request, model, fields, "zero-shot-classification", **arguments)
    # huggingface_hub before 1.0 reads {"labels", "scores"}; later ones read records.
    if b"hf_hub/0." not in request.headers.get(b"user-agent", b""):
        values = [
            [{"label": label, "score": score} for label, score in zip(value["labels"], value["scores"], strict=True)]
            for value in values
        ]
    return answer(values[0] if single else values)


def _check_template(parameters: Fields, template: str) -> None:
    """A template has `{}` for the label and no other field: what comes from a client looks nothing up."""
    if template.replace("{}", "").count("{") or template.replace("{}", "").count("}"):
        raise parameters.refuse("hypothesis_template", "has {} where the label goes, and no other braces")


async def _embeddings(app: Application, request: Request, model: Model, fields: Fields, parameters: Fields) -> Answer:
    if isinstance(fields.value("inputs"), dict):
        values, _, _ = await tei.compared(app, request, fields.fields("inputs"), parameters)
        return answer(values)
    texts, _ = inputs_of(app, request, model, fields.value("inputs"), "inputs")
    given = (
        fields if any(name in fields for name in ("normalize", "truncate", "prompt_name", "dimensions")) else parameters
    )
    arguments = truncation_of(given) | prompt_of(model, given) | dimensions_of(model, given)
    if (normalize := given.flag("normalize", None)) is not None:
        arguments["normalize"] = normalize
    answers = await embedded(app, request, model, texts, **arguments)
    return Answer(await dump_rows([answered.value for answered in answers]))


async def _features(app: Application, request: Request, model: Model, fields: Fields, parameters: Fields) -> Answer:
    arguments = {"return_tensors": True, **_cut(parameters)}
    values, single = await _each(app, request, model, fields, **arguments)
    return Answer(await dump_rows(list(values[0]) if single else values))


async def _ranking(app: Application, request: Request, model: Model, fields: Fields, parameters: Fields) -> Answer:
    inputs = fields.fields("inputs")
    item = {"query": inputs.text("query"), "passages": inputs.texts("passages")}
    admit(app, request, [item["query"], *item["passages"]])
    own = _own(parameters, "top_k", "function_to_apply", "label")
    return answer((await model.answer(item, task="text-ranking", **_cut(parameters), **own)).value)


async def _multiple_choice(
    app: Application, request: Request, model: Model, fields: Fields, parameters: Fields
) -> Answer:
    inputs = fields.fields("inputs")
    item = {"text": inputs.text("text"), "choices": inputs.texts("choices")}
    admit(app, request, [item["text"], *item["choices"]])
    return answer((await model.answer(item, **_cut(parameters))).value)


async def _text2text(app: Application, request: Request, model: Model, fields: Fields, parameters: Fields) -> Answer:
    arguments = _own(parameters, "src_lang", "tgt_lang", "clean_up_tokenization_spaces", "truncation")
    if arguments.get("truncation") == "do_not_truncate":
        del arguments["truncation"]
    arguments.setdefault("truncation", True)
    settings = {**_generation(parameters), **_generation(parameters.fields("generate_parameters"))}
    most = app.settings.max_new_tokens
    settings["max_new_tokens"] = min(int(settings["max_new_tokens"]), most) if "max_new_tokens" in settings else None
    if settings["max_new_tokens"] is None:
        del settings["max_new_tokens"]
    values, _ = await _each(app, request, model, fields, **arguments, **settings)
    return answer([value[0] if isinstance(value, list) else value for value in values])


def _generation(parameters: Fields) -> dict[str, Any]:
    """Settings of `generate` that clients of Hugging Face's tasks send."""
    settings: dict[str, Any] = {}
    for name, most in (("max_new_tokens", 1 << 20), ("top_k", 1 << 20), ("num_beams", 16)):
        if name in parameters:
            settings[name] = parameters.integer(name, low=1, high=most)
    if "seed" in parameters:
        settings["seed"] = parameters.integer("seed", high=1 << 62)
    for name, low, high in (("temperature", 0, 100), ("top_p", 0, 1), ("repetition_penalty", 0.01, 100)):
        if name in parameters:
            settings[name] = parameters.number(name, low=low, high=high)
    if "do_sample" in parameters:
        settings["do_sample"] = parameters.flag("do_sample")
    return settings


async def _text_generation(
    app: Application, request: Request, model: Model, fields: Fields, parameters: Fields
) -> Answer:
    prompt = fields.text("inputs")
    admit(app, request, [prompt])
    for name in ("typical_p", "watermark", "best_of", "grammar", "adapter_id", "top_n_tokens", "frequency_penalty"):
        if name in parameters and parameters.value(name) not in (False, 1, 1.0, 0):
            raise parameters.refuse(name, "is not supported")
    settings = _generation(parameters)
    settings.pop("num_beams", None)
    if settings.get("temperature") == 0:
        settings = {**settings, "do_sample": False}
        del settings["temperature"]
    stop = parameters.texts("stop", parameters.texts("stop_sequences", []))
    seed, most = settings.pop("seed", None), min(settings.pop("max_new_tokens", 256), app.settings.max_new_tokens)
    detailed = parameters.flag("details", False)
    stream = fields.flag("stream", False)
    scored = 0 if detailed or stream else None
    what = Asked(settings, most, stop, seed=seed, logprobs=scored)

    def ids() -> list[int]:
        found: list[int] = model.pipeline.tokenizer(prompt)["input_ids"]
        return found

    full = parameters.flag("return_full_text", False)
    writing = begin(model, ids, what)
    if stream:
        return Answer(await _events(model, writing, prompt if full else ""), kind=EVENTS)
    try:
        await writing.finish()
    finally:
        writing.close()
    request.tokens = writing.prompt_tokens + writing.new_tokens
    body: dict[str, Any] = {"generated_text": (prompt if full else "") + writing.text}
    if detailed:
        body["details"] = _details(writing) | {
            "prefill": [],
            "tokens": [_token(writing, place) for place in range(writing.new_tokens)],
        }
    return answer([body])


def _details(writing: Writing) -> dict[str, Any]:
    reason = "length"
    if writing.finish_reason == "stop":
        reason = "stop_sequence" if writing.stops.found is not None else "eos_token"
    return {
        "finish_reason": reason,
        "generated_tokens": writing.new_tokens,
        "input_length": writing.prompt_tokens,
        "seed": None,
    }


def _token(writing: Writing, place: int) -> dict[str, Any]:
    record = writing.records[place]
    special = record.id in writing.model.pipeline.tokenizer.all_special_ids
    return {"id": record.id, "text": record.token, "logprob": record.logprob, "special": special}


async def _events(model: Model, writing: Writing, prompt: str) -> AsyncIterator[bytes]:
    """A stream in Text Generation Inference's form, once its first token is there."""
    steps = writing.tokens()
    try:
        first = await anext(steps, None)
    except BaseException:
        writing.close()
        raise

    async def events() -> AsyncIterator[bytes]:
        try:
            place, known = 0, first
            while known is not None:
                following = await anext(steps, None)
                # What was held back for a stop string comes with the last token again.
                token = _token(writing, min(place, writing.new_tokens - 1)) | {"text": known}
                last = following is None
                yield event(
                    {
                        "index": place + 1,
                        "token": token,
                        "generated_text": prompt + writing.text if last else None,
                        "details": _details(writing) if last else None,
                    }
                )
                place, known = place + 1, following
        except RefusalError as refusal:
            yield event({"error": refusal.message, "error_type": "generation"})
        finally:
            writing.close()

    return events()


_TASKS: dict[str, _Task] = {
    "text-classification": _text_classification,
    "token-classification": _token_classification,
    "question-answering": _question_answering,
    "fill-mask": _fill_mask,
    "zero-shot-classification": _zero_shot,
    "sentence-embeddings": _embeddings,
    "feature-extraction": _features,
    "text-ranking": _ranking,
    "multiple-choice": _multiple_choice,
    "text2text-generation": _text2text,
    "summarization": _text2text,
    "translation": _text2text,
    "text-generation": _text_generation,
}

ROUTES = [
    Route("POST", "/", task_body, errors.tei),
    Route("POST", "/invocations", task_body, errors.tei),
]
