"""`untorch verify`: digests, a signature, and the stored PyTorch reference replayed on this machine. Needs no torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from untorch.bundle.folder import Bundle
from untorch.bundle.hub import resolve
from untorch.errors import InputError, IntegrityError
from untorch.tools.verification import verify

HELP = "check a bundle's digests and signature, and replay its PyTorch reference on this machine"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, installed model or Hub id")
    parser.add_argument("--signature", type=Path, metavar="FILE", help="also check this signature over the bundle")
    parser.add_argument("--public-key", type=Path, metavar="KEY", help="whose signature it has to be (PEM)")
    devices = "auto, cpu, cuda, cuda:N, openvino (default: auto)"
    parser.add_argument("--device", default="auto", metavar="D", help=devices)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify; 0 if everything holds, 1 if not."""
    if (args.signature is None) != (args.public_key is None):
        raise InputError("a signature is checked with --signature FILE and --public-key KEY together")
    try:
        return _verify(args)
    except IntegrityError as error:
        # Not a wrong call: it is the answer to the question that was asked.
        if args.json:
            print(json.dumps({"passed": False, "error": str(error)}))
        print(f"untorch: {error}", file=sys.stderr)
        return 1


def _verify(args: argparse.Namespace) -> int:
    bundle = Bundle(resolve(args.bundle))
    if args.signature is not None:
        from untorch.bundle.signing import check_signature

        check_signature(bundle, signature=args.signature, public_key=args.public_key)
    report = verify(bundle, device=args.device)
    if args.json:
        print(json.dumps({**report.to_json(), "trust": bundle.trust, "signed": args.signature is not None}))
        return 0 if report.passed else 1
    print(f"trust        {bundle.trust}")
    if args.signature is not None:
        print(f"signature    {args.signature} holds, by {args.public_key}")
    print(f"files        {report.files} with the manifest's size and SHA-256")
    for replay in report.replays:
        print(
            f"{replay.precision:<12} {replay.verdict:<8} {replay.cases} cases on {replay.device}: largest difference "
            f"from PyTorch {replay.difference:.2e} at {replay.position}, allowed {replay.tolerance:.2e}"
        )
    for precision, reason in report.unchecked.items():
        print(f"{precision:<12} not checked here: {reason}")
    print("verified" if report.passed else "NOT verified")
    return 0 if report.passed else 1
