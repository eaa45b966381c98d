"""How a bundle runs best on this machine, as `untorch tune` measured it. It neither measures nor runs anything.

One small file a bundle and machine, in `$UNTORCH_CACHE`, else `$XDG_CACHE_HOME/untorch`, else `~/.cache/untorch`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

from untorch.bundle.folder import Bundle, digest
from untorch.bundle.manifest import MANIFEST
from untorch.errors import BundleError, DeviceError, FormatError, UntorchError
from untorch.ort import kernels
from untorch.ort.devices import Device, installed_wheels, usable_cores

logger = logging.getLogger(__name__)


class Plan(NamedTuple):
    """Which variant runs on which device, and how its batches share the cores.

    `threads` is the size of a session's pool, `callers` how many batches run at once, `max_tokens` the most tokens of
    one batch, padding counted.
    """

    precision: str
    device: str
    threads: int
    callers: int
    max_tokens: int

    @classmethod
    def from_json(cls, data: Any) -> Plan:
        """Read one back. Raises FormatError for anything that is not a plan."""
        try:
            plan = cls(
                precision=str(data["precision"]),
                device=str(Device(data["device"])),
                threads=int(data["threads"]),
                callers=int(data["callers"]),
                max_tokens=int(data["max_tokens"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, DeviceError) as error:
            raise FormatError(f"this is not a plan: {type(error).__name__}: {error}") from error
        if min(plan.threads, plan.callers, plan.max_tokens) < 1:
            raise FormatError("this is not a plan: threads, callers and max_tokens are numbers from 1")
        return plan


def recall(bundle: Bundle) -> Plan | None:
    """The plan that was remembered for this bundle on this machine.

    It is one for the same manifest, processor, usable cores, ONNX Runtime and untorch-kernels; None where there is
    none. A file that cannot be read is as good as none, and logged.
    """
    if not bundle.verified:
        return None
    try:
        # Looked up first by the bundle alone: a start without plans should not pay for learning about the machine.
        if not any(_folder().glob(f"{_bundle_key(bundle)}-*.json")):
            return None
        path = file_for(bundle)
    except (OSError, RuntimeError) as error:  # no home, or one that may not be looked into
        logger.info("remembered plans cannot be looked up: %s", error)
        return None
    try:
        return Plan.from_json(json.loads(path.read_bytes())["plan"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, UntorchError) as error:
        logger.warning("%s is not read: %s; run `untorch tune` again", path, error)
        return None


def remember(bundle: Bundle, plan: Plan, measured: dict[str, Any]) -> Path:
    """Write the plan, and beside it what was measured. Returns the file, which appears whole or not at all.

    Raises BundleError for a folder without a manifest: a plan is found by the manifest's digest.
    """
    if not bundle.verified:
        raise BundleError(f"{bundle.path} has no manifest, so a plan for it could not be told from one for other files")
    # Imported here: a start that only reads plans should not pay for it.
    import tempfile

    path = file_for(bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        json.dump({"plan": plan._asdict(), "bundle": str(bundle.path), **measured}, file, indent=2)
    Path(file.name).replace(path)
    return path


def file_for(bundle: Bundle) -> Path:
    """Where this bundle's plan for this machine is, or would be."""
    return _folder() / f"{_bundle_key(bundle)}-{_machine_key()}.json"


def _folder() -> Path:
    cache = os.environ.get("UNTORCH_CACHE")
    if cache:
        return Path(cache) / "plans"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "untorch" / "plans"


def _bundle_key(bundle: Bundle) -> str:
    """From the manifest, which holds the digest of every file."""
    return digest(bundle.path / MANIFEST)[:16]


def _machine_key() -> str:
    wheels = installed_wheels()
    if (version := kernels.version()) is not None:
        wheels[kernels.PACKAGE] = version
    facts = [_processor(), usable_cores(), sorted(wheels.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "cpu family", "model", "stepping", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.partition(":")[0].strip() in wanted}))
