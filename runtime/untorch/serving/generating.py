"""What the routes that generate share: a request's settings, and one text being written with its stop strings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from untorch.errors import InputError
from untorch.serving.errors import RefusalError
from untorch.serving.fields import Fields
from untorch.serving.models import Model
from untorch.serving.stopping import StopStrings
from untorch.serving.streams import Step, Stream, written

if TYPE_CHECKING:
    from untorch.serving.application import Application

# What OpenAI's clients may ask for and generation here does not have: neutral values are let pass.
_ABSENT: dict[str, Any] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "audio": (),
    "functions": ([],),
}


class Asked(NamedTuple):
    """How a request wants its texts written."""

    settings: dict[str, Any]
    most: int
    stop: list[str]
    choices: int = 1
    seed: int | None = None
    stream: bool = False
    usage: bool = False
    logprobs: int | None = None


def asked(app: Application, fields: Fields, *, default_tokens: int, logprobs: int | None) -> Asked:
    """Read OpenAI's fields; what is not named is the library's default for the checkpoint. Raises RefusalError."""
    for name, neutral in _ABSENT.items():
        if name in fields and fields.value(name) not in neutral:
            raise fields.refuse(name, "is not supported")
    form = fields.fields("response_format").text("type", "text")
    if form != "text":
        raise fields.refuse(
            "response_format", f"asks for {form}; this server writes text only, nothing keeps it to JSON"
        )
    settings: dict[str, Any] = {}
    temperature = fields.number("temperature", None, low=0, high=2)
    if temperature is not None:
        settings |= {"do_sample": False} if temperature == 0 else {"do_sample": True, "temperature": temperature}
    top_p = fields.number("top_p", None, low=0, high=1)
    if top_p is not None:
        settings["top_p"] = max(top_p, 1e-6)
    for name in ("top_k", "min_p", "repetition_penalty"):
        if name in fields:  # beyond OpenAI's, as vLLM takes them
            settings[name] = fields.integer(name, low=1) if name == "top_k" else fields.number(name, low=0, high=10)
    most = fields.integer("max_completion_tokens", fields.integer("max_tokens", default_tokens, low=1), low=1)
    stop = fields.text_or_texts("stop", [])
    stop = [stop] if isinstance(stop, str) else stop
    if len(stop) > 16 or not all(stop) or any(len(string) > 1000 for string in stop):
        raise fields.refuse("stop", "has up to 16 texts of up to 1000 characters, none of them empty")
    return Asked(
        settings,
        min(most, app.settings.max_new_tokens),
        stop,
        fields.integer("n", 1, low=1, high=32),
        fields.integer("seed", None, low=-(1 << 62), high=1 << 62),
        fields.flag("stream", False),
        fields.fields("stream_options").flag("include_usage", False),
        logprobs,
    )


class Record(NamedTuple):
    """A token with its log-probability, and the likeliest in its place: (text, bytes, log-probability)."""

    id: int
    token: str
    data: list[int]
    logprob: float
    top: list[tuple[str, list[int], float]]
    offset: int


@dataclass
class Writing:
    """One text being written."""

    model: Model
    stream: Stream
    stops: StopStrings
    most: int
    prompt: int = 0
    tools: bool = False
    scored: bool = False
    text: str = ""
    echoed: str = ""
    prompt_tokens: int = 0
    new_tokens: int = 0
    finish_reason: str = "length"
    records: list[Record] = field(default_factory=list)
    _told: int = 0

    async def pieces(self) -> AsyncIterator[str]:
        """The text as it becomes certain. Raises RefusalError for what the model cannot read."""
        if self.echoed:
            self.text = self.echoed
            yield self.echoed
        async for piece in self.tokens():
            if piece and not self.held:
                yield piece

    async def tokens(self) -> AsyncIterator[str]:
        """What each token adds to the certain text, maybe nothing; what is certain only at the end comes last."""
        try:
            async for step in self.stream:
                self._note(step)
                piece = self.stops.take(step.text)
                if step.ends or self.stops.found is not None:
                    self.finish_reason = "stop"
                self.text += piece
                yield piece
                if self.stops.found is not None:
                    return
        except InputError as error:
            raise RefusalError("invalid", self.model.clean(error)) from None
        if rest := self.stops.rest():
            self.text += rest
            yield rest

    @property
    def held(self) -> bool:
        """Whether the text may be a call of a tool, which is told when it is whole."""
        return self.tools and self.text.lstrip()[:1] in ("<", "")

    def _note(self, step: Step) -> None:
        self.prompt_tokens = step.prompt_tokens
        self.new_tokens += 1
        if self.scored and step.logprob is not None:
            offset = len(self.text)
            others = [(*self._shown(token), logprob) for token, logprob in step.top]
            self.records.append(Record(step.token, *self._shown(step.token), step.logprob, others, offset))

    def _shown(self, token: int) -> tuple[str, list[int]]:
        text = self.model.pipeline.tokenizer.decode([token], False, False)
        return text, list(text.encode())

    def taken(self) -> int:
        """How many records were told before, all until now counted as told."""
        told, self._told = self._told, len(self.records)
        return told

    async def finish(self) -> None:
        """Wait for the whole text."""
        async for _ in self.pieces():
            pass

    def close(self) -> None:
        """Write no more."""
        self.stream.close()


def begin(
    model: Model,
    ids: Callable[[], list[int]],
    what: Asked,
    *,
    prompt: int = 0,
    choice: int = 0,
    echoed: str = "",
    tools: bool = False,
) -> Writing:
    """Begin to write a text. Raises RefusalError where too many wait."""
    pipeline: Any = model.pipeline
    settings = dict(what.settings)
    if what.seed is not None:
        settings["seed"] = (what.seed + choice) % (1 << 63)

    def steps() -> Any:
        return written(pipeline, ids, settings, most=what.most, top_logprobs=what.logprobs)

    stream = model.streams.begin(steps)
    return Writing(
        model, stream, StopStrings(what.stop), what.most, prompt, tools, what.logprobs is not None, echoed=echoed
    )
