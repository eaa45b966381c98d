"""The road from a checkpoint to a bundle: load, convert, fuse, quantize, compare with PyTorch, write."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from untorch.bundle.manifest import Manifest, Variant
from untorch.bundle.precisions import INT8_KERNELS
from untorch.errors import DependencyError, DeviceError, first_line
from untorch.ort import kernels
from untorch_export.bundle import assets, writer
from untorch_export.checkpoint.load import Checkpoint, load
from untorch_export.checkpoint.switches import described
from untorch_export.errors import ExportError, ExportWarning, GateError
from untorch_export.parity import compare, evalset, gates, road
from untorch_export.parity.texts import CALIBRATION_TEXTS
from untorch_export.precisions import NAMES, REDUCED
from untorch_export.trace import transformers_5
from untorch_export.variants import Progress, build

# And int8_kernels, where this machine can run and compare it.
DEFAULT_PRECISIONS = ("fp32", "int8")

_COMPARE = "compare with PyTorch"
_ROAD = "from text to answer"

_TOOLS = (
    "untorch",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tokenizers",
    "numpy",
)


def export(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    precisions: Sequence[str] | None = None,
    revision: str | None = None,
    random_init: bool = False,
    seed: int = 0,
    eval_file: str | os.PathLike[str] | None = None,
    calibration_file: str | os.PathLike[str] | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    keep_failed: bool = False,
    progress: Progress = lambda step, done, total: None,
) -> Manifest:
    """Export a checkpoint to the bundle folder `output` and return the bundle's manifest.

    `checkpoint` is a local folder or a Hub id. `task` defaults to the one the checkpoint's architecture names,
    `precisions` to fp32, int8 and, where untorch-kernels is installed and this processor can run it, int8_kernels.
    `eval_file` holds the texts to compare answers on, one a line, or labelled ones in the forms that
    `untorch_export.parity.evalset` lists; accuracy, F1, exact match or correlation on them then decides whether a
    reduced precision is good enough. `calibration_file` has one text a line, from which int8
    takes its ranges; by default they come from the project's own texts. A variant that misses its gate is left out,
    and the manifest's `extra["refused"]` says why; with `keep_failed` it is written with the verdict `failed`.

    Raises ExportError for a checkpoint, task, precision or target that cannot be had as asked, GateError (an
    ExportError) if no variant came through, TaskError for an unknown task, DependencyError where the export packages
    are missing. The target is then as it was. Warns with ExportWarning where fewer attention layers fused than the
    model has.
    """
    if precisions is not None:
        _check_precisions(precisions)
    target = Path(output)
    writer.check_target(target)
    _require_packages()
    with quiet():
        progress("load", 0, 1)
        loaded = load(
            checkpoint,
            task=task,
            revision=revision,
            random_init=random_init,
            seed=seed,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        assets.check(loaded)
        texts = _texts(loaded, eval_file)
        calibration = _calibration_texts(loaded, calibration_file)
        wanted = _possible(loaded, DEFAULT_PRECISIONS if precisions is None else precisions)
        if precisions is None and "int8" in wanted and kernels.usable():
            wanted = [*wanted, INT8_KERNELS]
        progress("load", 1, 1)
        with writer.staged(target) as bundle, TemporaryDirectory() as scratch:
            variants = _build(loaded, bundle, Path(scratch), wanted, calibration, progress)
            if precisions is not None and INT8_KERNELS in wanted and INT8_KERNELS not in variants:
                kind = type(loaded.model).__name__
                raise ExportError(f"{kind} has no product that {INT8_KERNELS} could run; leave it out of --precision")
            source = (bundle / "onnx" if "fp32" in variants else Path(scratch)) / "model.onnx"
            # The model that was traced is not compared with: a tracer, or a single pass, can change it for good.
            loaded = loaded.afresh()
            return _prove(loaded, bundle, source, variants, texts, keep_failed, progress)


def _build(
    loaded: Checkpoint,
    bundle: Path,
    scratch: Path,
    wanted: Sequence[str],
    calibration: Sequence[str],
    progress: Progress,
) -> dict[str, Variant]:
    with _failing(f"{type(loaded.model).__name__} cannot be exported for {loaded.task.name}", loaded):
        return build(loaded, bundle, scratch, wanted, calibration, progress)


def _prove(
    loaded: Checkpoint,
    bundle: Path,
    source: Path,
    variants: dict[str, Variant],
    texts: evalset.EvalSet | None,
    keep_failed: bool,
    progress: Progress,
) -> Manifest:
    """Compare the variants with the model and the library, finish the bundle with those that pass, give its manifest.

    `source` is the fp32 graph from which the others were made.
    """
    progress(_COMPARE, 0, 1)
    task = loaded.task.name
    with _failing(f"{type(loaded.model).__name__} cannot be compared with its graph for {task}", loaded):
        loaded = compare.within(loaded, bundle, source, variants)
        variants = compare.compare(loaded, bundle, variants, texts, lambda done, total: progress(_COMPARE, done, total))
    progress(_COMPARE, 1, 1)
    assets.write(loaded, bundle)
    entries: dict[str, Any] = {"task": task, "source": loaded.source, "tools": _tools(variants), "extra": {}}
    if texts is not None and texts.quality is not None:
        writer.write_manifest(bundle, variants=variants, **entries)
        variants = road.judge_quality(loaded, bundle, variants, texts.quality)
    kept, refused = gates.sort_out(variants, keep_failed)
    # A variant that is kept may read a data file of one that is not.
    for name in _files(refused) - _files(kept):
        (bundle / name).unlink()
    entries["tools"] = _tools(kept)
    if refused:
        entries["extra"] = {"refused": {name: variant.parity for name, variant in refused.items()}}
    manifest = writer.write_manifest(bundle, variants=kept, **entries)
    progress(_ROAD, 0, 1)
    found = road.walk(loaded, bundle, kept, lambda done, total: progress(_ROAD, done, total))
    progress(_ROAD, 1, 1)
    return writer.rewrite_manifest(bundle, manifest, gates.arrived(kept, found, keep_failed))


def _check_precisions(precisions: Sequence[str]) -> None:
    """Raise ExportError for precisions that do not exist, or that cannot be had here or without another."""
    unknown = [name for name in precisions if name not in NAMES]
    if unknown or not precisions:
        raise ExportError(f"precision {', '.join(unknown) or '(none)'} is unknown; choose from {', '.join(NAMES)}")
    for row in (row for row in REDUCED if row.name in precisions):
        if row.beside and row.beside not in precisions:
            raise ExportError(
                f"{row.name} runs beside {row.beside} and shares its weights; ask for {row.beside} as well"
            )
        try:
            row.require()
        except (DependencyError, DeviceError) as error:
            raise ExportError(f"{row.name} cannot be compared with PyTorch on this machine: {error}") from error


def _files(variants: dict[str, Variant]) -> set[str]:
    return {name for variant in variants.values() for name in variant.files}


def _possible(checkpoint: Checkpoint, precisions: Sequence[str]) -> Sequence[str]:
    """The precisions that can be made of this checkpoint. Raises ExportError if none can."""
    missing = [name for name in precisions if name != "fp32"]
    if not checkpoint.task.answer.generates or not missing:
        return precisions
    none_yet = f"{checkpoint.task.name} has no {' or '.join(missing)} variant yet"
    if "fp32" not in precisions:
        raise ExportError(f"{none_yet}; export it with --precision fp32")
    warnings.warn(f"{none_yet}: fp32 only", ExportWarning, stacklevel=3)
    return ["fp32"]


def _calibration_texts(checkpoint: Checkpoint, file: str | os.PathLike[str] | None) -> Sequence[str]:
    if checkpoint.tokenizer is None:
        if file is not None:
            raise ExportError("--calibration needs a tokenizer, and the checkpoint brings none")
        return ()
    return CALIBRATION_TEXTS if file is None else evalset.read_lines(Path(file))


def _texts(checkpoint: Checkpoint, eval_file: str | os.PathLike[str] | None) -> evalset.EvalSet | None:
    if eval_file is not None:
        if checkpoint.tokenizer is None:
            raise ExportError("--eval needs a tokenizer, and the checkpoint brings none")
        return evalset.read(Path(eval_file), checkpoint)
    if checkpoint.tokenizer is None:
        warnings.warn(
            "the checkpoint brings no tokenizer, so the bundle has none, and answers are compared on random ids only",
            ExportWarning,
            stacklevel=2,
        )
        return None
    return evalset.built_in(pairs=checkpoint.task.pairs)


@contextmanager
def _failing(what: str, checkpoint: Checkpoint) -> Iterator[None]:
    """Whatever fails inside, in torch, onnx or ONNX Runtime, becomes an ExportError that begins with `what`.

    It ends with how the model attends, where that is out of the ordinary and so the likely cause.
    """
    attends = described(checkpoint.config)
    cause = f" (its attention: {attends})" if attends else ""
    try:
        yield
    except DependencyError:
        raise
    except GateError as error:
        raise GateError(f"{error}{cause}") from error
    except ExportError as error:
        raise ExportError(f"{error}{cause}") from error
    except Exception as error:
        reason = first_line(error)
        raise ExportError(f"{what}: {type(error).__name__}{': ' if reason else ''}{reason}{cause}") from error


def _require_packages() -> None:
    """Raise DependencyError where a package is missing. Optimum's exporter is for transformers 4.57 only."""
    extra = "export"
    for name in ("torch", "transformers", "onnx", "tracer"):
        if name == "tracer":
            name, extra = ("onnxscript", extra) if transformers_5() else ("optimum.exporters.onnx", "export-optimum")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise DependencyError(
                f"exporting needs {name.partition('.')[0]}, which cannot be imported ({error}): "
                f'pip install "untorch[{extra}]"'
            ) from error


def _tools(variants: Iterable[str]) -> dict[str, str]:
    """Versions of what made the bundle."""
    versions = {}
    for name in (*_TOOLS, "untorch-kernels") if INT8_KERNELS in variants else _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed, onnxruntime-gpu
            continue
    return versions


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporting libraries print about themselves; UNTORCH_DEBUG=1 lets them speak."""
    if os.environ.get("UNTORCH_DEBUG"):
        yield
        return
    import transformers

    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", ExportWarning)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
            transformers.logging.set_verbosity(verbosity)
            if bars:
                transformers.logging.enable_progress_bar()
