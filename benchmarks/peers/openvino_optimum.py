"""OpenVINO through optimum-intel inside transformers' pipeline: bf16, and int8 by NNCF with calibration.

Best settings: two threads, the latency hint, dynamic shapes, length-sorted batches of 16.
"""

from __future__ import annotations

from benchmarks.peers import CLASSIFICATION, THREADS, Engine, Model, Peer, in_order

_BATCH = 16


def _peer(precision: str) -> Peer:
    settings = "2 threads, latency hint, sorted by length, batches of 16"
    return Peer(
        f"openvino-{precision}",
        f"OpenVINO {precision}",
        "openvino",
        precision,
        (CLASSIFICATION,),
        settings,
        "openvino_optimum",
    )


PEERS = (_peer("bf16"), _peer("int8"))


def load(peer: Peer, model: Model) -> Engine:
    """A transformers pipeline around the OpenVINO model."""
    from optimum.intel import OVModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    settings = {"INFERENCE_NUM_THREADS": str(THREADS), "PERFORMANCE_HINT": "LATENCY"}
    if peer.precision == "bf16":
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    folder = model.folder / ("openvino-int8" if peer.precision == "int8" else "openvino")
    network = OVModelForSequenceClassification.from_pretrained(folder, ov_config=settings)
    tokenizer = AutoTokenizer.from_pretrained(model.folder / "checkpoint")
    classify = pipeline("text-classification", model=network, tokenizer=tokenizer)

    def run(texts):
        rows = classify(list(texts), batch_size=len(texts), truncation=True)
        return [(row["label"], row["score"]) for row in rows]

    return Engine(lambda texts: in_order(texts, _BATCH, run))
