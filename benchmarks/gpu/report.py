"""A GPU's part of the HTML report, from a results file of `benchmarks/gpu`.

It draws nothing itself: the function that does is handed in, so that the tables need no matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from benchmarks import page
from benchmarks.figures import three_digits
from benchmarks.gpu import figures

# Takes the lanes of a timeline and its milliseconds; gives an SVG.
Draw = Callable[[dict[str, list[figures.Interval]], float], str]

# How the facts about the machine are put, in this order; facts that are not here come after them under their own names.
_MACHINE = {
    "driver": "driver {}", "driver_cuda": "CUDA {}", "cudnn": "cuDNN {}", "onnxruntime": "onnxruntime {}",
    "torch": "torch {}", "transformers": "transformers {}", "python": "Python {}", "cores": "{} cores",
}  # fmt: skip
# A GPU that has a batch for this share of the time sets the pace.
_BUSY = 0.9


def section(data: dict[str, Any], draw: Draw) -> list[str]:
    """Everything that one run on a GPU measured, as HTML. Workloads that it did not come to are named at the end."""
    workloads = {
        "text in, label out": _one_text(data),
        "the model alone": _grid(data),
        "sentences": _sentences(data),
        "when the GPU has a batch": _timelines(data, draw),
        "first answer": _first_answer(data),
        "settings": _options(data),
    }
    missing = [name for name, parts in workloads.items() if not parts]
    return [
        f"<h2>GPU: {escape(data.get('device') or 'a GPU without a name')}</h2>",
        *_machine(data),
        *_goals(data),
        *(part for parts in workloads.values() for part in parts),
        *([f"<p class=no>Not measured: {', '.join(missing)}.</p>"] if missing else []),
        *_parity(data),
        *_tests(data),
        *_left_out(data),
    ]


def _machine(data: dict[str, Any]) -> list[str]:
    machine, limits = data.get("machine", {}), data.get("limits", {})
    names = [*(key for key in _MACHINE if key in machine), *(key for key in machine if key not in _MACHINE)]
    facts = [_MACHINE.get(key, f"{key} {{}}").format(machine[key]) for key in names if machine[key]]
    seconds = sum(data.get("seconds", {}).values())
    parts = [page.soft(" · ".join([*facts, data.get("started", ""), f"{seconds:.0f} s in all"]))]
    if limits:
        parts.append(
            "<p>The GPU's limits, measured in this run: "
            f"<b>{three_digits(limits['operations_per_second'] / 1e12)} TFLOP/s</b> in matrix products "
            f"({escape(limits['matrix'])}) and <b>{three_digits(limits['bytes_per_second'] / 1e9)} GB/s</b> of memory "
            "bandwidth (a copy, bytes read and written).</p>"
        )
    return parts


def _goals(data: dict[str, Any]) -> list[str]:
    goals = figures.goals(data)
    if not goals:
        return ["<p class=warn>This run did not reach its end; what it had measured by then is here.</p>"]
    cells = ((escape(goal.name), goal.wanted, goal.measured, page.verdict(goal.met)) for goal in goals)
    return [
        f"<p class=sum>{page.tally([goal.met for goal in goals])}</p>",
        page.table(("", "goal", "measured", ""), cells, kind="stack"),
    ]


def _one_text(data: dict[str, Any]) -> list[str]:
    found = figures.rows(data, "text to label")
    if not found:
        return []
    return [
        "<h3>Text in, label out</h3>",
        page.soft("One text at a time. Milliseconds: p50, and p99 below; the fastest engine is marked."),
        *_by_model(found, lambda row: f"p99 {three_digits(row['p99_ms'])}"),
    ]


def _grid(data: dict[str, Any]) -> list[str]:
    found = figures.rows(data, "model")
    if not found:
        return []
    text = (
        "From ids on the host to logits on the host, full rows. Milliseconds: p50, and below it the share of the "
        "GPU's matrix rate that the model's products come to; the fastest engine is marked."
    )
    tables = _by_model(found, lambda row: _percent(row["share"]) if row.get("share") else "")
    return ["<h3>The model alone</h3>", page.soft(text), *tables]


def _by_model(found: Sequence[dict[str, Any]], below: Callable[[dict[str, Any]], str]) -> list[str]:
    """A table a model: a row a case, a column an engine."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in found):
        own = [row for row in found if row["model"] == model]
        parts += [f"<h4>{escape(model)}</h4>", _cross(own, below)]
    return parts


def _cross(found: Sequence[dict[str, Any]], below: Callable[[dict[str, Any]], str]) -> str:
    """Cases down, engines across, and the fastest of every row marked."""
    known = {(row["case"], row["engine"]): row for row in found}
    columns, lines = figures.engines(found), []
    for case in figures.cases(found):
        row = [known.get((case, engine)) for engine in columns]
        fastest = _fastest(one for one in row if one)
        lines.append([case.replace("x", " × "), *(_time(one, fastest, below(one) if one else "") for one in row)])
    return page.table(("rows × tokens", *columns), lines, kind="wide")


def _fastest(found: Iterable[dict[str, Any]]) -> float | None:
    """The least median of several; nothing is the fastest alone."""
    medians = [row["p50_ms"] for row in found]
    return min(medians) if len(medians) > 1 else None


def _time(row: dict[str, Any] | None, fastest: float | None, below: str = "") -> str:
    """A cell: the median, marked if nothing beside it is faster, and something small under it."""
    if row is None:
        return "<span class=no>–</span>"
    number = three_digits(row["p50_ms"])
    number = page.mark(number) if row["p50_ms"] == fastest else number
    return f"{number}<small>{below}</small>" if below else number


