"""The goals of the project on the CPU, and the figure of a run for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.figures import Results

BASE = "torch-fp32"
LARGE, SMALL = "distilbert", "minilm-sst2"


@dataclass(frozen=True)
class Goal:
    """One row: what was wanted and what came out. `met` is None where it was not measured."""

    name: str
    wanted: str
    measured: str = "not measured"
    met: bool | None = None
    by: str = ""


def goals(results: Results) -> list[Goal]:
    """Every goal, in the order of the project's plan."""
    rows = [
        *(_latency(results, length, least) for length, least in ((16, 8.0), (128, 5.0))),
        _tail(results),
        _throughput(results, "T sentences", "sentences", BASE, 16.0),
        _throughput(results, "T sentences, against PyTorch bf16", "sentences", "torch-bf16", 4.0),
        _throughput(results, "T 512 tokens", "long", BASE, 5.0),
        _throughput(results, "T sentences, fp32", "sentences", BASE, 4.0, ["untorch-fp32"]),
        *(_latency(results, length, 1.5, ["untorch-fp32"]) for length in (16, 32, 128)),
        *_start(results),
        *_installed(results),
        *_faithful(results),
        *_best_peer(results),
        _overhead(results),
        *_shares(results),
        *_level(results),
    ]
    return rows


def _ratio(name: str, wanted: float, ours: float | None, theirs: float | None, by: str) -> Goal:
    """A goal for the ratio of our figure to theirs, both of a kind where more is better."""
    text = f"≥ {wanted:g}×"
    if not ours or not theirs:
        return Goal(name, text)
    ratio = ours / theirs
    return Goal(name, text, f"{ratio:.2f}×", ratio >= wanted, by)


def _best(score: Callable[[str], float | None], names: Iterable[str]) -> tuple[str, float] | None:
    scores = {name: value for name in names if (value := score(name))}
    if not scores:
        return None
    best = max(scores, key=lambda name: scores[name])
    return best, scores[best]


def _ours(results: Results) -> list[str]:
    return [name for name in results.peers if results.ours(name)]


def _others(results: Results) -> list[str]:
    return [name for name in results.peers if not results.ours(name)]


def _speed(results: Results, model: str, length: int, percent: float = 50) -> Callable[[str], float | None]:
    def score(peer: str) -> float | None:
        seconds = results.percentile(peer, model, length, percent)
        return 1 / seconds if seconds else None

    return score


def _latency(results: Results, length: int, least: float, plans: list[str] | None = None) -> Goal:
    score = _speed(results, LARGE, length)
    best = _best(score, plans or _ours(results))
    name = f"L {length} tokens{', fp32' if plans else ''}"
    return _ratio(
        name, least, best and best[1], score(BASE) if BASE in results.peers else None, best[0] if best else ""
    )


def _tail(results: Results) -> Goal:
    best = _best(_speed(results, LARGE, 16), _ours(results))
    if best is None:
        return Goal("L 16 tokens, p99 over p50", "≤ 1.3×")
    ratio = results.percentile(best[0], LARGE, 16, 99) / results.percentile(best[0], LARGE, 16)  # type: ignore[operator]
    return Goal("L 16 tokens, p99 over p50", "≤ 1.3×", f"{ratio:.2f}×", ratio <= 1.3, best[0])


def _throughput(
    results: Results, name: str, case: str, base: str, least: float, plans: list[str] | None = None
) -> Goal:
    best = _best(lambda peer: results.rate(peer, LARGE, case), plans or _ours(results))
    theirs = results.rate(base, LARGE, case) if base in results.peers else None
    return _ratio(name, least, best and best[1], theirs, best[0] if best else "")


def _start(results: Results) -> list[Goal]:
    sooner = _best(lambda peer: _inverse(results.start(peer, SMALL)), _ours(results))
    smaller = _best(lambda peer: _inverse(results.peak(peer, SMALL)), _ours(results))
    theirs = (results.start(BASE, SMALL), results.peak(BASE, SMALL)) if BASE in results.peers else (None, None)
    first = Goal("S first answer of minilm-sst2", "≤ 0.25 s")
    if sooner:
        first = Goal(first.name, first.wanted, f"{1 / sooner[1]:.2f} s", 1 / sooner[1] <= 0.25, sooner[0])
    return [
        _ratio("S sooner", 12.0, sooner and sooner[1], _inverse(theirs[0]), sooner[0] if sooner else ""),
        _ratio("S less memory", 4.0, smaller and smaller[1], _inverse(theirs[1]), smaller[0] if smaller else ""),
        first,
    ]


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def _installed(results: Results) -> list[Goal]:
    sizes = results.data.get("installed", {})
    ours, theirs = sizes.get("untorch"), sizes.get("torch")
    return [
        Goal("I untorch installed", "≤ 200 MB", f"{ours / 1e6:.0f} MB", ours <= 200e6)
        if ours
        else Goal("I untorch installed", "≤ 200 MB"),
        Goal("I torch + transformers installed", "≥ 1.1 GB", f"{theirs / 1e9:.2f} GB", theirs >= 1.1e9)
        if theirs
        else Goal("I torch + transformers installed", "≥ 1.1 GB"),
    ]


