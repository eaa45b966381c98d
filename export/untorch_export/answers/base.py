"""What every kind of answer says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
# One table a row of a batch, (decisions, choices): a classifier makes one decision over its labels, a tagger one a
# token, an extractive reader two over the positions.
Scores = NDArray[np.float32]

HIDDEN = "last_hidden_state"


class Answer(ABC):
    """One kind of answer.

    The class attributes say how a batch is shaped; `read` takes the answers out of a model's outputs, and `figures`,
    `neighbours` and `kept` compare two models' answers.
    """

    # Axes of the graph's inputs.
    input_axes: ClassVar[tuple[str, ...]] = ("batch", "sequence")
    # The model generates: its graph has a cache and is compared by continuing prompts.
    generates: ClassVar[bool] = False
    # A row of a batch has one answer, for which the last layer need not be run at every position.
    one_a_row: ClassVar[bool] = False
    # The graph also gives the last hidden states, so that `AutoModel` works on the bundle.
    gives_states: ClassVar[bool] = True
    # What `kept` measures, by the name under which `gates.LIMITS` has its limit.
    measure: ClassVar[str]
    # What fp32 is limited by, in a report's words.
    difference: ClassVar[str] = "largest difference from PyTorch"

    def of(self, config: Mapping[str, Any]) -> Answer:
        """The kind of answer that a model of this config gives; another one where the config says so."""
        del config
        return self

    @abstractmethod
    def axes(self, output: str) -> tuple[str, ...]:
        """The leading named axes of an output, such as `("batch", "sequence")`."""

    def per_token(self, output: str) -> bool:
        """Whether an output has a value for every position, those of padding included."""
        return "sequence" in self.axes(output)

    def shaped(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows (rows, length) as the graph takes them."""
        return rows

    def laid_out(self, texts: Sequence[Any], pairs: Sequence[str] | None) -> tuple[list[Any], list[str] | None]:
        """The texts, and second texts, whose rows make up a batch of one input for each of `texts`."""
        return list(texts), None if pairs is None else list(pairs)

    @property
    def rows_an_input(self) -> int:
        """How many rows of tokens one input is."""
        return 1

    def scale(self, output: str, expected: NDArray[Any]) -> NDArray[Any] | float:
        """What a difference from `expected` is divided by before `gates.TOLERANCE` limits it.

        Hidden states are not bounded as a head's logits are, and an unusually large unit rounds in proportion:
        PyTorch's own fp32 hidden states of all-MiniLM-L6-v2 are up to 1.5e-4 away from those it computes in float64.
        """
        return 1 + np.abs(expected) if output == HIDDEN else 1.0

    def read(self, outputs: Arrays, mask: NDArray[Any]) -> list[Scores]:
        """One table a row of the batch. `mask`, the batch's attention mask, says which positions are real."""
        return [self._row(outputs, row, mask[row].astype(bool)) for row in range(len(mask))]

    @abstractmethod
    def _row(self, outputs: Arrays, row: int, real: NDArray[np.bool_]) -> Scores:
        """The table of one row."""

    @abstractmethod
    def figures(self, expected: Sequence[Scores], got: Sequence[Scores]) -> dict[str, Any]:
        """What a report says of a model's answers against the reference's."""

    @abstractmethod
    def neighbours(self, first: Sequence[Scores], second: Sequence[Scores]) -> dict[str, Any]:
        """What a report says of one model's answers to the same texts in batches of two sizes."""

    @abstractmethod
    def kept(self, figures: Mapping[str, Any]) -> float:
        """How much of the reference's answers is kept, 1 being all, from what `figures` gave."""
