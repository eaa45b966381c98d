"""`untorch run` killed at any moment, and resumed: every file whole, every row once, nothing left behind."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow", reason="pip install 'untorch[jobs]'")
from pyarrow import parquet  # noqa: E402

FILES, ROWS = 8, 1500


def command(bundle: Path, folder: Path, out: str) -> list[str]:
    return [
        *(sys.executable, "-m", "untorch", "run", str(bundle), "--precision", "fp32"),
        *("--input", str(folder / "in"), "--output", str(folder / out), "--resume"),
    ]


def finished(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet"))


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.scale)])
# Two at a time are two machines with the same shard.
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_and_resumed_nothing_is_lost_and_nothing_is_twice(
    frozen_bundle, tmp_path, kills, processes
):
    for number in range(FILES):
        texts = [f"text {number} {row} is " + "great " * (row % 40) for row in range(ROWS)]
        (tmp_path / "in").mkdir(exist_ok=True)
        parquet.write_table(
            pa.table({"id": [f"{number}-{row}" for row in range(ROWS)], "text": texts}),
            tmp_path / f"in/{number}.parquet",
        )
    started = time.perf_counter()
    subprocess.run(command(frozen_bundle, tmp_path, "whole"), check=True, stdout=subprocess.DEVNULL, timeout=300)
    takes = time.perf_counter() - started
    whole = {path.name: parquet.read_table(path) for path in finished(tmp_path / "whole")}
    assert len(whole) == FILES

    chance = random.Random(kills)
    out = tmp_path / "killed"
    struck = 0
    for _ in range(kills):
        running = [
            subprocess.Popen(
                command(frozen_bundle, tmp_path, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            for _ in range(processes)
        ]
        time.sleep(chance.uniform(0.1, takes))
        for process in running:
            struck += process.poll() is None
            process.kill()
        for process in running:
            process.wait()
        for path in finished(out):
            assert parquet.read_table(path).equals(whole[path.name]), f"{path.name} is not what it is without a kill"
        if len(finished(out)) == FILES:
            shutil.rmtree(out)  # all was done: the next round begins anew
    assert struck, "no kill met a running process"

    last = subprocess.run(command(frozen_bundle, tmp_path, "killed"), check=True, capture_output=True, timeout=300)
    assert json.loads(last.stdout)["files"] == FILES
    answered = parquet.read_table(finished(out))
    assert sorted(answered["id"].to_pylist()) == sorted(
        id for table in whole.values() for id in table["id"].to_pylist()
    )
    assert all(parquet.read_table(path).equals(whole[path.name]) for path in finished(out))
    assert [path for path in (out / "_untorch/parts").rglob("*") if path.is_file()] == []
