"""What a bundle is on disk: a folder, held to its manifest. It does not know how to run one.

The layout is the Hub's own ONNX convention (`config.json`, `tokenizer.json`, `onnx/model*.onnx`) plus a
manifest, `untorch.json`. A folder without a manifest opens too, and is `unverified`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from untorch.bundle import inspection
from untorch.bundle.manifest import INT8_SHARED, MANIFEST, FileRecord, GraphFile, Manifest, Variant, inside
from untorch.bundle.precisions import FP32, INT8_DYNAMIC, read_name
from untorch.errors import BundleError, FormatError, IntegrityError

GOLDEN = "golden.npz"

# Set to 1, folders without a manifest are refused.
REQUIRE_VERIFIED = "UNTORCH_REQUIRE_VERIFIED"

Trust = Literal["verified", "unverified"]

# A config, tokenizer or manifest larger than this is an attack or a mistake: real ones stay below 40 MB.
MAX_JSON_BYTES = 128 << 20

# Graph files of the Hub's convention, without suffix: role in the model → file stems that may play it, best first.
# transformers' own exporters cut a language model in two; what they call prefill reads a text from its beginning.
_ROLES = {
    "model": ("model", "prefill"),
    "encoder": ("encoder_model",),
    "decoder": ("decoder_model_merged", "decoder_model"),
}


# What a runtime reads besides the graphs and the manifest: configs, tokenizers, chat templates, modules.
SIDE_FILES = ("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*/config.json")


def looked_for(*roles: str) -> str:
    """The names of graph files that may play these roles (default: any), for an error."""
    return ", ".join(f"{stem}*.onnx" for role in roles or _ROLES for stem in _ROLES.get(role, (role,)))


def requires_verified() -> bool:
    """Whether the environment refuses folders without a manifest."""
    return os.environ.get(REQUIRE_VERIFIED, "0") not in ("", "0")


def refuse_unverified(folder: Path) -> None:
    """Raise IntegrityError if the environment refuses `folder`, which has no manifest."""
    if requires_verified():
        raise IntegrityError(
            f"{folder} has no manifest ({MANIFEST}), and {REQUIRE_VERIFIED} refuses that. "
            "Export the checkpoint with `untorch export`, or unset the variable"
        )


def file_of(folder: Path, name: str) -> Path:
    """Full path of the file `name` of a folder. Raises IntegrityError if it lies outside, or is a link that does."""
    path = folder / inside(name, str(folder))
    if not any(step.is_symlink() for step in (path, *path.parents[: name.count("/")])):
        return path  # with no link on the way down nothing leads out, and looking is cheaper than resolving
    real, own = path.resolve(), folder.resolve()
    # A Hub cache's snapshot is made of links into the repository's store of blobs.
    in_blobs = own.parent.name == "snapshots" and real.is_relative_to(own.parent.parent / "blobs")
    if not (real.is_relative_to(own) or in_blobs):
        raise IntegrityError(f"{path} is a link that leads out of the bundle")
    return path


def side_files(folder: Path) -> list[str]:
    """Names of the files that a runtime reads besides the graphs and the manifest. Raises as `file_of` does."""
    found = (path.relative_to(folder).as_posix() for pattern in SIDE_FILES for path in folder.glob(pattern))
    names = sorted(name for name in found if name != MANIFEST)
    for name in names:
        file_of(folder, name)
    return names


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_size(path: Path) -> None:
    """Raise FormatError if a config, tokenizer or manifest is larger than any real one."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise FormatError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB; no config or tokenizer is")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises FormatError if it is too large, not UTF-8, or not JSON."""
    try:
        check_size(path)
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error


class Bundle:
    """A folder with a model in it, opened for reading.

    `Bundle(path)` reads the manifest where there is one and checks that every file it lists is there with the
    right size; `check()` compares digests. A variant of which no file of its own is there (not downloaded, or deleted
    to save room) is left out. In a folder without a manifest, graph files that are not called by the Hub's names are
    named in `graphs`, by their role: `model`, or `encoder` and `decoder`. Raises BundleError if the folder holds no
    model, FormatError or IntegrityError if what it holds is not what it says, IntegrityError for a folder without a
    manifest where UNTORCH_REQUIRE_VERIFIED=1.
    """

    def __init__(self, path: str | os.PathLike[str], graphs: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        # What opens it again in another process, or on another machine: `hub.open_bundle` puts the name in the path's
        # place.
        self.reopen: Callable[[], Bundle] = functools.partial(Bundle, self.path.absolute(), graphs)
        if not self.path.is_dir():
            raise BundleError(f"{self.path} is not a folder; export a checkpoint there with `untorch export`")
        manifest = self.path / MANIFEST
        # The side files' identities when their digests were last compared.
        self._held: dict[str, tuple[int, ...]] | None = None
        self.manifest = Manifest.from_json(read_json(manifest), str(manifest)) if manifest.is_file() else None
        if self.manifest is None:
            refuse_unverified(self.path)
            self.variants = _examined(self.path, variants_of(_listed(self.path), graphs, self.path))
        else:
            refuse_names(graphs, self.path)
            self.variants = self._present(self.manifest)
            self._check_sizes()
        if not self.variants:
            raise BundleError(
                f"{self.path} holds no ONNX model (looked for {looked_for()}, there and in onnx/); it holds "
                f"{named_files(_listed(self.path))}. If it is a PyTorch checkpoint, run "
                f"`untorch export {self.path} -o BUNDLE` first"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or what another process unpickles, is read anew from where this one came from.
        return self.reopen, ()

    @property
    def verified(self) -> bool:
        """Whether a manifest states what this bundle must hold."""
        return self.manifest is not None

    @property
    def trust(self) -> Trust:
        """`verified`: a manifest states every file's digest, and loading holds it to them; else `unverified`."""
        return "verified" if self.verified else "unverified"

    @property
    def task(self) -> str | None:
        """The task the bundle was exported for, where the manifest says it."""
        return self.manifest.task if self.manifest else None

    @property
    def files(self) -> dict[str, FileRecord]:
        """The manifest's records of the files that must be here; empty without a manifest."""
        if self.manifest is None:
            return {}
        absent = {name for variant in self.manifest.variants.values() for name in variant.files}
        absent -= {name for variant in self.variants.values() for name in variant.files}
        return {name: record for name, record in self.manifest.files.items() if name not in absent}

    def variant(self, precision: str) -> Variant:
        """The variant of that precision. Raises BundleError, naming those there are."""
        try:
            return self.variants[precision]
        except KeyError:
            raise BundleError(f"{self.path} has no {precision} variant; it has {', '.join(self.variants)}") from None

    def file(self, name: str) -> Path:
        """Full path of a file of the bundle. Raises IntegrityError if it is missing or lies outside the bundle."""
        path = file_of(self.path, name)
        if not path.is_file():
            raise IntegrityError(f"{path} is missing; restore it or export the bundle again")
        return path

    def check(self, names: Iterable[str] | None = None) -> None:
        """Compare digests with the manifest, of `names` or of all files. Raises IntegrityError at the first difference.

        Without a manifest there is nothing to compare with, and nothing is done.
        """
        records = self.files
        for name in records if names is None else names:
            record = records.get(name)
            if record is not None and digest(self.file(name)) != record.sha256:
                raise IntegrityError(
                    f"{self.path / name} was altered: its SHA-256 is not the manifest's. Restore it or export again"
                )

    def identities(self, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """What tells a file from one that was put in its place or written over: device, inode, size and times."""
        found: dict[str, tuple[int, ...]] = {}
        for name in names:
            status = self.file(name).stat()
            found[name] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return found

    @contextmanager
    def held(self, files: Iterable[str] | None = None) -> Iterator[None]:
        """Hold the files that the block reads to what they were when it began; by default the side files.

        The side files are compared with the manifest's digests first, and one that the manifest does not list is
        refused: it would be read all the same. Digests of named `files` are the block's to check (`check`), before or
        while it reads them. Without a manifest only changes are seen. Raises IntegrityError.
        """
        names = None if files is None else tuple(files)

        def identities() -> dict[str, tuple[int, ...]]:
            return self._side_identities() if names is None else self.identities(names)

        before = identities()
        if names is None and before != self._held:
            self.check(before)
            self._held = before
        yield
        if identities() != before:
            raise IntegrityError(f"the files of {self.path} changed while they were read; load the bundle again")

    def _side_identities(self) -> dict[str, tuple[int, ...]]:
        names = side_files(self.path)
        if self.manifest is not None and (unknown := [name for name in names if name not in self.manifest.files]):
            raise IntegrityError(
                f"{self.path} holds {', '.join(unknown)}, which its manifest does not list. Remove it, or export again"
            )
        return self.identities(names)

    def _present(self, manifest: Manifest) -> dict[str, Variant]:
        present = {}
        for precision, variant in manifest.variants.items():
            for name in variant.files:
                if name not in manifest.files:
                    raise IntegrityError(f"{self.path / MANIFEST}: {precision} uses {name}, which has no digest")
            # A file that another variant reads too tells nothing: it may be here for that one's sake.
            others = {name for other in manifest.variants.values() if other is not variant for name in other.files}
            own = set(variant.files) - others or variant.files
            if any((self.path / inside(name, str(self.path))).is_file() for name in own):
                present[precision] = variant
        return present

    def _check_sizes(self) -> None:
        for name, record in self.files.items():
            size = self.file(name).stat().st_size
            if size != record.size:
                what = "truncated" if size < record.size else "altered"
                raise IntegrityError(
                    f"{self.path / name} is {what}: {size} bytes, the manifest says {record.size}. "
                    "Restore it or export again"
                )


def _listed(path: Path) -> Iterator[str]:
    """Names of the files of a folder where graphs may be."""
    for folder in (path / "onnx", path):
        if folder.is_dir():
            yield from (file.relative_to(path).as_posix() for file in folder.iterdir() if file.is_file())


def named_files(files: Iterable[str]) -> str:
    """The names of graph files among `files`, for an error; where there are none, of all of them, and at most ten."""
    names = sorted(files)
    names = [name for name in names if name.endswith(".onnx")] or names
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "") or "no files"


