"""The engines that are compared: functions from padded ids and masks in host memory to logits in host memory.

All of them start and end with arrays in the host's memory, so a call's wall time is a synchronised time and the same
work is in it for everyone: the copy to the GPU, the model, the copy back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import models

# Takes input_ids and attention_mask (rows, tokens) as int64; gives logits (rows, labels) as float32.
Forward = Callable[[np.ndarray, np.ndarray], np.ndarray]


def torch_engine(config: dict[str, Any], device: str, *, attention: str = "sdpa", compiled: str = "") -> Forward:
    """PyTorch in fp16 (fp32 on a CPU), as it comes or through `torch.compile` in the mode `compiled`.

    `eager` compiles nothing; it is for smoke runs.
    """
    import torch

    model = models.torch_model(config, attention).to(device)
    if device == "cuda":
        model = model.half()
    call = model
    if compiled == "eager":
        call = torch.compile(model, backend="eager")
    elif compiled:
        call = torch.compile(model, mode=compiled, dynamic=False)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = [torch.from_numpy(array) for array in (ids, mask)]
        if device == "cuda":
            # Pinning a small array takes longer than copying it.
            pinned = ids.size > 4096
            given = [(array.pin_memory() if pinned else array).to(device, non_blocking=True) for array in given]
        with torch.inference_mode():
            logits = call(input_ids=given[0], attention_mask=given[1]).logits
        return logits.float().cpu().numpy()

    return forward


def reference(config: dict[str, Any]) -> Forward:
    """PyTorch in fp32 with eager attention, on the CPU: what the answers must be."""
    return torch_engine(config, "cpu", attention="eager")


def plain_session(bundle: Path, precision: str, device: str) -> Forward:
    """The same ONNX file in `onnxruntime.InferenceSession(…).run`, nothing set."""
    import onnxruntime

    name = "model.onnx" if precision == "fp32" else f"model_{precision}.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(str(bundle / "onnx" / name), options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} did not start")
    return session_engine(session)


def tensorrt_rtx(graph: Path) -> Forward:
    """A graph of standard operators through the plugin onnxruntime-ep-nv-tensorrt-rtx, which compiles it here."""
    import onnxruntime
    import onnxruntime_ep_nv_tensorrt_rtx as plugin

    name = plugin.get_ep_name()
    onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_provider_for_devices([one for one in onnxruntime.get_ep_devices() if one.ep_name == name][:1], {})
    return session_engine(onnxruntime.InferenceSession(str(graph), options))


def untorch_engine(bundle: Path, precision: str, device: str, *, graphs: bool = True) -> Forward:
    """Untorch's model; without `graphs`, no CUDA graph is captured."""
    from untorch import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(bundle, device=device, precision=precision)
    if not graphs:
        model.session.capture(0, {})
    return padded(lambda feeds: model.forward(feeds)[0], list(model.input_names))


def session_engine(session: Any) -> Forward:
    """A session of ONNX Runtime's, its inputs in the types that it takes."""
    types = {item.name: "int32" if "int32" in item.type else "int64" for item in session.get_inputs()}

    def run(feeds: dict[str, np.ndarray]) -> np.ndarray:
        typed = {name: array.astype(types[name], copy=False) for name, array in feeds.items()}
        return session.run(["logits"], typed)[0]

    return padded(run, list(types))


def padded(run: Callable[[dict[str, np.ndarray]], np.ndarray], names: list[str]) -> Forward:
    """An engine from what takes inputs by name: ids, mask, the indices of padding removal; zeros for any others."""
    from untorch.ort.cuda import packing

    packed = any(tensor.name in names for tensor in packing.INDICES)

    def forward(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = {"input_ids": ids, packing.MASK: mask, **(packing.indices(mask) if packed else {})}
        return run({name: given.get(name, np.zeros_like(ids)) for name in names})

    return forward
