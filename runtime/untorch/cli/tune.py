"""`untorch tune`: measures every plan for a bundle on this machine and remembers the fastest."""

from __future__ import annotations

import argparse
import datetime
import json
import sys

from untorch.bundle.folder import Bundle
from untorch.bundle.hub import resolve
from untorch.loading.plans import remember
from untorch.tools.tuning import GOALS, Trial, best, trials

HELP = "measure how a bundle runs best on this machine, and remember it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, installed model or Hub id")
    parser.add_argument("--task", metavar="T", help="what to do with the texts (default: what the bundle was made for)")
    parser.add_argument("--goal", choices=GOALS, default=GOALS[0], help=f"what to be fastest at (default: {GOALS[0]})")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Tune; 0 if a plan was remembered. Raises UntorchError if none ran."""
    bundle = Bundle(resolve(args.bundle))
    measured: list[Trial] = []
    for trial in trials(bundle, task=args.task):
        measured.append(trial)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    winner = best(measured, args.goal)
    facts = {
        "goal": args.goal,
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "trials": [trial.to_json() for trial in measured],
    }
    path = remember(bundle, winner.plan, facts)
    if args.json:
        print(json.dumps({"plan": winner.to_json()["plan"], "file": str(path), **facts}))
        return 0
    lengths = sorted(winner.latency)
    columns = "".join(f"{f'p50 of {length}':>14}" for length in lengths)
    print(f"  {'precision':<13}{'device':<10}{'threads':>8}{'callers':>8}{'tokens':>8}{columns}{'texts/s':>10}")
    for trial in measured:
        plan = trial.plan
        mark = "*" if trial is winner else " "
        shape = f"{plan.precision:<13}{plan.device:<10}{plan.threads:>8}{plan.callers:>8}{plan.max_tokens:>8}"
        if trial.error is not None:
            print(f"{mark} {shape}  failed: {trial.error}")
            continue
        latency = "".join(f"{f'{1e3 * trial.latency[length]:.2f} ms':>14}" for length in lengths)
        print(f"{mark} {shape}{latency}{trial.throughput:>10.1f}")
    print(f"remembered for {args.goal} (*) in {path}", file=sys.stderr)
    return 0
