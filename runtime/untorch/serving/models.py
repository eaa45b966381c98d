"""The models that a server answers with: their names, their batches, and taking a new bundle in an old one's place."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from untorch.bundle.folder import Bundle
from untorch.bundle.hub import default_model, open_bundle
from untorch.errors import InputError, TaskError, UntorchError
from untorch.loading.choice import LoadRequest
from untorch.pipelines import pipeline
from untorch.pipelines.base import Pipeline
from untorch.pipelines.batcher import Batcher, QueueFullError
from untorch.serving.errors import RefusalError
from untorch.serving.settings import ModelSource, Settings

# A list is answered in parts of about so many tokens, so many of them waiting or running at a time.
_PART = 2048

_WAITING_PARTS = 2

# About how many bytes of UTF-8 make a token; what a text weighs in the queue need not be exact.
_BYTES = 4


class Turns:
    """One model's batch runs at a time, in the order of asking: each has all cores, and none has them twice in a row
    while another waits. Models on a GPU take no turns.
    """  # noqa: D205

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the turn and hold it."""
        with self._lock:
            mine = None if not self._taken else threading.Event()
            self._taken = True
            if mine is not None:
                self._waiting.append(mine)
        if mine is not None:
            mine.wait()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._taken = False


class Answered(NamedTuple):
    """One input's answer, its tokens where they were asked for, and how long its batch ran in seconds."""

    value: Any
    tokens: int
    seconds: float


class Roads:
    """A bundle's pipelines, which share one loaded model: its own task, others that the same outputs allow, and each
    with texts cut on the left. The batcher calls it as if it were one pipeline.
    """  # noqa: D205

    def __init__(self, own: Pipeline[Any], turns: Turns | None) -> None:
        self.own = own
        self._turns = turns
        self._others: dict[tuple[str, bool], Pipeline[Any]] = {(own.task, False): own}
        self._lock = threading.Lock()
        # Tokens a second, as it was lately: what Retry-After is computed from.
        self.rate = 0.0

    def road(self, task: str | None = None, left: bool = False) -> Pipeline[Any]:
        """The pipeline of a task. Raises TaskError where the bundle cannot do it."""
        key = (task or self.own.task, left)
        if (found := self._others.get(key)) is None:
            with self._lock:
                found = self._others.get(key) or self._made(*key)
                self._others[key] = found
        return found

    def _made(self, task: str, left: bool) -> Pipeline[Any]:
        from untorch.tokenizer import Tokenizer

        tokenizer = self.own.tokenizer
        if left:
            tokenizer = Tokenizer.from_bundle(self.own.model.bundle, truncation_side="left")
        return pipeline(task, self.own.model, tokenizer)

    def count_tokens(self, item: Any) -> int:
        """About how many tokens an input has; no tokenizer runs in the event loop for it."""
        return sum(
            2 + len(text) // _BYTES if text.isascii() else 2 + len(text.encode()) // _BYTES for text in _texts(item)
        )

    def each(
        self,
        items: Sequence[Any],
        *,
        task: str | None = None,
        left: bool = False,
        counted: bool = False,
        **arguments: Any,
    ) -> list[Answered]:
        """Answer a batch, in the batcher's thread."""
        road = self.road(task, left)
        if self._turns is None:
            return self._run(road, items, counted, arguments)
        with self._turns.turn():
            return self._run(road, items, counted, arguments)

    def _run(
        self, road: Pipeline[Any], inputs: Sequence[Any], counted: bool, arguments: dict[str, Any]
    ) -> list[Answered]:
        start = time.perf_counter()
        answers = road.each(inputs, **arguments)
        seconds = time.perf_counter() - start
        weight = sum(map(self.count_tokens, inputs))
        self.rate += 0.2 * (weight / max(seconds, 1e-6) - self.rate) if self.rate else weight / max(seconds, 1e-6)
        counts = exact_counts(road, inputs, arguments) if counted else [0] * len(inputs)
        return [Answered(value, tokens, seconds) for value, tokens in zip(answers, counts, strict=True)]


def exact_counts(road: Pipeline[Any], inputs: Sequence[Any], arguments: dict[str, Any]) -> list[int]:
    """How many tokens the model reads for each input, special ones too."""
    limit = road.max_length if arguments.get("truncation") else None
    counts = []
    for item in inputs:
        if isinstance(item, dict) and "passages" in item:
            pairs = road.tokenizer.encode_ids([item["query"]] * len(item["passages"]), item["passages"])
        elif isinstance(item, dict) and "text_pair" in item:
            pairs = road.tokenizer.encode_ids([item["text"]], [item["text_pair"]])
        else:
            pairs = road.tokenizer.encode_ids(_texts(item))
        counts.append(sum(len(pair) if limit is None else min(len(pair), limit) for pair in pairs))
    return counts


