"""Text → ids, masks and offsets, and back, in transformers' call signature, on the Rust `tokenizers` alone."""

from __future__ import annotations

from untorch.tokenizer.auto import AutoTokenizer
from untorch.tokenizer.decoding import DecodeStream
from untorch.tokenizer.encoding import BatchEncoding, CharSpan, TokenSpan
from untorch.tokenizer.tokenizer import Tokenizer

__all__ = ["AutoTokenizer", "BatchEncoding", "CharSpan", "DecodeStream", "TokenSpan", "Tokenizer"]
