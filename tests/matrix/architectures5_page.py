"""The page about architectures, written from the results of `architectures5.py`."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import torch
import transformers

# The columns: task → its short name.
COLUMNS = {
    "text-classification": "classify",
    "token-classification": "tag",
    "question-answering": "ask",
    "fill-mask": "fill",
    "multiple-choice": "choose",
    "feature-extraction": "states",
    "text-generation": "generate",
    "text2text-generation": "text to text",
}
SIGNS = {"works": "yes", "refused": "no", "wrong": "WRONG"}

HEAD = """# Architectures

Every architecture of transformers {transformers} and every head that it has, exported with PyTorch {torch}: built
small and random from its own config class, exported, and compared with PyTorch at many lengths with padding.
`make architectures` writes this page.

Of {tried} heads that transformers builds by this rule and runs on text, {works} work ({share:.1%}), {refused} are
refused, each with its reason, and {wrong} {are} wrong. Set apart are {other} heads that take images, sound or series
of numbers, and {none} that transformers itself did not build by this rule or did not run on a text alone, such as
encoder–decoders without a head, which want the answer's first tokens as well.
{missing}
*yes*: works. *whole*: works, and reads the whole text again for every new token, since the model keeps more than keys
and values of what it has read. *no*: refused, with the reason below. Empty: transformers has no such head, or it is
set apart.
"""


def page(results: list[dict[str, Any]], cells: int) -> str:
    """The whole page. `cells` is how many heads there are, of which `results` may have some only."""
    count = Counter(item["status"] for item in results)
    tried = count["works"] + count["refused"] + count["wrong"]
    missing = cells - len(results)
    head = HEAD.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        tried=tried,
        share=count["works"] / max(tried, 1),
        missing=f"\nThe run was ended before {missing} more heads had their turn.\n" if missing else "",
        are="is" if count["wrong"] == 1 else "are",
        **{name: count[name] for name in ("works", "refused", "wrong", "none", "other")},
    )
    parts = [head, *_table(results), "", "## Refused, and why", "", *_reasons(results, "refused", "wrong")]
    apart = ["", "## Not built, and why", "", *_reasons(results, "none"), ""]
    return "\n".join([*parts, *apart])


def _table(results: list[dict[str, Any]]) -> list[str]:
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for item in results:
        if item["status"] in SIGNS:
            whole = item["status"] == "works" and item.get("whole")
            rows[item["kind"]][item["task"]] = "whole" if whole else SIGNS[item["status"]]
    lines = [f"| model type | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for kind in sorted(rows):
        lines.append(f"| {kind} | {' | '.join(rows[kind].get(task, '') for task in COLUMNS)} |")
    return lines


def _reasons(results: list[dict[str, Any]], *statuses: str) -> list[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for item in results:
        if item["status"] in statuses:
            said = item["reason"].replace(item["class"], "the model").replace("|", "\\|")
            said = re.sub(r"/tmp/\S*/(source|bundle)?", "the folder", said)
            reasons[said].append(f"{item['kind']} ({COLUMNS[item['task']]})")
    return [f"- {', '.join(kinds)}: {said}" for said, kinds in sorted(reasons.items(), key=lambda pair: -len(pair[1]))]
