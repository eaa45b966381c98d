"""`untorch verify`: digests, and the stored PyTorch reference replayed on this machine. Needs no torch."""

from __future__ import annotations

import argparse
import json

from untorch.bundle import Bundle
from untorch.hub import resolve
from untorch.verification import verify

HELP = "check a bundle's digests and replay its PyTorch reference on this machine"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, installed model or Hub id")
    devices = "auto, cpu, cuda, cuda:N, openvino (default: auto)"
    parser.add_argument("--device", default="auto", metavar="D", help=devices)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify; 0 if everything holds, 1 if not."""
    bundle = Bundle(resolve(args.bundle))
    report = verify(bundle, device=args.device)
    if args.json:
        print(json.dumps({**report.to_json(), "trust": bundle.trust}))
        return 0 if report.passed else 1
    print(f"trust      {bundle.trust}")
    print(f"files      {report.files} with the manifest's size and SHA-256")
    for replay in report.replays:
        print(
            f"{replay.precision:<10} {replay.verdict:<8} {replay.cases} cases on {replay.device}: largest difference "
            f"from PyTorch {replay.difference:.2e} at {replay.position}, allowed {replay.tolerance:.2e}"
        )
    print("verified" if report.passed else "NOT verified")
    return 0 if report.passed else 1
