"""Engines that compile for a long time, each measured in a process of its own: torch.compile and TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu import engines, models, texts

COMPILED, RTX = "torch.compile max-autotune", "TensorRT-RTX plugin"


def measure(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Compile each case, MODEL:BATCHxLENGTH, compare it with PyTorch in fp32, time it, and yield its row at once."""
    quick, folder = job["quick"], Path(job["folder"])
    configs = models.QUICK if quick else models.CONFIGS
    for case in job["cases"]:
        model, _, shape = case.partition(":")
        batch, length = (int(part) for part in shape.split("x"))
        if job["engine"] == RTX:
            forward = engines.tensorrt_rtx(models.standard_fp16(folder / model))
        else:
            compiled = "eager" if quick else "max-autotune"
            forward = engines.torch_engine(configs[model], job["device"], compiled=compiled)
        given = texts.ids(batch, length)
        row = texts.compare(engines.reference(configs[model])(*given), forward(*given))
        samples = texts.samples(lambda f=forward, g=given: f(*g), quick)
        yield {"model": model, "case": shape, "samples": samples, **row}
