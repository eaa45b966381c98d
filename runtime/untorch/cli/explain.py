"""`untorch explain`: one text's whole way, step by step: tokens, ids and mask, hidden state, logits, probabilities."""

from __future__ import annotations

import argparse
import json

from untorch.bundle.folder import Bundle
from untorch.bundle.hub import default_model, open_bundle
from untorch.cli.arguments import add_model_arguments, split_bundle
from untorch.errors import InputError
from untorch.loading.choice import LoadRequest
from untorch.tools.explanation import explain

HELP = "show each stage between a text and its answer"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("words", nargs="+", metavar="[BUNDLE] TEXT", help="a bundle and one text")
    add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Explain one text; 0, or an error."""
    name, given = split_bundle(args.words)
    if len(given) != 1:
        raise InputError(f"explain takes one text, not {len(given)}; put it in quotes")
    if name is None:
        bundle = Bundle(default_model("text-classification"))
    else:
        wanted = LoadRequest(args.device, args.precision)
        bundle = open_bundle(name, select=wanted.files, revision=args.revision)
    stages = explain(bundle, given[0], device=args.device, precision=args.precision)
    if args.json:
        print(json.dumps(stages, ensure_ascii=False))
        return 0
    print(f"text           {stages['text']!r}")
    width = max(len(token) for token in stages["tokens"])
    print("tokens         " + "  ".join(f"{'token':<{width}} {'id':>6} mask".split("\n")))
    for token, index, mask in zip(stages["tokens"], stages["input_ids"], stages["attention_mask"], strict=True):
        print(f"               {token:<{width}} {index:>6} {mask:>4}")
    for output in stages["outputs"]:
        first = ", ".join(f"{value:.4f}" for value in output["first"])
        print(f"{output['name']:<14} {' x '.join(map(str, output['shape']))}  [{first}{', …' * output['cut']}]")
    for label, score in stages.get("probabilities", {}).items():
        print(f"{'probability' if label else '':<14} {score:.5f}  {label}")
    print(f"model          {stages['model']} in {stages['precision']} on {stages['device']}")
    return 0
