"""Is a graph with a cache the model it was made from? It reads prompts, then continues them, beside PyTorch.

Every comparison is made twice: with an empty cache, where whole prompts go in, and with the cache that this left,
where the next tokens do. PyTorch and the graph each continue from their own cache, so what the first run got wrong
the second shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from untorch.bundle.golden import Case, save
from untorch.bundle.manifest import Variant, Verdict
from untorch.numerics import Array
from untorch.ort.session import Session
from untorch_export.answers import Answer, Arrays
from untorch_export.answers.figures import TIE, figure
from untorch_export.checkpoint.inputs import encode
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.parity import gates
from untorch_export.parity.gates import Parity, Worst
from untorch_export.parity.texts import GOLDEN_TEXTS, TEXTS
from untorch_export.trace.dynamo.encoder_decoder import encoded

# (rows, tokens of the prompt, tokens that follow) of the random batches.
SHAPES = ((1, 1, 1), (1, 2, 3), (2, 5, 1), (1, 17, 1), (7, 17, 2), (2, 128, 1))
# The longest continuation that encoder-decoder graphs are asked for: they are traced one token at a time.
ONE = 1


@dataclass(frozen=True)
class Prompt:
    """A batch to read and continue.

    `ids` and `mask` (batch, sequence) are padded on the left for a decoder-only model, on the right for an encoder;
    `targets` (batch, tokens) are the decoder's first ids, `following` (batch, tokens) those that come with the cache.
    """

    name: str
    ids: Array
    mask: Array
    following: Array
    targets: Array | None = None
    texts: list[str] | None = None


class TorchModel:
    """The PyTorch model, run as the graphs are: arrays in, logits and a cache out."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._model = checkpoint.model
        self._pairs = bool(checkpoint.model.config.is_encoder_decoder)

    def encode(self, ids: Array, mask: Array) -> Arrays:
        """The encoder's last hidden states (batch, sequence, hidden), by the decoder's name for them."""
        import torch

        with torch.inference_mode():
            states = self._model.get_encoder()(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        return {"encoder_hidden_states": states[0].numpy()}

    def empty(self) -> Any:
        """A cache that keeps all that is read, where a model's own may drop what has left a sliding window."""
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(DynamicCache(), DynamicCache()) if self._pairs else DynamicCache()

    def decode(self, inputs: Arrays, past: Any) -> tuple[Array, Any]:
        """Logits (batch, sequence, vocabulary) and the cache after them; `past` is the last one, or None."""
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        if self._pairs:
            tensors = {
                "decoder_input_ids": tensors["input_ids"],
                "encoder_outputs": encoded(tensors["encoder_hidden_states"]),
                "attention_mask": tensors["encoder_attention_mask"],
            }
        with torch.inference_mode():
            outputs = self._model(**tensors, past_key_values=past, use_cache=True)
        return outputs.logits.numpy(), getattr(outputs, "past_key_values", None)

    def arrays(self, past: Any) -> Arrays:
        """A cache as the graph's inputs. To be taken before the cache is used, which changes it."""
        # GPT-BigCode keeps the cache of its only attention in one for two.
        parts = {"": getattr(past, "self_attention_cache", past)}
        if self._pairs:
            parts = {"decoder.": past.self_attention_cache, "encoder.": past.cross_attention_cache}
        return {
            f"past_key_values.{index}.{part}{kind}": tensor.numpy()
            for part, cache in parts.items()
            for index, layer in enumerate(cache.layers)
            for kind, tensor in (("key", layer.keys), ("value", layer.values))
        }


class GraphModel:
    """A variant's graphs, run with numpy arrays, the cache included."""

    def __init__(self, bundle: Path, variant: Variant) -> None:
        sessions = {
            role: Session(bundle / entry.file, device="cpu", optimized=entry.optimized)
            for role, entry in variant.graphs.items()
        }
        self._encoder = sessions.get("encoder")
        self._decoder = sessions.get("decoder") or sessions["model"]
        self.names = [tensor.name for tensor in self._decoder.inputs]
        # Whether the decoder makes the encoder's keys and values by itself, in its first step.
        self.branches = "use_cache_branch" in self.names

    def encode(self, ids: Array, mask: Array) -> Arrays:
        """What the encoder gives, by the decoder's names: its last hidden states, and in some their keys and values."""
        assert self._encoder is not None
        outputs = [tensor.name for tensor in self._encoder.outputs]
        results = self._encoder.run({"input_ids": ids, "attention_mask": mask}, outputs)
        names = (name.replace("present", "past_key_values") for name in outputs)
        found = dict(zip(names, results, strict=True))
        return {"encoder_hidden_states": found.pop("last_hidden_state"), **found}

    def decode(self, inputs: Arrays, past: Arrays | None) -> tuple[Array, Arrays]:
        """Logits (batch, sequence, vocabulary) and the cache after them; `past` is the last one, or None."""
        feeds = self.feeds(inputs, past)
        outputs = [tensor.name for tensor in self._decoder.outputs]
        results = dict(zip(outputs, self._decoder.run(feeds, outputs), strict=True))
        present = {name.replace("present", "past_key_values"): results[name] for name in outputs if name != "logits"}
        if past is not None:  # the keys and values of the encoder's states stay what they were
            present |= {name: array for name, array in past.items() if ".encoder." in name}
        return results["logits"], present

    def replay(self, inputs: Arrays, outputs: list[str]) -> list[Array]:
        """The outputs of the graph that takes these inputs."""
        session = self._decoder if set(self.names) <= set(inputs) else self._encoder
        assert session is not None
        return session.run(inputs, outputs)

    def feeds(self, inputs: Arrays, past: Arrays | None) -> Arrays:
        """Every input of the decoder: `inputs`, the cache or an empty one, and the switch between the two."""
        feeds = {name: inputs[name] for name in self.names if name in inputs}
        rows = len(inputs["input_ids"])
        for tensor in self._decoder.inputs:
            if tensor.name == "use_cache_branch":
                feeds[tensor.name] = np.array([past is not None])
            elif tensor.name not in feeds and past is not None:
                feeds[tensor.name] = past[tensor.name]
            elif tensor.name not in feeds:
                shape = [rows, *(size if isinstance(size, int) else 0 for size in tensor.axes[1:])]
                feeds[tensor.name] = np.zeros(shape, tensor.dtype)
        return feeds


def compare(
    checkpoint: Checkpoint, bundle: Path, variants: dict[str, Variant], golden: Path, texts: Sequence[str] = TEXTS[:8]
) -> dict[str, Parity]:
    """Every variant's verdict and parity report; the golden cases are written to `golden` on the way."""
    reference = TorchModel(checkpoint)
    prompts = list(_prompts(checkpoint, texts))
    graphs = {precision: GraphModel(bundle, variant) for precision, variant in variants.items()}
    any_graph = next(iter(graphs.values()))
    expected = [list(_walk(reference, any_graph.names, prompt)) for prompt in prompts]
    cases = list(_golden(checkpoint, reference, any_graph))
    save(golden, cases)
    return {
        precision: _judge(precision, checkpoint.answer, graph, prompts, expected, cases)
        for precision, graph in graphs.items()
    }


def holds(checkpoint: Checkpoint, bundle: Path, variant: Variant, length: int) -> bool:
    """Whether the graphs are still the model's, read afresh, for a prompt of `length` tokens."""
    generator, answer = np.random.default_rng(2), checkpoint.answer
    graph, prompt = GraphModel(bundle, variant), _random(checkpoint, 1, length, 1, generator)
    worst = Worst(answer)
    pairs = zip(_walk(TorchModel(checkpoint), graph.names, prompt), _walk(graph, graph.names, prompt), strict=True)
    for (name, want), (_, got) in pairs:
        worst.add(prompt.name, name, want, got)
    return worst.excess <= gates.TOLERANCE


def _walk(model: TorchModel | GraphModel, names: Sequence[str], prompt: Prompt) -> Iterator[tuple[str, Array]]:
    """(output, values at real tokens) of reading a prompt and of continuing it."""
    inputs = _first_inputs(model, prompt)
    if "encoder_hidden_states" in inputs:
        yield "encoder", inputs["encoder_hidden_states"][prompt.mask.astype(bool)]
    real = np.ones_like(inputs["input_ids"]) if prompt.targets is not None else prompt.mask
    logits, past = model.decode(_known(inputs, names), None)
    yield "logits", logits[real.astype(bool)]
    whole = _reads_whole(names)
    inputs = _next_inputs(inputs, prompt, whole=whole)
    logits, _ = model.decode(_known(inputs, names), None if whole else past)
    yield "logits with cache", logits[:, -prompt.following.shape[1] :].reshape(-1, logits.shape[-1])


def _reads_whole(names: Sequence[str]) -> bool:
    """Whether a decoder of these input names keeps nothing, and reads the whole text at every step."""
    return not any(name.startswith("past_key_values") for name in names)


def _known(inputs: Arrays, names: Sequence[str]) -> Arrays:
    """Those of the inputs that a graph of these input names reads, and the encoder's states, which PyTorch wants."""
    return {name: array for name, array in inputs.items() if name in names or name == "encoder_hidden_states"}


def _first_inputs(model: TorchModel | GraphModel, prompt: Prompt) -> Arrays:
    if prompt.targets is None:
        positions = np.where(prompt.mask, prompt.mask.cumsum(-1) - 1, 1)
        return {"input_ids": prompt.ids, "attention_mask": prompt.mask, "position_ids": positions}
    return {
        "input_ids": prompt.targets,
        **model.encode(prompt.ids, prompt.mask),
        "encoder_attention_mask": prompt.mask,
    }


def _next_inputs(inputs: Arrays, prompt: Prompt, *, whole: bool) -> Arrays:
    """What follows the prompt; `whole` with the prompt before it, as a decoder that keeps nothing wants it."""
    if whole:
        ids, more = (
            np.concatenate([prompt_part, follows], axis=1)
            for prompt_part, follows in (
                (inputs["input_ids"], prompt.following),
                (inputs["attention_mask"], np.ones_like(prompt.following)),
            )
        )
        return {"input_ids": ids, "attention_mask": more, "position_ids": np.where(more, more.cumsum(-1) - 1, 1)}
    inputs = {**inputs, "input_ids": prompt.following}
    if "attention_mask" in inputs:
        mask = np.concatenate([inputs["attention_mask"], np.ones_like(prompt.following)], axis=1)
        inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1)[:, -prompt.following.shape[1] :]}
    return inputs


