"""Arguments that several commands share."""

from __future__ import annotations

import argparse


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose how a bundle is loaded."""
    parser.add_argument("--task", metavar="T", help="what to do with the texts (default: what the bundle was made for)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--precision", default="auto", metavar="P", help="auto, fp32, int8, … (default: auto)")
    parser.add_argument("--revision", metavar="R", help="a Hub repository's branch, tag or commit")


def split_bundle(words: list[str]) -> tuple[str | None, list[str]]:
    """Separate `[BUNDLE] [TEXT …]`: the first word is a bundle if it is a folder, an installed model or a Hub id."""
    from pathlib import Path

    from untorch.hub import installed_models

    if not words:
        return None, []
    first = words[0]
    owner, slash, name = first.partition("/")
    is_hub_id = bool(slash and owner and name) and not any(char.isspace() or char == "/" for char in owner + name)
    if Path(first).is_dir() or first in installed_models() or is_hub_id:
        return first, words[1:]
    return None, words
