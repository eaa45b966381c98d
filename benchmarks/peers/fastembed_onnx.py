"""fastembed for embeddings: the local ONNX model as one of its custom models, so that it fetches nothing.

Best settings: two threads in one process, texts sorted by length, batches of 16. It pads to the longest of a batch.
"""

from __future__ import annotations

from benchmarks.peers import EMBEDDING, THREADS, Engine, Model, Peer, in_order

_NAME = "local/benchmark"
_BATCH = 16

PEERS = (
    Peer(
        "fastembed",
        "fastembed",
        "fastembed",
        "fp32",
        (EMBEDDING,),
        "2 threads, sorted by length, batches of 16",
        "fastembed_onnx",
    ),
)


def load(peer: Peer, model: Model) -> Engine:
    """A TextEmbedding of the local files."""
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model=_NAME,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=_NAME),
        dim=384,
        model_file="onnx/model.onnx",
    )
    network = TextEmbedding(_NAME, specific_model_path=str(model.folder / "checkpoint"), threads=THREADS)
    return Engine(
        lambda texts: np.stack(in_order(texts, _BATCH, lambda part: list(network.embed(part, batch_size=_BATCH))))
    )