def _prompts(checkpoint: Checkpoint, texts: Sequence[str]) -> Iterator[Prompt]:
    """Random batches of several shapes, then real texts one by one."""
    generator = np.random.default_rng(0)
    for rows, length, more in SHAPES:
        if checkpoint.limit is None or length + more <= checkpoint.limit:
            yield _random(checkpoint, rows, length, more, generator)
    if checkpoint.tokenizer is not None:
        for index, text in enumerate(texts):
            yield _text(checkpoint, f"text {index}", text, generator)


def _vocabulary(checkpoint: Checkpoint) -> int:
    """How many ids the model writes: FSMT, which has two vocabularies, names none for both."""
    config = checkpoint.model.config.get_text_config(decoder=True)
    return int(getattr(config, "vocab_size", None) or checkpoint.model.get_output_embeddings().weight.shape[0])


def _random(checkpoint: Checkpoint, rows: int, length: int, more: int, generator: np.random.Generator) -> Prompt:
    vocabulary = _vocabulary(checkpoint)
    pairs = bool(checkpoint.config.get("is_encoder_decoder"))
    lengths = generator.integers(1, length + 1, rows)
    lengths[0] = length
    places = np.arange(length)
    mask = places < lengths[:, None] if pairs else places >= length - lengths[:, None]
    ids = np.where(mask, generator.integers(0, vocabulary, (rows, length)), checkpoint.pad_token_id)
    return Prompt(
        name=f"random {rows}x{length}",
        ids=ids,
        mask=mask.astype(np.int64),
        following=generator.integers(0, vocabulary, (rows, ONE if pairs else more)),
        targets=generator.integers(0, vocabulary, (rows, more)) if pairs else None,
    )


