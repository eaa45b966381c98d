"""Sentence embeddings: one vector a text, pooled and normalised as the checkpoint's own settings say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from untorch.bundle import read_json
from untorch.errors import FormatError, InputError, TaskError
from untorch.model import AutoModel
from untorch.numerics import Array, normalize, pool
from untorch.pipelines.base import Pipeline

# sentence-transformers' names in 1_Pooling/config.json, one flag a mode; newer files have one string, `pooling_mode`.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class EmbeddingSettings:
    """How a checkpoint makes vectors: pooling modes (concatenated), normalisation, and its own length limit."""

    pooling: tuple[str, ...] = ("mean",)
    normalize: bool = False
    max_length: int | None = None

    @classmethod
    def load(cls, folder: Path) -> EmbeddingSettings:
        """Read sentence-transformers' files of a folder; without them, mean pooling as that library defaults to.

        Raises TaskError for a module that cannot be run without torch.
        """
        modules = folder / "modules.json"
        if not modules.is_file():
            return cls()
        pooling: tuple[str, ...] = ()
        normal = False
        for module in read_json(modules):
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            if kind == "Pooling":
                pooling = _pooling(folder / str(module["path"]) / "config.json")
            elif kind == "Normalize":
                normal = True
            elif kind != "Transformer":
                raise TaskError(f"{modules} has a {kind} module, which untorch cannot run")
        limit = folder / "sentence_bert_config.json"
        length = read_json(limit).get("max_seq_length") if limit.is_file() else None
        return cls(pooling or ("mean",), normal, length)


def _pooling(path: Path) -> tuple[str, ...]:
    config = read_json(path)
    if isinstance(mode := config.get("pooling_mode"), str):
        return (mode,)
    modes = tuple(mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag))
    if not modes or config.get("pooling_mode_weightedmean_tokens"):
        raise FormatError(f"{path} names no pooling that untorch knows ({', '.join(_POOLING_FLAGS.values())})")
    return modes


class SentenceEmbeddingsPipeline(Pipeline):
    """One float32 vector a text: (hidden,) for one text, (texts, hidden) for a list, a stream of vectors for a stream.

    Arguments of a call: `truncation` (cut at the checkpoint's own limit), `max_length`, `normalize` (overrides the
    checkpoint's setting).
    """

    model_class = AutoModel

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.settings = EmbeddingSettings.load(self.model.bundle.path)

    @property
    def max_length(self) -> int | None:
        """The tighter of the model's limit and the checkpoint's own `max_seq_length`."""
        limits = [limit for limit in (super().max_length, self.settings.max_length) if limit is not None]
        return min(limits, default=None)

    def __call__(self, inputs: Any, **arguments: Any) -> Any:
        """Embed; see the class for the arguments and shapes."""
        answer = super().__call__(inputs, **arguments)
        if not isinstance(inputs, list):
            return answer
        return np.stack(answer) if answer else np.empty((0, int(self.model.config.get("hidden_size", 0))), np.float32)

    def _parameters(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], bool | None]:
        arguments = dict(arguments)
        normal = arguments.pop("normalize", None)
        if normal not in (None, True, False):
            raise InputError(f"normalize is {normal!r}; it is True or False")
        return arguments, normal

    def _answers(
        self, items: list[Any], batch_size: int | None, parameters: tuple[dict[str, Any], bool | None]
    ) -> list[Array]:
        if not items:
            return []
        tokenizer, normal = parameters
        encodings = self._encode(items, None, tokenizer)
        vectors: list[Any] = [None] * len(items)
        left = self.tokenizer.padding_side == "left"
        for rows, (states, *_) in self._forward(encodings, batch_size):
            lengths = np.array([len(encodings[row]) for row in rows.tolist()])[:, None]
            places = np.arange(states.shape[1])[None, :]
            mask = places >= states.shape[1] - lengths if left else places < lengths
            pooled = np.concatenate([pool(states, mask, mode) for mode in self.settings.pooling], axis=-1)
            if normal if normal is not None else self.settings.normalize:
                pooled = normalize(pooled)
            for row, vector in zip(rows.tolist(), pooled, strict=True):
                vectors[row] = vector
        return vectors
