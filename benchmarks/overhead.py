"""What our own code costs in two checkouts: the time to a first answer, and the time around ONNX Runtime in a call.

    python benchmarks/overhead.py BEFORE AFTER [--rounds N] [--calls N]

BEFORE and AFTER are folders of checkouts; their `runtime/` is measured, with the default model of this checkout and one
short text. Each measurement is a process of its own. A round measures both checkouts, and rounds take turns in which
comes first, so that whatever else the machine does meets both. The first round only fills caches and is not counted.
Printed are medians, and the median of the differences within a round with the range that half of them lie in.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "untorch-minilm-sst2" / "untorch_minilm_sst2" / "bundle"
TEXT = "I hate this so much!"
WARM_UP = 50
FIGURES = {
    "start": "process start to first answer, ms",
    "first": "import, pipeline, first answer, ms",
    "call": "a call, µs",
    "own": "a call without ONNX Runtime's run, µs",
}

_clock = time.perf_counter


def measure(job: dict[str, Any]) -> Iterator[Any]:
    """Measure the untorch that this process imports.

    Yields where it was imported from and the seconds to a first answer; then the seconds of each call, and of each call
    without ONNX Runtime's share.
    """
    begin = _clock()
    import untorch

    pipeline = untorch.pipeline("text-classification", job["model"], device="cpu")
    pipeline(TEXT)
    yield {"first": _clock() - begin, "from": str(Path(untorch.__file__).parents[1])}
    inside = _timed_runs()
    calls, own = [], []
    for number in range(WARM_UP + job["calls"]):
        inside.clear()
        start = _clock()
        pipeline(TEXT)
        whole = _clock() - start
        if not inside:
            raise RuntimeError("ONNX Runtime was not seen running, so nothing can be told apart")
        if number >= WARM_UP:
            calls.append(whole)
            own.append(whole - sum(inside))
    yield {"call": calls, "own": own}


def _timed_runs() -> list[float]:
    """A list that gets the seconds of every run of every session from now on."""
    import onnxruntime

    seconds: list[float] = []

    def timed(run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            start = _clock()
            try:
                return run(*arguments, **keywords)
            finally:
                seconds.append(_clock() - start)

        return wrapped

    for name in ("run", "run_with_iobinding"):
        setattr(onnxruntime.InferenceSession, name, timed(getattr(onnxruntime.InferenceSession, name)))
    return seconds


def _process(checkout: Path, calls: int) -> dict[str, float]:
    """The figures of one process: milliseconds and microseconds."""
    # Not at the top: this file is also imported by the process that measures another checkout's untorch.
    from untorch.tools.processes import Child

    runtime = checkout.resolve() / "runtime"
    environment = {**os.environ, "PYTHONPATH": str(runtime), "ORT_DISABLE_TELEMETRY": "1"}
    start = _clock()
    with Child("benchmarks.overhead:measure", env=environment, cwd=ROOT) as child:
        results = child.ask({"model": str(MODEL), "calls": calls}, timeout=120)
        first = next(results)
        started = _clock() - start
        [found] = results
    if Path(first["from"]) != runtime:
        raise SystemExit(f"measured {first['from']} instead of {runtime}")
    return {
        "start": 1e3 * started,
        "first": 1e3 * first["first"],
        "call": 1e6 * statistics.median(found["call"]),
        "own": 1e6 * statistics.median(found["own"]),
    }


def main() -> None:
    """Measure, and print a table and the samples as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--calls", type=int, default=500, help="calls a process")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write every round's figures there, as JSON")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before, "after": arguments.after}
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.rounds + 1):
        names = sorted(checkouts, reverse=number % 2 == 0)
        found = {name: _process(checkouts[name], arguments.calls) for name in names}
        if number:
            rounds.append(found)
    print(
        f"{'median of ' + str(len(rounds)) + ' rounds':<42}{'before':>9}{'after':>9}{'difference':>12}  half of them in"
    )
    for figure, title in FIGURES.items():
        before, after = ([one[name][figure] for one in rounds] for name in checkouts)
        differences = [ours - theirs for theirs, ours in zip(before, after, strict=True)]
        low, middle, high = statistics.quantiles(differences, n=4) if len(rounds) > 1 else differences * 3
        values = f"{statistics.median(before):>9.1f}{statistics.median(after):>9.1f}{middle:>+12.1f}"
        print(f"{title:<42}{values}  {low:+.1f} to {high:+.1f}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"load": os.getloadavg(), "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
