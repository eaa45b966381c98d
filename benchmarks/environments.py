"""Makes a virtual environment for each engine, under `benchmarks/.environments/`, from pinned requirement files.

    python -m benchmarks.environments [NAME …]

Needs only the standard library. An environment that cannot be made leaves `NAME.failed` with pip's last line; the
results then give it as the reason. Our own operators are compiled from `kernels/`; where they cannot be, the engine
that needs them is left out.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / ".environments"
REQUIREMENTS = ROOT / "benchmarks" / "requirements"

KERNELS = ROOT / "kernels"

# The environments that need our own operators: the one that exports, and the one in which untorch is measured.
_WITH_KERNELS = ("build", "untorch")

# The packages that a new environment has before anything is installed.
_SEED_PACKAGES = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")


def names() -> list[str]:
    """Every environment there is a requirement file for."""
    return sorted(file.stem for file in REQUIREMENTS.glob("*.txt"))


def python(name: str) -> Path:
    """The interpreter of an environment. Not resolved: a link to another Python would lose the environment."""
    return FOLDER / name / "bin" / "python"


def failure(name: str) -> str | None:
    """Why an environment is not there, or None if it is."""
    if (FOLDER / name / ".installed").is_file():
        return None
    note = FOLDER / f"{name}.failed"
    return note.read_text() if note.is_file() else f"the environment {name} was not set up"


def make(name: str) -> bool:
    """Create or renew an environment; nothing is done if it holds what its file asks for."""
    if not _make(name):
        return False
    if name in _WITH_KERNELS:
        _add_kernels(name)
    return True


def _make(name: str) -> bool:
    requirements = REQUIREMENTS / f"{name}.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp, note = FOLDER / name / ".installed", FOLDER / f"{name}.failed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return True
    print(f"installing {name}", file=sys.stderr)
    venv.create(FOLDER / name, with_pip=True, clear=True, symlinks=os.name != "nt")
    command = [str(python(name)), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        note.write_text((done.stderr.strip().splitlines() or ["pip failed"])[-1][:400])
        print(f"{name}: {note.read_text()}", file=sys.stderr)
        return False
    stamp.write_text(wanted)
    note.unlink(missing_ok=True)
    return True


def _add_kernels(name: str) -> None:
    """Compile our own operators into an environment, unless those it has are from the same sources."""
    package = sorted(file for file in (KERNELS / "untorch_kernels").iterdir() if file.suffix in (".py", ".c", ".h"))
    files = [KERNELS / "pyproject.toml", *package]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = FOLDER / name / ".kernels"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"compiling untorch-kernels for {name}", file=sys.stderr)
    command = [str(python(name)), "-m", "pip", "install", "--quiet", str(KERNELS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: no untorch-kernels: {done.stderr.strip()[-400:]}", file=sys.stderr)
    else:
        stamp.write_text(wanted)


def versions(name: str) -> dict[str, str]:
    """Installed distributions and versions."""
    command = [str(python(name)), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("==", 1) for line in listed.split() if "==" in line)


def installed_size(name: str) -> int:
    """Bytes of what was installed, without pip itself and compiled caches; for untorch with its own source."""
    folder = next((FOLDER / name / "lib").glob("python*/site-packages"))
    pinned = (REQUIREMENTS / f"{name}.txt").read_text().lower()
    seeds = tuple(seed for seed in _SEED_PACKAGES if not ("setuptools" in pinned and seed != "pip"))
    size = sum(_size(entry) for entry in folder.iterdir() if not entry.name.startswith(seeds))
    return size + (_size(ROOT / "runtime" / "untorch") if name.startswith("untorch") else 0)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for wanted_name in sys.argv[1:] or names():
        make(wanted_name)
