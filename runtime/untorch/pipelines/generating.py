"""What the generating tasks share: where their settings come from, and one answer after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from untorch.batching import windows
from untorch.errors import InputError
from untorch.generation import GenerationConfig
from untorch.generation.config import DEFAULTS
from untorch.model.generative import GenerativeModel
from untorch.numerics import Array
from untorch.pipelines.base import Pipeline

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer


# Arguments of `generate` that are no settings.
_EXTRA = ("streamer", "generation_config", "seed")


@dataclass(frozen=True)
class Parameters:
    """One call's arguments: for the tokenizer, for `generate`, and what the answer looks like."""

    tokenizer: dict[str, Any] = field(default_factory=dict)
    generate: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)


class GeneratingPipeline(Pipeline):
    """Settings come from the call, the constructor, the config's `task_specific_params`, the bundle's
    generation_config.json, and the task's own defaults, in this order.

    Inputs run one by one unless `batch_size` is given, as in transformers: an answer then never depends on others.
    """  # noqa: D205

    model: GenerativeModel
    # A batch is many runs, so that its texts are a small part of the work.
    overlapping = False
    default_settings: ClassVar[dict[str, Any]]

    def __init__(
        self,
        task: str,
        model: GenerativeModel,
        tokenizer: Tokenizer,
        *,
        batch_size: int | None = None,
        **defaults: Any,
    ) -> None:
        given = {name: defaults.pop(name) for name in list(defaults) if name in DEFAULTS}
        config = GenerationConfig(**self.default_settings).filled_from(model.generation_config).updated(**given)
        if config.temperature == 0.0:
            config.do_sample = False
        longest = self.default_settings["max_new_tokens"]
        if config.max_new_tokens == longest and config.max_length != DEFAULTS["max_length"]:
            config.max_new_tokens = None  # the checkpoint or the caller has set the length of the whole
        specific = dict((model.config.get("task_specific_params") or {}).get(task) or {})
        self.prefix: str = specific.pop("prefix", model.config.get("prefix")) or ""
        config = config.updated(**specific)
        if config.pad_token_id is None and tokenizer.pad_token_id is not None:
            config.pad_token_id = tokenizer.pad_token_id
        self.generation_config = config
        super().__init__(task, model, tokenizer, batch_size=batch_size, **defaults)

    def _stream(self, inputs: Iterator[Any], batch_size: int | None, parameters: Parameters) -> Iterator[Any]:
        for window in windows(inputs, batch_size or 1):
            yield from self._answers(window, batch_size, parameters)

    def _settings(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check the arguments that go to `generate`. Raises InputError for one that it does not know."""
        settings = {name: value for name, value in arguments.items() if name not in _EXTRA}
        self.generation_config.updated(**settings)
        return dict(arguments)

    def _generate(
        self, rows: Sequence[Sequence[int]], batch_size: int | None, settings: Mapping[str, Any], *, left: bool
    ) -> Iterator[tuple[int, Array]]:
        """For each row of ids, how many padding ids stand before it, and its sequences (sequences, length)."""
        settings = {"generation_config": self.generation_config, **settings}
        # One generator for all batches, so that equal prompts do not get equal draws.
        settings["seed"] = np.random.default_rng(settings.get("seed"))
        pad = self.generation_config.pad_token_id or 0
        for batch in windows(rows, batch_size or 1):
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
