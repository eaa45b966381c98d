"""`AutoTokenizer`, the name under which transformers' users look for a tokenizer."""

from __future__ import annotations

import os
from typing import Any

from untorch.errors import InputError
from untorch.tokenizer.tokenizer import Tokenizer


class AutoTokenizer:
    """transformers' entry point: `AutoTokenizer.from_pretrained(folder)` gives a `Tokenizer`."""

    def __init__(self) -> None:
        raise InputError("make a tokenizer with AutoTokenizer.from_pretrained(folder)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | os.PathLike[str], **overrides: Any) -> Tokenizer:
        """Read a tokenizer; see `Tokenizer.from_pretrained` for the arguments and the errors."""
        return Tokenizer.from_pretrained(pretrained_model_name_or_path, **overrides)
