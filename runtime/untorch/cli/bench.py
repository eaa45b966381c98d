"""`untorch bench`: how fast a bundle is on this machine, beside plain ONNX Runtime and engines of your own."""

from __future__ import annotations

import argparse
import json
import sys

from untorch.bundle.folder import Bundle
from untorch.bundle.hub import resolve
from untorch.loading.choice import unavailable
from untorch.tools.benchmark import LENGTHS, Measurement, benchmark

HELP = "measure a bundle: latency, throughput, cold start and memory, beside other engines"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="a bundle's folder, installed model or Hub id")
    parser.add_argument("--task", metavar="T", help="what to do with the texts (default: what the bundle was made for)")
    engine = "also measure what FUNCTION(folder, task) returns, called with lists of texts; may be given several times"
    parser.add_argument("--engine", action="append", default=[], metavar="MODULE:FUNCTION", help=engine)
    parser.add_argument("--calls", type=int, default=200, metavar="N", help="calls a text length (default: 200)")
    parser.add_argument("--texts", type=int, default=512, metavar="N", help="texts for throughput (default: 512)")
    parser.add_argument("--json", action="store_true", help="print one JSON object an engine, every sample included")


def run(args: argparse.Namespace) -> int:
    """Measure; 0 if every engine ran, 1 if one did not."""
    failed = False
    for name in args.bundles:
        bundle = Bundle(resolve(name))
        if not args.json:
            lengths = "".join(f"{f'p50/p99 {length}':>18}" for length in LENGTHS)
            print(f"{name}\n  {'engine':<20}{lengths}{'texts/s':>10}{'start':>9}{'peak':>10}")
        measured = benchmark(bundle, task=args.task, others=args.engine, calls=args.calls, texts=args.texts)
        for precision, reason in unavailable(bundle, "cpu").items():
            print(f"left out: untorch {precision}: {reason}", file=sys.stderr)
        for found in measured:
            failed = failed or found.error is not None
            if args.json:
                print(json.dumps({"bundle": name, **found.to_json()}), flush=True)
            elif found.error is not None:
                print(f"  {found.engine:<20} failed: {found.error}", flush=True)
            else:
                latency = "".join(_latency(found, length).rjust(18) for length in LENGTHS)
                peak = "-" if found.peak is None else f"{found.peak / 1e6:.0f} MB"
                print(
                    f"  {found.engine:<20}{latency}{found.throughput:>10.1f}{found.start:>7.2f} s{peak:>10}",
                    flush=True,
                )
    if not args.json:
        print("latency of one text of so many tokens; start: process start to first answer", file=sys.stderr)
    return 1 if failed else 0


def _latency(found: Measurement, length: int) -> str:
    if length not in (found.latency or {}):
        return "too long"
    return f"{1e3 * found.percentile(length, 50):.2f}/{1e3 * found.percentile(length, 99):.2f} ms"
