"""What a manifest says of a bundle: files and digests, variants, their graphs and how they did. It reads no file.

`untorch.json`, format version 1; the README has the table of its fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from untorch.bundle.precisions import Operators, has_batch_ranges, read_name
from untorch.errors import FormatError, IntegrityError
from untorch.numerics import Tensor

FORMAT_VERSION = 1
MANIFEST = "untorch.json"

Verdict = Literal["exact", "close", "failed", "unverified"]

_TRUSTED: tuple[Verdict, ...] = ("exact", "close")

# The data file of what int8 has with and without our own operators: the embeddings above all.
INT8_SHARED = "model_int8_shared.onnx_data"


@dataclass(frozen=True)
class GraphFile:
    """One ONNX file of a variant, its external data, and what goes in and out of it.

    `optimized` says that the file already holds ONNX Runtime's own fused operators, so that loading need not search
    for fusions again.
    """

    file: str
    data: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    fused: dict[str, int] = field(default_factory=dict)
    optimized: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The graph file and its external data."""
        return (self.file, *self.data)

    def to_json(self) -> dict[str, Any]:
        """The form it has in the manifest."""
        return {
            "file": self.file,
            "data": list(self.data),
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
            "fused": dict(sorted(self.fused.items())),
            "optimized": self.optimized,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GraphFile:
        """Read it back from the manifest. Raises KeyError, TypeError or ValueError if it is malformed."""
        return cls(
            file=str(data["file"]),
            data=tuple(str(name) for name in data.get("data", ())),
            inputs=tuple(Tensor.from_json(item) for item in data.get("inputs", ())),
            outputs=tuple(Tensor.from_json(item) for item in data.get("outputs", ())),
            fused={str(key): int(value) for key, value in data.get("fused", {}).items()},
            optimized=bool(data.get("optimized", False)),
        )


@dataclass(frozen=True)
class Variant:
    """The model in one precision: its graphs by role, its parity report and verdict.

    `precision` is its name in the manifest; what the name says are `operators`, `device` and `base`. Roles are `model`,
    or `encoder` and `decoder`. Beside `model` there may be a `head`, which gives only the task's own outputs and saves
    the work that only the others need.
    """

    precision: str
    graphs: dict[str, GraphFile]
    verdict: Verdict = "unverified"
    parity: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def operators(self) -> Operators:
        """What the nodes of its graphs are."""
        return read_name(self.precision).operators

    @property
    def device(self) -> str | None:
        """The only kind of device that can run it, `cpu` or `cuda`; None where the name excludes none."""
        return read_name(self.precision).device

    @property
    def base(self) -> str:
        """The precision that it stands beside, which has the same weights; its own where there is none."""
        return read_name(self.precision).base

    @property
    def batch_ranges(self) -> bool:
        """Whether an answer depends on the rows beside it, because ranges of activations are those of the batch."""
        return has_batch_ranges(self.precision)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of every graph, each once."""
        return tuple(dict.fromkeys(name for graph in self.graphs.values() for name in graph.files))

    @property
    def trusted(self) -> bool:
        """Whether it came inside its gate, so that it may stand in for fp32 without being asked for by name."""
        return self.verdict in _TRUSTED

    def gives(self, outputs: Iterable[str]) -> bool:
        """Whether its graphs have all of these outputs."""
        return {tensor.name for graph in self.graphs.values() for tensor in graph.outputs}.issuperset(outputs)

    def to_json(self) -> dict[str, Any]:
        """The form it has in the manifest."""
        return {
            **self.extra,
            "graphs": {role: graph.to_json() for role, graph in self.graphs.items()},
            "verdict": self.verdict,
            "parity": self.parity,
        }

    @classmethod
    def from_json(cls, precision: str, data: dict[str, Any]) -> Variant:
        """Read it back from the manifest. Raises KeyError, TypeError or ValueError if it is malformed."""
        known = {"graphs", "verdict", "parity"}
        return cls(
            precision=precision,
            graphs={str(role): GraphFile.from_json(graph) for role, graph in data["graphs"].items()},
            verdict=data.get("verdict", "unverified"),
            parity=dict(data.get("parity", {})),
            extra={key: value for key, value in data.items() if key not in known},
        )


class FileRecord(NamedTuple):
    """Size in bytes and SHA-256 (hex) of one file of a bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`untorch.json`. Fields that this version does not know are kept in `extra` and written back."""

    task: str
    source: dict[str, Any]
    files: dict[str, FileRecord]
    variants: dict[str, Variant]
    tools: dict[str, str] = field(default_factory=dict)
    created: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The form it has in the manifest."""
        return {
            **self.extra,
            "format_version": FORMAT_VERSION,
            "task": self.task,
            "source": self.source,
            "created": self.created,
            "tools": dict(sorted(self.tools.items())),
            "variants": {name: variant.to_json() for name, variant in self.variants.items()},
            "files": {
                name: {"size": record.size, "sha256": record.sha256} for name, record in sorted(self.files.items())
            },
        }

    @classmethod
    def from_json(cls, data: Any, where: str = MANIFEST) -> Manifest:
        """Build a manifest from parsed JSON. Raises FormatError, naming `where`, for anything malformed."""
        if not isinstance(data, dict) or "format_version" not in data:
            raise FormatError(f"{where} is not an untorch manifest: it has no format_version")
        version = data["format_version"]
        if not isinstance(version, int) or version < 1:
            raise FormatError(f"{where}: format_version {version!r} is not a positive whole number")
        if version > FORMAT_VERSION:
            raise FormatError(
                f"{where} has format version {version}; this untorch reads up to {FORMAT_VERSION}. Upgrade untorch."
            )
        known = {"format_version", "task", "source", "created", "tools", "variants", "files"}
        try:
            return cls(
                task=str(data["task"]),
                source=dict(data.get("source", {})),
                files={
                    inside(name, where): FileRecord(int(record["size"]), str(record["sha256"]))
                    for name, record in data["files"].items()
                },
                variants={name: Variant.from_json(name, variant) for name, variant in data["variants"].items()},
                tools={str(key): str(value) for key, value in data.get("tools", {}).items()},
                created=data.get("created"),
                extra={key: value for key, value in data.items() if key not in known},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{where} is malformed: {type(error).__name__}: {error}") from error


def inside(name: str, where: str) -> str:
    """Return `name` if it is a relative path that stays inside the bundle; raise IntegrityError otherwise."""
    path = PurePosixPath(name)
    if not name or "\\" in name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise IntegrityError(f"{where} names a file outside the bundle: {name!r}")
    return name
