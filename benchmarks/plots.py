"""The report's plots as SVG text. They are as wide as a phone's screen, so that their text is readable on one."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.figures import Results, three_digits

_OURS = {
    "untorch-fp32": "#4f8cff",
    "untorch-int8": "#0b3fb8",
    "untorch-kernels": "#001f6b",
    "untorch-openvino": "#00a08a",
    "untorch-batcher": "#8a3ffc",
    "untorch-kernels-batcher": "#c58af9",
}
_GREYS = ("#5f6b7a", "#8d99a6", "#b4bcc6")
_LINES = ("#b5651d", "#c2185b", "#6a8f3c", "#a08a00", "#7a5195", "#555555", "#d98880", "#48705a", "#997755", "#aa4444")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "untorch",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa4af",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_WIDTH = 5.0
# Work of the CPU for the GPU is brown, work of the GPU is blue.
_LANES = {"tokenize": "#b5651d", "arrays": "#dba970", "model": "#0b3fb8"}


def latency(results: Results, model: str, length: int) -> str | None:
    """Box plots of the seconds of one call: box from p25 to p75, line at p50, whiskers at p1 and p99."""
    names = results.measured(model, "L", length)
    if not names:
        return None
    with plt.rc_context(_STYLE):
        names = sorted(names, key=lambda peer: -(results.percentile(peer, model, length) or 0))
        figure, axes = plt.subplots(figsize=(_WIDTH, 0.6 + 0.27 * len(names)))
        samples = [1e3 * results.latency(peer, model, length) for peer in names]  # type: ignore[operator]
        drawn = axes.boxplot(
            samples,
            orientation="horizontal",
            whis=(1, 99),
            showfliers=False,
            patch_artist=True,
            widths=0.62,
            medianprops={"color": "white", "linewidth": 1.4},
        )
        for box, peer in zip(drawn["boxes"], names, strict=True):
            box.set(facecolor=_colour(results, peer), edgecolor=_colour(results, peer))
        for place, values in enumerate(samples, 1):
            median = three_digits(float(np.median(values)))
            axes.text(np.percentile(values, 99) * 1.06, place, median, va="center", fontsize=7.5)
        axes.set_xscale("log")
        axes.margins(x=0.12)
        _milliseconds(axes.xaxis)
        axes.set_yticks(range(1, len(names) + 1), [results.peers[peer]["label"] for peer in names])
        axes.set_xlabel("milliseconds a call (log scale); number: p50")
        axes.grid(axis="y", visible=False)
        return _svg(figure)


def bars(
    results: Results,
    names: Sequence[str],
    value: Callable[[str], float | None],
    label: str,
    form: str | None = None,
    *,
    less_is_better: bool = False,
) -> str | None:
    """A bar for each peer, the best on top."""
    found = {peer: number for peer in names if (number := value(peer)) is not None}
    if not found:
        return None
    order = sorted(found, key=lambda peer: found[peer], reverse=less_is_better)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(_WIDTH, 0.6 + 0.27 * len(order)))
        axes.barh(range(len(order)), [found[peer] for peer in order], color=[_colour(results, peer) for peer in order])
        for place, peer in enumerate(order):
            text = form.format(found[peer]) if form else three_digits(found[peer])
            axes.annotate(text, (found[peer], place), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
        axes.set_xlim(0, max(found.values()) * 1.22)
        axes.set_yticks(range(len(order)), [results.peers[peer]["label"] for peer in order])
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        return _svg(figure)


def lines(
    results: Results,
    series: dict[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    ticks: Sequence[float] | None = None,
) -> str | None:
    """A line for each peer; those of untorch are thick."""
    if not series:
        return None
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(_WIDTH, 2.9 + 0.17 * ((len(series) + 1) // 2)))
        others = [peer for peer in series if not results.ours(peer)]
        for peer, (x, y) in series.items():
            ours = results.ours(peer)
            colour = _colour(results, peer) if ours else _LINES[others.index(peer) % len(_LINES)]
            style: dict[str, Any] = {"linewidth": 2.2, "zorder": 3} if ours else {"linewidth": 1.1, "linestyle": "--"}
            marker = "o" if len(x) < 12 else None
            axes.plot(x, y, color=colour, marker=marker, markersize=3.5, label=results.peers[peer]["label"], **style)
        if log_x:
            axes.set_xscale("log", base=2)
        if log_y:
            axes.set_yscale("log")
            _milliseconds(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        if ticks:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        figure.legend(loc="outside lower center", ncols=2, fontsize=7.5)
        return _svg(figure)


def timeline(lanes: dict[str, list[tuple[float, float]]], milliseconds: float) -> str:
    """A lane for each kind of work, with bars where it was done; time runs from the start of the call."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(_WIDTH, 0.55 + 0.3 * len(lanes)))
        for place, (kind, intervals) in enumerate(lanes.items()):
            bars = [(begin, end - begin) for begin, end in intervals]
            axes.broken_barh(bars, (place - 0.36, 0.72), color=_LANES.get(kind, _GREYS[1]), linewidth=0)
        axes.set_xlim(0, milliseconds)
        axes.set_ylim(len(lanes) - 0.5, -0.5)
        axes.set_yticks(range(len(lanes)), list(lanes))
        axes.set_xlabel("milliseconds since the call")
        axes.grid(axis="y", visible=False)
        return _svg(figure)


def _colour(results: Results, peer: str) -> str:
    if results.ours(peer):
        return _OURS.get(peer, "#0b3fb8")
    return _GREYS[("fp32", "bf16", "int8").index(results.peers[peer]["precision"])]


def _milliseconds(axis: Any) -> None:
    """Plain numbers on a log axis, at 1, 2 and 5."""
    axis.set_major_locator(mpl.ticker.LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(mpl.ticker.NullLocator())


def _svg(figure: Any) -> str:
    """The figure without its fixed size, date and file headers, so that it fits any width."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, rest = text.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", head) + ">" + rest
