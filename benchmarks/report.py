"""Writes a self-contained HTML page from a results file. Runs in the environment `build`.

python -m benchmarks.report [RESULTS.json] [-o REPORT.html]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks import page, plots
from benchmarks.figures import Results
from benchmarks.goals import LARGE, SMALL, goals
from benchmarks.gpu import report as gpu_report

RESULTS = Path(__file__).resolve().parent / "results"
_LENGTHS = (16, 32, 64, 128, 256)
_LEFT_OUT = ("peer", "model", "workload")
_MODELS = ("distilbert", "minilm-sst2", "all-minilm")


def render(results: Results, gpu: Sequence[dict[str, Any]] = ()) -> str:
    """The page's HTML."""
    data = results.data
    machine = data["machine"]
    rows = goals(results)
    parts = [
        "<h1>untorch on the CPU, side by side</h1>",
        f"<p class=soft>{escape(machine['processor'])} · {machine['cores']} cores, {data['threads']} used · "
        f"{', '.join(machine['extensions'])} · {machine['memory_gib']} GiB · {escape(machine['system'])} · "
        f"{escape(data['started'])} · {data.get('seconds', 0) / 60:.0f} minutes</p>",
    ]
    if data.get("quick"):
        parts.append("<p class=warn>A smoke run: it shows that everything works. Its figures mean nothing.</p>")
    parts += [
        "<p>Every engine does the same work on the same texts, at its best settings, in a process of its own, in turn. "
        "Blue, green and violet are untorch; grey is everybody else. An engine is timed only after its answers agree "
        "with PyTorch's.</p>",
        "<h2>Goals</h2>",
        f"<p class=sum>{page.tally([goal.met for goal in rows])} Ratios are to the transformers pipeline on "
        "PyTorch fp32 with DistilBERT-base, unless the row says otherwise.</p>",
        page.table(
            ("", "goal", "measured", "", "by"),
            ((escape(goal.name), goal.wanted, goal.measured, page.verdict(goal.met), escape(goal.by)) for goal in rows),
            kind="stack",
        ),
        *_latency(results),
        *_throughput(results),
        *_start(results),
        *_installed(results),
        *_concurrency(results),
        *_memory(results),
        *_limits(results),
        *_agreement(results),
        *_gpu(gpu),
        *_appendix(results),
    ]
    return page.document("untorch benchmark", parts)


def _figures(items: Iterable[tuple[str, str | None]]) -> str:
    """The plots that could be drawn, each under its title."""
    return page.figures(page.figure(title, svg) for title, svg in items if svg)


def _title(results: Results, model: str) -> str:
    return str(results.data["models"].get(model, {}).get("title", model))


def _latency(results: Results) -> list[str]:
    items = [
        (f"{_title(results, model)}, {length} tokens", plots.latency(results, model, length))
        for model in _MODELS
        for length in (16, 32, 128)
    ]
    note = "One text in, its answer out, batch of one. Box: middle half of the calls; whiskers: p1 and p99."
    return ["<h2>Latency</h2>", page.soft(note), _figures(items)]


def _throughput(results: Results) -> list[str]:
    items = []
    for model in _MODELS:
        made = results.data["models"].get(model)
        if made is None:
            continue
        for case, what in (("sentences", "sentences"), ("long", "512 tokens")):
            mean = made["tokens"][case] / made["texts"][case]
            title = f"{made['title']}: {what}" + (f", mean {mean:.0f} tokens" if case == "sentences" else "")
            names = results.measured(model, "T", case)
            svg = plots.bars(results, names, lambda peer, m=model, c=case: results.rate(peer, m, c), "texts a second")
            items.append((title, svg))
    by_length = {}
    for peer in results.measured(LARGE, "T", "length 16"):
        points = [(n, results.rate(peer, LARGE, f"length {n}")) for n in _LENGTHS]
        points.append((512, results.rate(peer, LARGE, "long")))
        known = [(n, n * rate) for n, rate in points if rate]
        by_length[peer] = ([n for n, _ in known], [tokens for _, tokens in known])
    ticks = (*_LENGTHS, 512)
    drawn = plots.lines(results, by_length, "tokens a text", "tokens a second", log_x=True, ticks=ticks)
    items.append((f"{_title(results, LARGE)}: throughput against length", drawn))
    timed = [
        f"{results.peers[peer]['label']} {results.texts_timed(peer, LARGE, 'sentences'):,} / "
        f"{results.texts_timed(peer, LARGE, 'long') or 0:,}"
        for peer in results.measured(LARGE, "T", "sentences")
    ]
    note = (
        "All texts in one call. A slow engine gets fewer of the same texts, and the rate is per token, scaled to "
        f"the mean length of all. Texts a round with DistilBERT (sentences / 512 tokens): {'; '.join(timed) or 'none'}."
    )
    return ["<h2>Throughput</h2>", page.soft(note), _figures(items)]