def _sentences(data: dict[str, Any]) -> list[str]:
    best = figures.best_runs(data)
    if not best:
        return []
    rates = [three_digits(row["texts_per_second"]) for row in best]
    cells = [
        (escape(row["engine"]), rate, _percent(row["busy"]), _percent(row["share"]))
        for row, rate in zip(best, [page.mark(rates[0]), *rates[1:]], strict=True)
    ]
    text = (
        f"{best[0]['case']} of the length of sentences in one call, the best of its runs. Busy: the share of the time "
        "in which the GPU had a batch. Share: what true tokens' products come to of the GPU's matrix rate in that "
        "time, padding not counted."
    )
    head = ("", "texts a second", "busy", "share")
    return ["<h3>Sentences</h3>", page.soft(text), page.table(head, cells)]


def _timelines(data: dict[str, Any], draw: Draw) -> list[str]:
    drawn = []
    for one in data.get("timeline", []):
        found = figures.timeline([(kind, begin, end) for kind, begin, end in one["milliseconds"]], 1e3 * one["seconds"])
        if found.lanes:
            drawn.append(page.figure(one["engine"], draw(found.lanes, found.shown), _told(found)))
    return ["<h3>When the GPU has a batch</h3>", page.figures(drawn)] if drawn else []


def _told(found: figures.Timeline) -> str:
    """What a timeline shows, in words."""
    length = f"{found.whole:,.0f} ms in all"
    if found.shown < found.whole:
        length += f", the first {found.shown:,.0f} of them here"
    if found.gpu is None:
        return f"{length}. Noted as a whole; the GPU's part of it is not known."
    pace = (
        "The GPU sets the pace."
        if found.gpu >= _BUSY
        else f"The GPU waits for the host {1 - found.gpu:.0%} of the time."
    )
    return (
        f"{length}. The GPU had a batch {found.gpu:.0%} of the time, texts were tokenized or put into arrays "
        f"{found.host:.0%} of it, and both at once {found.both:.0%}. {pace}"
    )


def _first_answer(data: dict[str, Any]) -> list[str]:
    found = figures.rows(data, "first answer")
    if not found:
        return []
    fastest = _fastest(found)
    cells = [
        (escape(row["engine"]), _time(row, fastest), three_digits(row["p99_ms"]), str(len(row["samples"])))
        for row in sorted(found, key=lambda row: row["p50_ms"])
    ]
    text = "From the start of a process to its first answer from the GPU, in milliseconds; imports included."
    return ["<h3>First answer</h3>", page.soft(text), page.table(("", "p50", "slowest", "starts"), cells)]


def _options(data: dict[str, Any]) -> list[str]:
    found = figures.rows(data, "option")
    if not found:
        return []
    known = {(row["engine"], row["case"]): row for row in found}
    cases = figures.cases(found)
    fastest = {case: _fastest(row for row in found if row["case"] == case) for case in cases}
    cells = [
        (escape(name), *(_time(known.get((name, case)), fastest[case]) for case in cases))
        for name in dict.fromkeys(row["engine"] for row in found)
    ]
    text = (
        "Options of the CUDA provider and forms of the mask, one at a time, in a plain session on "
        f"{found[0]['model']}'s fp16 graph. Milliseconds, p50; the fastest of a column is marked."
    )
    head = ("", *(case.replace("x", " × ") for case in cases))
    return ["<h3>Settings that were tried</h3>", page.soft(text), page.table(head, cells)]


def _parity(data: dict[str, Any]) -> list[str]:
    if not data.get("parity"):
        return []
    cells = [
        (
            escape(f"{row['model']}: {row['engine']}"),
            f"{row['agreement']:.1%}",
            f"{row['probability']:.4f}",
            "yes" if row["timed"] else f"<span class=missed>no</span> {page.wrapped(row.get('error', ''))}",
        )
        for row in data["parity"]
    ]
    left = sum(not row["timed"] for row in data["parity"])
    text = "Equal decisions, and the most that a probability moved. An engine that disagrees is not timed."
    inside = page.soft(text) + page.table(("", "equal", "moved", "timed"), cells)
    return [_folded(f"Agreement with PyTorch in fp32: {len(cells) - left} of {len(cells)} engines timed", inside)]


def _tests(data: dict[str, Any]) -> list[str]:
    tests = data.get("tests")
    if not tests:
        return []
    # Tests that were all skipped have not failed either; pytest's last line tells.
    fine, exit_code = tests["rc"] == 0, tests["rc"]
    word = "<span class=met>none failed</span>" if fine else f"<span class=missed>failed</span> (exit {exit_code})"
    last = (tests["tail"].strip().splitlines() or [""])[-1].strip("= ")
    return [
        f"<p>The tests that need a GPU: {word}. {escape(last)}</p>",
        _folded("What they printed last", f"<pre>{escape(tests['tail'])}</pre>"),
    ]


def _left_out(data: dict[str, Any]) -> list[str]:
    parts = []
    if data.get("left_out"):
        cells = ((escape(row["step"]), page.wrapped(row["why"])) for row in data["left_out"])
        parts = ["<h3>Left out of this run</h3>", page.table(("step", "why"), cells, kind="stack")]
    if data.get("seconds"):
        cells = ((escape(step), f"{seconds:.1f}") for step, seconds in data["seconds"].items())
        parts.append(_folded("Seconds that the steps took", page.table(("step", "seconds"), cells)))
    return parts


def _folded(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def _percent(share: float | None) -> str:
    """Two digits at least, since one text's share of a GPU is small."""
    if share is None:
        return "–"
    return f"{share:.0%}" if share >= 0.1 else f"{share:.2%}"
