"""The kinds of answer that models give: how each is shaped, read out of a model's outputs, and compared.

One object a kind. A task names its kind (`task.answer`), and everything that differs from one kind to the next is
asked of that object: the axes of inputs and outputs, the layout of a batch, what two models' answers are compared by.
A new kind is one class in `kinds.py`.
"""

from __future__ import annotations

from untorch_export.answers.base import HIDDEN, Answer, Arrays, Scores
from untorch_export.answers.kinds import CHOICE, NEXT, ROW, SPAN, TOKEN, VECTOR

__all__ = ["CHOICE", "HIDDEN", "NEXT", "ROW", "SPAN", "TOKEN", "VECTOR", "Answer", "Arrays", "Scores"]