def _start(results: Results) -> list[str]:
    items = []
    for model in _MODELS:
        names = results.measured(model, "S", "start")
        title = _title(results, model)
        seconds = plots.bars(
            results, names, lambda peer, m=model: results.start(peer, m), "seconds", "{:.2f}", less_is_better=True
        )
        peak = plots.bars(
            results,
            names,
            lambda peer, m=model: (results.peak(peer, m) or 0) / 1e6,
            "MB",
            "{:.0f}",
            less_is_better=True,
        )
        items += [(f"{title}: seconds to the first answer", seconds), (f"{title}: peak memory by then", peak)]
    note = "A fresh process each time, imports included; the best on top. Files are in the page cache."
    return ["<h2>Start-up and memory</h2>", page.soft(note), _figures(items)]


def _installed(results: Results) -> list[str]:
    first = {}
    for peer in results.peers.values():
        first.setdefault(peer["environment"], peer["name"])
    drawn = plots.bars(
        results,
        list(first.values()),
        lambda peer: (results.installed(peer) or 0) / 1e6 or None,
        "MB installed",
        "{:.0f}",
        less_is_better=True,
    )
    note = "Everything pip put into the engine's environment, without models, pip itself and compiled caches."
    return ["<h2>Installed size</h2>", page.soft(note), _figures([("One bar an environment", drawn)])]


def _concurrency(results: Results) -> list[str]:
    counts = (1, 8, 64)
    rates, tails = {}, {}
    for peer in results.measured(LARGE, "C", 1):
        found = [(n, results.callers(peer, LARGE, n)) for n in counts]
        known = [(n, one) for n, one in found if one]
        rates[peer] = ([n for n, _ in known], [one[0] for _, one in known])
        tails[peer] = ([n for n, _ in known], [1e3 * one[2] for _, one in known])
    style = {"log_x": True, "ticks": counts}
    items = [
        ("Total texts a second", plots.lines(results, rates, "callers", "texts a second", **style)),
        ("p99 of one call", plots.lines(results, tails, "callers", "milliseconds", log_y=True, **style)),
    ]
    note = "DistilBERT-base, sentences; every caller is a thread that sends one text and waits for its answer."
    return ["<h2>Concurrent callers</h2>", page.soft(note), _figures(items)]


def _memory(results: Results) -> list[str]:
    model = next((m for m in (SMALL, LARGE) if results.measured(m, "M", "mixed")), SMALL)
    series = {}
    for peer in results.measured(model, "M", "mixed"):
        course = results.memory(peer, model)
        if course is not None:
            series[peer] = (course[:, 0], course[:, 1] / 1e6)
    drawn = plots.lines(results, series, "texts answered", "resident MB")
    note = "Up to 20,000 texts of 4 to 128 tokens; a line that ends early ran out of its time."
    return ["<h2>Memory over time</h2>", page.soft(note), _figures([(_title(results, model), drawn)])]


