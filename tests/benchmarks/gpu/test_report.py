"""A GPU's part of the report, from results that are made up here but written by `benchmarks/gpu`'s own `Run`."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from benchmarks.gpu.__main__ import Run

from benchmarks.gpu import figures, report


@pytest.fixture
def run(tmp_path):
    """A run that has described its machine and measured nothing."""
    run = Run("cpu", 100.0, False, tmp_path)
    run.data["device"] = "A made-up <card>"
    run.data["machine"] = {"python": "3.12.0", "cores": 3, "driver": "580.1", "driver_cuda": "13.0", "cudnn": ""}
    return run


def measure(run):
    """Made-up rows of every workload: text to label 0.5 ms, bert-base 3 ms, and nothing of `torch.compile`."""
    run.data["limits"] = {"matrix": "2x2x2", "operations_per_second": 8e14, "bytes_per_second": 4.2e12}
    for engine, ms in (("torch fp16 eager", 1.5), ("torch fp16 sdpa", 1.25), ("untorch fp16", 0.5)):
        run.add("text to label", "distilbert-base", engine, "1x16", [ms / 1e3] * 99 + [0.009])
        for case in ("8x16", "128x16", "1x16"):
            run.add("model", "bert-base", engine, case, [ms / 1e3], share=0.0125)
    run.add("model", "bert-base", "untorch fp16", "32x128", [0.003], share=0.25)
    run.add("model", "bert-base", "an <engine>", "32x128", [0.002])
    for engine, rates in (("torch fp16 sdpa", [1000.0, 2000.0]), ("untorch fp16", [4000.0, 3000.0])):
        for rate in rates:
            measured = {"busy": 0.61, "share": 0.42} if engine.startswith("untorch") else {"busy": None, "share": None}
            run.add("sentences", "distilbert-base", engine, "64 texts", [64 / rate], texts_per_second=rate, **measured)
    spans = [("tokenize", 0.0, 20.0), ("arrays", 20.0, 25.0), ("model", 25.0, 85.0), ("tokenize", 25.0, 45.0)]
    spans += [("tokenize", 85.0, 100.0)]
    run.data["timeline"].append({"engine": "untorch fp16", "seconds": 0.1, "milliseconds": spans})
    whole = [("everything", 0, 150)]
    run.data["timeline"].append({"engine": "torch fp16 sdpa", "seconds": 0.15, "milliseconds": whole})
    run.add("first answer", "distilbert-base", "untorch fp16", "process start", [1.5, 1.75])
    run.add("first answer", "distilbert-base", "torch fp16 sdpa", "process start", [6.5, 6.5])
    run.add("model", "bert-base", "untorch fp16", "256x512", [0.05])
    run.add("option", "distilbert-base", "as it is", "32x128", [0.004])
    run.add("option", "distilbert-base", "TF32", "32x128", [0.0035])
    run.data["parity"] += [
        {"model": "bert-base", "engine": "untorch fp16", "agreement": 1.0, "probability": 0.002, "timed": True},
        {"model": "bert-base", "engine": "a wrong one", "agreement": 0.5, "probability": 1.0, "timed": False,
         "error": "ValueError: <no>"},
    ]  # fmt: skip
    run.data["tests"] = {"rc": 1, "tail": "F.\n<why>\n=== 1 failed, 1 passed in 3 s ===\n"}
    run.data["left_out"].append({"step": "torch.compile", "why": "not all was tuned in 80 s"})


class Page(HTMLParser):
    """The text of the tables: of every row its cells, and what is marked among them."""

    def __init__(self, parts):
        super().__init__()
        self.rows, self.marked, self.text, self._open = [], [], "", set()
        self.feed("".join(parts))

    def handle_starttag(self, tag, attributes):
        self._open.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._open.discard(tag)

    def handle_data(self, text):
        self.text += text
        if self._open & {"td", "th"}:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {text}".strip()
        if "mark" in self._open:
            self.marked.append((self.rows[-1][0], text))

    def row(self, first):
        """The cells after the first one of the only row that begins so."""
        (found,) = [row[1:] for row in self.rows if row and row[0] == first]
        return found


def written(run):
    """The results as the report reads them: through the file."""
    run.step("goals", -1e9, run.goals)
    return json.loads(run.path.read_text())


def section(data, drawn=None):
    def draw(lanes, milliseconds):
        if drawn is not None:
            drawn.append((lanes, milliseconds))
        return "<svg></svg>"

    return report.section(data, draw)


def test_goals_are_met_missed_or_not_measured(run):
    measure(run)
    page = Page(section(written(run)))
    assert page.row("text in, label out, 1x16") == ["≤ 0.6 ms", "0.5 ms", "met"]
    assert page.row("text in, label out, 1x16, over PyTorch fp16 eager") == ["≥ 2×", "3.00×", "met"]
    assert page.row("bert-base 32x128, model") == ["≤ 2 ms", "3 ms", "missed"]
    assert page.row("1x16, model, over torch.compile") == ["≥ 1×", "not measured", "–"]
    assert page.row("sentences over PyTorch fp16") == ["≥ 1.5×", "2.00×", "met"]
    assert page.row("sentences, model part, share of the limit") == ["≥ 0.4", "0.42", "met"]
    assert "5 met, 1 missed, 2 not measured." in page.text


def test_every_goal_of_the_benchmark_is_understood(run):
    run.goals()
    found = figures.goals(run.data)
    assert len(found) == 8
    assert all(goal.met is None and goal.measured == "not measured" for goal in found)
    with pytest.raises(ValueError, match="a goal wants 'fast'"):
        figures.goals({"goals": [{"goal": "a goal", "wanted": "fast", "measured": 1.0}]})


def test_a_goal_is_met_at_its_bound():
    def met(wanted, measured):
        (found,) = figures.goals({"goals": [{"goal": "", "wanted": wanted, "measured": measured}]})
        return found.met

    assert met("<= 2.0 ms", 2.0)
    assert not met("<= 2.0 ms", 2.001)
    assert met(">= 0.4", 0.4)
    assert not met(">= 1.3x", 1.299)


def test_tables_put_cases_in_order_and_mark_the_fastest(run):
    measure(run)
    page = Page(section(written(run)))
    start = page.rows.index(["rows × tokens", "untorch fp16", "torch fp16 eager", "torch fp16 sdpa", "an <engine>"])
    cases = page.rows[start + 1 : start + 6]
    assert [row[0] for row in cases] == ["1 × 16", "8 × 16", "32 × 128", "128 × 16", "256 × 512"]
    assert cases[0] == ["1 × 16", "0.5 1.25%", "1.5 1.25%", "1.25 1.25%", "–"]
    assert cases[2] == ["32 × 128", "3 25%", "–", "–", "2"]
    assert ["1 × 16", "0.5 p99 9", "1.5 p99 9", "1.25 p99 9"] in page.rows
    # Whoever is alone in a row, as at 256 × 512, is not marked.
    assert page.marked == [
        ("1 × 16", "0.5"),
        ("1 × 16", "0.5"),
        ("8 × 16", "0.5"),
        ("32 × 128", "2"),
        ("128 × 16", "0.5"),
        ("untorch fp16", "4,000"),
        ("untorch fp16", "1,625"),
        ("TF32", "3.5"),
    ]


def test_of_several_runs_the_best_is_shown(run):
    measure(run)
    rows = Page(section(written(run))).rows
    assert ["untorch fp16", "4,000", "61%", "42%"] in rows
    assert ["torch fp16 sdpa", "2,000", "–", "–"] in rows
    assert not any("3,000" in row for row in rows)


def test_what_else_a_run_says_is_there_and_escaped(run):
    measure(run)
    text = "".join(section(written(run)))
    page = Page([text])
    for shown in (
        "GPU: A made-up <card>",
        "driver 580.1 · CUDA 13.0 · Python 3.12.0 · 3 cores",
        "800 TFLOP/s",
        "4,200 GB/s",
        "1 of 2 engines timed",
        "ValueError: <no>",
        "failed (exit 1). 1 failed, 1 passed in 3 s",
        "not all was tuned in 80 s",
    ):
        assert shown in page.text, shown
    assert "cuDNN" not in page.text
    assert not re.search("<(card|engine|no|why)>", text)
    assert "samples" not in text


def test_a_run_that_was_cut_off_says_so(run):
    run.step("limits", 1e9, run.limits)
    page = Page(section(json.loads(run.path.read_text())))
    assert "did not reach its end" in page.text
    assert "Not measured: text in, label out, the model alone, sentences, when the GPU has a batch," in page.text
    assert page.row("limits")[0].endswith("wanted")
    assert "svg" not in "".join(section({}))


def test_a_timeline_tells_who_waits(run):
    measure(run)
    drawn = []
    page = Page(section(written(run), drawn))
    assert drawn == [
        (
            {"tokenize": [(0, 20), (25, 45), (85, 100)], "arrays": [(20, 25)], "model": [(25, 85)]},
            100,
        ),
        ({"everything": [(0, 150)]}, 150),
    ]
    assert "The GPU had a batch 60% of the time, texts were tokenized or put into arrays 60% of it" in page.text
    assert "both at once 20%. The GPU waits for the host 40% of the time." in page.text
    assert "150 ms in all. Noted as a whole" in page.text


def test_a_card_that_is_never_idle_sets_the_pace(run):
    run.data["timeline"] = [{"engine": "", "seconds": 0.1, "milliseconds": [["tokenize", 0, 50], ["model", 4, 100]]}]
    assert "The GPU sets the pace." in "".join(section(written(run)))


def test_of_many_batches_the_first_are_drawn_and_all_are_counted():
    spans = [("model", 10.0 * n, 10.0 * n + 5) for n in range(400)]
    found = figures.timeline(spans)
    assert (found.shown, found.whole) == (995, 3995)
    assert len(found.lanes["model"]) == 100
    assert found.gpu == pytest.approx(2000 / 3995)
    # What is narrower than a pixel becomes one bar.
    assert len(figures.timeline([("tokenize", n, n + 0.5) for n in range(2000)]).lanes["tokenize"]) == 1


def test_overlapping_work_counts_once():
    assert figures.merged([(5, 6), (0, 2), (1, 3), (3.5, 4)], 0.5) == [(0, 4), (5, 6)]
    found = figures.timeline([("model", 0, 10), ("tokenize", 0, 5), ("tokenize", 2, 6)])
    assert (found.gpu, found.host, found.both) == pytest.approx((1, 0.6, 0.6))
