"""A checkpoint's `config.json`, read as transformers' PretrainedConfig would show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from untorch.bundle.folder import read_json
from untorch.errors import FormatError

# transformers' attribute_map: the name most architectures use → the names others give the same thing.
_ALIASES = {
    "hidden_size": ("dim", "d_model", "n_embd"),
    "num_hidden_layers": ("n_layers", "n_layer", "num_layers", "encoder_layers"),
    "num_attention_heads": ("n_heads", "n_head", "num_heads", "encoder_attention_heads"),
    "max_position_embeddings": ("n_positions",),
}

# Position ids of these start at pad_token_id + 1, so that many rows of the position table are never used.
_OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

# Relative or rotary positions: there is no table to run past, and transformers sets no limit either.
_NO_POSITION_TABLE = {
    "gemma",
    "gemma2",
    "gpt_neox",
    "llama",
    "longt5",
    "mistral",
    "modernbert",
    "mt5",
    "phi3",
    "qwen2",
    "qwen3",
    "t5",
    "umt5",
    "xlnet",
}


# What transformers' configs say where the file does not, of what has the same default in all of them.
_DEFAULTS: dict[str, Any] = {
    "architectures": None,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}

# The key under which an export writes the most tokens for which a graph is what the model was.
LIMIT = "max_sequence_length"

# Labels without names; the largest real label sets have some ten thousand, with names.
_MAX_LABELS = 1_000_000


class _Labels(dict[int, str]):
    def __missing__(self, index: int) -> str:
        raise FormatError(f"the graph scores a label {index}; config.json names {len(self)} labels, from 0")


class ModelConfig:
    """Attributes of `config.json`, with transformers' defaults for labels. Unknown names raise AttributeError."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = dict(values)
        labels = self._values.get("id2label")
        if labels is None:
            labels = {index: f"LABEL_{index}" for index in range(self._count("num_labels", 2, _MAX_LABELS))}
        try:
            self.id2label: dict[int, str] = _Labels((int(index), str(label)) for index, label in labels.items())
        except (AttributeError, TypeError, ValueError) as error:
            raise FormatError(f"config.json: id2label is not a mapping of numbers to labels: {error}") from error
        self.label2id: dict[str, int] = {label: index for index, label in self.id2label.items()}
        self.num_labels = len(self.id2label)
        self.problem_type: str | None = self._values.get("problem_type")
        self.model_type = str(self._values.get("model_type", ""))
        self._count("vocab_size", 1)
        self._count("max_position_embeddings", 1)
        self._count(LIMIT, 1)
        if self.model_type in _OFFSET_POSITIONS:
            self._count("pad_token_id", 1)
        # Most tokens a sequence may have, None where positions are relative or rotary and nothing runs out.
        self.max_sequence_length = self._max_sequence_length()
        if self.max_sequence_length is not None and self.max_sequence_length < 1:
            raise FormatError("config.json: max_position_embeddings leaves no room for a token")

    @classmethod
    def load(cls, folder: Path) -> ModelConfig:
        """Read `config.json` of a folder; a folder without one gives an empty config."""
        path = folder / "config.json"
        if not path.is_file():
            return cls({})
        values = read_json(path)
        if not isinstance(values, dict):
            raise FormatError(f"{path} is not a JSON object")
        return cls(values)

    def _count(self, name: str, default: int, most: int | None = None) -> int:
        """A whole number that is not negative. Raises FormatError."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0 or (most is not None and value > most):
            raise FormatError(f"config.json: {name} is {value!r}, not a count")
        return value

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        for candidate in (name, *_ALIASES.get(name, ())):
            if candidate in values:
                return values[candidate]
        if name in _DEFAULTS:
            return _DEFAULTS[name]
        raise AttributeError(f"config.json has no {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ModelConfig({self.to_dict()})"

    def get(self, name: str, default: Any = None) -> Any:
        """The value of `name`, or `default` where the config does not say."""
        value = getattr(self, name, default)
        return default if name in _DEFAULTS and name not in self._values else value

    def changed(self, values: Mapping[str, Any]) -> ModelConfig:
        """A copy with other values. Raises FormatError for one that cannot be."""
        changed = {**self._values, **values}
        if "num_labels" in values and "id2label" not in values and values["num_labels"] != self.num_labels:
            del changed["id2label"]
        return ModelConfig(changed)

    def labels(self, count: int) -> list[str]:
        """The names of a head's `count` labels, in order. Raises FormatError where the config names fewer."""
        return [self.id2label[index] for index in range(count)]

    def to_dict(self) -> dict[str, Any]:
        """The config's values, labels with whole-number keys."""
        return {**self._values, "id2label": dict(self.id2label), "label2id": self.label2id}

    def to_json_string(self, use_diff: bool = True) -> str:
        """The values as JSON, sorted by name, with a new line at the end. `use_diff` changes nothing here."""
        del use_diff
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def _max_sequence_length(self) -> int | None:
        limits = [limit for limit in (self._values.get(LIMIT), self._positions()) if limit is not None]
        return min(map(int, limits), default=None)

    def _positions(self) -> int | None:
        """How many positions the model's own table has; None where it has none."""
        limit = self.get("max_position_embeddings")
        if limit is None or self.model_type in _NO_POSITION_TABLE:
            return None
        if self.model_type in ("deberta", "deberta-v2") and not self.get("position_biased_input", True):
            return None
        if self.model_type in _OFFSET_POSITIONS:
            return int(limit) - int(self.get("pad_token_id", 1) or 0) - 1
        return int(limit)
