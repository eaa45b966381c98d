"""Where the draws of sampling come from: a seed of the call, or one that `set_seed` gave to all calls after it."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np

from untorch.errors import InputError
from untorch.values import flag, read, size

Seed = int | np.random.Generator | None

_lock = threading.Lock()
# What the calls without a seed of their own draw from, one after the other; None: from the system's entropy.
_common: np.random.SeedSequence | None = None


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's `random`, numpy's `np.random`, and what `generate` draws in every later call without a `seed`.

    The same calls in the same order give the same texts again; they are other texts than PyTorch's random numbers
    give. `deterministic` is there for transformers' sake: answers of a session always repeat. Raises InputError for a
    seed that is not a whole number from 0 to 2**32 - 1, which are those that numpy takes.
    """
    global _common  # noqa: PLW0603  # it is the state of the process that is set
    seed = read(size, "seed", seed)
    read(flag, "deterministic", deterministic)
    if seed >= 1 << 32:
        raise InputError(f"seed is {seed}; it is a number from 0 to 2**32 - 1")
    random.seed(seed)
    np.random.seed(seed)  # the caller's own draws are to repeat
    with _lock:
        _common = np.random.SeedSequence(seed)


def generator(seed: Any = None) -> np.random.Generator:
    """The generator of one call. Raises InputError for a seed that is none."""
    if seed is None:
        with _lock:
            return np.random.default_rng(None if _common is None else _common.spawn(1)[0])
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(read(size, "seed", seed))
