"""`untorch doctor`: what is installed, which devices really work, what would be used and why."""

from __future__ import annotations

import argparse
import json

from untorch.bundle.folder import REQUIRE_VERIFIED, requires_verified
from untorch.serving.asking import ask
from untorch.tools.diagnosis import diagnose

HELP = "show what is installed, which devices work, and what would be used"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--url", metavar="U", help="ask the `untorch serve` that runs there instead")


def run(args: argparse.Namespace) -> int:
    """Diagnose; 0 if a model could run here, or the server is ready; 1 if not."""
    if args.url is not None:
        report = ask(args.url)
        good = report["server"]["ready"] == "yes"
    else:
        report = diagnose()
        allowed = "refused" if requires_verified() else "allowed"
        report["trust"] = {"unverified folders": f"{allowed} ({REQUIRE_VERIFIED})"}
        good = any(fact.startswith("works") for fact in report["devices"].values())
    if args.json:
        print(json.dumps(report))
    else:
        for section, facts in report.items():
            print(section)
            for name, fact in facts.items():
                print(f"  {name:<24} {fact}")
    return 0 if good else 1
