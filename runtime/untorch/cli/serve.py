"""`untorch serve`: bundles over HTTP, for the clients that people have."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from untorch.cli.arguments import add_trust_argument
from untorch.errors import InputError
from untorch.serving import needing_the_extra
from untorch.serving.settings import ModelSource, Settings, converted, load

HELP = "answer over HTTP, with one or several bundles"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: one for each of the settings."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="[NAME=]BUNDLE",
        help="bundles (folders, installed models, Hub ids) and the names requests call them by; without one, the "
        "installed default is served",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings and [models] in TOML")
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="[NAME=]T",
        help="what a model does (default: as its bundle says)",
    )
    add_trust_argument(parser)
    for option in fields(Settings):
        name = f"--{option.name.replace('_', '-')}"
        text = f"{option.metadata['help']} (default: {option.default})".replace("%", "%%")
        if option.default is False:
            parser.add_argument(name, action="store_const", const=True, help=text)
            continue
        parser.add_argument(name, metavar=option.name[0].upper(), help=text)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; 0, or an error."""
    given = {
        option.name: converted(value, str(option.type).split(" ")[0], f"--{option.name.replace('_', '-')}")
        for option in fields(Settings)
        if (value := getattr(args, option.name)) is not None and value is not True
    } | {option.name: True for option in fields(Settings) if getattr(args, option.name) is True}
    settings, models = load(given, path=args.config)
    sources = _sources(args.models, args.task) or models or [ModelSource("default", None)]
    with needing_the_extra():
        from untorch.serving import replicas, server

        if replicas.is_replica():
            replicas.run_replica(sources, settings)
        elif settings.replicas > 1:
            return replicas.look_after(settings, sys.argv[2:])
        else:
            server.run(sources, settings, server.bound(settings))
    return 0


def _sources(words: list[str], tasks: list[str]) -> list[ModelSource]:
    named = {name: task for task in tasks for name, _, task in [task.rpartition("=")]}
    sources = []
    for word in words:
        name, given, bundle = word.partition("=")
        if not given or "/" in name:
            bundle, name = word, Path(word).name
        sources.append(ModelSource(name, bundle, named.pop(name, named.get(""))))
    named.pop("", None)
    if named:
        raise InputError(f"--task names {', '.join(named)}, which is no model here; name it: NAME=BUNDLE")
    return sources
