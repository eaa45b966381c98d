"""Optimum's ORTModel inside transformers' pipeline: fp32, and its own dynamic int8 (the avx512_vnni preset).

Best settings: two intra-op threads without spinning, length-sorted batches of 16.
"""

from __future__ import annotations

from benchmarks.peers import CLASSIFICATION, THREADS, Engine, Model, Peer, in_order

_BATCH = 16


def _peer(precision: str) -> Peer:
    settings = "2 threads, no spinning, sorted by length, batches of 16"
    return Peer(
        f"optimum-{precision}",
        f"Optimum ORT {precision}",
        "optimum",
        precision,
        (CLASSIFICATION,),
        settings,
        "optimum_onnx",
    )


PEERS = (_peer("fp32"), _peer("int8"))


def load(peer: Peer, model: Model) -> Engine:
    """A transformers pipeline around the ONNX model."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    folder = model.folder / f"optimum-{peer.precision}"
    name = next(folder.glob("*.onnx")).name
    network = ORTModelForSequenceClassification.from_pretrained(
        folder, file_name=name, provider="CPUExecutionProvider", session_options=options
    )
    tokenizer = AutoTokenizer.from_pretrained(model.folder / "checkpoint")
    classify = pipeline("text-classification", model=network, tokenizer=tokenizer, device="cpu")

    def run(texts):
        rows = classify(list(texts), batch_size=len(texts), truncation=True)
        return [(row["label"], row["score"]) for row in rows]

    return Engine(lambda texts: in_order(texts, _BATCH, run))
