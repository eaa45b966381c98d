"""The operations of a forward pass, and the rates at which the GPU computes and copies: the least time possible."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

_clock = time.perf_counter


def operations(config: dict[str, Any], lengths: Iterable[int], *, head_only: bool = False) -> float:
    """Multiplications and additions of matrix products for rows of these lengths, without padding.

    With `head_only`, the last layer's queries, attention output and feed-forward products are for one token a row.
    """
    hidden = config.get("hidden_size") or config["dim"]
    inner = config.get("intermediate_size") or config["hidden_dim"]
    layers = config.get("num_hidden_layers") or config["n_layers"]
    total = 0.0
    for length in lengths:
        per_token = 2 * hidden * hidden + 2 * hidden * inner  # query and output, feed-forward
        keys = 2 * hidden * hidden
        for layer in range(layers):
            rows = 1 if head_only and layer == layers - 1 else length
            total += 2.0 * (rows * per_token + length * keys + 2 * rows * length * hidden)
        total += 2.0 * hidden * hidden
    return total


def limits(device: str, *, quick: bool) -> dict[str, Any]:
    """The matrix rate (operations a second) and the copy bandwidth (bytes read and written a second), by PyTorch."""
    import torch

    kind = torch.float16 if device == "cuda" else torch.float32
    size = 512 if quick else 8192
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    out = torch.empty(size, size, device=device, dtype=kind)
    rate = 2.0 * size**3 / timed(lambda: torch.mm(left, right, out=out), device, 3 if quick else 20)
    values = (1 << 22) if quick else (1 << 28)
    source = torch.randn(values, device=device)
    target = torch.empty_like(source)
    width = 2.0 * 4 * values / timed(lambda: target.copy_(source), device, 3 if quick else 20)
    if device == "cuda":
        del left, right, out, source, target
        torch.cuda.empty_cache()  # for the engines, which have allocators of their own
    return {
        "matrix": f"{size}x{size}x{size} {str(kind).removeprefix('torch.')}, random data",
        "operations_per_second": rate,
        "bytes_per_second": width,
    }


def timed(run: Callable[[], Any], device: str, times: int) -> float:
    """Median seconds of a call, by the device's own events where it has them."""
    import torch

    for _ in range(3):
        run()
    samples = []
    for _ in range(times):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            samples.append(start.elapsed_time(end) / 1e3)
        else:
            begin = _clock()
            run()
            samples.append(_clock() - begin)
    return statistics.median(samples)
