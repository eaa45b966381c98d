"""Runs the workloads on every peer in turn and writes results and report. Runs in the environment `build`.

    python -m benchmarks.run [--quick] [--only peer,…] [--workload L,T,…] [--model name,…] [--output FILE]

Workloads: S start, L latency, T throughput, C concurrent callers, M memory, I installed size, R matrix rates and what
our own code costs. A round goes through all peers (A B C A B C …) and only one process runs at a time. A peer whose
answers do not agree with PyTorch's is not timed; whatever is left out is in the results with its reason.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import environments, machine, models, report, workloads
from benchmarks.agreement import compare
from benchmarks.goals import LARGE, SMALL
from benchmarks.peers import THREADS, Model, Peer, peers
from benchmarks.workers import Worker, WorkerError, cold_start, environment

RESULTS = environments.ROOT / "benchmarks" / "results"
REFERENCE = {"text-classification": "torch-fp32", "sentence-embeddings": "sentence-transformers-torch"}
LENGTHS = (16, 32, 64, 128, 256)
ALL = "SLTCMIR"


@dataclass(frozen=True)
class Budget:
    """How much is measured, for each peer in each round: times in seconds, and counts.

    The small models get less time, and only minilm-sst2, which has a goal for it, more than one cold start. Our own
    plans may take as long as they need for all texts of the memory workload, up to `memory`.
    """

    rounds: int = 2
    latency_calls: int = 250
    throughput: float = 3.0
    throughput_small: float = 1.5
    by_length: float = 0.5
    callers: float = 2.5
    memory: float = 90.0
    memory_others: float = 6.0
    starts: int = 3
    overhead_calls: int = 500
    answers: int = 96


QUICK = Budget(
    rounds=1,
    latency_calls=10,
    throughput=0.4,
    throughput_small=0.4,
    by_length=0.1,
    callers=0.4,
    memory=1.0,
    memory_others=1.0,
    starts=1,
    overhead_calls=50,
    answers=32,
)

# The models with which concurrency, lengths and memory over time are measured; of the last the first that is there.
_CONCURRENT, _BY_LENGTH, _MEMORY = LARGE, LARGE, (SMALL, LARGE)


class Run:
    """One run of the benchmark, and what it found so far."""

    def __init__(self, budget: Budget, wanted: str, only: set[str], quick: bool) -> None:
        self.budget = budget
        self.wanted = wanted
        self.peers = [peer for peer in peers() if not only or peer.name in only]
        self.started = time.perf_counter()
        self.results: dict[str, Any] = {
            "format": 1,
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "quick": quick,
            "threads": THREADS,
            "budget": asdict(budget),
            "machine": machine.describe(),
            "peers": [asdict(peer) for peer in self.peers],
            "models": {},
            "samples": [],
            "agreement": [],
            "left_out": [],
        }

    def go(self, names: list[str]) -> None:
        """Measure everything, one model after the other."""
        used = sorted({peer.environment for peer in self.peers if environments.failure(peer.environment) is None})
        self.results["versions"] = {name: environments.versions(name) for name in used}
        if "I" in self.wanted:
            self.results["installed"] = {name: environments.installed_size(name) for name in used}
        if "R" in self.wanted:
            _say("matrix rates")
            self.results["limits"] = _rates()
        for name in names:
            if not (models.FOLDER / name / "checkpoint").is_dir():
                self._leave_out("*", name, "*", "its weights cannot be had here")
                continue
            self._model(models.model(name))
        self.results["seconds"] = round(time.perf_counter() - self.started, 1)
        load = os.getloadavg()
        self.results["machine"]["load_at_end"] = load[0]

    def _model(self, model: Model) -> None:
        generator = models.generator(model.name)
        sentences, long = generator.sentences(), generator.long()
        texts = {"sentences": sentences, "long": long}
        self.results["models"][model.name] = {
            "title": models.TITLES[model.name],
            "task": model.task,
            **vars(models.dimensions(model.name)),
            "flops": {name: models.flops(model.name, made.tokens) for name, made in texts.items()},
            "texts": {name: len(made.texts) for name, made in texts.items()},
            "tokens": {name: sum(made.tokens) for name, made in texts.items()},
        }
        taking_part = [peer for peer in self.peers if model.task in peer.tasks]
        for peer in [peer for peer in taking_part if peer.models and model.name not in peer.models]:
            self._leave_out(peer.name, model.name, "*", f"run with {', '.join(peer.models)} only, to save time")
            taking_part.remove(peer)
        if "S" in self.wanted:
            self._starts(model, taking_part, sentences.texts[0])
        if not set(self.wanted) & set("LTCMR"):
            return
        workers = self._agreeing(model, taking_part, sentences.texts)
        try:
            self._timed(model, generator, texts, workers)
        finally:
            for worker in workers:
                worker.close()

    def _timed(
        self,
        model: Model,
        generator: workloads.Generator,
        texts: dict[str, workloads.Texts],
        workers: list[Worker],
    ) -> None:
        latency = {length: generator.latency(length).texts for length in workloads.LATENCY_TOKENS}
        self._rounds(model, texts, latency, workers)
        if "T" in self.wanted and model.name == _BY_LENGTH:
            self._by_length(model, generator, workers)
        if "C" in self.wanted and model.name == _CONCURRENT:
            self._concurrent(model, texts["sentences"].texts, workers)
        if "R" in self.wanted:
            arguments = {"texts": latency[16], "calls": self.budget.overhead_calls}
            for worker in self._running(workers, "R"):
                if worker.peer.ours:
                    self._sample(worker, model, "R", "overhead", 0, "overhead", **arguments)
        if "M" in self.wanted and model.name == self._memory_model():
            self._memory(model, generator.mixed().texts, workers)

    def _rounds(
        self,
        model: Model,
        texts: dict[str, workloads.Texts],
        latency: dict[int, list[str]],
        workers: list[Worker],
    ) -> None:
        """Latency and throughput: several rounds, each through all workers."""
        budget = self.budget
        # 512 tokens are over the limit of the embedding checkpoint.
        cases = ["sentences", "long"] if model.task != "sentence-embeddings" else ["sentences"]
        if "T" in self.wanted and "long" not in cases:
            self._leave_out("*", model.name, "T long", "the checkpoint's limit is 256 tokens")
        seconds = budget.throughput if model.name == LARGE else budget.throughput_small
        counts: dict[tuple[str, str], int] = {}
        for number in range(budget.rounds):
            _say(f"{model.name}: round {number + 1} of {budget.rounds}")
            for length, given in latency.items() if "L" in self.wanted else ():
                for worker in self._running(workers, "L"):
                    self._sample(worker, model, "L", length, number, "latency", texts=given, calls=budget.latency_calls)
            for case in cases if "T" in self.wanted else ():
                for worker in self._running(workers, "T"):
                    self._throughput(worker, model, case, texts[case], number, counts, seconds)

    def _by_length(self, model: Model, generator: workloads.Generator, workers: list[Worker]) -> None:
        _say(f"{model.name}: throughput by length")
        counts: dict[tuple[str, str], int] = {}
        for length in LENGTHS:
            given = generator.latency(length, 2048)
            for worker in self._running(workers, "T"):
                self._throughput(worker, model, f"length {length}", given, 0, counts, self.budget.by_length)

    def _concurrent(self, model: Model, texts: list[str], workers: list[Worker]) -> None:
        _say(f"{model.name}: concurrent callers")
        for count in workloads.CALLERS:
            for worker in self._running(workers, "C"):
                arguments = {"texts": texts, "count": count, "seconds": self.budget.callers}
                self._sample(worker, model, "C", count, 0, "callers", **arguments)

    def _memory(self, model: Model, texts: list[str], workers: list[Worker]) -> None:
        _say(f"{model.name}: memory")
        for worker in self._running(workers, "M"):
            limit = self.budget.memory if worker.peer.ours else self.budget.memory_others
            self._sample(worker, model, "M", "mixed", 0, "memory", texts=texts, seconds=limit, step=250)

    def _memory_model(self) -> str:
        return next(name for name in _MEMORY if (models.FOLDER / name / "checkpoint").is_dir())

    def _running(self, workers: list[Worker], workload: str) -> list[Worker]:
        """Workers that take part in a workload, and are still alive."""
        return [worker for worker in list(workers) if workload not in dict(worker.peer.left_out)]

    def _starts(self, model: Model, taking_part: list[Peer], text: str) -> None:
        failed = set()
        rounds = self.budget.starts if model.name == SMALL else 1
        for number in range(rounds):
            _say(f"{model.name}: cold starts, round {number + 1} of {rounds}")
            for peer in taking_part:
                if peer.name in failed or "S" in dict(peer.left_out):
                    continue
                try:
                    seconds, peak = cold_start(peer, model, text)
                    self._add(peer.name, model.name, "S", "start", number, {"seconds": seconds, "peak": peak})
                except WorkerError as error:
                    failed.add(peer.name)
                    self._leave_out(peer.name, model.name, "S", str(error))

    def _agreeing(self, model: Model, taking_part: list[Peer], texts: list[str]) -> list[Worker]:
        """Load a worker for each peer, the reference first, and return those whose answers agree with its answers."""
        given, truth = _sentiment_texts() if model.name == SMALL else ([], [])
        given = given or texts[: self.budget.answers]
        if self.results["quick"]:
            given, truth = given[: self.budget.answers], truth[: self.budget.answers]
        reference = next(peer for peer in peers() if peer.name == REFERENCE[model.task])
        order = [reference, *(peer for peer in taking_part if peer.name != reference.name)]
        workers: list[Worker] = []
        expected: list[Any] | None = None
        for peer in order:
            for workload, reason in peer.left_out:
                self._leave_out(peer.name, model.name, workload, reason)
            try:
                _say(f"{model.name}: {peer.name} answers {len(given)} texts")
                worker = Worker(peer, model)
                answers = worker.ask("answers", texts=given)
            except WorkerError as error:
                if peer is reference:
                    raise SystemExit(f"the reference {peer.name} does not run: {error}") from error
                self._leave_out(peer.name, model.name, "*", _conversion_failure(peer, model) or str(error))
                continue
            expected = expected or answers
            found = compare(expected, answers, peer.precision)
            accuracy = _accuracy(answers, truth)
            self.results["agreement"].append(
                {"peer": peer.name, "model": model.name, "accuracy": accuracy, **found.to_json()}
            )
            if not found.passed:
                measured = f"largest difference {found.largest:.3g}, 99th percentile {found.p99:.3g}"
                self._leave_out(
                    peer.name,
                    model.name,
                    "*",
                    f"its answers do not agree with PyTorch's: {measured}, equal {found.same:.1%}; asked: {found.rule}",
                )
            if found.passed and peer in taking_part:
                workers.append(worker)
            else:
                worker.close()
        # In the order of the list of peers, not in that of loading.
        return sorted(workers, key=lambda worker: [peer.name for peer in self.peers].index(worker.peer.name))

    def _throughput(
        self,
        worker: Worker,
        model: Model,
        case: str,
        made: workloads.Texts,
        number: int,
        counts: dict[tuple[str, str], int],
        seconds: float,
    ) -> None:
        """Time one call with as many texts as fit into `seconds`; a first try finds that number and warms up."""
        key = (worker.peer.name, case)
        try:
            if key not in counts:
                probe = 4 if min(made.tokens) >= 128 else 32
                worker.ask("throughput", texts=made.texts[:probe])
                rate = probe / worker.ask("throughput", texts=made.texts[:probe])
                fitting = int(rate * seconds)
                counts[key] = max(probe, min(len(made.texts), fitting - fitting % probe))
            count = counts[key]
            taken = worker.ask("throughput", texts=made.texts[:count])
            sample = {"seconds": taken, "texts": count, "tokens": sum(made.tokens[:count])}
            sample["flops"] = models.flops(model.name, made.tokens[:count])
            self._add(worker.peer.name, model.name, "T", case, number, sample)
        except WorkerError as error:
            self._leave_out(worker.peer.name, model.name, f"T {case}", str(error))

    def _sample(
        self, worker: Worker, model: Model, workload: str, case: Any, number: int, do: str, **arguments: Any
    ) -> None:
        try:
            self._add(worker.peer.name, model.name, workload, case, number, worker.ask(do, **arguments))
        except WorkerError as error:
            self._leave_out(worker.peer.name, model.name, f"{workload} {case}", str(error))

    def _add(self, peer: str, model: str, workload: str, case: Any, number: int, value: Any) -> None:
        entry = {"peer": peer, "model": model, "workload": workload, "case": case, "round": number}
        self.results["samples"].append({**entry, "value": _rounded(value)})

    def _leave_out(self, peer: str, model: str, workload: str, reason: str) -> None:
        entry = {"peer": peer, "model": model, "workload": workload, "reason": reason}
        if entry not in self.results["left_out"]:
            self.results["left_out"].append(entry)
            _say(f"left out: {peer}, {model}, {workload}: {reason}")


def _rounded(value: Any) -> Any:
    """Round seconds to a tenth of a microsecond, so that the files stay small."""
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return {key: _rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


def _conversion_failure(peer: Peer, model: Model) -> str | None:
    """The reason a model could not be converted for a peer, if that is why it does not load."""
    stem = peer.name.partition("-")[0]
    notes = sorted(model.folder.glob(f"{stem}*.failed"))
    return f"the model could not be converted: {notes[0].read_text()}" if notes else None


def _sentiment_texts() -> tuple[list[str], list[str]]:
    """Real sentences and their labels, where the shared evaluation data is beside the repository."""
    file = models.SHARED / "data" / "sst2-dev.tsv"
    if not file.is_file():
        return [], []
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"] for row in rows], ["POSITIVE" if row["label"] == "1" else "NEGATIVE" for row in rows]


def _accuracy(answers: list[Any], truth: list[str]) -> float | None:
    if not truth:
        return None
    return sum(answer[0] == label for answer, label in zip(answers, truth, strict=True)) / len(truth)


def _rates() -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.machine"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(), cwd=environments.ROOT
    )
    if done.returncode:
        return {"rates": {}, "all": {}, "failures": [done.stderr.strip()[-300:]]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S}  {text}", file=sys.stderr, flush=True)


def _listed(text: str, allowed: list[str], what: str) -> list[str]:
    chosen = [item.strip() for item in text.split(",") if item.strip()]
    unknown = [item for item in chosen if item not in allowed]
    if unknown:
        raise SystemExit(f"unknown {what} {', '.join(unknown)}; choose from {', '.join(allowed)}")
    return chosen or allowed


def main() -> None:
    """Parse the command line, build, run, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Run the benchmark.")
    parser.add_argument("--quick", action="store_true", help="a smoke run of everything: its figures mean nothing")
    parser.add_argument("--only", default="", metavar="P,P", help="peers (default: all)")
    parser.add_argument("--workload", default="", metavar="W,W", help=f"of {', '.join(ALL)} (default: all)")
    parser.add_argument("--model", default="", metavar="M,M", help=f"of {', '.join(models.TASKS)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds through all peers (default: 2)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/cpu-DATE.json")
    arguments = parser.parse_args()
    wanted = "".join(_listed(arguments.workload, list(ALL), "workload"))
    only = set(_listed(arguments.only, [peer.name for peer in peers()], "peer")) if arguments.only else set()
    names = _listed(arguments.model, list(models.TASKS), "model")
    # Every process has two cores, however many there are.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    for name in names:
        command = [sys.executable, "-m", "benchmarks.models", name]
        path = os.pathsep.join(str(environments.ROOT / folder) for folder in ("", "runtime", "export"))
        subprocess.run(command, cwd=environments.ROOT, env=environment(PYTHONPATH=path), check=False)
    budget = QUICK if arguments.quick else Budget()
    if arguments.rounds:
        budget = replace(budget, rounds=arguments.rounds)
    run = Run(budget, wanted, only, arguments.quick)
    stem = "quick" if arguments.quick else f"cpu-{datetime.date.today():%Y-%m-%d}"
    output = arguments.output or RESULTS / f"{stem}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        run.go(names)
    finally:
        # Also after an error or an interrupt: what was measured by then is kept.
        output.write_text(json.dumps(run.results, ensure_ascii=False, separators=(",", ":")) + "\n")
    page = report.write(output)
    _say(f"{output} and {page.name} after {run.results['seconds']:.0f} s")


if __name__ == "__main__":
    main()
