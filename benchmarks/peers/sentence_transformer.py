"""sentence-transformers with each of its backends, for embeddings.

Best settings: two threads, its own sorting by length, batches of 32 (torch and onnx) as it comes.
"""

from __future__ import annotations

from benchmarks.peers import EMBEDDING, THREADS, Engine, Model, Peer

_LABELS = {"torch": "sentence-transformers", "onnx": "s-t ONNX", "openvino": "s-t OpenVINO"}


def _peer(backend: str) -> Peer:
    return Peer(
        f"sentence-transformers-{backend}",
        _LABELS[backend],
        "sentence-transformers",
        "fp32",
        (EMBEDDING,),
        f"{backend} backend, 2 threads, sorted by length by the library, batches of 32",
        "sentence_transformer",
    )


PEERS = tuple(_peer(backend) for backend in _LABELS)


def load(peer: Peer, model: Model) -> Engine:
    """A SentenceTransformer of the local checkpoint."""
    import torch

    torch.set_num_threads(THREADS)
    from sentence_transformers import SentenceTransformer

    backend = peer.name.rsplit("-", 1)[1]
    arguments = {}
    if backend == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        arguments = {"provider": "CPUExecutionProvider", "session_options": options, "file_name": "onnx/model.onnx"}
    elif backend == "openvino":
        hints = {
            "INFERENCE_NUM_THREADS": str(THREADS),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        arguments = {"ov_config": hints, "file_name": "openvino/openvino_model.xml"}
    network = SentenceTransformer(
        str(model.folder / "checkpoint"), backend=backend, device="cpu", model_kwargs=arguments, local_files_only=True
    )
    return Engine(
        lambda texts: network.encode(list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    )
