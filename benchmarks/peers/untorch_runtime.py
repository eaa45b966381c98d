"""untorch itself: `pipeline(…)` with its defaults, which sort by length and choose threads and batches themselves."""

from __future__ import annotations

from benchmarks.peers import CLASSIFICATION, EMBEDDING, Engine, Model, Peer

_TASKS = (CLASSIFICATION, EMBEDDING)
_DEFAULT = "pipeline(model) as it comes: nothing set but the precision"


def _peer(name: str, precision: str, environment: str = "untorch") -> Peer:
    return Peer(name, name.replace("-", " "), environment, precision, _TASKS, _DEFAULT, "untorch_runtime")


PEERS = (
    _peer("untorch-fp32", "fp32"),
    _peer("untorch-int8", "int8"),
    _peer("untorch-openvino", "bf16", "untorch-openvino"),
    Peer(
        "untorch-batcher",
        "untorch int8, Batcher",
        "untorch",
        "int8",
        (CLASSIFICATION,),
        "untorch.Batcher around the int8 pipeline; callers share batches",
        "untorch_runtime",
        tuple((name, "Batcher is for concurrent callers") for name in "LTSMR"),
    ),
)


def load(peer: Peer, model: Model) -> Engine:
    """The pipeline of the model's bundle, with truncation as the transformers peers have it."""
    import untorch

    settings = (
        {"device": "openvino"} if peer.name == "untorch-openvino" else {"device": "cpu", "precision": peer.precision}
    )
    pipeline = untorch.pipeline(None, model.folder / "untorch", **settings)
    if peer.name == "untorch-batcher":
        batcher = untorch.Batcher(pipeline)
        return Engine(lambda texts: _answers(pipeline(list(texts)), model), batcher)
    return Engine(lambda texts: _answers(pipeline(list(texts)), model), lambda text: pipeline([text]), pipeline)


def _answers(given, model: Model):
    return given if model.task == EMBEDDING else [(row["label"], row["score"]) for row in given]
