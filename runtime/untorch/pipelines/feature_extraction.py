"""Feature extraction: the model's hidden state of every token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from untorch.errors import InputError
from untorch.model.base import AutoModel
from untorch.pipelines import inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import TOKENIZER
from untorch.pipelines.parameters import Parameters, argument
from untorch.pipelines.tokenizing import TokenizerParameters, settled, truncation
from untorch.values import either, flag, mapping, one_of

if TYPE_CHECKING:
    from tokenizers import Encoding


class _Tokenizing(TokenizerParameters):
    # Here padding is to be seen: the rows of padding are in the answer.
    padding_side: str | None = argument(None, one_of("left", "right"))


class FeatureExtractionParameters(Parameters):
    """The arguments of a call; see the pipeline."""

    truncation: bool | str | None = argument(None, truncation)
    tokenize_kwargs: Mapping[str, Any] = argument({}, mapping)
    return_tensors: bool | str = argument(False, either("True, False or 'np'", flag, one_of("np")))
    tokenizing: _Tokenizing = _Tokenizing()


class FeatureExtractionPipeline(Pipeline[FeatureExtractionParameters]):
    """Token states of a text as nested lists (1, tokens, hidden), as transformers gives them.

    Arguments of a call: `truncation`, `tokenize_kwargs` (`truncation`, `max_length`, `padding`, `pad_to_multiple_of`,
    `padding_side`, `add_special_tokens`), and `return_tensors` (True or "np": arrays, not lists). A list inside the
    list is a batch whose texts share one answer, as in transformers.
    """

    model_class = AutoModel
    parameters_class = FeatureExtractionParameters
    default_task = "feature-extraction"

    def _settled(self, parameters: FeatureExtractionParameters) -> FeatureExtractionParameters:
        given = dict(parameters.tokenize_kwargs)
        if parameters.truncation is not None:
            if "truncation" in given:
                raise InputError("truncation is given twice: as an argument and in tokenize_kwargs")
            given["truncation"] = parameters.truncation
        tokenizing = _Tokenizing.of(given, TOKENIZER, f"{self.task}'s tokenize_kwargs")
        return parameters.changed(tokenizing=settled(tokenizing, self.max_length))

    def _answers(self, items: list[Any], batch_size: int | None, parameters: FeatureExtractionParameters) -> list[Any]:
        if not items:
            return []
        if any(isinstance(item, list) for item in items):
            return [
                self._answers(item, batch_size, parameters)
                if isinstance(item, list)
                else self._answers([item], batch_size, parameters)[0]
                for item in items
            ]
        texts, tokenizing = inputs.texts(items), parameters.tokenizing
        if tokenizing.padding in (False, "do_not_pad"):
            rows = self._encode(texts, None, tokenizing)
        else:
            rows = self._padded(texts, tokenizing)
            if len(set(map(len, rows))) > 1:
                batch_size = 1  # whoever pads by hand has the mask in the row, and another padding would be text
        states = [row[0][None] for row in self._token_rows(rows, batch_size)]
        return list(states) if parameters.return_tensors else [state.tolist() for state in states]

    def _padded(self, texts: Sequence[str], tokenizing: _Tokenizing) -> list[Encoding]:
        """Rows with the padding that the call asks for, each text by itself."""
        uses_limit = tokenizing.cut != "do_not_truncate" or tokenizing.padding == "max_length"
        longest = tokenizing.max_length or (self.max_length if uses_limit else None)
        rows: list[Encoding] = []
        for text in texts:
            batch = self.tokenizer(
                [text],
                padding=tokenizing.padding,
                truncation=tokenizing.cut,
                max_length=longest,
                pad_to_multiple_of=tokenizing.pad_to_multiple_of,
                padding_side=tokenizing.padding_side,
                add_special_tokens=tokenizing.add_special_tokens,
                verbose=False,
            )
            rows += batch.encodings or ()
        self._check_lengths(rows)
        return rows
