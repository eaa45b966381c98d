"""The results of a run on a GPU, written to disk after every step, and the time that is left for it."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_clock = time.perf_counter


class Record:
    """The results of one run, which may take `budget` seconds. They are written to `gpu-DATE.json` in `folder`."""

    def __init__(self, folder: Path, budget: float, *, quick: bool) -> None:
        self.quick = quick
        self.end = _clock() + budget
        self.path = folder / ("gpu-quick.json" if quick else f"gpu-{datetime.now(UTC):%Y-%m-%d-%H%M}.json")
        self.data: dict[str, Any] = {
            "device": "", "started": datetime.now(UTC).isoformat(timespec="seconds"), "quick": quick, "machine": {},
            "limits": {}, "parity": [], "results": [], "timeline": [], "left_out": [], "seconds": {},
        }  # fmt: skip

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - _clock()

    def step(self, name: str, least: float, do: Callable[[], None], *, needed: bool = False) -> None:
        """Do a step if `least` seconds are left.

        What goes wrong in it is written down, and the next one follows, unless it is `needed` for all others.
        """
        start = _clock()
        if self.left < least:
            self.leave_out(name, f"{self.left:.0f} s left, {least:.0f} wanted")
        else:
            try:
                do()
            except Exception as error:
                if needed:
                    raise
                traceback.print_exc()
                self.leave_out(name, error)
            self.data["seconds"][name] = round(_clock() - start, 1)
        print(f"{name}: {_clock() - start:.1f} s", flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1))
        part.replace(self.path)

    def leave_out(self, step: str, why: str | Exception) -> None:
        """Note what was not measured, and why."""
        told = why if isinstance(why, str) else f"{type(why).__name__}: {str(why)[:300]}"
        self.data["left_out"].append({"step": step, "why": told})

    def add(self, what: str, model: str, engine: str, case: str, samples: list[float], **more: Any) -> None:
        """A row of samples, in seconds."""
        ordered = sorted(samples)
        row = {
            "what": what, "model": model, "engine": engine, "case": case, "p50_ms": 1e3 * statistics.median(ordered),
            "p99_ms": 1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], **more,
        }  # fmt: skip
        self.data["results"].append({**row, "samples": samples[:600]})

    def median(self, what: str, model: str, engine: str, case: str) -> float | None:
        """The median of a row in milliseconds, if it was measured."""
        rows = self.data["results"]
        key = (what, model, engine, case)
        found = [row["p50_ms"] for row in rows if (row["what"], row["model"], row["engine"], row["case"]) == key]
        return found[-1] if found else None

    def best(self, what: str, engine: str, key: str) -> float | None:
        """The largest number under `key` in the rows of an engine whose name begins so, if it was measured."""
        rows = (row for row in self.data["results"] if row["what"] == what and row["engine"].startswith(engine))
        return max((row[key] for row in rows if row.get(key)), default=None)
