"""A bundle as a pip-installable model package: a small project folder, and the wheel built from it.

The package is found by the runtime through entry points: its name in the group `untorch.models`, and the tasks it
serves by default in `untorch.default_models`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from untorch.bundle.folder import Bundle
from untorch.bundle.manifest import MANIFEST, Manifest
from untorch.errors import DependencyError
from untorch_export.errors import ExportError

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?")


def write_project(
    bundle: Path,
    folder: Path,
    *,
    name: str | None = None,
    version: str = "1.0.0",
    default_for: Sequence[str] = (),
    readme: str | None = None,
    license: str | None = None,
) -> str:
    """Write the source tree of a model package into the empty or missing `folder`, and return the package's name.

    `name` is the model's name (default: the checkpoint's); the package is `untorch-NAME` and its module
    `untorch_NAME`. `default_for` are tasks that the model serves when none is named. `readme` is the model card
    (default: one made from the manifest), `license` an SPDX expression. The bundle's digests are checked first.

    Raises ExportError for a folder that is not empty, a name or version that pip would not take, or a bundle without
    a manifest, BundleError for a damaged bundle.
    """
    opened = Bundle(bundle)
    if opened.manifest is None:
        raise ExportError(f"{bundle} has no {MANIFEST}; only a bundle that untorch exported can be packaged")
    opened.check()
    source = str(opened.manifest.source.get("name") or bundle.resolve().name)
    name = name or re.sub(r"[^a-z0-9]+", "-", source.rpartition("/")[2].lower()).strip("-")
    if not _NAME.fullmatch(name):
        raise ExportError(f"{name!r} is no package name; use lower-case letters, digits and single hyphens (--name)")
    if not _VERSION.fullmatch(version):
        raise ExportError(f"{version!r} is no version that pip understands, such as 1.0.0 (--version)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists and is not an empty folder")

    module = f"untorch_{name.replace('-', '_')}"
    inside = folder / module
    for file in (MANIFEST, *opened.files):
        (inside / "bundle" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(opened.path / file, inside / "bundle" / file)
    _write(
        inside / "__init__.py",
        f'"""The model {name}, as an untorch bundle in the folder `bundle`. It holds no code."""\n',
    )
    _write(folder / "README.md", readme or model_card(name, opened.manifest))
    _write(folder / "pyproject.toml", _pyproject(name, module, version, default_for, license))
    return f"untorch-{name}"


def build_wheel(project: Path, output: Path) -> Path:
    """Build a project's wheel into the folder `output` and return its path. The same project gives the same bytes.

    Building needs no network. Raises DependencyError where `build` or `hatchling` is missing, ExportError if the
    build fails.
    """
    for package in ("build", "hatchling"):
        try:
            __import__(package)
        except ImportError as error:
            raise DependencyError(f'packaging needs {package}: pip install "untorch[export]"') from error
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(project)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExportError(f"the wheel could not be built:\n{(done.stderr or done.stdout).strip()}")
        (wheel,) = Path(folder).glob("*.whl")
        return Path(shutil.move(wheel, output / wheel.name))


def package(
    bundle: Path, output: Path, *, name: str | None = None, version: str = "1.0.0", default_for: Sequence[str] = ()
) -> Path:
    """Build the wheel of a bundle into the folder `output` and return its path; see `write_project` for the rest."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        write_project(bundle, project, name=name, version=version, default_for=default_for)
        return build_wheel(project, output)


def model_card(name: str, manifest: Manifest) -> str:
    """A model card of what the manifest knows: source, task, and how each variant compares with PyTorch."""
    source = manifest.source
    revision = f", revision {source['revision']}" if source.get("revision") else ""
    lines = [
        f"# {name}",
        "",
        f"An [untorch](https://pypi.org/project/untorch/) bundle for {manifest.task}, exported from "
        f"`{source.get('name', 'an unnamed checkpoint')}`{revision}.",
        "",
        "```python",
        "from untorch import pipeline",
        "",
        f'pipeline("{manifest.task}", model="{name}")("…")',
        "```",
        "",
        "| variant | verdict | compared with PyTorch |",
        "|---|---|---|",
    ]
    for precision, variant in manifest.variants.items():
        gate = variant.parity.get("gate")
        words = f"{gate['rule']}: {gate['measured']:g} (limit {gate['limit']:g})" if gate else "not compared"
        lines.append(f"| {precision} | {variant.verdict} | {words} |")
    digests = [f"- `{file}`: SHA-256 `{value}`" for file, value in sorted(source.get("weights", {}).items())]
    if digests:
        lines += ["", "Source weights:", "", *digests]
    if "random_init" in source:
        lines += ["", f"The weights are random (seed {source['random_init']['seed']}): its answers mean nothing."]
    return "\n".join([*lines, ""])


def _pyproject(name: str, module: str, version: str, default_for: Sequence[str], license: str | None) -> str:
    tables: dict[str, dict[str, Any]] = {
        "build-system": {"requires": ["hatchling>=1.27"], "build-backend": "hatchling.build"},
        "project": {
            "name": f"untorch-{name}",
            "version": version,
            "description": f"The model {name} as an untorch bundle",
            "readme": "README.md",
            **({"license": license} if license else {}),
            "requires-python": ">=3.11",
            "dependencies": ["untorch"],
        },
        'project.entry-points."untorch.models"': {name: module},
        'project.entry-points."untorch.default_models"': dict.fromkeys(default_for, module),
        "tool.hatch.build": {"packages": [module], "ignore-vcs": True},
    }
    parts = []
    for table, values in tables.items():
        if values:
            parts.append("\n".join([f"[{table}]", *(f"{_key(key)} = {_value(item)}" for key, item in values.items())]))
    return "\n\n".join(parts) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: str | bool | list[str]) -> str:
    """A TOML value. The strings here are names and sentences without control characters, so quoting is enough."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
