"""`untorch export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from untorch.bundle.manifest import Manifest, Variant
from untorch.errors import DependencyError
from untorch_export.checkpoint.tasks import TASKS
from untorch_export.errors import ExportWarning, GateError

HELP = "export a PyTorch checkpoint to a bundle"

Progress = Callable[[str, int, int], None]

_COLOURS = {"failed": "red", "unverified": "yellow"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Export a Hugging Face checkpoint, a local folder or a Hub id, to a bundle that runs without torch. Every "
        "variant is compared with PyTorch; one that is not close enough is left out. Exit codes: 0 all variants "
        "written, 1 one or more missed the gate, 2 the call was wrong."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a local folder, or a Hub id")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="where the bundle goes")
    parser.add_argument("--task", help=f"default: what the architecture names; one of {', '.join(TASKS)}")
    parser.add_argument(
        "--precision",
        metavar="P,P",
        help="variants to write, by commas: fp32, int8 (for CPUs), int8_kernels (for CPUs with AVX-512 VNNI and the "
        "package untorch-kernels), fp16 (for GPUs), fp16_packed (beside fp16, without padding in its layers) "
        "(default: fp32,int8, and int8_kernels where it runs here)",
    )
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub id")
    parser.add_argument(
        "--eval",
        metavar="FILE",
        type=Path,
        help="texts of your own to judge by: one a line, or labelled (label and text by tabs; CoNLL; SQuAD)",
    )
    parser.add_argument("--calibration", metavar="FILE", type=Path, help="texts, one a line, that set int8's ranges")
    parser.add_argument("--random-init", action="store_true", help="draw weights at random; only the config is read")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of --random-init (default: 0)")
    parser.add_argument("--allow-pickle", action="store_true", help="read weights that are pickles")
    parser.add_argument("--trust-remote-code", action="store_true", help="run model code that the checkpoint brings")
    parser.add_argument("--keep-failed", action="store_true", help="write variants that miss the gate, marked failed")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Export, and print a table of the variants. Returns the exit code; raises UntorchError for a wrong call."""
    try:
        from untorch_export.export import export
    except ModuleNotFoundError as error:
        raise DependencyError(f'exporting needs {error.name}: pip install "untorch[export]"') from error

    try:
        with _progress() as progress:
            manifest = export(
                arguments.checkpoint,
                arguments.output,
                task=arguments.task,
                precisions=_names(arguments.precision),
                revision=arguments.revision,
                random_init=arguments.random_init,
                seed=arguments.seed,
                eval_file=arguments.eval,
                calibration_file=arguments.calibration,
                allow_pickle=arguments.allow_pickle,
                trust_remote_code=arguments.trust_remote_code,
                keep_failed=arguments.keep_failed,
                progress=progress,
            )
    except GateError as error:
        print(f"untorch export: {error}", file=sys.stderr)
        return 1
    rows = [_row(manifest, name, variant) for name, variant in manifest.variants.items()]
    rows += [_refused(name, parity) for name, parity in manifest.extra.get("refused", {}).items()]
    if arguments.json:
        print(json.dumps({"output": str(arguments.output), "task": manifest.task, "variants": rows}, indent=2))
    else:
        _print_table(rows, f"{manifest.task} in {arguments.output}")
    return int(any(row["verdict"] == "failed" for row in rows))


def _names(precisions: str | None) -> list[str] | None:
    """What was given to --precision; None leaves the choice to the exporter."""
    return None if precisions is None else [name.strip() for name in precisions.split(",") if name.strip()]


def _row(manifest: Manifest, precision: str, variant: Variant) -> dict[str, Any]:
    return {
        "precision": precision,
        "bytes": sum(manifest.files[name].size for name in variant.files),
        "layers": variant.extra.get("layers"),
        "fused_layers": variant.extra.get("fused_layers"),
        **_outcome(variant.parity),
        "verdict": variant.verdict,
        "written": True,
    }


def _refused(precision: str, parity: dict[str, Any]) -> dict[str, Any]:
    nothing = {"bytes": 0, "layers": None, "fused_layers": None}
    return {"precision": precision, **nothing, **_outcome(parity), "verdict": "failed", "written": False}


def _outcome(parity: dict[str, Any]) -> dict[str, Any]:
    worst = max((item["max_abs_difference"] for item in parity["outputs"].values()), default=None)
    return {"gate": parity["gate"], "max_abs_difference": worst}


def _print_table(rows: list[dict[str, Any]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name, justify in (("variant", "left"), ("size", "right"), ("fused layers", "right"), ("max |Δ|", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # one of rich's literals
    table.add_column("parity")
    table.add_column("verdict")
    for row in rows:
        gate = row["gate"]
        layers = "–" if row["fused_layers"] is None else f"{row['fused_layers']} of {row['layers'] or '?'}"
        short = row["layers"] is not None and row["fused_layers"] < row["layers"]
        table.add_row(
            row["precision"],
            f"{row['bytes'] / 1e6:.1f} MB" if row["written"] else "not written",
            f"[bold red]{layers}[/]" if short else layers,
            "–" if row["max_abs_difference"] is None else f"{row['max_abs_difference']:.2g}",
            f"{gate['rule']} {gate['measured']:.2g}, limit {gate['limit']:g}" if gate["limit"] else gate["rule"],
            f"[{_COLOURS.get(row['verdict'], 'green')}]{row['verdict']}[/]",
        )
    Console().print(table)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar a step on stderr, and export warnings as lines above them."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError as error:
        raise DependencyError('exporting needs rich, which is not installed: pip install "untorch[export]"') from error

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<22}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars, warnings.catch_warnings():
        show = warnings.showwarning

        def showwarning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, ExportWarning):
                console.print(f"[bold yellow]warning:[/] {message}", highlight=False)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = showwarning
        steps: dict[str, Any] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in steps:
                steps[step] = bars.add_task(step, total=total)
            bars.update(steps[step], completed=done, total=total)

        yield progress