def _text(checkpoint: Checkpoint, name: str, text: str, generator: np.random.Generator) -> Prompt:
    vocabulary = _vocabulary(checkpoint)
    arrays = encode(checkpoint, ("input_ids", "attention_mask"), [text], None)
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    if checkpoint.limit is not None:  # one place is for the token that follows
        ids, mask = ids[:, : checkpoint.limit - ONE], mask[:, : checkpoint.limit - ONE]
    pairs = bool(checkpoint.config.get("is_encoder_decoder"))
    start = generator.integers(0, vocabulary, (1, 2 if pairs else ONE))
    return Prompt(name, ids, mask, start[:, -1:], start[:, :1] if pairs else None, [text])


def _golden(checkpoint: Checkpoint, reference: TorchModel, graph: GraphModel) -> Iterator[Case]:
    """The cases of `golden.npz`: random ids, ragged and not, and a text, each read and then continued by a token.

    For an encoder-decoder model the encoder has cases of its own, and the decoder's begin from PyTorch's states.
    """
    generator = np.random.default_rng(1)
    prompts = [_random(checkpoint, rows, 5, 1, generator) for rows in (1, 2)]
    if checkpoint.tokenizer is not None:
        prompts.append(_text(checkpoint, "text", GOLDEN_TEXTS[2], generator))
    for prompt in prompts:
        inputs = _first_inputs(reference, prompt)
        if prompt.targets is not None:
            states = inputs["encoder_hidden_states"]
            yield Case(
                {"input_ids": prompt.ids, "attention_mask": prompt.mask}, {"last_hidden_state": states}, prompt.texts
            )
        whole = _reads_whole(graph.names)
        logits, past = reference.decode(_known(inputs, graph.names), None if whole else reference.empty())
        arrays = None if whole else reference.arrays(past)
        if arrays and not graph.branches:
            inputs |= {name: array for name, array in arrays.items() if ".encoder." in name}
        if prompt.targets is not None or prompt.mask.all():  # logits at padding mean nothing, and differ
            yield Case(graph.feeds(inputs, None), {"logits": logits}, prompt.texts)
        inputs = _next_inputs(inputs, prompt, whole=whole)
        logits, _ = reference.decode(_known(inputs, graph.names), None if whole else past)
        if not whole or prompt.mask.all():
            yield Case(graph.feeds(inputs, arrays), {"logits": logits})


