"""What an ONNX file declares, read without the onnx package and without running anything.

A graph from a stranger is looked at before ONNX Runtime parses it: which operators it uses, which files it reads,
how large it says its tensors are. Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from untorch.errors import FormatError, IntegrityError

# The operators of the ONNX standard and of ONNX Runtime itself; anything else is code that is not here.
_DOMAINS = {"", "ai.onnx", "com.microsoft"}

# Operators that quantise with the range of all that they are given, so that each row's answer depends on the others.
_WHOLE_RANGES = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}

# Bytes an element takes, by TensorProto.DataType; strings (8) have no fixed size.
_ELEMENT_BYTES = {
    1: 4.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 4.0, 7: 8.0, 9: 1.0, 10: 2.0, 11: 8.0, 12: 4.0, 13: 8.0, 14: 8.0,
    15: 16.0, 16: 2.0, 17: 1.0, 18: 1.0, 19: 1.0, 20: 1.0, 21: 0.5, 22: 0.5, 23: 0.5, 24: 1.0, 25: 0.25, 26: 0.25,
}  # fmt: skip

# Subgraphs (If, Loop) inside subgraphs; exported models have one level.
_MAX_DEPTH = 8


@dataclass
class ExternalData:
    """Where a tensor's bytes lie: a file beside the graph, and a span of it (None: to the end)."""

    location: str = ""
    offset: int = 0
    length: int | None = None


