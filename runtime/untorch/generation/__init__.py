"""Decoding loops over a model with a key-value cache. It knows ids and scores, not ONNX and not tasks.

`config.py` is what to do, `processors.py` changes scores, `sampling.py` and `beams.py` choose tokens, `stopping.py`
ends sequences, `streaming.py` shows text as it comes.
"""

from __future__ import annotations

from untorch.generation.beams import search
from untorch.generation.config import GenerationConfig
from untorch.generation.processors import Processor, processors
from untorch.generation.sampling import State, sample
from untorch.generation.stopping import Stopping
from untorch.generation.streaming import Streamer, TextStreamer

__all__ = [
    "GenerationConfig",
    "Processor",
    "State",
    "Stopping",
    "Streamer",
    "TextStreamer",
    "processors",
    "sample",
    "search",
]
