"""Feature extraction: the model's hidden state of every token."""

from __future__ import annotations

from typing import Any

from untorch.errors import InputError
from untorch.model.base import AutoModel
from untorch.pipelines.base import Pipeline


class FeatureExtractionPipeline(Pipeline):
    """Token states of a text as nested lists (1, tokens, hidden), as transformers gives them.

    Arguments of a call: `truncation`, `tokenize_kwargs`, and `return_tensors` (True or "np": arrays, not lists).
    """

    model_class = AutoModel

    def _parameters(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        arguments = dict(arguments)
        tokenizer = dict(arguments.pop("tokenize_kwargs", None) or {})
        truncation = arguments.pop("truncation", None)
        if truncation is not None:
            if "truncation" in tokenizer:
                raise InputError("truncation is given twice: as an argument and in tokenize_kwargs")
            tokenizer["truncation"] = truncation
        arrays = arguments.pop("return_tensors", False)
        if arrays not in (False, None, True, "np"):
            raise InputError(f'return_tensors={arrays!r} needs another framework; use "np" for numpy arrays')
        if arguments:
            raise InputError(f"feature-extraction takes no argument {', '.join(sorted(arguments))}")
        return tokenizer, bool(arrays)

    def _answers(self, items: list[Any], batch_size: int | None, parameters: tuple[dict[str, Any], bool]) -> list[Any]:
        if not items:
            return []
        tokenizer, arrays = parameters
        # A list inside the list is transformers' batch within a batch: its texts share one answer.
        if any(isinstance(item, list) for item in items):
            return [
                self._answers(item, batch_size, parameters)
                if isinstance(item, list)
                else self._answers([item], batch_size, parameters)[0]
                for item in items
            ]
        states = [row[0][None] for row in self._token_rows(self._encode(items, None, tokenizer), batch_size)]
        return list(states) if arrays else [state.tolist() for state in states]