def _parts(weights: Sequence[int]) -> list[list[int]]:
    """Rows by weight, in parts of about _PART."""
    parts: list[list[int]] = [[]]
    size = 0
    for row in sorted(range(len(weights)), key=weights.__getitem__):
        if parts[-1] and size + weights[row] > _PART:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += weights[row]
    return parts


def _texts(item: Any) -> list[str]:
    if isinstance(item, str):
        return [item]
    if isinstance(item, dict):
        return [text for value in item.values() for text in _texts(value)]
    return [text for text in item if isinstance(text, str)] if isinstance(item, list) else []


class Model:
    """A served model: its pipelines behind a queue."""

    def __init__(self, source: ModelSource, settings: Settings, turns: Turns) -> None:
        self.source = source
        self.name = source.name
        self.settings = settings
        self._turns = turns
        self.created = int(time.time())
        self.roads = self._load()
        self.batcher = Batcher(
            self.roads,
            max_tokens=settings.max_batch_tokens,
            max_queue=settings.max_queue_texts,
            max_queue_tokens=settings.max_queue_tokens,
        )
        self.streams: Any = None
        if hasattr(self.roads.own, "stream"):
            from untorch.serving.streams import Streams

            self.streams = Streams(settings.max_streams, settings.max_queue_texts, self._turns_for(self.roads.own))

    @property
    def pipeline(self) -> Pipeline[Any]:
        """The pipeline of the model's own task, as it is now."""
        return self.roads.own

    @property
    def task(self) -> str:
        """The model's own task."""
        return self.roads.own.task

    def _load(self) -> Roads:
        settings = self.settings
        request = LoadRequest(settings.device, settings.precision)
        bundle = (
            Bundle(default_model("text-classification"))
            if self.source.bundle is None
            else open_bundle(self.source.bundle, select=request.files)
        )
        task = self.source.task or bundle.task
        if task == "feature-extraction" and self.source.task is None:
            # An encoder without a head is served for its vectors; its token states are had too.
            task = "sentence-embeddings"
        own = pipeline(
            task, bundle.path, device=settings.device, precision=settings.precision, threads=settings.threads
        )
        return Roads(own, self._turns_for(own))

    def _turns_for(self, own: Pipeline[Any]) -> Turns | None:
        return self._turns if own.device.is_cpu else None

    def reload(self) -> None:
        """Take the bundle that lies in the old one's place now. Raises what loading raises; the old one then stays."""
        roads = self._load()
        if roads.own.task != self.task:
            raise TaskError(f"the new bundle is for {roads.own.task}; {self.name} was started for {self.task}")
        roads.own.warmup()
        self.roads = roads
        self.batcher.replace(roads)

    def close(self) -> None:
        """Answer what waits, and stop."""
        self.batcher.close()
        if self.streams is not None:
            self.streams.close()

    def can(self, task: str) -> bool:
        """Whether the model can do a task, with the outputs it has."""
        own = self.task
        if own == task or own.partition("_")[0] == task:
            return True
        if task == "feature-extraction":
            return own == "sentence-embeddings"
        if task == "zero-shot-classification" and own == "text-classification":
            return any(label.lower().startswith("entail") for label in self.pipeline.model.config.label2id)
        if task == "text-ranking" and own == "text-classification":
            return bool(self.pipeline.model.config.num_labels == 1)
        return False

    @property
    def tasks(self) -> list[str]:
        """The model's own task, and others that its head allows."""
        others = ("zero-shot-classification", "text-ranking")
        return [self.task, *(task for task in others if task != self.task and self.can(task))]

    @property
    def cuts_vectors(self) -> bool:
        """Whether the checkpoint says that its vectors may be cut (Matryoshka)."""
        config = self.pipeline.model.config
        declared = config.get("is_matryoshka") or config.get("matryoshka_dimensions")
        return bool(declared or self.pipeline.settings.truncate_dim)  # type: ignore[attr-defined]

    def clean(self, error: Exception) -> str:
        """An error's message without this machine's paths."""
        path = str(self.pipeline.model.bundle.path)
        return str(error).replace(path, self.name).replace(str(Path(path).parent), "…")

    async def answer(self, item: Any, **arguments: Any) -> Answered:
        """One input's answer. Raises RefusalError."""
        return (await self._answered([item], arguments))[0]

    async def answers(self, items: list[Any], **arguments: Any) -> list[Answered]:
        """The answers to a list of any length, in order. Raises RefusalError, which names the input at fault.

        A long list waits in parts, so that others get their turn; similar lengths go together.
        """
        weights = [self.roads.count_tokens(item) for item in items]
        parts = [range(len(items))] if sum(weights) <= _PART else _parts(weights)
        found: list[Any] = [None] * len(items)
        # The first part is answered before more is asked for: a full queue or bad arguments are known by then.
        await self._part(items, parts[0], found, arguments, bounded=True)
        waiting: deque[asyncio.Task[None]] = deque()
        try:
            for part in parts[1:]:
                waiting.append(asyncio.ensure_future(self._part(items, part, found, arguments, bounded=False)))
                if len(waiting) == _WAITING_PARTS:
                    await waiting[0]
                    waiting.popleft()
            while waiting:
                await waiting[0]
                waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
        return found

    async def _part(
        self, items: list[Any], rows: Sequence[int], found: list[Any], arguments: dict[str, Any], *, bounded: bool
    ) -> None:
        """Answer some rows of a list."""
        try:
            answers = await self._answered([items[row] for row in rows], arguments, bounded=bounded)
        except RefusalError as refusal:
            if refusal.kind == "invalid" and len(rows) > 1:
                await self._blame(items, rows, arguments)
            raise
        for row, answered in zip(rows, answers, strict=True):
            found[row] = answered

    async def _blame(self, items: list[Any], rows: Sequence[int], arguments: dict[str, Any]) -> None:
        """Raise the refusal of the first row that cannot be answered by itself."""
        for row in rows:
            try:
                await self._answered([items[row]], arguments, bounded=False)
            except RefusalError as refusal:
                raise RefusalError(refusal.kind, f"input {row}: {refusal.message}") from None

    async def _answered(self, items: list[Any], arguments: dict[str, Any], *, bounded: bool = True) -> list[Answered]:
        try:
            return await asyncio.wrap_future(self.batcher.submit(items, bounded=bounded, **arguments))
        except QueueFullError as error:
            raise self.overloaded(str(error)) from None
        except InputError as error:
            raise RefusalError("invalid", self.clean(error)) from None
        except TaskError as error:
            raise RefusalError("cannot", self.clean(error)) from None
        except UntorchError as error:
            raise RefusalError("failed", self.clean(error)) from error

    def overloaded(self, reason: str) -> RefusalError:
        """The refusal of a request that finds no room; says when there should be some."""
        _, tokens = self.batcher.queued
        seconds = tokens / self.roads.rate if self.roads.rate else 1.0
        return RefusalError(
            "overloaded", f"{self.name} is overloaded: {reason}", retry_after=max(1, min(60, round(seconds)))
        )


