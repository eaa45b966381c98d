"""untorch itself: `pipeline(…)` with its defaults, which sort by length and choose threads and batches themselves."""

from __future__ import annotations

from benchmarks.peers import CLASSIFICATION, EMBEDDING, Engine, Model, Peer

_TASKS = (CLASSIFICATION, EMBEDDING)
_DEFAULT = "pipeline(model) as it comes: nothing set but the precision"
# A peer's precision is that of its matrix products; these take the variant on our own operators.
_KERNELS = ("untorch-kernels", "untorch-kernels-batcher")


def _peer(name: str, precision: str, environment: str = "untorch", label: str = "") -> Peer:
    label = label or name.replace("-", " ")
    return Peer(name, label, environment, precision, _TASKS, _DEFAULT, "untorch_runtime")


def _batcher(name: str, variant: str) -> Peer:
    return Peer(
        name,
        f"untorch {variant}, Batcher",
        "untorch",
        "int8",
        (CLASSIFICATION,),
        f"untorch.Batcher around the {variant} pipeline; callers share batches",
        "untorch_runtime",
        tuple((workload, "Batcher is for concurrent callers") for workload in "LTSMR"),
    )


PEERS = (
    _peer("untorch-fp32", "fp32"),
    _peer("untorch-int8", "int8"),
    _peer("untorch-kernels", "int8", label="untorch int8_kernels"),
    _peer("untorch-openvino", "bf16", "untorch-openvino"),
    _batcher("untorch-batcher", "int8"),
    _batcher("untorch-kernels-batcher", "int8_kernels"),
)


def load(peer: Peer, model: Model) -> Engine:
    """The pipeline of the model's bundle, with truncation as the transformers peers have it."""
    import untorch

    precision = "int8_kernels" if peer.name in _KERNELS else peer.precision
    settings = {"device": "openvino"} if peer.name == "untorch-openvino" else {"device": "cpu", "precision": precision}
    pipeline = untorch.pipeline(None, model.folder / "untorch", **settings)
    if peer.name.endswith("batcher"):
        batcher = untorch.Batcher(pipeline)
        return Engine(lambda texts: _answers(pipeline(list(texts)), model), batcher)
    return Engine(lambda texts: _answers(pipeline(list(texts)), model), lambda text: pipeline([text]), pipeline)


def _answers(given, model: Model):
    return given if model.task == EMBEDDING else [(row["label"], row["score"]) for row in given]