def refuse_names(graphs: Mapping[str, str] | None, where: object) -> None:
    """Raise BundleError for names of graph files where a manifest has them."""
    if graphs:
        raise BundleError(
            f"{where} has a manifest, which names its graph files, and {', '.join(graphs.values())} is not asked for "
            "by name. Choose a variant: precision='fp32', precision='int8'"
        )


def variants_of(files: Iterable[str], graphs: Mapping[str, str] | None, where: object) -> dict[str, Variant]:
    """The variants among the names of a folder's files: those that `discover` finds, or the one of these `graphs`.

    `graphs` are names of files, in the folder `where` or in its folder onnx, by role. A role that they leave out is
    played by the file that would be found without them. Raises BundleError for a file that is not there.
    """
    names = set(files)
    found = discover(names)
    if not graphs:
        return found
    chosen = dict(next(iter(found.values())).graphs) if found else {}
    for role, name in graphs.items():
        file = next((place for place in (name, f"onnx/{name}") if place in names), None)
        if file is None:
            raise BundleError(f"{where} has no file {name} (nor onnx/{name}); it holds {named_files(names)}")
        chosen[role] = GraphFile(file, _data(names, file))
    precision = PurePosixPath(list(graphs.values())[-1]).stem
    return {precision: Variant(precision, chosen)}


