"""The tables of README.md, the tests beside them and the docs' list of differences agree."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import pytest

from helpers.paths import ROOT

HERE = Path(__file__).resolve().parent
TABLES = runpy.run_path(str(HERE / "figures.py"))["rows"]()
ROWS = [row for table in TABLES.values() for row in table]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_row_of_the_tables_is_read():
    lines = (HERE / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(ROWS) == sum(line.startswith("| ") and "`" in line for line in lines)


def test_no_test_of_transformers_is_listed_twice():
    assert [name for name, times in Counter(row.theirs for row in ROWS).items() if times > 1] == []


@pytest.mark.parametrize("file", TABLES)
def test_every_test_named_in_a_table_exists(file):
    defined = set(re.findall(r"^def (test_\w+)", (HERE / f"{file}.py").read_text(encoding="utf-8"), re.MULTILINE))
    for row in TABLES[file]:
        if row.verdict.startswith("does not apply: "):
            assert row.ours == ""
        else:
            assert row.ours in defined, row.theirs


def test_every_difference_is_in_the_docs_list():
    known = anchors(ROOT / "docs" / "differences.md")
    linked = set()
    for row in ROWS:
        if row.verdict.startswith("differs"):
            target = re.search(r"\(\.\./\.\./docs/differences\.md#([\w-]+)\)", row.verdict)
            assert target is not None, row.theirs
            assert target[1] in known, row.theirs
            linked.add(target[1])
        else:
            assert row.verdict == "passes" or row.verdict.startswith("does not apply: "), row.theirs
    assert linked


def test_every_difference_says_what_both_do_and_why():
    sections = re.split(r"^## ", (ROOT / "docs" / "differences.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for section in sections:
        for part in ("- transformers", "- untorch: ", "- Why: "):
            assert part in section, section.partition("\n")[0]
