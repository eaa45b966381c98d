"""The page about architectures, written from the results of `architectures5.py`."""

from __future__ import annotations

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

{works} of {tried} work ({share:.1%}), {refused} are refused, {wrong} are wrong. Not counted are {none} heads that
transformers itself does not build by this rule or does not run on text alone (images, speech, two texts at once).
{missing}
*yes*: works. *no*: refused, with the reason below. Empty: transformers has no such head, or cannot run it on text
alone.
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
        **{name: count[name] for name in ("works", "refused", "wrong", "none")},
    )
    return "\n".join([head, *_table(results), "", "## Refused, and why", "", *_reasons(results), ""])


def _table(results: list[dict[str, Any]]) -> list[str]:
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    for item in results:
        if item["status"] in SIGNS:
            rows[item["kind"]][item["task"]] = SIGNS[item["status"]]
    lines = [f"| model type | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for kind in sorted(rows):
        lines.append(f"| {kind} | {' | '.join(rows[kind].get(task, '') for task in COLUMNS)} |")
    return lines


def _reasons(results: list[dict[str, Any]]) -> list[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for item in results:
        if item["status"] in ("refused", "wrong"):
            said = item["reason"].replace(item["class"], "the model").replace("|", "\\|")
            reasons[said].append(f"{item['kind']} ({COLUMNS[item['task']]})")
    return [f"- {', '.join(kinds)}: {said}" for said, kinds in sorted(reasons.items(), key=lambda pair: -len(pair[1]))]
