"""From a bundle to running sessions: each graph is checked to be what the manifest says, and opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from untorch.background import BackgroundTask
from untorch.bundle import inspection
from untorch.bundle.folder import Bundle, looked_for
from untorch.bundle.manifest import GraphFile, Variant
from untorch.bundle.precisions import Operators
from untorch.errors import DeviceError, IntegrityError, TaskError
from untorch.loading.choice import LoadRequest, choose, planned, role_for, roles
from untorch.loading.plans import Plan
from untorch.ort import kernels
from untorch.ort.cuda import buckets
from untorch.ort.devices import Device
from untorch.ort.providers import announce, on_cpu, resolve_device
from untorch.ort.session import Session


@dataclass(frozen=True)
class OpenModel:
    """A variant's running sessions, one a role, the first of which was asked for first.

    `packed` is the session of a variant without padding, where that was asked for; `sessions` are then those of the
    variant that it stands beside. `plan` is the remembered plan that was followed.
    """

    variant: Variant
    sessions: tuple[Session, ...]
    packed: Session | None = None
    plan: Plan | None = None


def open_model(bundle: Bundle, request: LoadRequest, outputs: Sequence[str], asked: Sequence[str] = ()) -> OpenModel:
    """Open the variant that answers the request: the graphs of the roles `asked` (default: what gives `outputs`).

    With the device `auto`, a GPU that turns out not to run the graphs is left for the CPU, and the log says why. Raises
    what `open_session` raises, and BundleError for a precision that is not there.
    """
    request, plan = planned(bundle, request, outputs)
    device = resolve_device(request.device)
    while True:
        try:
            return _open_on(bundle, request, outputs, asked, device, plan)
        except DeviceError as error:
            if not request.any_device or device.is_cpu:
                raise
            device = on_cpu(error)
            announce(device)


def _open_on(
    bundle: Bundle,
    request: LoadRequest,
    outputs: Sequence[str],
    asked: Sequence[str],
    device: Device,
    plan: Plan | None,
) -> OpenModel:
    def opened(variant: Variant) -> tuple[Session, ...]:
        return tuple(
            open_session(bundle, variant, role, device=device, threads=request.threads, background=request.background)
            for role in asked or (role_for(variant, outputs, device),)
        )

    variant = choose(bundle.variants, request.precision, outputs, device, bundle.path)
    sessions = opened(variant)
    if variant.operators is not Operators.PACKED:
        return OpenModel(variant, sessions, plan=plan)
    return OpenModel(variant, opened(bundle.variant(variant.base)), packed=sessions[0], plan=plan)


def open_session(
    bundle: Bundle,
    variant: Variant,
    role: str,
    *,
    device: Device,
    threads: int | None,
    background: BackgroundTask[Any] | None = None,
) -> Session:
    """Open one graph of a variant, checked first: its digests, and what it declares.

    ONNX Runtime leaves the interpreter free while it opens a graph; the `background` task begins then.

    Raises TaskError if there is no such graph, DeviceError for one that the device cannot run, DependencyError for one
    whose operators are not installed, IntegrityError or FormatError for one that is not what the manifest says or that
    reads outside the bundle, and what Session raises.
    """
    if role not in variant.graphs:
        raise TaskError(
            f"{bundle.path} holds no {role} graph (looked for {looked_for(role)}); its {variant.precision} variant is "
            f"{', '.join(graph.file for graph in variant.graphs.values())}. Name the file if it is called otherwise"
        )
    if role not in roles(variant, device):
        able = [name for name, other in bundle.variants.items() if role in roles(other, device)]
        raise DeviceError(
            f"the {variant.precision} variant of {bundle.path} has operators that {device} has not. "
            f"On {device} this bundle can run {', '.join(able) or 'nothing; export it again with --precision fp32'}"
        )
    own_operators = variant.operators is Operators.KERNELS
    if own_operators:
        kernels.require()
    graph = variant.graphs[role]
    # What is hashed and inspected must be what ONNX Runtime opens.
    with bundle.held(graph.files):
        # The graph file decides what ONNX Runtime parses, so it is checked before; the weights, which are only mapped
        # then, are read for their digest while the session is built.
        bundle.check(["config.json", graph.file])
        _inspect(bundle, graph, own_operators=own_operators)
        weights = BackgroundTask(lambda: _check_weights(bundle, graph))
        weights.begin()
        if background is not None:
            background.begin()
        session = Session(
            bundle.file(graph.file),
            device=device,
            threads=threads,
            optimized=graph.optimized,
            # A packed graph's number of tokens is known only as it runs, and a model that generates keeps its values
            # on the GPU, at another address at every run: neither can be captured.
            capturable=role in ("model", "head")
            and buckets.is_bounded(graph.inputs)
            and variant.operators is not Operators.PACKED,
            kernels=own_operators,
        )
        weights.result()
    return session


def _inspect(bundle: Bundle, graph: GraphFile, *, own_operators: bool) -> None:
    """Refuse a graph file that is not what the manifest says, or that reads outside the bundle."""
    locations = inspection.check(
        bundle.file(graph.file),
        files=[PurePosixPath(name).name for name in graph.data] if bundle.verified else None,
        inputs=[tensor.name for tensor in graph.inputs],
        outputs=[tensor.name for tensor in graph.outputs],
        domains=[kernels.DOMAIN] if own_operators else (),
    )
    for location in locations:
        bundle.file(str(PurePosixPath(graph.file).with_name(location)))


def _check_weights(bundle: Bundle, graph: GraphFile) -> None:
    try:
        bundle.check(graph.data)
    except OSError as error:  # it went away between being found and being read
        raise IntegrityError(f"{bundle.path} changed while it was loaded: {error}; load it again") from error
