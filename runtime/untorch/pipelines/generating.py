"""What the generating tasks share: where their settings come from, and one answer after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from untorch.batching import windows
from untorch.bundle.arguments import Rule
from untorch.errors import InputError
from untorch.generation import GenerationConfig, generator
from untorch.generation.config import DEFAULTS, NAMES, RULES
from untorch.model.generative import GenerativeModel
from untorch.numerics import Array
from untorch.pipelines.base import Pipeline
from untorch.pipelines.parameters import Parameters, argument
from untorch.pipelines.tokenizing import truncation
from untorch.values import Read, flag, string

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer

# What `generate` takes from the pipeline, not from its caller.
_OWN = {"self", "inputs", "input_ids", "attention_mask", "token_type_ids", "decoder_input_ids", "tokenizer"}


def return_type(*names: str) -> Read:
    """A `return_type`: a member of transformers' enumeration, or its name."""

    def reader(value: Any) -> str:
        name = str(getattr(value, "name", value)).upper()
        if name not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return name

    return reader


class GeneratingParameters(Parameters):
    """The arguments of a call that every generating task has; `settings` are those for `generate`."""

    return_tensors: bool | None = argument(None, flag)
    return_text: bool | None = argument(None, flag)
    clean_up_tokenization_spaces: bool | None = argument(None, flag)
    stop_sequence: str | None = argument(None, string)
    truncation: bool | str | None = argument(None, truncation)
    settings: Mapping[str, Any] = {}


G = TypeVar("G", bound=GeneratingParameters)


class GeneratingPipeline(Pipeline[G]):
    """Settings come from the call, the constructor, the config's `task_specific_params`, the bundle's
    generation_config.json, and the task's own defaults, in this order.

    Inputs run one by one unless `batch_size` is given, as in transformers: an answer then never depends on others.
    """  # noqa: D205

    model: GenerativeModel
    # A batch is many runs, so that its texts are a small part of the work.
    overlapping = False
    stream_window = 1
    rules = {**RULES, "inputs": Rule((), "the text is the first argument of the call")}  # noqa: RUF012
    default_settings: ClassVar[dict[str, Any]]

    def __init__(
        self, model: GenerativeModel, tokenizer: Tokenizer | None = None, *, task: str = "", **defaults: Any
    ) -> None:
        self._require_head(model, task)
        self._settings = NAMES | _of_generate(model)
        task = self._specific_task(task or self.default_task, model)
        chosen = {name: value for name, value in defaults.items() if name in DEFAULTS}
        said = model.generation_config.said
        own = {name: value for name, value in self.default_settings.items() if name not in said}
        config = GenerationConfig(**own).filled_from(model.generation_config).updated(**chosen)
        if config.temperature == 0.0:
            config.do_sample = False
        longest = self.default_settings["max_new_tokens"]
        if config.max_new_tokens == longest and config.max_length != DEFAULTS["max_length"]:
            config.max_new_tokens = None  # the checkpoint or the caller has set the length of the whole
        specific = dict((model.config.get("task_specific_params") or {}).get(task) or {})
        self.prefix: str = specific.pop("prefix", model.config.get("prefix")) or ""
        self.generation_config = config.updated(**specific)
        super().__init__(
            model, tokenizer, task=task, **{name: value for name, value in defaults.items() if name not in chosen}
        )
        self._given |= chosen
        if self.generation_config.pad_token_id is None and self.tokenizer.pad_token_id is not None:
            self.generation_config.pad_token_id = self.tokenizer.pad_token_id

    def _specific_task(self, task: str, model: GenerativeModel) -> str:  # noqa: ARG002  # for tasks that ask
        """The task by the name under which the config has settings for it."""
        return task

    def _stream(
        self, inputs: Iterator[Any], batch_size: int | None, parameters: G, *, read_ahead: bool
    ) -> Iterator[Any]:
        batches: Iterator[list[Any]] = windows(inputs, batch_size or 1)
        if read_ahead and batch_size not in (None, 1):
            from untorch.pipelines.streams import arrived

            batches = (batch for batch in arrived(inputs, batch_size) if batch)
        yield from chain.from_iterable(self._answers(batch, batch_size, parameters) for batch in batches)

    def _merged(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in arguments.items() if name in self._settings}
        settings = {name: value for name, value in settings.items() if name not in self.parameters_class.declared}
        others = {name: value for name, value in arguments.items() if name not in settings}
        merged = super()._merged(others)
        self.generation_config.updated(**{name: value for name, value in settings.items() if name in NAMES})
        return {**merged, "settings": {**merged.get("settings", {}), **settings}}

    @classmethod
    def arguments(cls) -> list[str]:
        """The names of a call's arguments, settings of `generate` among them."""
        return list(dict.fromkeys([*super().arguments(), *DEFAULTS, *_of_generate(cls.model_class)]))

    def _generate(
        self, rows: Sequence[Sequence[int]], batch_size: int | None, settings: Mapping[str, Any], *, left: bool
    ) -> Iterator[tuple[int, Array]]:
        """For each row of ids, how many padding ids stand before it, and its sequences (sequences, length)."""
        settings = {"generation_config": self.generation_config, **settings}
        # One generator for all batches, so that equal prompts do not get equal draws.
        settings["seed"] = generator(settings.get("seed"))
        pad = self.generation_config.pad_token_id or 0
        for batch in windows(rows, self._rows_together(batch_size) or 1):
            width = max(map(len, batch))
            if width == 0:  # an empty prompt begins with bos_token_id
                ids = mask = None
            else:
                ids = np.full((len(batch), width), pad, dtype=np.int64)
                mask = np.zeros_like(ids)
                for place, row in enumerate(batch):
                    if not row:
                        raise InputError("an empty prompt cannot run in a batch with others; set batch_size=1")
                    where = slice(width - len(row), width) if left else slice(0, len(row))
                    ids[place, where], mask[place, where] = row, 1
            output = self.model.generate(input_ids=ids, attention_mask=mask, tokenizer=self.tokenizer, **settings)
            for row, sequences in zip(batch, output.reshape(len(batch), -1, output.shape[-1]), strict=True):
                yield (width - len(row) if left else 0), sequences


def _of_generate(model: Any) -> set[str]:
    """What else `generate` takes by name, such as `streamer` and `seed`."""
    named = signature(model.generate).parameters
    return {name for name, one in named.items() if one.kind is not one.VAR_KEYWORD} - _OWN
