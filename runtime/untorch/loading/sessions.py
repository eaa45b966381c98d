"""From a bundle to a running session: which variant, is it what it says, open it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from untorch.background import BackgroundTask
from untorch.bundle import inspection
from untorch.bundle.folder import Bundle
from untorch.bundle.manifest import KERNELS, PACKED, GraphFile, Variant, preferred
from untorch.errors import DeviceError, IntegrityError, TaskError
from untorch.ort import kernels
from untorch.ort.cuda import buckets
from untorch.ort.providers import announce, on_cpu, resolve_device
from untorch.ort.session import Session


def choose_variant(bundle: Bundle, precision: str, outputs: Sequence[str] = (), device: str = "cpu") -> Variant:
    """The variant that `precision` stands for; `auto` is the device's preferred one that has `outputs`."""
    if precision != "auto":
        return bundle.variant(precision)
    return preferred(bundle.variants, outputs, device, kernels.preferred)


def unavailable(bundle: Bundle, device: str) -> dict[str, str]:
    """The variants of a bundle that cannot run on `device` here, by precision, and why."""
    found = {}
    for precision, variant in bundle.variants.items():
        if not variant.roles_on(device):
            found[precision] = f"it has operators that {device} has not"
        elif precision.endswith(KERNELS) and (problem := kernels.problem()):
            found[precision] = str(problem)
    return found


def open_model(
    bundle: Bundle,
    precision: str,
    outputs: Sequence[str],
    *,
    device: str,
    threads: int | None,
    roles: Sequence[str] = (),
    background: BackgroundTask[Any] | None = None,
) -> tuple[Variant, list[Session]]:
    """The variant that `precision` stands for on `device`, and sessions of its `roles` (default: what gives `outputs`).

    With the device `auto`, a card that turns out not to run the graphs is left for the CPU, and the log says why.
    What is to go on `background` begins with the first session. Raises what `open_session` raises.
    """
    taken = resolve_device(device)
    while True:
        variant = choose_variant(bundle, precision, outputs, taken)
        try:
            return variant, [
                open_session(bundle, variant, role, device=taken, threads=threads, background=background)
                for role in roles or (variant.role_for(outputs, taken),)
            ]
        except DeviceError as error:
            if device != "auto" or taken == "cpu":
                raise
            taken = on_cpu(error)
            announce(taken)


def open_session(
    bundle: Bundle,
    variant: Variant,
    role: str,
    *,
    device: str,
    threads: int | None,
    background: BackgroundTask[Any] | None = None,
) -> Session:
    """Open one graph of a variant, checked first: its digests, and what it declares.

    ONNX Runtime leaves the interpreter free while it opens a graph; what is to go on `background` begins then.

    Raises TaskError if there is no such graph, DeviceError for one that the device cannot run, DependencyError for one
    whose operators are not installed, IntegrityError or FormatError for one that is not what the manifest says or that
    reads outside the bundle, and what Session raises.
    """
    if role not in variant.graphs:
        raise TaskError(f"{bundle.path} holds {' and '.join(variant.graphs)} graphs and no {role} graph")
    if role not in variant.roles_on(device):
        able = [name for name, other in bundle.variants.items() if role in other.roles_on(device)]
        raise DeviceError(
            f"the {variant.precision} variant of {bundle.path} has operators that {device} has not. "
            f"On {device} this bundle can run {', '.join(able) or 'nothing; export it again with --precision fp32'}"
        )
    own_operators = variant.precision.endswith(KERNELS)
    if own_operators:
        kernels.require()
    graph = variant.graphs[role]
    before = bundle.identities(graph.files)
    # The graph file decides what ONNX Runtime parses, so it is checked before; the weights, which are only mapped
    # then, are read for their digest while the session is built.
    bundle.check(["config.json", graph.file])
    path = bundle.file(graph.file)
    locations = inspection.check(
        path,
        files=[PurePosixPath(name).name for name in graph.data] if bundle.verified else None,
        inputs=[tensor.name for tensor in graph.inputs],
        outputs=[tensor.name for tensor in graph.outputs],
        domains=[kernels.DOMAIN] if own_operators else (),
    )
    for location in locations:
        bundle.file(str(PurePosixPath(graph.file).with_name(location)))
    weights = BackgroundTask(lambda: _check_weights(bundle, graph))
    weights.begin()
    if background is not None:
        background.begin()
    session = Session(
        path,
        device=device,
        threads=threads,
        optimized=graph.optimized,
        # How many tokens are left without padding is known only as it runs. What generates keeps its values on the
        # card, in other places at every run.
        capturable=role in ("model", "head")
        and buckets.is_bounded(graph.inputs)
        and not variant.precision.endswith(PACKED),
        kernels=own_operators,
    )
    weights.result()
    # What was hashed and inspected must be what ONNX Runtime opened.
    if bundle.identities(graph.files) != before:
        raise IntegrityError(f"{path} or its weights changed while they were loaded; load the bundle again")
    return session


def _check_weights(bundle: Bundle, graph: GraphFile) -> None:
    try:
        bundle.check(graph.data)
    except OSError as error:  # it went away between being found and being read
        raise IntegrityError(f"{bundle.path} changed while it was loaded: {error}; load it again") from error
