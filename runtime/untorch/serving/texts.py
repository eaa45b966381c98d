"""What the routes share: texts held to the server's limits, embeddings, and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from untorch.serving.errors import RefusalError
from untorch.serving.fields import Fields, check_texts, kind_of

if TYPE_CHECKING:
    from untorch.serving.application import Application
    from untorch.serving.http import Request
    from untorch.serving.models import Answered, Model

EMBEDDINGS = "sentence-embeddings"


def admit(app: Application, request: Request, texts: Sequence[str]) -> None:
    """Hold a request's texts to the limits. Raises RefusalError."""
    settings = app.settings
    request.texts = len(texts)
    if len(texts) > settings.max_texts:
        raise RefusalError(
            "large", f"there are {len(texts)} texts; this server takes {settings.max_texts} a request (--max-texts)"
        )
    for index, text in enumerate(texts):
        if len(text) > settings.max_text_chars:
            raise RefusalError(
                "large",
                f"text {index} has {len(text)} characters; this server takes {settings.max_text_chars} a text "
                "(--max-text-chars)",
            )


def inputs_of(app: Application, request: Request, model: Model, value: Any, name: str) -> tuple[list[str], bool]:
    """The texts of an input (a text, token ids, or a list of texts and id lists), and whether it was one alone."""
    single = isinstance(value, str) or (isinstance(value, list) and bool(value) and type(value[0]) is int)
    values = [value] if single else value
    if not isinstance(values, list):
        raise RefusalError("invalid", f"`{name}` is {kind_of(value)}; it is a text or a list of texts", field=name)
    if not values:
        raise RefusalError("empty", f"`{name}` cannot be empty", field=name)
    if any(isinstance(item, list) for item in values):
        values = [item if isinstance(item, str) else text_of_ids(app, model, item, name) for item in values]
    else:
        check_texts(values, name)
    admit(app, request, values)
    return values, single


def text_of_ids(app: Application, model: Model, ids: Any, name: str) -> str:
    """The text that token ids stand for, where the server was told to accept ids."""
    if not isinstance(ids, list) or not all(type(index) is int for index in ids):
        raise RefusalError("invalid", f"`{name}` holds {kind_of(ids)}; it holds texts", field=name)
    if not app.settings.accept_ids:
        raise RefusalError(
            "invalid",
            f"`{name}` holds token ids, which this server does not take: another model's ids would give nonsense. Send "
            "texts (in langchain-openai: check_embedding_ctx_length=False), or start it with --accept-ids",
            field=name,
        )
    size = len(model.pipeline.tokenizer)
    if strange := [index for index in ids if not 0 <= index < size]:
        raise RefusalError(
            "invalid", f"`{name}` holds the id {strange[0]}; {model.name}'s vocabulary has {size} tokens", field=name
        )
    return str(model.pipeline.tokenizer.decode(ids, True))


def not_empty(texts: Sequence[str], name: str) -> None:
    """Raise RefusalError for an empty text, as Text Embeddings Inference does."""
    if not all(texts):
        raise RefusalError("empty", f"`{name}` cannot be empty", field=name)


def truncation_of(fields: Fields) -> dict[str, Any]:
    """`truncate` and `truncation_direction` as arguments of a pipeline's call."""
    arguments: dict[str, Any] = {"truncation": fields.flag("truncate", True)}
    if fields.choice("truncation_direction", ("Left", "Right", "left", "right"), "Right").lower() == "left":
        arguments["left"] = True
    return arguments


def prompt_of(model: Model, fields: Fields) -> dict[str, Any]:
    """`prompt_name`, if it is one of the checkpoint's."""
    name = fields.text("prompt_name", None)
    if name is None:
        return {}
    prompts = model.pipeline.settings.prompts  # type: ignore[attr-defined]
    if name not in prompts:
        raise fields.refuse("prompt_name", f"is {name!r}; {model.name} has {', '.join(prompts) or 'no prompts'}")
    return {"prompt_name": name}


def dimensions_of(model: Model, fields: Fields) -> dict[str, Any]:
    """`dimensions`: how many of a vector's numbers to keep."""
    size = fields.integer("dimensions", None)
    if size is None:
        return {}
    whole = int(model.pipeline.model.config.get("hidden_size") or 0)
    if size < 1 or (whole and size > whole):
        raise fields.refuse("dimensions", f"is {size}; {model.name}'s vectors have {whole}")
    return {"truncate_dim": size}


async def embedded(
    app: Application, request: Request, model: Model, texts: list[str], **arguments: Any
) -> list[Answered]:
    """A vector for each text, its tokens counted."""
    answers = await model.answers(texts, task=EMBEDDINGS, counted=True, **arguments)
    request.tokens = sum(answered.tokens for answered in answers)
    return answers
