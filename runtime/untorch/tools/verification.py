"""Does a bundle still hold what its manifest says, and does it still give PyTorch's answers on this machine?"""

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
    """One variant against the stored reference: the largest difference, where, and what was allowed."""

    precision: str
    device: str
    cases: int
    difference: float
    position: str
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed. Not a number is not."""
        return self.difference <= self.tolerance

    @property
    def verdict(self) -> str:
        """`holds` or `differs`."""
        return "holds" if self.passed else "differs"


@dataclass(frozen=True)
class Report:
    """What `verify` found. `unchecked` are the variants that could not run here, by precision, and why."""

    files: int
    replays: tuple[Replay, ...]
    unchecked: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every variant that could run here holds."""
        return all(replay.passed for replay in self.replays)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        replays = [asdict(replay) | {"passed": replay.passed} for replay in self.replays]
        return {"passed": self.passed, "files": self.files, "replays": replays, "unchecked": self.unchecked}


def verify(bundle: Bundle, *, device: str = "auto") -> Report:
    """Check every digest, then run every variant that the device can on the reference inputs, and compare with PyTorch.

    Raises IntegrityError for an altered file and BundleError for a bundle with no manifest: there is nothing to
    verify it against. A variant that differs, or that could not run, is in the report, not an error.
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
            # argmax treats not-a-number as largest, so a broken answer cannot hide.
            place = np.unravel_index(difference.argmax(), difference.shape)
            value = float(difference[place])
            if not value <= worst:
                worst, position = value, f"case {index}, {name}{[int(axis) for axis in place]}"
    return Replay(variant.precision, sessions[0].device, len(cases), worst, position, tolerance)


def _results(bundle: Bundle, sessions: list[Session], case: golden.Case) -> Iterator[tuple[str, NDArray[Any]]]:
    """Outputs by name of every graph that takes the case's inputs: an encoder's cases have not the decoder's."""
    found = [(session, packing.feeds(session.inputs, case.inputs)) for session in sessions]
    takers = [(session, feeds) for session, feeds in found if len(feeds) == len(session.inputs)]
    if not takers:
        raise FormatError(f"{bundle.path}: {GOLDEN} has a case that no graph takes ({', '.join(case.inputs)})")
    for session, feeds in takers:
        given = {tensor.name for tensor in session.outputs}
        names = [name for name in case.outputs if name in given]
        if names:
            yield from zip(names, session.run(feeds, names), strict=True)
