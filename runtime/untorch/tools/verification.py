"""Checks a bundle against its manifest, and its answers on this machine against PyTorch's, which it stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from untorch.bundle import golden
from untorch.bundle.folder import GOLDEN, Bundle
from untorch.bundle.manifest import Variant
from untorch.errors import BundleError, FormatError
from untorch.loading.choice import roles, unavailable
from untorch.loading.sessions import open_session
from untorch.ort.cuda import packing
from untorch.ort.devices import Device
from untorch.ort.providers import resolve_device
from untorch.ort.session import Session


@dataclass(frozen=True)
class Replay:
    """The comparison of one variant with the stored reference.

    `difference` is the largest absolute difference over all `cases`, `position` says in which case, output and place
    it is, and `tolerance` is the largest that is allowed.
    """

    precision: str
    device: str
    cases: int
    difference: float
    position: str
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance

    @property
    def verdict(self) -> str:
        """The word for it: `holds` or `differs`."""
        return "holds" if self.passed else "differs"


@dataclass(frozen=True)
class Report:
    """The result of `verify`.

    `files` is the number of files whose digest was right; `unchecked` has the variants that cannot run here, by
    precision, with the reason.
    """

    files: int
    replays: tuple[Replay, ...]
    unchecked: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every variant that can run here is within its tolerance."""
        return all(replay.passed for replay in self.replays)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        replays = [asdict(replay) | {"passed": replay.passed} for replay in self.replays]
        return {"passed": self.passed, "files": self.files, "replays": replays, "unchecked": self.unchecked}


def verify(bundle: Bundle, *, device: str = "auto") -> Report:
    """Check every digest, then run each variant on the reference inputs and compare its outputs with PyTorch's.

    `device` is where the variants run. Raises IntegrityError for an altered file, and BundleError for a bundle with no
    manifest, because there is nothing to verify it against. A variant that differs, or that cannot run on the device,
    is no error; the report says so.
    """
    if bundle.manifest is None:
        raise BundleError(f"{bundle.path} has no manifest, so there is nothing to verify it against; export it again")
    bundle.check()
    cases = golden.load(bundle.file(GOLDEN))
    taken = resolve_device(device)
    unchecked = unavailable(bundle, taken)
    replays = tuple(
        _replay(bundle, variant, cases, taken)
        for precision, variant in bundle.variants.items()
        if precision not in unchecked
    )
    return Report(len(bundle.files), replays, unchecked)


def _replay(bundle: Bundle, variant: Variant, cases: list[golden.Case], device: Device) -> Replay:
    try:
        tolerance = float(variant.parity["golden"]["tolerance"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{bundle.path}: the {variant.precision} variant states no tolerance to replay under"
        ) from error
    sessions = [open_session(bundle, variant, role, device=device, threads=None) for role in roles(variant, device)]
    worst, position = 0.0, "-"
    for index, case in enumerate(cases):
        for name, result in _results(bundle, sessions, case):
            difference = np.abs(result - case.outputs[name])
            # argmax takes NaN for the largest, so that a NaN is found.
            place = np.unravel_index(difference.argmax(), difference.shape)
            value = float(difference[place])
            if not value <= worst:
                worst, position = value, f"case {index}, {name}{[int(axis) for axis in place]}"
    return Replay(variant.precision, sessions[0].device, len(cases), worst, position, tolerance)


def _results(bundle: Bundle, sessions: list[Session], case: golden.Case) -> Iterator[tuple[str, NDArray[Any]]]:
    """The outputs of a case by name, from every graph whose inputs the case has.

    In an encoder–decoder model a case has the inputs of one of the graphs only.
    """
    found = [(session, packing.feeds(session.inputs, case.inputs)) for session in sessions]
    takers = [(session, feeds) for session, feeds in found if len(feeds) == len(session.inputs)]
    if not takers:
        raise FormatError(f"{bundle.path}: {GOLDEN} has a case that no graph takes ({', '.join(case.inputs)})")
    for session, feeds in takers:
        given = {tensor.name for tensor in session.outputs}
        names = [name for name in case.outputs if name in given]
        if names:
            yield from zip(names, session.run(feeds, names), strict=True)
