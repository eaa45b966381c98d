"""What a server can be told: on the command line, by UNTORCH_… in the environment, or in a TOML file.

The command line goes before the environment, that before the file, and that before the defaults.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from untorch.errors import InputError

_LOGS = ("off", "text", "json")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """The settings of a server; each field is an option of the command line, with dashes for underscores."""

    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(3000, "port to listen on; 0 takes a free one")
    api_key: str | None = _option(None, "key that clients must send as a bearer token; better by UNTORCH_API_KEY")
    threads: int | None = _option(None, "threads of each model (default: the cores, shared out among the replicas)")
    replicas: int = _option(1, "processes that answer, each with its own copy of the models")
    device: str = _option("auto", "auto, cpu, cuda, cuda:N, openvino")
    precision: str = _option("auto", "auto, fp32, int8, int8_kernels, fp16, …")
    max_body_bytes: int = _option(32 << 20, "most bytes of a request's body")
    max_texts: int = _option(100_000, "most texts of one request")
    max_text_chars: int = _option(1_000_000, "most characters of one text")
    max_json_depth: int = _option(64, "most levels of nesting in a request's JSON")
    max_header_bytes: int = _option(32 << 10, "most bytes of a request's headers")
    max_connections: int = _option(4096, "most connections at once")
    max_queue_texts: int = _option(4096, "most texts that wait for a model; beyond them 429")
    max_queue_tokens: int = _option(262_144, "most tokens that wait for a model; beyond them 429")
    max_batch_tokens: int = _option(2048, "most tokens of a batch")
    max_streams: int = _option(8, "texts that a language model writes at once; others wait")
    max_new_tokens: int = _option(1024, "most new tokens of one answer")
    request_timeout: float = _option(60.0, "seconds after which a request is given up; a client may ask for fewer")
    read_timeout: float = _option(10.0, "seconds in which headers, or more of a body, must come")
    write_timeout: float = _option(30.0, "seconds in which a client must read on")
    keep_alive: float = _option(75.0, "seconds after which an idle connection is closed")
    drain_timeout: float = _option(30.0, "seconds that running requests get at the end")
    accept_ids: bool = _option(False, "take token ids as input, if they are in the model's vocabulary")
    access_log: str = _option("off", "off, text or json; texts of users are never in it")
    cors_origin: str | None = _option(None, "an origin whose pages may call the server, or * for all")

    def __post_init__(self) -> None:
        """Raise InputError for a value that makes no sense."""
        if self.access_log not in _LOGS:
            raise InputError(f"access_log is {self.access_log!r}; choose {', '.join(_LOGS)}")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port is {self.port}; it is a number from 0 to 65535")
        if self.api_key == "":
            raise InputError("api_key is empty; leave it out to serve without a key")
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, (int, float)) and option.name not in ("port", "accept_ids") and value <= 0:
                raise InputError(f"{option.name} is {value}; it is a number above 0")


@dataclass(frozen=True)
class ModelSource:
    """A model to serve: its name in requests, its bundle (None: the installed default), and its task if told."""

    name: str
    bundle: str | None
    task: str | None = None


def load(
    given: Mapping[str, Any], environment: Mapping[str, str] = os.environ, path: Path | None = None
) -> tuple[Settings, list[ModelSource]]:
    """The settings, and the models that the file names. `given` are those of the command line.

    Raises InputError for an option that does not exist, or a value of the wrong kind.
    """
    file = _read(path) if path is not None else {}
    models = [_model(name, value) for name, value in file.pop("models", {}).items()]
    known = {option.name: str(option.type).split(" ")[0] for option in fields(Settings)}
    if unknown := set(file) - set(known):
        raise InputError(f"{path} has no option {', '.join(sorted(unknown))}; it has {', '.join(known)}, and [models]")
    values: dict[str, Any] = {name: _typed(name, value, known[name], str(path)) for name, value in file.items()}
    for name, kind in known.items():
        variable = f"UNTORCH_{name.upper()}"
        if variable in environment:
            values[name] = converted(environment[variable], kind, variable)
    values |= {name: value for name, value in given.items() if value is not None}
    return Settings(**values), models


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def _model(name: str, value: Any) -> ModelSource:
    table = {"bundle": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or set(table) - {"bundle", "task"} or not isinstance(table.get("bundle"), str):
        raise InputError(f'[models] {name} is a bundle, or {{ bundle = "…", task = "…" }}')
    return ModelSource(name, table["bundle"], table.get("task"))


def _typed(name: str, value: Any, kind: str, where: str) -> Any:
    wanted = {"int": int, "float": (int, float), "bool": bool, "str": str}[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):  # type: ignore[arg-type]
        raise InputError(f"{where}: {name} is {value!r}; it is a {kind}")
    return float(value) if kind == "float" else value


def converted(text: str, kind: str, where: str) -> Any:
    """A text as a value of a field's type. Raises InputError."""
    if kind == "bool":
        if text.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off", ""):
            return text.lower() in ("1", "true", "yes", "on")
        raise InputError(f"{where} is {text!r}; it is 1 or 0")
    try:
        return {"int": int, "float": float, "str": str}[kind](text)
    except ValueError:
        raise InputError(f"{where} is {text!r}; it is a {kind}") from None
