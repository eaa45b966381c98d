"""The `untorch` command. One file a command; each calls the library and holds no logic of its own.

A command is a module with `HELP`, `configure(parser)` and `run(args) -> exit code`. Those of the export side are
found through the entry-point group `untorch.commands`, so that the runtime never imports it.

Exit codes: 0 good; 1 the answer is no; 2 the call was wrong. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType

from untorch.errors import InputError, UntorchError
from untorch.version import __version__

_BUILT_IN = ("run", "explain", "verify", "sign", "bench", "tune", "serve", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0].startswith("-"):
            return _overview(argv)
        module = _command(argv[0])
        parser = argparse.ArgumentParser(prog=f"untorch {argv[0]}", description=module.HELP)
        module.configure(parser)
        # Intermixed, so that an option may stand between a bundle and its texts.
        code = module.run(parser.parse_intermixed_args(argv[1:]))
        sys.stdout.flush()
        return int(code)
    except UntorchError as error:
        print(f"untorch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("untorch: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left (`untorch run … | head`); that is its good right.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _command(name: str) -> ModuleType:
    """The module of a command. Only that one is imported, so that `run` starts without the export side."""
    if name in _BUILT_IN:
        return import_module(f"untorch.cli.{name}")
    for entry in entry_points(group="untorch.commands", name=name):
        module: ModuleType = entry.load()
        return module
    names = sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group="untorch.commands"))})
    raise InputError(f"unknown command {name!r}; choose {', '.join(names)}")


def _overview(argv: list[str]) -> int:
    """`--help` and `--version`, and what a bare `untorch` shows."""
    names = [*_BUILT_IN, *(entry.name for entry in entry_points(group="untorch.commands"))]
    commands = "\n".join(f"  {name:<10} {_command(name).HELP}" for name in names)
    parser = argparse.ArgumentParser(
        prog="untorch",
        usage="untorch COMMAND …",
        description="Run transformers without torch.",
        epilog=f"commands:\n{commands}\n\n`untorch COMMAND --help` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"untorch {__version__}")
    parser.parse_args(argv)
    parser.print_help(sys.stderr)
    return 2