def _judge(
    precision: str,
    answer: Answer,
    graph: GraphModel,
    prompts: Sequence[Prompt],
    expected: Sequence[list[tuple[str, Array]]],
    cases: Sequence[Case],
) -> Parity:
    worst: dict[str, Worst] = {}
    decisions: dict[str, list[tuple[Array, Array]]] = {}
    for prompt, wanted in zip(prompts, expected, strict=True):
        for (name, want), (_, got) in zip(wanted, _walk(graph, graph.names, prompt), strict=True):
            worst.setdefault(name, Worst(answer)).add(prompt.name, name, want, got)
            if name != "encoder":
                decisions.setdefault(name, []).append((want, got))
    found = {name: answer.figures(*zip(*pairs, strict=True)) for name, pairs in decisions.items()}
    excess = max(item.excess for item in worst.values())
    verdict, gate = gates.judge(precision, answer, excess, min(map(answer.kept, found.values())))
    report = {
        "cases": len(prompts),
        "outputs": {name: item.to_json() for name, item in worst.items()},
        "answers": {"tie": TIE, "next token": found, **_perplexities(prompts, decisions)},
        "gate": gate,
        "golden": _replay(graph, cases, answer, verdict),
    }
    return Parity(verdict, report)


def _perplexities(
    prompts: Sequence[Prompt], decisions: dict[str, list[tuple[Array, Array]]]
) -> dict[str, dict[str, float]]:
    """How well PyTorch and the variant foretell the texts: the exponential of the mean surprise at a token.

    Of a model that reads and then writes there is no such figure: the texts are what it reads.
    """
    read = zip(prompts, decisions["logits"], strict=True)
    pairs = [(prompt.ids[0], *logits) for prompt, logits in read if prompt.texts]
    if not pairs or any(prompt.targets is not None for prompt in prompts):
        return {}
    surprises = np.array([[_surprise(logits, ids) for logits in both] for ids, *both in pairs]).sum(0)
    tokens = sum(len(ids) - 1 for ids, *_ in pairs)
    if not tokens:
        return {}
    theirs, ours = np.exp(surprises / tokens)
    return {"perplexity": {"pytorch": figure(theirs), "variant": figure(ours)}}


def _surprise(logits: Array, ids: Array) -> float:
    """The sum of the negative log-probabilities of a text's tokens after its first; logits (tokens, vocabulary)."""
    rows = logits[:-1].astype(np.float64)
    largest = rows.max(-1, keepdims=True)
    total = np.log(np.exp(rows - largest).sum(-1)) + largest[:, 0]
    return float((total - rows[np.arange(len(rows)), ids[1:]]).sum())


def _replay(graph: GraphModel, cases: Sequence[Case], answer: Answer, verdict: Verdict) -> dict[str, float]:
    """How far the variant is from the golden outputs here, and how far it may be elsewhere."""
    worst, largest = Worst(answer), 0.0
    for index, case in enumerate(cases):
        got = graph.replay(case.inputs, list(case.outputs))
        for (name, want), result in zip(case.outputs.items(), got, strict=True):
            worst.add(f"golden {index}", name, want, result)
            largest = max(largest, float(np.abs(want).max()))
    tolerance = gates.golden_tolerance(worst, verdict, largest)
    return {"max_abs_difference": figure(worst.absolute), "tolerance": figure(tolerance)}