def _examined(folder: Path, found: Mapping[str, Variant]) -> dict[str, Variant]:
    """The variants of a folder without a manifest by what their graphs are, where names do not tell.

    One whose graphs quantise with ranges of the whole batch is INT8_DYNAMIC; where its name claims to be fp32 it goes
    by that one, else by its own too.
    """
    examined: dict[str, Variant] = {}
    for name, variant in found.items():
        if any(_has_ranges_of_the_batch(folder, graph.file) for graph in variant.graphs.values()):
            variant = replace(variant, precision=INT8_DYNAMIC)
            name = INT8_DYNAMIC if name == FP32 else name
        examined[name] = variant
    return examined


def _has_ranges_of_the_batch(folder: Path, name: str) -> bool:
    try:
        return inspection.ranges_of_the_batch(file_of(folder, name))
    except (BundleError, OSError):  # whoever opens it is told
        return False


def _data(names: Iterable[str], graph: str) -> tuple[str, ...]:
    """The data files of a graph file: `model.onnx_data`, and `model.onnx_data_1` where it was cut into several."""
    return tuple(sorted(name for name in names if name.startswith((f"{graph}_data", f"{graph}.data"))))


def discover(files: Iterable[str]) -> dict[str, Variant]:
    """The variants among the names of a folder's files, by the Hub's conventions (`onnx/model_fp16.onnx`, …).

    For folders without a manifest. fp32 comes first: with no parity report it is the only one to trust by default.
    """
    names = set(files)
    found: dict[str, dict[str, GraphFile]] = {}
    for folder in ("onnx/", ""):
        for role, stems in _ROLES.items():
            for stem in stems:
                for name, precision in _graphs(names, folder, stem):
                    data = _data(names, name)
                    # Nothing says here that int8's variants share one.
                    if read_name(precision).base == "int8" and folder + INT8_SHARED in names:
                        data = (*data, folder + INT8_SHARED)
                    found.setdefault(precision, {}).setdefault(role, GraphFile(name, data))
    if not any("encoder" in graphs for graphs in found.values()):
        # A language model: Optimum and transformers.js have called its graph a decoder, too.
        found = {
            name: {"model": next(graphs[role] for role in _ROLES if role in graphs)} for name, graphs in found.items()
        }
    ordered = sorted(found, key=lambda precision: (precision != FP32, precision))
    return {precision: Variant(precision, found[precision]) for precision in ordered}


def _graphs(names: Iterable[str], folder: str, stem: str) -> Iterator[tuple[str, str]]:
    """(name, precision) of `stem.onnx` and `stem_PRECISION.onnx` in a folder, whose name ends in a slash."""
    for name in sorted(names):
        before, _, precision = name.removesuffix(".onnx").partition(f"{folder}{stem}")
        if not name.endswith(".onnx") or before or "/" in precision:
            continue
        if not precision:
            yield name, FP32
        # `decoder_model_merged…` is another stem, not a precision.
        elif precision.startswith("_") and not precision.startswith("_merged"):
            yield name, precision.removeprefix("_")
