"""transformers' own pipeline on PyTorch: fp32, bf16, and compiled.

Best settings found on two cores: two intra-op threads, length-sorted batches of 16 (8 for long texts gains nothing
more), eager SDPA attention as the library chooses. bf16 holds the weights in bf16 under autocast, so that they are not
cast in every call. torch.compile runs with freezing (weights packed into the kernels) and dynamic shapes.
"""

from __future__ import annotations

from contextlib import nullcontext

from benchmarks.peers import CLASSIFICATION, THREADS, Engine, Model, Peer, in_order

_BATCH = 16
_TASKS = (CLASSIFICATION,)
_COMPILES = "it compiles for a minute at every start"


def _peer(name: str, label: str, precision: str, settings: str, **more) -> Peer:
    return Peer(name, label, "torch", precision, _TASKS, settings, "torch_transformers", **more)


PEERS = (
    _peer("torch-fp32", "PyTorch fp32", "fp32", "2 threads, sorted by length, batches of 16"),
    _peer("torch-bf16", "PyTorch bf16", "bf16", "as fp32, weights in bf16 under autocast"),
    _peer(
        "torch-compile",
        "torch.compile fp32",
        "fp32",
        "as fp32, torch.compile(dynamic=True) with freezing",
        left_out=tuple((workload, _COMPILES) for workload in "SM"),
        models=("distilbert",),
    ),
)


def load(peer: Peer, model: Model) -> Engine:
    """A transformers pipeline of the checkpoint."""
    import torch

    torch.set_num_threads(THREADS)
    torch.set_num_interop_threads(1)
    from transformers import pipeline

    reduced = peer.precision == "bf16"
    classify = pipeline(
        "text-classification",
        model=str(model.folder / "checkpoint"),
        device="cpu",
        dtype=torch.bfloat16 if reduced else torch.float32,
    )
    if peer.name == "torch-compile":
        import torch._inductor.config

        torch._inductor.config.freezing = True
        classify.model.forward = torch.compile(classify.model.forward, dynamic=True)

    def run(texts):
        with torch.autocast("cpu", torch.bfloat16) if reduced else nullcontext(), torch.inference_mode(not compiled):
            rows = classify(list(texts), batch_size=len(texts), truncation=True)
        return [(row["label"], row["score"]) for row in rows]

    compiled = peer.name == "torch-compile"
    return Engine(lambda texts: in_order(texts, _BATCH, run))
