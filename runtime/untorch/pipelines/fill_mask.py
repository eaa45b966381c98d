"""Fill-mask: the most likely tokens for every masked place of a text."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from untorch.errors import InputError
from untorch.model.heads import AutoModelForMaskedLM
from untorch.numerics import Array, softmax
from untorch.pipelines import inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import TOKENIZER
from untorch.pipelines.parameters import Parameters, argument
from untorch.pipelines.tokenizing import TokenizerParameters, settled, truncation
from untorch.values import count, mapping, texts

if TYPE_CHECKING:
    from tokenizers import Encoding

_log = logging.getLogger(__name__)

# A batch's scores are (tokens, vocabulary): this many take 64 MiB.
_MAX_SCORES = 1 << 24


class FillMaskParameters(Parameters):
    """The arguments of a call; see the pipeline."""

    top_k: int = argument(5, count)
    targets: list[str] | None = argument(None, texts)
    tokenizer_kwargs: Mapping[str, Any] = argument({}, mapping)
    truncation: bool | str | None = argument(None, truncation)
    # (targets,) the tokens to choose among; None for all.
    target_ids: Array | None = None
    tokenizing: TokenizerParameters = TokenizerParameters()


class FillMaskPipeline(Pipeline[FillMaskParameters]):
    """`[{"score", "token", "token_str", "sequence"}, …]` for a text with a mask, best first, as transformers gives it.

    A text with several masks gives one such list a mask, each filled on its own. A list of one text gives that text's
    answer alone. The mask is the tokenizer's own: `tokenizer.mask_token`.

    Arguments of a call: `top_k` (default 5), `targets` (choose among these words only; one that is no token of the
    vocabulary stands for its first, with a warning), `tokenizer_kwargs` (`truncation`, `max_length`, …) or
    `truncation` itself. Raises InputError for a text without a mask.
    """

    model_class = AutoModelForMaskedLM
    parameters_class = FillMaskParameters
    default_task = "fill-mask"

    @property
    def max_batch_tokens(self) -> int:
        """Fewer tokens than other tasks', because each brings a score for every token of the vocabulary."""
        return min(super().max_batch_tokens, max(1, _MAX_SCORES // len(self.tokenizer)))

    def _together(self, answers: list[Any]) -> Any:
        return answers[0] if len(answers) == 1 else answers

    def _settled(self, parameters: FillMaskParameters) -> FillMaskParameters:
        if self.tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token, so nothing can be filled in")
        given = dict(parameters.tokenizer_kwargs)
        if parameters.truncation is not None:
            given.setdefault("truncation", parameters.truncation)
        tokenizing = TokenizerParameters.of(given, TOKENIZER, f"{self.task}'s tokenizer_kwargs")
        return parameters.changed(
            target_ids=None if parameters.targets is None else self._target_ids(parameters.targets),
            tokenizing=settled(tokenizing, self.max_length),
        )

    def _target_ids(self, targets: list[str]) -> Array:
        """(targets,) the tokens that the words are, each once."""
        ids: dict[int, None] = {}
        for target in targets:
            token = self.tokenizer.backend_tokenizer.token_to_id(target)
            if token is None:
                pieces = self.tokenizer.encode(target, add_special_tokens=False)
                if not pieces:
                    _log.warning("The target %r is no token of the vocabulary and has none in it; ignoring it", target)
                    continue
                token = pieces[0]
                _log.warning(
                    "The target %r is no token of the vocabulary; %r stands for it",
                    target,
                    self.tokenizer.convert_ids_to_tokens(token),
                )
            ids[token] = None
        if not ids:
            raise InputError("targets names no token of the vocabulary; leave it out to choose among all")
        return np.array(list(ids))

    def _answers(self, items: list[Any], batch_size: int | None, parameters: FillMaskParameters) -> list[Any]:
        if not items:
            return []
        encodings = self._encode(inputs.texts(items), None, parameters.tokenizing)
        masks = [self._masks(index, encoding) for index, encoding in enumerate(encodings)]
        answers: list[Any] = [None] * len(items)
        for rows, (logits, *_) in self._forward(encodings, batch_size):
            for place, row in enumerate(rows):
                scores = softmax(logits[place, masks[row]])
                answers[row] = self._fillings(encodings[row], masks[row], scores, parameters)
        return answers

    def _masks(self, index: int, encoding: Encoding) -> Array:
        """(masks,) where a row's masks are. Raises InputError where it has none."""
        masks = np.flatnonzero(np.array(encoding.ids) == self.tokenizer.mask_token_id)
        if not len(masks):
            raise InputError(
                f"text {index} has no mask in it; write {self.tokenizer.mask_token} where a word is wanted"
            )
        return masks

    def _fillings(self, encoding: Encoding, masks: Array, scores: Array, parameters: FillMaskParameters) -> list[Any]:
        """The answer to one text; `scores` are (masks, vocabulary)."""
        if parameters.target_ids is not None:
            scores = scores[:, parameters.target_ids]
        order = np.argsort(-scores, axis=-1, kind="stable")[:, : parameters.top_k]
        answer = []
        for mask, row, best in zip(masks.tolist(), scores, order, strict=True):
            fillings = []
            for score, token in zip(row[best].tolist(), best.tolist(), strict=True):
                if parameters.target_ids is not None:
                    token = int(parameters.target_ids[token])
                ids = encoding.ids
                ids[mask] = token
                fillings.append(
                    {
                        "score": score,
                        "token": token,
                        "token_str": self.tokenizer.decode([token]),
                        # Special tokens are left out, except where that would hide the other masks.
                        "sequence": self.tokenizer.decode(
                            [index for index in ids if index != self.tokenizer.pad_token_id],
                            skip_special_tokens=len(masks) == 1,
                        ),
                    }
                )
            answer.append(fillings)
        return answer[0] if len(answer) == 1 else answer
