"""The arguments of `pipeline(…)` that say how a model is loaded, in transformers' spellings and our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from untorch.errors import DeviceError, InputError
from untorch.model.base import AutoModel
from untorch.ort.devices import device_name
from untorch.ort.providers import resolve_device
from untorch.pipelines import compatibility
from untorch.pipelines.base import Pipeline

# What is read here; the other names that transformers has are in compatibility.LOADING.
READ = ("device_map", "dtype", "torch_dtype", "model_kwargs", "pipeline_class")

_PRECISIONS = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16"}


class Loading(NamedTuple):
    """What a model is to be loaded with, in untorch's own spelling."""

    device: str
    precision: str
    pipeline_class: type[Pipeline[Any]] | None


def read(device: str, precision: str, arguments: dict[str, Any]) -> Loading:
    """Take the arguments of loading out of `arguments`, beside the `device` and the `precision` of the call.

    Raises InputError for those that cannot be had.
    """
    taken = {name: arguments.pop(name) for name in (*READ, *compatibility.LOADING) if name in arguments}
    if (more := taken.pop("model_kwargs", None)) is not None:
        if twice := taken.keys() & more.keys():
            raise InputError(f"{', '.join(sorted(twice))} is given twice: as an argument and in model_kwargs")
        if strange := sorted(more.keys() - {*READ, *compatibility.LOADING}):
            raise InputError(
                f"pipeline takes no model_kwargs {', '.join(strange)}: a bundle is a finished graph, which is loaded "
                "with device, precision and threads alone. Leave it out, or export the checkpoint with it"
            )
        taken |= more
    for name in list(taken):
        if (rule := compatibility.LOADING.get(name)) is not None:
            rule.check(name, taken.pop(name), "pipeline")
    device = _device(device, taken.pop("device_map", None))
    precision = _precision(precision, [(name, taken.pop(name, None)) for name in ("dtype", "torch_dtype")])
    pipeline_class = taken.pop("pipeline_class", None)
    if pipeline_class is not None and not (isinstance(pipeline_class, type) and issubclass(pipeline_class, Pipeline)):
        raise InputError(f"pipeline_class is {pipeline_class!r}; it is a subclass of untorch.Pipeline")
    return Loading(device, precision, pipeline_class)


def _device(device: str, placed: Any) -> str:
    """The device that `device` and transformers' `device_map` name together."""
    if placed is None:
        return device
    if device != "auto":
        raise InputError("give device or device_map, not both")
    if isinstance(placed, Mapping):
        devices = list(placed.values())
        if len(set(map(str, devices))) != 1:
            raise InputError(f"device_map is {placed!r}; a bundle runs on one device: device=…")
        placed = devices[0]
    if placed in ("balanced", "balanced_low_0", "sequential"):
        raise InputError(
            f"device_map={placed!r} divides a model between devices; a bundle runs on one device: device=…"
        )
    return device_name(placed)


def _precision(precision: str, dtypes: list[tuple[str, Any]]) -> str:
    for name, dtype in dtypes:
        if dtype is None or dtype == "auto":
            continue
        # torch.float16, numpy.dtype("float16"), "float16".
        plain = str(getattr(dtype, "__name__", dtype)).rpartition(".")[2]
        if plain not in _PRECISIONS:
            raise InputError(
                f"{name} is {dtype}; a bundle runs in float32, in float16, or in a variant of its own: precision='int8'"
            )
        if precision not in ("auto", _PRECISIONS[plain]):
            raise InputError(f"{name} is {dtype} and precision is {precision!r}; give one of them")
        precision = _PRECISIONS[plain]
    return precision


def require_own(model: AutoModel, device: Any, precision: str, threads: int | None, revision: str | None) -> None:
    """Raise DeviceError if a loaded model is not on this device or in this precision; InputError for what it cannot be.

    As in transformers, the device -1 leaves a model where it is.
    """
    name = "auto" if device == -1 else device_name(device)
    if name != "auto" and str(resolve_device(name)) != str(model.device):
        raise DeviceError(
            f"device is {name!r} and the model given is on {model.device}; load it there: "
            f"{type(model).__name__}.from_pretrained(…, device={name!r})"
        )
    if precision not in ("auto", model.precision):
        raise DeviceError(
            f"precision is {precision!r} and the model given is in {model.precision}; load it so: "
            f"{type(model).__name__}.from_pretrained(…, precision={precision!r})"
        )
    for what, value in (("threads", threads), ("revision", revision)):
        if value is not None:
            raise InputError(f"{what}={value!r} says how a model is loaded, and the model given is loaded already")
