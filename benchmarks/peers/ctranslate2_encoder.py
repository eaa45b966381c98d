"""CTranslate2's encoder with the head, or the pooling, in numpy: float32 and int8.

Best settings: two threads inside one call for a single text; for many, two workers of one thread each on
length-sorted batches of 16.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers import CLASSIFICATION, EMBEDDING, THREADS, Engine, Model, Peer, batches

_BATCH = 16
_SETTINGS = "1 text: 2 threads; many: 2 workers of 1 thread, sorted by length, batches of 16"


def _peer(precision: str) -> Peer:
    tasks = (CLASSIFICATION, EMBEDDING)
    name = f"ctranslate2-{precision}"
    return Peer(name, f"CTranslate2 {precision}", "ctranslate2", precision, tasks, _SETTINGS, "ctranslate2_encoder")


PEERS = (_peer("fp32"), _peer("int8"))


def load(peer: Peer, model: Model) -> Engine:
    """The encoder, the Rust tokenizer and the head's matrices."""
    import ctranslate2
    import numpy as np
    from tokenizers import Tokenizer

    folder = str(model.folder / f"ctranslate2-{peer.precision}")
    kind = {"fp32": "float32", "int8": "int8"}[peer.precision]
    single = ctranslate2.Encoder(folder, compute_type=kind, inter_threads=1, intra_threads=THREADS)
    tokenizer = Tokenizer.from_file(str(model.folder / "checkpoint" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    head = np.load(model.folder / "head.npz")
    labels = json.loads((model.folder / "checkpoint" / "config.json").read_text()).get("id2label", {})
    many = []

    def encode(texts):
        return [row.ids for row in tokenizer.encode_batch_fast(list(texts))]

    def finish(output, lengths):
        states = np.array(output.last_hidden_state)
        if model.task == EMBEDDING:
            mask = (np.arange(states.shape[1]) < np.array(lengths)[:, None])[..., None]
            pooled = (states * mask).sum(1) / mask.sum(1)
            return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        hidden = states[:, 0] @ head["dense"].T + head["dense_bias"]
        hidden = np.maximum(hidden, 0) if head["activation"] == "relu" else np.tanh(hidden)
        logits = hidden @ head["out"].T + head["out_bias"]
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        best = scores.argmax(1)
        return [(labels[str(index)], float(row[index])) for index, row in zip(best, scores, strict=True)]

    def alone(text):
        ids = encode([text])
        return finish(single.forward_batch(ids), [len(ids[0])])

    def call(texts):
        if len(texts) == 1:
            return alone(texts[0])
        if not many:
            many.append(ctranslate2.Encoder(folder, compute_type=kind, inter_threads=THREADS, intra_threads=1))
            many.append(ThreadPoolExecutor(THREADS))
        ids = encode(texts)
        answers = [None] * len(texts)

        def run(rows):
            part = [ids[row] for row in rows]
            for row, answer in zip(rows, finish(many[0].forward_batch(part), [len(i) for i in part]), strict=True):
                answers[row] = answer

        list(many[1].map(run, batches(texts, _BATCH)))
        return np.stack(answers) if model.task == EMBEDDING else answers

    return Engine(call, alone)