class Models:
    """The models of a server by name, in the order in which they were named."""

    def __init__(self, sources: Sequence[ModelSource], settings: Settings) -> None:
        turns = Turns()
        names = [source.name for source in sources]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two models are named {', '.join(sorted(twice))}; give each its own: NAME=BUNDLE")
        self._models = {source.name: Model(source, settings, turns) for source in sources}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __len__(self) -> int:
        return len(self._models)

    def get(self, name: str) -> Model:
        """The model of a name. Raises RefusalError."""
        if (model := self._models.get(name)) is None:
            raise RefusalError(
                "missing",
                f"there is no model {name!r}; there is {', '.join(self._models)}",
                field="model",
                code="model_not_found",
            )
        return model

    def choose(self, name: str | None, named_by_path: str | None, *tasks: str) -> Model:
        """The model for a request: by its path, by its `model` field, or the first that can do one of the tasks.

        Where only one can, it answers to any name, as the neighbours' servers do. Raises RefusalError.
        """
        if named_by_path is not None:
            return self._able(self.get(named_by_path), tasks)
        if name in self._models:
            return self._able(self._models[name], tasks)
        able = [model for task in tasks for model in self if model.can(task)]
        if not able:
            raise RefusalError("cannot", f"no model here does {' or '.join(tasks)}; there is {self.described()}")
        if name and len(set(map(id, able))) > 1:
            self.get(name)
        return able[0]

    def _able(self, model: Model, tasks: Sequence[str]) -> Model:
        if not any(map(model.can, tasks)):
            raise RefusalError("cannot", f"{model.name} does {model.task}, not {' or '.join(tasks)}")
        return model

    def described(self) -> str:
        """Names and tasks, in words."""
        return ", ".join(f"{model.name} ({model.task})" for model in self)

    def close(self) -> None:
        """Answer what waits, and stop."""
        for model in self:
            model.close()
