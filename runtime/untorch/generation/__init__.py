"""Decoding loops over a model with a key-value cache. It knows ids and scores, not ONNX and not tasks.

`config.py` is what to do, `processors.py` changes scores, `sampling.py` and `beams.py` choose tokens, `stopping.py`
ends sequences, `criteria.py` is what a caller adds to both, `seeds.py` where draws come from, `streaming.py` shows text
as it comes.
"""

from __future__ import annotations

from untorch.generation.beams import search
from untorch.generation.config import GenerationConfig
from untorch.generation.criteria import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    callers_criteria,
    callers_processors,
    prefix_processor,
)
from untorch.generation.processors import Processor, processors
from untorch.generation.sampling import State, sample
from untorch.generation.seeds import Seed, generator, set_seed
from untorch.generation.stopping import Stopping
from untorch.generation.streaming import (
    AsyncTextIteratorStreamer,
    BaseStreamer,
    Streamer,
    TextIteratorStreamer,
    TextStreamer,
)

__all__ = [
    "AsyncTextIteratorStreamer",
    "BaseStreamer",
    "GenerationConfig",
    "LogitsProcessor",
    "LogitsProcessorList",
    "Processor",
    "Seed",
    "State",
    "Stopping",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "Streamer",
    "TextIteratorStreamer",
    "TextStreamer",
    "callers_criteria",
    "callers_processors",
    "generator",
    "prefix_processor",
    "processors",
    "sample",
    "search",
    "set_seed",
]