@dataclass
class Declared:
    """What a graph file declares."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    functions: int = 0
    external: list[ExternalData] = field(default_factory=list)


def inspect(path: Path) -> Declared:
    """Read a graph file's declarations. Raises FormatError if it is not an ONNX model or declares what cannot be.

    They are read once for a file that stays as it is; do not change them.
    """
    status = path.stat()
    return _inspect(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=16)
def _inspect(path: Path, identity: tuple[int, ...]) -> Declared:  # noqa: ARG001  # the cache asks for it
    declared = Declared()
    found = False
    try:
        with path.open("rb") as file:
            # Mapped, because the weights may be inside, and they are skipped over.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for number, value in _fields(data):
            if number == 7 and isinstance(value, memoryview):
                found = True
                _graph(value, declared, 0)
            elif number == 25:
                declared.functions += 1
    except (ValueError, IndexError, OverflowError) as error:
        raise FormatError(f"{path} is not an ONNX model: {error}") from error
    if not found:
        raise FormatError(f"{path} is not an ONNX model: it holds no graph")
    return declared


def ranges_of_the_batch(path: Path) -> bool:
    """Whether a graph quantises its activations with ranges of the whole batch, as plain dynamic quantisation does.

    Raises as `inspect` does.
    """
    return not _WHOLE_RANGES.isdisjoint(inspect(path).operators)


def check(
    path: Path,
    *,
    files: Iterable[str] | None,
    inputs: Iterable[str] = (),
    outputs: Iterable[str] = (),
    domains: Iterable[str] = (),
) -> set[str]:
    """Refuse a graph file that reads outside its folder, brings code, or is not what the manifest states.

    `files` are the external data files the manifest lists, by name relative to the graph's folder (None: there is no
    manifest, and any file of that folder will do); `inputs` and `outputs` the names it states (none: not stated);
    `domains` those whose operators are loaded for this graph, besides ONNX's and ONNX Runtime's own. Gives the names
    of the data files it reads. Raises FormatError or IntegrityError.
    """
    declared = inspect(path)
    if unknown := declared.domains - _DOMAINS.union(domains):
        raise FormatError(f"{path} uses operators of {', '.join(sorted(unknown))}, which untorch does not load")
    if declared.functions:
        raise FormatError(f"{path} defines {declared.functions} functions of its own, which untorch does not load")
    for stated, actual, kind in ((inputs, declared.inputs, "inputs"), (outputs, declared.outputs, "outputs")):
        if (names := list(stated)) and sorted(names) != sorted(actual):
            raise IntegrityError(f"{path} has the {kind} {', '.join(actual)}; the manifest says {', '.join(names)}")
    allowed = None if files is None else set(files)
    sizes: dict[str, int] = {}
    for data in declared.external:
        if data.location not in sizes:
            sizes[data.location] = _external_size(path, data.location, allowed)
        end = data.offset + (data.length or 0)
        if data.offset < 0 or (data.length is not None and data.length < 0) or end > sizes[data.location]:
            raise IntegrityError(f"{path}: a tensor lies past the end of {data.location}; the file is truncated")
    return set(sizes)


def _external_size(path: Path, location: str, allowed: set[str] | None) -> int:
    # A plain file name: no separator of any system, no way up, no end hidden behind a NUL.
    if location in ("", ".", "..") or any(char in location for char in "/\\:\0"):
        raise IntegrityError(f"{path} reads its weights from {location!r}, outside its own folder")
    if allowed is not None and location not in allowed:
        raise IntegrityError(f"{path} reads its weights from {location!r}, which the manifest does not list for it")
    try:
        return (path.parent / location).stat().st_size
    except OSError as error:
        raise IntegrityError(f"{path.parent / location} is missing; restore it or export the bundle again") from error


def _graph(data: memoryview, declared: Declared, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("its subgraphs are nested too deeply")
    initializers = set()
    inputs = []
    for number, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            _node(value, declared, depth)
        elif number == 5:
            initializers.add(_tensor(value, declared))
        elif number == 15:
            raise ValueError("it holds sparse tensors, which no export has")
        elif number == 11 and depth == 0:
            inputs.append(_string_field(value, 1))
        elif number == 12 and depth == 0:
            declared.outputs.append(_string_field(value, 1))
    if depth == 0:
        # Older files list their weights among the inputs too.
        declared.inputs += [name for name in inputs if name not in initializers]


def _node(data: memoryview, declared: Declared, depth: int) -> None:
    domain = ""
    for number, value in _fields(data):
        if number == 7 and isinstance(value, memoryview):
            domain = str(value, "utf-8")
        elif number == 4 and isinstance(value, memoryview):
            declared.operators.add(str(value, "utf-8"))
        elif number == 5 and isinstance(value, memoryview):
            for inner, content in _fields(value):
                if inner in (6, 11) and isinstance(content, memoryview):
                    _graph(content, declared, depth + 1)
                elif inner in (5, 10) and isinstance(content, memoryview):
                    _tensor(content, declared)
    declared.domains.add(domain)


def _tensor(data: memoryview, declared: Declared) -> str:
    """Check one tensor and return its name."""
    name, dims, kind = "", [], 0
    inline = 0
    external: ExternalData | None = None
    is_external = False
    for number, value in _fields(data):
        if isinstance(value, int):
            if number == 1:
                dims.append(value)
            elif number == 2:
                kind = value
            elif number == 14:
                is_external = value == 1
        elif number == 1:
            dims.extend(_packed(value))
        elif number == 8:
            name = str(value, "utf-8")
        elif number == 13:
            external = external or ExternalData()
            _external_entry(value, external)
        elif number in (4, 5, 6, 7, 9, 10, 11):
            inline += len(value)
    if any(dim < 0 or dim >= 1 << 63 for dim in dims):
        raise ValueError(f"the tensor {name!r} has a negative dimension")
    size = math.prod(dims) * _ELEMENT_BYTES.get(kind, 1.0)
    if is_external:
        external = external or ExternalData()
        if external.length is not None and size > external.length:
            raise ValueError(f"the tensor {name!r} declares {size:.0f} bytes and has {external.length}")
        declared.external.append(external)
    # Typed fields pack small numbers tightly (a varint may take one byte for eight), so this is the loosest bound.
    elif size > 8 * inline:
        raise ValueError(f"the tensor {name!r} declares {size:.0f} bytes and brings {inline}")
    return name


def _external_entry(data: memoryview, external: ExternalData) -> None:
    key, value = _string_field(data, 1), _string_field(data, 2)
    if key == "location":
        external.location = value
    elif key == "offset":
        external.offset = int(value)
    elif key == "length":
        external.length = int(value)


def _string_field(data: memoryview, wanted: int) -> str:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            return str(value, "utf-8")
    return ""


def _packed(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a protobuf message: a number, or the bytes of a string, message or packed list.

    Raises ValueError or IndexError for what is not one.
    """
    position, end = 0, len(data)
    while position < end:
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = _varint(data, position - 1)
        wire = key & 7
        if wire == 2:
            length = data[position]
            position += 1
            if length >= 0x80:
                length, position = _varint(data, position - 1)
            if position + length > end:
                raise ValueError("a field runs past the end of the file")
            yield key >> 3, data[position : position + length]
            position += length
        elif wire == 0:
            value, position = _varint(data, position)
            yield key >> 3, value
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
            if position > end:
                raise ValueError("a field runs past the end of the file")
        else:
            raise ValueError(f"wire type {wire} is not one of protobuf's")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
