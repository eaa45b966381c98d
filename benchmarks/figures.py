"""Computes the figures that the tables and plots show from the raw samples of a results file."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


class Results:
    """One results file, read. Figures that were not measured are None."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.peers: dict[str, dict[str, Any]] = {peer["name"]: peer for peer in data["peers"]}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file that `benchmarks.run` wrote."""
        return cls(json.loads(path.read_text()))

    @cached_property
    def _values(self) -> dict[tuple[str, str, str, str], list[Any]]:
        values: dict[tuple[str, str, str, str], list[Any]] = {}
        for entry in self.data["samples"]:
            key = (entry["peer"], entry["model"], entry["workload"], str(entry["case"]))
            values.setdefault(key, []).append(entry["value"])
        return values

    def values(self, peer: str, model: str, workload: str, case: Any) -> list[Any]:
        """The samples of every round."""
        return self._values.get((peer, model, workload, str(case)), [])

    def measured(self, model: str, workload: str, case: Any) -> list[str]:
        """Peers that have samples, in the order of the list of peers."""
        return [peer for peer in self.peers if self.values(peer, model, workload, case)]

    def latency(self, peer: str, model: str, length: int) -> np.ndarray | None:
        """Seconds of every call of every round."""
        rounds = self.values(peer, model, "L", length)
        return np.concatenate([np.asarray(one, float) for one in rounds]) if rounds else None

    def percentile(self, peer: str, model: str, length: int, percent: float = 50) -> float | None:
        """A percentile of the latency, in seconds."""
        samples = self.latency(peer, model, length)
        return None if samples is None else float(np.percentile(samples, percent))

    def rate(self, peer: str, model: str, case: str) -> float | None:
        """Texts a second, the median of the rounds.

        A slow engine was given fewer of the texts, whose mean length differs a little from that of all of them; so
        tokens a second are divided by the mean length of all.
        """
        rounds = self.values(peer, model, "T", case)
        if not rounds:
            return None
        made = self.data["models"][model]
        mean = made["tokens"][case] / made["texts"][case] if case in made["texts"] else int(case.rsplit(maxsplit=1)[-1])
        return float(np.median([one["tokens"] / one["seconds"] for one in rounds])) / mean

    def texts_timed(self, peer: str, model: str, case: str) -> int | None:
        """How many texts a round of throughput had."""
        rounds = self.values(peer, model, "T", case)
        return rounds[0]["texts"] if rounds else None

    def share(self, peer: str, model: str, case: str) -> float | None:
        """The share of the machine's own matrix rate at the peer's precision that the model's operations took."""
        rounds = self.values(peer, model, "T", case)
        rates = self.data.get("limits", {}).get("rates", {})
        limit = rates.get(self.peers[peer]["precision"])
        if not rounds or limit is None:
            return None
        return float(np.median([one["flops"] / one["seconds"] for one in rounds])) / limit["operations_per_second"]

    def start(self, peer: str, model: str) -> float | None:
        """Seconds from process start to the first answer, the median."""
        rounds = self.values(peer, model, "S", "start")
        return float(np.median([one["seconds"] for one in rounds])) if rounds else None

    def peak(self, peer: str, model: str) -> float | None:
        """Peak resident bytes up to the first answer, the median."""
        rounds = self.values(peer, model, "S", "start")
        return float(np.median([one["peak"] for one in rounds])) if rounds else None

    def callers(self, peer: str, model: str, count: int) -> tuple[float, float, float] | None:
        """(texts a second, p50 and p99 in seconds) with so many callers."""
        rounds = self.values(peer, model, "C", count)
        if not rounds:
            return None
        samples = np.concatenate([np.asarray(one["samples"], float) for one in rounds])
        if not samples.size:
            return None
        rate = len(samples) / sum(one["seconds"] for one in rounds)
        return rate, float(np.percentile(samples, 50)), float(np.percentile(samples, 99))

    def memory(self, peer: str, model: str) -> np.ndarray | None:
        """(n, 2): texts answered and resident bytes."""
        rounds = self.values(peer, model, "M", "mixed")
        return np.asarray(rounds[0], float) if rounds else None

    def overhead(self, peer: str, model: str) -> float | None:
        """Median seconds of a one-text call outside ONNX Runtime and the tokenizer."""
        rounds = self.values(peer, model, "R", "overhead")
        if not rounds:
            return None
        whole, session, tokenizer = (np.asarray(rounds[0][key], float) for key in ("whole", "session", "tokenizer"))
        return float(np.median(whole - session) - np.median(tokenizer))

    def agreement(self, peer: str, model: str) -> dict[str, Any] | None:
        """How its answers compared with PyTorch's."""
        found = [a for a in self.data["agreement"] if a["peer"] == peer and a["model"] == model]
        return found[0] if found else None

    def installed(self, peer: str) -> int | None:
        """Installed bytes of the peer's environment."""
        return self.data.get("installed", {}).get(self.peers[peer]["environment"])

    def ours(self, peer: str) -> bool:
        """Whether a peer is untorch."""
        return peer.startswith("untorch")


def three_digits(value: float) -> str:
    """A number as short as it may be; thousands keep all their digits."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