def _limits(results: Results) -> list[str]:
    rates = results.data.get("limits", {}).get("rates", {})
    if not rates:
        return ["<h2>The machine's limit</h2><p class=no>Not measured.</p>"]
    table = page.table(
        ("precision", "best matrix rate", "by"),
        ((name, f"{one['operations_per_second'] / 1e9:,.0f} Gop/s", escape(one["by"])) for name, one in rates.items()),
    )
    rows = []
    for model in _MODELS:
        for peer in results.measured(model, "T", "sentences"):
            share, long = results.share(peer, model, "sentences"), results.share(peer, model, "long")
            if share is not None:
                cells = (f"{share:.0%}", "–" if long is None else f"{long:.0%}")
                rows.append((escape(results.peers[peer]["label"]), results.peers[peer]["precision"], model, *cells))
    note = (
        "Operations of the model's matrix products over true tokens, padding not counted, end to end, as a share of "
        "the fastest plain matrix product found on this machine at the same precision."
    )
    shares = page.table(("", "precision", "model", "sentences", "512 tokens"), rows)
    return ["<h2>The machine's limit</h2>", table, page.soft(note), shares]


def _agreement(results: Results) -> list[str]:
    rows = []
    for found in results.data["agreement"]:
        label = results.peers.get(found["peer"], {}).get("label", found["peer"])
        accuracy = "–" if found["accuracy"] is None else f"{found['accuracy']:.2%}"
        cells = (found["model"], f"{found['texts']}", f"{found['largest']:.1e}", f"{found['p99']:.1e}")
        same = f"{found['same']:.2%}" if found["model"] != "all-minilm" else f"cosine {found['same']:.4f}"
        rows.append((escape(label), *cells, same, accuracy, page.verdict(found["passed"])))
    head = ("", "model", "texts", "largest change", "p99", "equal labels", "accuracy", "counts")
    note = "Change of the label's probability, or of a vector's component, against PyTorch fp32 on the same texts."
    return ["<h2>Agreement with PyTorch</h2>", page.soft(note), page.table(head, rows)]


def _gpu(gpu: Sequence[dict[str, Any]]) -> list[str]:
    if not gpu:
        return ["<h2>GPU</h2><p class=no>Not measured.</p>"]
    return [part for one in gpu for part in gpu_report.section(one, plots.timeline)]


def _appendix(results: Results) -> list[str]:
    data = results.data
    left_out = [
        (*(escape(item[key].replace("*", "all")) for key in _LEFT_OUT), page.wrapped(item["reason"]))
        for item in data["left_out"]
    ]
    settings = [
        (escape(peer["label"]), page.wrapped(peer["settings"]), peer["environment"]) for peer in results.peers.values()
    ]
    wanted = ("untorch", "untorch-kernels", "torch", "transformers", "onnxruntime", "onnxruntime-ep-openvino")
    wanted += ("tokenizers", "numpy", "optimum-onnx", "optimum-intel", "openvino", "ctranslate2")
    wanted += ("sentence-transformers", "fastembed")
    versions = [
        (name, ", ".join(f"{package} {packages[package]}" for package in wanted if package in packages))
        for name, packages in data.get("versions", {}).items()
    ]
    versions = [(name, page.wrapped(text)) for name, text in versions]
    return [
        "<h2>Left out</h2>",
        page.table((*_LEFT_OUT, "reason"), left_out, kind="stack") if left_out else "<p>Nothing.</p>",
        "<h2>Settings and versions</h2>",
        page.table(("", "settings", "environment"), settings, kind="stack"),
        page.table(("environment", "versions"), versions, kind="stack"),
    ]


def write(source: Path, target: Path | None = None) -> Path:
    """Write the page of a results file, beside it unless told otherwise; with the GPU results that lie there too."""
    gpu = [json.loads(path.read_text()) for path in sorted(source.parent.glob("gpu-*.json"))]
    gpu = [one for one in gpu if not one.get("quick")]
    target = target or source.with_suffix(".html")
    target.write_text(render(Results.read(source), gpu), encoding="utf-8")
    return target


def main() -> None:
    """Read the results named, or the newest, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Write the HTML report.")
    parser.add_argument("results", nargs="?", type=Path, help="default: the newest benchmarks/results/cpu-*.json")
    parser.add_argument("-o", "--output", type=Path, help="default: beside the results")
    arguments = parser.parse_args()
    source = arguments.results or max(RESULTS.glob("cpu-*.json"), default=None)
    if source is None:
        raise SystemExit("there are no results yet; run `make bench`")
    print(write(source, arguments.output))


if __name__ == "__main__":
    main()
