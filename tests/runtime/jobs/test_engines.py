"""The recipes of the documentation, run as they are printed, where their engine is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from untorch import pipeline

pa = pytest.importorskip("pyarrow", reason="pip install 'untorch[jobs]'")
from pyarrow import parquet  # noqa: E402

RECIPES = Path(__file__).resolve().parents[3] / "docs/recipes"
TEXTS = ["hello world", "I love this movie", None, "Ça va 世界 🙂", "hello " * 500] * 20


@pytest.mark.parametrize(("name", "package"), [("spark", "pyspark"), ("dask", "dask.dataframe"), ("daft", "daft")])
def test_a_recipe_gives_every_row_its_answer(frozen_bundle, tmp_path, name, package):
    pytest.importorskip(package, reason=f"`make test-engines` installs {name}")
    if name == "spark" and shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    recipe = (RECIPES / f"{name}.md").read_text(encoding="utf-8")
    assert len(recipe.splitlines()) <= 30
    (code,) = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    shutil.copytree(frozen_bundle, tmp_path / "bundle")
    (tmp_path / "reviews").mkdir()
    for part in range(2):
        ids = range(part * 50, part * 50 + 50)
        table = pa.table({"id": pa.array(ids, pa.int64()), "text": [TEXTS[row] for row in ids]})
        parquet.write_table(table, tmp_path / f"reviews/{part}.parquet")
    script = tmp_path / "recipe.py"
    script.write_text(code, encoding="utf-8")
    # Spark talks to itself over the loopback address, and not to the network.
    environment = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "DO_NOT_TRACK": "1", "PYSPARK_PYTHON": sys.executable}
    command = [sys.executable, str(script)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr

    rows = {row["id"]: row for row in parquet.read_table(tmp_path / "answers").to_pylist()}
    assert sorted(rows) == list(range(100))
    assert [rows[id]["text"] for id in range(100)] == TEXTS
    (expected,) = pipeline(None, tmp_path / "bundle")(["hello world"])
    assert rows[0]["label"] == expected["label"]
    assert rows[0]["score"] == pytest.approx(expected["score"], abs=1e-4)
    assert rows[2]["error"] == "the text is null"
    assert rows[4]["error"].startswith("the text has 502 tokens")
    assert sum(row["error"] is not None for row in rows.values()) == 40
