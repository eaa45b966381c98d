"""Count how much of transformers' own tests passes here: `python tests/peers/figures.py [--cases OUTPUT]`.

The tables of README.md say which test of ours stands for which of theirs; a run of the tests says which pass. OUTPUT
is what the runner of shared/cases printed, for the third figure.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
_ROW = re.compile(r"^\| (?:(?P<task>\w+): )?`(?P<theirs>[^`]+)` \| (?:`(?P<ours>\w+)`)? *\| (?P<verdict>.+) \|$")


class Row(NamedTuple):
    """One test of transformers', the test of ours for it (or ""), and the verdict."""

    theirs: str
    ours: str
    verdict: str


def rows() -> dict[str, list[Row]]:
    """The rows of README.md's tables by our file: test_tokenization_common and test_pipelines."""
    tables: dict[str, list[Row]] = {"test_tokenization_common": [], "test_pipelines": []}
    for line in (HERE / "README.md").read_text(encoding="utf-8").splitlines():
        if (match := _ROW.match(line)) is not None:
            file = "test_pipelines" if match["task"] else "test_tokenization_common"
            theirs = f"{match['task']}: {match['theirs']}" if match["task"] else match["theirs"]
            tables[file].append(Row(theirs, match["ours"] or "", match["verdict"]))
    return tables


def run() -> dict[str, list[str]]:
    """The outcomes (`passed`, `failed`, `skipped`) of every parametrization of each of our tests, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(HERE), f"--junitxml={report}", "-p", "no:cacheprovider"]
        subprocess.run(command, check=False, stdout=sys.stderr)
        outcomes = defaultdict(list)
        for case in ElementTree.parse(report).iter("testcase"):
            kinds = {part.tag for part in case}
            bad = kinds & {"failure", "error"}
            outcome = "failed" if bad else "skipped" if "skipped" in kinds else "passed"
            outcomes[str(case.get("name")).partition("[")[0]].append(outcome)
        return outcomes


def count(table: list[Row], outcomes: dict[str, list[str]]) -> Counter[str]:
    """How many tests pass, fail, are skipped, differ on purpose and do not apply."""
    total: Counter[str] = Counter()
    for row in table:
        if row.verdict.startswith("does not apply"):
            total["does not apply"] += 1
        for outcome in outcomes.get(row.ours, []):
            total["differs on purpose" if row.verdict.startswith("differs") and outcome == "passed" else outcome] += 1
    return total


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, help="the output of shared/cases/run")
    arguments = parser.parse_args()
    outcomes = run()
    for file, table in rows().items():
        total = count(table, outcomes)
        print(_line(file.removeprefix("test_"), total["passed"], total["failed"]), dict(total))
    if arguments.cases is not None:
        lines = arguments.cases.read_text(encoding="utf-8").splitlines()
        passed = sum(bool(re.search(r"\sPASS$", line)) for line in lines)
        print(_line("cases", passed, sum(bool(re.search(r"\sFAIL: ", line)) for line in lines)))


def _line(name: str, passed: int, failed: int) -> str:
    applies = passed + failed
    return f"{name}: {passed} of {applies} that apply pass ({100 * passed / max(1, applies):.1f} %)"


if __name__ == "__main__":
    main()