def _faithful(results: Results) -> list[Goal]:
    rows = []
    base = results.agreement(BASE, SMALL)
    for peer in _ours(results):
        found = results.agreement(peer, SMALL)
        if found is None or "batcher" in peer:
            continue
        if results.peers[peer]["precision"] == "fp32":
            met = found["largest"] <= 1e-4
            rows.append(Goal(f"{peer}: largest change", "≤ 1e-4", f"{found['largest']:.1e}", met, SMALL))
            continue
        rows.append(Goal(f"{peer}: p99 change", "≤ 0.08", f"{found['p99']:.3f}", found["p99"] <= 0.08, SMALL))
        if base and found["accuracy"] is not None and base["accuracy"] is not None:
            lost = 100 * (base["accuracy"] - found["accuracy"])
            rows.append(Goal(f"{peer}: accuracy lost", "≤ 0.5 points", f"{lost:.2f} points", lost <= 0.5, SMALL))
    return rows


def _best_peer(results: Results) -> list[Goal]:
    """Against the fastest other engine on every row."""
    scores: list[tuple[str, float, Callable[[str], float | None]]] = [
        *((f"L {length} tokens", 1.0, _speed(results, LARGE, length)) for length in (16, 32, 128)),
        ("T sentences", 1.2, lambda peer: results.rate(peer, LARGE, "sentences")),
        ("T 512 tokens", 1.0, lambda peer: results.rate(peer, LARGE, "long")),
        ("T sentences, minilm-sst2", 1.2, lambda peer: results.rate(peer, SMALL, "sentences")),
        ("T sentences, all-MiniLM", 1.2, lambda peer: results.rate(peer, "all-minilm", "sentences")),
        ("S first answer", 1.0, lambda peer: _inverse(results.start(peer, SMALL))),
        ("S peak memory", 1.0, lambda peer: _inverse(results.peak(peer, SMALL))),
        ("C 64 callers", 1.0, lambda peer: (results.callers(peer, LARGE, 64) or (None,))[0]),
        ("I installed size", 1.0, lambda peer: _inverse(results.installed(peer))),
    ]
    rows = []
    for name, least, score in scores:
        ours, theirs = _best(score, _ours(results)), _best(score, _others(results))
        by = f"{ours[0]} / {theirs[0]}" if ours and theirs else ""
        rows.append(_ratio(f"best other peer: {name}", least, ours and ours[1], theirs and theirs[1], by))
    return rows


def _overhead(results: Results) -> Goal:
    spent = {}
    for peer in _ours(results):
        seconds = results.overhead(peer, LARGE)
        if seconds is not None:
            spent[peer] = seconds
    name, wanted = "our code around ONNX Runtime, one text", "≤ 100 µs"
    if not spent:
        return Goal(name, wanted)
    worst = max(spent, key=lambda peer: spent[peer])
    return Goal(name, wanted, f"{spent[worst] * 1e6:.0f} µs", spent[worst] <= 100e-6, worst)


def _shares(results: Results) -> list[Goal]:
    rows = []
    for peer in _ours(results):
        share = results.share(peer, LARGE, "sentences")
        if share is not None:
            precision = results.peers[peer]["precision"]
            name = f"{peer}: share of the machine's {precision} rate, T sentences"
            rows.append(Goal(name, "≥ 35 %", f"{share:.0%}", share >= 0.35))
    return rows


def _level(results: Results) -> list[Goal]:
    """Memory levels off: the last half of the texts adds less than 5 %, or 10 MB."""
    rows = []
    for peer in _ours(results):
        course = next((c for m in (SMALL, LARGE) if (c := results.memory(peer, m)) is not None), None)
        if course is None or len(course) < 4:
            continue
        half = course[len(course) // 2 :, 1]
        growth = float(half[-1] - half[0])
        name = f"{peer}: M growth over the last half of {int(course[-1, 0]):,} texts"
        met = growth <= max(10e6, 0.05 * half[0])
        rows.append(Goal(name, "≤ 5 % or 10 MB", f"{growth / 1e6:+.1f} MB", met))
    return rows
