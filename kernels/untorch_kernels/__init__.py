"""Two operators for ONNX Runtime that make untorch's int8 faster on processors with AVX-512 VNNI.

`Linear` is a product with an eight-bit matrix and what surrounds it: quantising, outliers, bias, GELU, the residual and
the layer norm. `Attention` is softmax attention. kernels.h says what they compute.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

__all__ = ["library", "missing", "preferred"]


def library() -> Path:
    """The shared library to register with ONNX Runtime. Raises ImportError where it was not built."""
    found = sorted(Path(__file__).parent.glob("_operators*.so"))
    if not found:
        raise ImportError(f"{Path(__file__).parent} holds no compiled operators; install untorch-kernels again")
    return found[0]


@cache
def missing() -> str | None:
    """The instructions that the operators need and this processor lacks; None if it has them all."""
    function = ctypes.CDLL(str(library())).untorch_kernels_missing
    function.restype = ctypes.c_char_p
    name: bytes | None = function()
    return None if name is None else name.decode()


@cache
def preferred() -> bool:
    """Whether they are the faster choice here: not where ONNX Runtime's own int8 has AMX to work with."""
    return missing() is None and not ctypes.CDLL(str(library())).untorch_kernels_amx()
