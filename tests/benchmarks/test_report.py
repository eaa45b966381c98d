"""The figures, the goals and the page, from a small results file with known samples."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from html.parser import HTMLParser

import pytest
from benchmarks.figures import Results
from benchmarks.goals import goals
from benchmarks.peers import peers

TAKING_PART = ("untorch-fp32", "untorch-int8", "torch-fp32", "ctranslate2-int8")
SECONDS = {"untorch-fp32": 0.02, "untorch-int8": 0.004, "torch-fp32": 0.04, "ctranslate2-int8": 0.005}


def sample(peer, model, workload, case, value, number=0):
    return {"peer": peer, "model": model, "workload": workload, "case": case, "round": number, "value": value}


@pytest.fixture
def data():
    samples = []
    for peer, seconds in SECONDS.items():
        for length in (16, 32, 128):
            samples += [sample(peer, "distilbert", "L", length, [seconds] * 98 + [2 * seconds] * 2, n) for n in (0, 1)]
        for case, tokens in (("sentences", 2500), ("long", 5120), ("length 16", 1600)):
            value = {"seconds": 100 * seconds, "texts": 100, "tokens": tokens, "flops": 1e12 * seconds}
            samples.append(sample(peer, "distilbert", "T", case, value))
        samples.append(
            sample(peer, "minilm-sst2", "S", "start", {"seconds": 50 * seconds, "peak": int(1e10 * seconds)})
        )
        for count in (1, 8, 64):
            value = {"seconds": 1.0, "samples": [seconds] * 20}
            samples.append(sample(peer, "distilbert", "C", count, value))
    course = [[0, 100e6], [5000, 150e6], [10000, 151e6], [15000, 151e6], [20000, 152e6]]
    samples.append(sample("untorch-int8", "minilm-sst2", "M", "mixed", course))
    value = {"whole": [5e-3] * 9, "session": [4.8e-3] * 9, "tokenizer": [5e-5] * 9}
    samples.append(sample("untorch-int8", "distilbert", "R", "overhead", value))
    agreement = {"texts": 872, "largest": 0.1, "p99": 0.05, "same": 0.99, "passed": True, "rule": "-"}
    size = {"title": "A model", "task": "text-classification", "flops": {}, "layers": 6, "hidden": 768, "inner": 3072}
    size |= {"texts": {"sentences": 4096, "long": 256}, "tokens": {"sentences": 102400, "long": 131072}}
    return {
        "format": 1,
        "started": "2030-01-02T03:04:05+00:00",
        "seconds": 60.0,
        "quick": False,
        "threads": 2,
        "machine": {"processor": "A <CPU>", "extensions": ["avx2"], "cores": 2, "memory_gib": 8.0, "system": "Linux"},
        "peers": [asdict(peer) for peer in peers() if peer.name in TAKING_PART],
        "versions": {"torch": {"torch": "2.13.0"}},
        "installed": {"untorch": 120_000_000, "torch": 1_300_000_000, "ctranslate2": 200_000_000},
        "limits": {"rates": {"int8": {"operations_per_second": 4e11, "by": "ONNX Runtime"}}, "all": {}, "failures": []},
        "models": {"distilbert": size, "minilm-sst2": size},
        "samples": samples,
        "agreement": [
            {"peer": "torch-fp32", "model": "minilm-sst2", "accuracy": 0.89, **agreement},
            {"peer": "untorch-int8", "model": "minilm-sst2", "accuracy": 0.887, **agreement},
        ],
        "left_out": [{"peer": "fastembed", "model": "*", "workload": "*", "reason": "no <network>"}],
    }


def test_figures_come_from_the_samples(data):
    results = Results(data)
    assert results.percentile("untorch-int8", "distilbert", 16) == pytest.approx(0.004)
    assert len(results.latency("untorch-int8", "distilbert", 16)) == 200
    # 2,500 tokens in 0.4 s, and a mean of 25 tokens a text.
    assert results.rate("untorch-int8", "distilbert", "sentences") == pytest.approx(250)
    assert results.share("untorch-int8", "distilbert", "sentences") == pytest.approx(1e10 / 4e11)
    assert results.overhead("untorch-int8", "distilbert") == pytest.approx(150e-6)
    assert results.callers("torch-fp32", "distilbert", 8)[0] == pytest.approx(20)
    assert results.rate("untorch-int8", "all-minilm", "sentences") is None


def test_goals_are_met_and_missed_by_their_figures(data):
    found = {goal.name: goal for goal in goals(Results(data))}
    assert found["L 16 tokens"].measured == "10.00×"
    assert found["L 16 tokens"].met is True
    assert found["L 16 tokens, p99 over p50"].measured == "2.00×"
    assert found["L 16 tokens, p99 over p50"].met is False
    assert found["T sentences"].met is False
    assert found["T sentences, against PyTorch bf16"].met is None
    assert found["L 16 tokens, fp32"].measured == "2.00×"
    assert found["best other peer: T sentences"].measured == "1.25×"
    assert found["our code around ONNX Runtime, one text"].measured == "150 µs"
    assert found["untorch-int8: accuracy lost"].measured == "0.30 points"
    assert found["untorch-int8: share of the machine's int8 rate, T sentences"].met is False


def test_nothing_measured_is_said_and_never_met(data):
    data = copy.deepcopy(data) | {"samples": [], "agreement": [], "installed": {}, "limits": {}}
    found = goals(Results(data))
    assert found
    assert all(goal.met is None and goal.measured == "not measured" for goal in found)


class Page(HTMLParser):
    """Counts tags, and collects text and whatever would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.outside, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.outside.append(value)

    def handle_data(self, text):
        self.text += text


def test_the_page_is_whole_and_fetches_nothing(data):
    pytest.importorskip("matplotlib", reason="the plots are drawn in the benchmark's own environment")
    from benchmarks.report import render

    page = Page(render(Results(data)))
    assert page.outside == []
    assert "script" not in page.tags
    # Three latencies, two throughputs and one by length, start and peak, size, two of callers, memory.
    assert page.tags.count("svg") == 12
    assert "A <CPU>" in page.text
    assert "no <network>" in page.text
    assert "2.00×" in page.text
    assert page.text.count("Not measured.") == 1  # the GPU


def test_the_page_shows_every_run_on_a_card_with_its_timeline(data, tmp_path):
    pytest.importorskip("matplotlib", reason="the plots are drawn in the benchmark's own environment")
    from benchmarks.report import write

    spans = [["tokenize", 0, 20], ["arrays", 20, 25], ["model", 25, 85], ["something new", 85, 100]]
    for name, quick in (("one", False), ("two", False), ("quick", True)):
        one = {
            "device": f"A made-up card, {name}",
            "quick": quick,
            "timeline": [{"engine": name, "milliseconds": spans}],
        }
        (tmp_path / f"gpu-{name}.json").write_text(json.dumps(one))
    (tmp_path / "cpu.json").write_text(json.dumps(data))
    page = Page(write(tmp_path / "cpu.json").read_text())
    assert page.tags.count("svg") == 12 + 2
    for shown in (
        "GPU: A made-up card, one",
        "GPU: A made-up card, two",
        "tokenize",
        "something new",
        "had a batch 60%",
    ):
        assert shown in page.text
    assert "card, quick" not in page.text
