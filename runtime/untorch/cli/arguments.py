"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose how a bundle is loaded."""
    parser.add_argument("--task", metavar="T", help="what to do with the texts (default: what the bundle was made for)")
    devices = "auto, cpu, cuda, cuda:N, openvino (default: auto)"
    parser.add_argument("--device", default="auto", metavar="D", help=devices)
    parser.add_argument(
        "--precision", default="auto", metavar="P", help="auto, fp32, int8, int8_kernels, fp16, … (default: auto)"
    )
    add_trust_argument(parser)
    parser.add_argument("--revision", metavar="R", help="a Hub repository's branch, tag or commit")


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that says what a bundle must prove."""
    parser.add_argument(
        "--trust",
        action=_SetTrust,
        choices=("verified", "unverified"),
        help="verified: refuse a folder without a manifest (default: as UNTORCH_REQUIRE_VERIFIED says)",
    )


class _SetTrust(argparse.Action):
    """Sets the variable, so that all that is loaded, in worker processes too, is under the same policy."""

    def __call__(self, _parser: object, _namespace: object, values: object, _option: object = None) -> None:
        os.environ["UNTORCH_REQUIRE_VERIFIED"] = "1" if values == "verified" else "0"


def split_bundle(words: list[str]) -> tuple[str | None, list[str]]:
    """Separate `[BUNDLE] [TEXT …]`: the first word is a bundle if it is a folder, an installed model or a Hub id."""
    from pathlib import Path

    from untorch.bundle.hub import installed_models

    if not words:
        return None, []
    first = words[0]
    owner, slash, name = first.partition("/")
    is_hub_id = bool(slash and owner and name) and not any(char.isspace() or char == "/" for char in owner + name)
    if Path(first).is_dir() or first in installed_models() or is_hub_id:
        return first, words[1:]
    return None, words
