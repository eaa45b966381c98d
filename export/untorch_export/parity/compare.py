"""A bundle's graphs beside PyTorch: which lengths they hold for, how they compare there, and what the verdicts are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from untorch.bundle.folder import GOLDEN
from untorch.bundle.manifest import KERNELS, PACKED, Variant
from untorch.ort.session import Session
from untorch_export.answers import Arrays
from untorch_export.checkpoint.load import Checkpoint
from untorch_export.checkpoint.switches import FARTHEST, switches
from untorch_export.errors import ExportWarning
from untorch_export.parity import forward, generation
from untorch_export.parity.evalset import EvalSet
from untorch_export.parity.forward import Run, measure
from untorch_export.parity.gates import judged
from untorch_export.parity.reference import Reference, write_golden

Tick = Callable[[int, int], None]

# How far past a switch a comparison looks.
PAST = 64


def within(checkpoint: Checkpoint, bundle: Path, source: Path, variants: dict[str, Variant]) -> Checkpoint:
    """The checkpoint with the limit up to which its graphs are the model, which may be its own.

    A graph keeps what Python chose for the length it was traced with. At each length where the config says that a
    model changes, the fp32 graph `source` is compared with the model, loaded afresh, on the far side; where it differs
    there, or the switch lies too far to look behind it, that length becomes the limit, with an ExportWarning.
    """
    for switch in switches(checkpoint.config):
        limit = checkpoint.limit
        if limit is not None and limit <= switch.length:
            break
        past = min(switch.length + min(PAST, switch.length), limit or FARTHEST + PAST)
        if switch.length <= FARTHEST and _holds(checkpoint.afresh(), bundle, source, variants, past):
            continue
        warnings.warn(
            f"{checkpoint.config['model_type']} computes something else past {switch.length} tokens ({switch.named}), "
            f"which its graph does not: the bundle takes {switch.length} tokens at most",
            ExportWarning,
            stacklevel=3,
        )
        return checkpoint.limited(switch.length)
    return checkpoint


def _holds(checkpoint: Checkpoint, bundle: Path, source: Path, variants: dict[str, Variant], length: int) -> bool:
    try:
        if checkpoint.answer.generates:
            return generation.holds(checkpoint, bundle, next(iter(variants.values())), length)
        session = Session(source, device="cpu")
        names = [tensor.name for tensor in session.outputs]
        inputs = [tensor.name for tensor in session.inputs]
        run: Run = lambda feeds: dict(zip(names, session.run(feeds, names), strict=True))  # noqa: E731
        return forward.holds(checkpoint, run, inputs, length)
    except Exception:  # the engine stumbles over a shape that was a constant when the graph was traced
        return False


def compare(
    checkpoint: Checkpoint, bundle: Path, variants: dict[str, Variant], texts: EvalSet | None, tick: Tick
) -> dict[str, Variant]:
    """The variants with their verdicts and parity reports, and `golden.npz` written."""
    if checkpoint.answer.generates:
        own = texts is not None and texts.about["source"] != "built-in"
        given = {"texts": texts.texts} if own and texts is not None else {}
        return judged(variants, generation.compare(checkpoint, bundle, variants, bundle / GOLDEN, **given))
    runs = {name: _runner(bundle, variant) for name, variant in variants.items() if not name.endswith(PACKED)}
    names = [tensor.name for tensor in next(iter(variants.values())).graphs["model"].inputs]
    with Reference(checkpoint) as reference:
        golden = write_golden(checkpoint, reference, names, bundle / GOLDEN)
        return judged(variants, measure(checkpoint, reference, runs, names, texts, golden, tick))


def _runner(bundle: Path, variant: Variant) -> Run:
    """Runs a variant as the runtime will: the task's own outputs come from the head's graph where there is one."""
    parts = []
    own = variant.precision.endswith(KERNELS)
    wanted = [tensor.name for tensor in variant.graphs["model"].outputs]
    for role in ("head", "model"):
        if (entry := variant.graphs.get(role)) is not None:
            names = [tensor.name for tensor in entry.outputs if tensor.name in wanted]
            wanted = [name for name in wanted if name not in names]
            parts.append((Session(bundle / entry.file, device="cpu", optimized=entry.optimized, kernels=own), names))

    def run(inputs: Arrays) -> Arrays:
        found: Arrays = {}
        for session, names in parts:
            found.update(zip(names, session.run(inputs, names), strict=True))
        return found

    return run
