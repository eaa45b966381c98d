"""`untorch package`: a bundle becomes a wheel."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "build a pip-installable wheel of a bundle"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Build a wheel that carries a bundle. Where it is installed, the model is found by its name, and by the tasks "
        "it is the default for."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="where the wheel goes")
    parser.add_argument("--name", help="the model's name (default: the checkpoint's); the package is untorch-NAME")
    parser.add_argument("--version", default="1.0.0", help="the package's version (default: 1.0.0)")
    parser.add_argument(
        "--default-for", metavar="TASK", action="append", default=[], help="serve TASK when no model is named"
    )


def run(arguments: argparse.Namespace) -> int:
    """Build the wheel and print its path. Raises UntorchError for a wrong call."""
    from untorch_export.bundle.package import package

    wheel = package(
        arguments.bundle,
        arguments.output,
        name=arguments.name,
        version=arguments.version,
        default_for=arguments.default_for,
    )
    print(wheel)
    return 0
