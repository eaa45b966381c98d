"""`untorch sign`: a signature over a bundle, in the format of OpenSSF model signing."""

from __future__ import annotations

import argparse
from pathlib import Path

from untorch.bundle.folder import Bundle
from untorch.bundle.hub import resolve
from untorch.bundle.signing import sign

HELP = "sign a bundle with a private key"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder")
    parser.add_argument(
        "--private-key", type=Path, required=True, metavar="KEY", help="a PEM file: P-256, P-384, P-521"
    )
    parser.add_argument("--signature", type=Path, required=True, metavar="FILE", help="where the signature goes")


def run(args: argparse.Namespace) -> int:
    """Sign; 0, or an error."""
    sign(Bundle(resolve(args.bundle)), private_key=args.private_key, signature=args.signature)
    print(f"signed {args.bundle}: {args.signature}")
    return 0
