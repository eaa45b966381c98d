from __future__ import annotations

import json
import sys

from benchmarks import overhead
from helpers.paths import ROOT


def test_a_checkout_is_compared_with_itself(tmp_path, monkeypatch, capsys):
    output = tmp_path / "rounds.json"
    options = ["--rounds", "1", "--calls", "5", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["overhead.py", str(ROOT), str(ROOT), *options])
    overhead.main()
    [found] = json.loads(output.read_text())["rounds"]
    for figures in found.values():
        assert figures["start"] > figures["first"] > 0
        assert figures["call"] > figures["own"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(overhead.FIGURES)
