#!/usr/bin/env python3
"""Measures everything there is to measure on a GPU: parity first, then times, and the same work in PyTorch.

    python benchmarks/gpu [--device cuda] [--budget SECONDS] [--quick]

It builds its models on the spot from their configurations with random weights, checks every engine's answers against
PyTorch in fp32, and writes `gpu-DATE.json` after each step to `$OUT`, or to `benchmarks/results`, where the HTML
report finds it. `--device cpu --quick` is a smoke run: it shows that everything works, and its figures mean nothing.
Steps that the budget leaves no time for are left out and named, and so is an engine that fails. It needs numpy,
tokenizers, onnx, torch, transformers and onnxruntime-gpu, and no Optimum.

On a machine without a network, onnxruntime-gpu has to be brought along. Where what can be brought at once is limited
to less than the wheel, keep only the GPU's architecture, in parts, and bring one part a call. The wheel has to be one
for the other machine's Python. Its folder `onnxruntime/tools` is needed to build the models; a slimmer that drops it
has to be told, or the folder brought beside:

    1.  python slim_wheel.py WHEEL --arch 90 --out .ortgpu --part-mib 30       here, once, and
        unzip -q WHEEL 'onnxruntime/tools/*' -d .ortgpu
    2.  mkdir -p /tmp/parts && cp .ortgpu/ortgpu.tar.xz.00 /tmp/parts           there, with the first part
    3.  cp .ortgpu/ortgpu.tar.xz.* /tmp/parts && python3 benchmarks/gpu/unpack.py /tmp/parts /tmp/site &&
        cp -rn .ortgpu/onnxruntime/tools /tmp/site/onnxruntime/ &&
        PYTHONPATH=/tmp/site python3 benchmarks/gpu                          there, with the other parts and tools

Between two calls the machine must stay the same one. NVIDIA's libraries are taken from PyTorch's packages. Where
`onnxruntime_ep_nv_tensorrt_rtx` can be imported, that plugin is timed as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "runtime"), str(ROOT / "export")]
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np  # noqa: E402

from benchmarks.gpu import engines, masks, models, texts, work  # noqa: E402
from benchmarks.gpu.figures import merged  # noqa: E402
from benchmarks.gpu.peer import COMPILED, RTX  # noqa: E402
from benchmarks.gpu.record import Record  # noqa: E402
from untorch.tools.processes import Child, ChildError  # noqa: E402

# Batches and lengths. The first model is measured at all pairs of them, the others at CORNERS.
GRID = {"distilbert-base": ((1, 8, 32, 128, 256), (16, 32, 128, 512))}
CORNERS = (1, 32, 256), (16, 128, 512)
# The shapes that a goal is about are measured first, in case time runs out.
FIRST = {"bert-base": [(32, 128)]}
# These engines are left out above so many tokens, where a call takes seconds and its scores gigabytes.
SLOW, SLOW_TOKENS = ("torch fp16 eager", "session.run fp32"), 8192
# An engine is timed if this share of its decisions is that of PyTorch in fp32, and no probability moves further.
AGREEMENT, PROBABILITY = 0.98, 0.05
# Engines that are tried with the first model alone.
FIRST_ONLY = ("torch fp16 eager", "session.run fp32", "untorch fp16, no graphs")
# Engines that run the head's graph, whose last layer works for one token a row.
HEADS = ("untorch fp16", "untorch fp16, no graphs", "untorch fp16_packed")

_clock = time.perf_counter


class Run(Record):
    """The steps of this script, the most important first."""

    def __init__(self, device: str, budget: float, quick: bool, out: Path) -> None:
        super().__init__(out, budget, quick=quick)
        self.device = device
        self.configs = models.QUICK if quick else models.CONFIGS
        self.bundles: dict[str, Path] = {}
        self.engines: dict[str, dict[str, engines.Forward]] = {}

    def describe(self) -> None:
        """Note what the machine is. An error, such as a GPU that cannot be used, ends the run."""
        import onnxruntime
        import torch
        import transformers

        from untorch.ort.cuda import libraries

        machine = {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "onnxruntime": onnxruntime.__version__, "cores": len(os.sched_getaffinity(0)),
        }  # fmt: skip
        self.data["device"] = "CPU, a smoke run" if self.device == "cpu" else torch.cuda.get_device_name(0)
        if self.device == "cuda":
            if importlib.util.find_spec("onnxruntime.tools.symbolic_shape_infer") is None:
                raise RuntimeError(
                    "this onnxruntime lacks its folder `tools`, which building the models needs; see --help"
                )
            found = libraries.require("cuda:0")
            machine |= {name: value for name, value in found._asdict().items() if isinstance(value, str)}
        self.data["machine"] = machine

    def limits(self) -> None:
        """Measure the GPU's matrix rate and copy bandwidth."""
        self.data["limits"] = work.limits(self.device, quick=self.quick)

    def build(self, folder: Path) -> None:
        """Build every model from its configuration, each in a process of its own."""
        workers = min(len(self.configs), max(1, len(os.sched_getaffinity(0)) // 2))
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            made = {name: pool.submit(models.build, name, config, folder) for name, config in self.configs.items()}
            self.bundles = {name: future.result() for name, future in made.items()}

    def load(self) -> None:
        """Load every engine. One that cannot run here is named in the results and not timed."""
        for name, config in self.configs.items():
            self.engines[name] = {}
            for engine, make in self._makers(self.bundles[name], config).items():
                if engine in FIRST_ONLY and name not in GRID:
                    continue
                try:
                    self.engines[name][engine] = make()
                except Exception as error:
                    self.leave_out(f"{name}: {engine}", error)

    def _makers(self, bundle: Path, config: dict[str, Any]) -> dict[str, Callable[[], engines.Forward]]:
        device = self.device

        def masked(form: str) -> engines.Forward:
            return engines.plain_session(bundle, masks.write(bundle, form), device)

        found: dict[str, Callable[[], engines.Forward]] = {
            "torch fp16 sdpa": lambda: engines.torch_engine(config, device),
            "torch fp16 eager": lambda: engines.torch_engine(config, device, attention="eager"),
            "session.run fp32": lambda: engines.plain_session(bundle, "fp32", device),
            "session.run fp16": lambda: engines.plain_session(bundle, "fp16", device),
            "session.run fp16, mask of keys": lambda: masked("keys"),
            "untorch fp16": lambda: engines.untorch_engine(bundle, "fp16", device),
            "untorch fp16, no graphs": lambda: engines.untorch_engine(bundle, "fp16", device, graphs=False),
        }
        if device == "cuda":
            found["session.run fp16_packed"] = lambda: engines.plain_session(bundle, "fp16_packed", device)
            found["untorch fp16_packed"] = lambda: engines.untorch_engine(bundle, "fp16_packed", device)
        return found

    def parity(self) -> None:
        """Compare every engine with PyTorch in fp32 on the CPU. One that disagrees is not timed."""
        for name, config in self.configs.items():
            reference = engines.reference(config)
            batches = [texts.ids(*shape, ragged=True) for shape in ((1, 16), (8, 37), (40, 64), (3, 200))]
            expected = np.concatenate([reference(*batch) for batch in batches])
            for engine, forward in list(self.engines[name].items()):
                try:
                    row = texts.compare(expected, np.concatenate([forward(*batch) for batch in batches]))
                except Exception as error:
                    row = {"agreement": 0.0, "probability": 1.0, "error": f"{type(error).__name__}: {str(error)[:300]}"}
                good = row["agreement"] >= AGREEMENT and row["probability"] <= PROBABILITY
                self.data["parity"].append({"model": name, "engine": engine, **row, "timed": good})
                print(f"  {name}, {engine}: {row}", flush=True)
                if not good:
                    del self.engines[name][engine]

    def grid(self) -> None:
        """Time the model alone on batches of full rows, from ids in host memory to logits in host memory."""
        shapes = [(name, shape) for name in self.configs for shape in (FIRST.get(name, []) if not self.quick else [])]
        for name in self.configs:
            batches, lengths = GRID.get(name, CORNERS) if not self.quick else ((1, 4), (16, 32))
            shapes += [(name, shape) for shape in itertools.product(batches, lengths) if (name, shape) not in shapes]
        for name, (batch, length) in shapes:
            given = texts.ids(batch, length)
            for engine, forward in self.engines[name].items():
                if engine in SLOW and batch * length > SLOW_TOKENS:
                    continue
                if self.left < 5:
                    raise TimeoutError("the budget ran out inside the grid")
                try:
                    samples = texts.samples(lambda f=forward, g=given: f(*g), self.quick)
                except Exception as error:
                    self.leave_out(f"{name}: {engine}, {batch}x{length}", error)
                    continue
                self._add_forward(name, engine, (batch, length), samples)

    def _add_forward(self, name: str, engine: str, shape: tuple[int, int], samples: list[float], **more: Any) -> None:
        """Add a row of the model alone, with its share of the GPU's matrix rate."""
        batch, length = shape
        floor = work.operations(self.configs[name], [length] * batch, head_only=engine in HEADS)
        share = floor / statistics.median(samples) / self.data["limits"]["operations_per_second"]
        self.add("model", name, engine, f"{batch}x{length}", samples, share=share, **more)

    def one_text(self) -> None:
        """Time single texts of 16, 32 and 128 tokens, from text to label."""
        for name in self.configs:
            attentions = ("sdpa", "eager") if name in GRID else ("sdpa",)
            callers = texts.callers(self.bundles[name], self.configs[name], self.device, attentions)
            for length in (16, 32, 128):
                made = texts.latency(self.bundles[name], length)
                for engine, call in callers.items():
                    times = 3 if self.quick else 500 if name in GRID else 100
                    samples = texts.samples_over(call, made, times)
                    self.add("text to label", name, engine, f"1x{length}", samples)

    def ragged(self) -> None:
        """Time many sentences end to end, and the model's part of it as a share of the GPU's matrix rate."""
        name = "distilbert-base"
        config = self.configs[name]
        made = texts.sentences(self.bundles[name], 64 if self.quick else 4096)
        floor = work.operations(config, made.tokens, head_only=True)
        for engine, call in texts.streams(self.bundles[name], config, self.device, made).items():
            call(made.texts[:256])
            runs: list[tuple[float, list[tuple[str, float, float]]]] = []
            for _ in range(1 if self.quick else 3):
                spans: list[tuple[str, float, float]] = []
                start = _clock()
                call(made.texts, spans)
                seconds = _clock() - start
                timed = [(kind, 1e3 * (begin - start), 1e3 * (end - start)) for kind, begin, end in spans]
                runs.append((seconds, timed))
                model = sum(end - begin for begin, end in merged(span[1:] for span in spans if span[0] == "model"))
                self.add(
                    "sentences", name, engine, f"{len(made.texts)} texts", [seconds],
                    texts_per_second=len(made.texts) / seconds, model_seconds=model, busy=model / seconds,
                    share=floor / model / self.data["limits"]["operations_per_second"],
                )  # fmt: skip
            seconds, best = min(runs)
            self.data["timeline"].append({"engine": engine, "seconds": seconds, "milliseconds": best[:4000]})

    def start(self, bundle: Path) -> None:
        """Time processes from their start to their first answer on the device."""
        for engine, code in texts.first_answers(bundle, self.configs["distilbert-base"], self.device).items():
            samples = []
            for _ in range(1 if self.quick else 4 if "untorch" in engine else 2):
                begin = _clock()
                done = self._run([sys.executable, "-c", code], 60)
                samples.append(_clock() - begin)
                if done.returncode:
                    self.leave_out(f"first answer: {engine}", f"Error: {done.stdout[-800:]}")
                    break
            else:
                self.add("first answer", "distilbert-base", engine, "process start", samples)

    def tests(self) -> None:
        """Run the tests that need a GPU."""
        done = self._run(
            [sys.executable, "-m", "pytest", "tests/runtime/ort/cuda/test_cuda.py", "-rs", "-p", "no:cacheprovider"],
            120,
        )
        self.data["tests"] = {"rc": done.returncode, "tail": done.stdout[-3000:]}
        print(done.stdout[-1500:], flush=True)

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path[:3], os.environ.get("PYTHONPATH", "")])}

    @staticmethod
    def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a command and return its process with all that it printed; code 124 means that it took too long."""
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        try:
            return subprocess.run(
                command, cwd=ROOT, env=Run._environment(), text=True, timeout=seconds, check=False, **both
            )
        except subprocess.TimeoutExpired as error:
            printed = error.stdout or ""
            told = printed if isinstance(printed, str) else printed.decode(errors="replace")
            return subprocess.CompletedProcess(command, 124, f"{told}\nit took longer than {seconds:.0f} s")

    def peer(self, engine: str, cases: Iterable[str], seconds: float) -> None:
        """Measure an engine that compiles, in a process of its own, for at most `seconds`; rows that are done count."""
        folder = str(next(iter(self.bundles.values())).parent)
        job = {"engine": engine, "cases": list(cases), "device": self.device, "folder": folder, "quick": self.quick}
        with Child("benchmarks.gpu.peer:measure", env=self._environment(), cwd=ROOT) as child:
            try:
                for row in child.ask(job, timeout=seconds):
                    batch, length = (int(part) for part in row["case"].split("x"))
                    self._add_forward(row["model"], engine, (batch, length), row["samples"], agreement=row["agreement"])
            except ChildError as error:
                self.leave_out(engine, error)

    def options(self) -> None:
        """Time settings of the provider, one at a time, on the fp16 graph or on one with another form of mask."""
        bundle = self.bundles["distilbert-base"]
        for name, form, settings, entries in texts.OPTIONS:
            try:
                precision = masks.write(bundle, form) if form else "fp16"
                call = texts.with_options(bundle, precision, self.device, settings, entries)
                for batch, length in ((1, 16), (32, 128), (32, 512)) if not self.quick else ((1, 16),):
                    given = texts.ids(batch, length)
                    samples = texts.samples(lambda c=call, g=given: c(*g), self.quick)
                    self.add("option", "distilbert-base", name, f"{batch}x{length}", samples)
            except Exception as error:
                self.leave_out(f"option: {name}", error)

    def goals(self) -> None:
        """Note the goals, each with the figure that was measured."""
        first = self.median("first answer", "distilbert-base", "untorch fp16", "process start")
        one = self.median("text to label", "distilbert-base", "untorch fp16", "1x16")
        model = self.median("model", "bert-base", "untorch fp16", "32x128")

        def ratio(over: float | None, under: float | None) -> float | None:
            return over / under if over and under else None

        compiled = self.median("model", "distilbert-base", COMPILED, "1x16")
        rows = [
            ("text in, label out, 1x16", "<= 0.6 ms", one),
            ("text in, label out, 1x16, over PyTorch fp16 eager", ">= 2x", ratio(
                self.median("text to label", "distilbert-base", "torch fp16 eager", "1x16"), one)),
            ("1x16, model, over torch.compile", ">= 1x", ratio(
                compiled, self.median("model", "distilbert-base", "untorch fp16", "1x16"))),
            ("bert-base 32x128, model", "<= 2.0 ms", model),
            ("bert-base 32x128, model, over PyTorch fp16 SDPA", ">= 1.3x", ratio(
                self.median("model", "bert-base", "torch fp16 sdpa", "32x128"), model)),
            ("sentences over PyTorch fp16", ">= 1.5x", ratio(
                self.best("sentences", "untorch", "texts_per_second"),
                self.best("sentences", "torch", "texts_per_second"))),
            ("sentences, model part, share of the limit", ">= 0.4", self.best("sentences", "untorch", "share")),
            ("first answer", "<= 2000 ms", first),
        ]  # fmt: skip
        self.data["goals"] = [{"goal": goal, "wanted": wanted, "measured": value} for goal, wanted, value in rows]
        for row in self.data["goals"]:
            print(row, flush=True)


def main() -> None:
    """Run all steps, the most important first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--budget", type=float, default=520, help="seconds in all (default: 520)")
    parser.add_argument("--quick", action="store_true", help="a smoke run: tiny models, few calls")
    arguments = parser.parse_args()
    out = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    run = Run(arguments.device, arguments.budget, arguments.quick, out)
    run.describe()
    with tempfile.TemporaryDirectory() as scratch:
        run.step("limits", 10, run.limits, needed=True)
        run.step("build", 20, lambda: run.build(Path(scratch)), needed=True)
        run.step("tests", 60, run.tests)
        run.step("load", 20, run.load)
        run.step("parity", 20, run.parity)
        run.step("one text", 20, run.one_text)
        run.step("sentences", 20, run.ragged)
        run.step("first answer", 30, lambda: run.start(run.bundles["distilbert-base"]))
        cases = ("distilbert-base:1x16", "bert-base:32x128")
        left = min(90.0, max(run.left - 60, 10))
        run.step("torch.compile", 10, lambda: run.peer(COMPILED, cases, left))
        run.step("grid", 10, run.grid)
        run.step("options", 20, run.options)
        if importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx") is not None:
            run.step("TensorRT-RTX", 30, lambda: run.peer(RTX, cases, min(90.0, run.left)))
        run.step("goals", -1e9, run.goals)
    print(f"written: {run.path}")
    sys.stdout.flush()
    # Sessions and PyTorch's threads are not waited for.
    wrong = run.data.get("tests", {}).get("rc", 0) or any("Error" in one["why"] for one in run.data["left_out"])
    os._exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
