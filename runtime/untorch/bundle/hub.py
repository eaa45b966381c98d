"""Turn a name into a local folder: a path, an installed model package, or a Hub repository in the local cache."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

from untorch.bundle.arguments import Source
from untorch.bundle.folder import (
    GOLDEN,
    SIDE_FILES,
    Bundle,
    looked_for,
    named_files,
    read_json,
    refuse_names,
    variants_of,
)
from untorch.bundle.manifest import MANIFEST, Manifest, Variant, inside
from untorch.errors import BundleError, TaskError, UntorchError, first_line

logger = logging.getLogger(__name__)

MODELS = "untorch.models"
DEFAULTS = "untorch.default_models"


# Gives the files to download, from the variants that a repository has.
Select = Callable[[Mapping[str, Variant]], Iterable[str]]


def every_file(variants: Mapping[str, Variant]) -> list[str]:
    """Every variant's files."""
    return [name for variant in variants.values() for name in variant.files]


def open_bundle(
    name: str | os.PathLike[str],
    *,
    select: Select = every_file,
    graphs: Mapping[str, str] | None = None,
    **source: Unpack[Source],
) -> Bundle:
    """Open the bundle that `name` stands for; see `resolve`. Pickled, it is opened by that name elsewhere."""
    bundle = Bundle(resolve(name, select=select, graphs=graphs, **source), graphs)
    if not Path(name).is_dir():
        # A token is this user's, and stays here.
        kept: Any = {key: value for key, value in source.items() if key != "token"}
        bundle.reopen = functools.partial(open_bundle, os.fspath(name), select=select, graphs=graphs, **kept)
    return bundle


def resolve(
    name: str | os.PathLike[str],
    *,
    select: Select | None = every_file,
    graphs: Mapping[str, str] | None = None,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The local folder that `name` stands for.

    A folder's path is taken as it is; then the installed model packages are asked (entry points of the group
    `untorch.models`); then the Hub, where only what a runtime reads is downloaded: the side files, and of the graphs
    what `select` names among the repository's variants (default: all; None: no graphs, and there need be none), or
    those that `graphs` names by role, as `Bundle` does. With `local_files_only`, or HF_HUB_OFFLINE=1, only the Hub's
    cache is read. `subfolder` is the folder of the bundle within what was found; the others are huggingface_hub's.

    Raises BundleError, saying what was tried.
    """
    if subfolder:
        inside(subfolder, "subfolder")
    path, text = Path(name), os.fspath(name)
    if path.is_dir():
        found = path
    elif (module := installed_models().get(text)) is not None:
        found = _package_folder(module)
    elif path.is_absolute() or text.startswith(".") or text.count("/") > 1 or text.endswith("/"):
        raise BundleError(f"there is no folder {text}")
    else:
        options = {"revision": revision, "token": token, "cache_dir": cache_dir}
        prefix = f"{subfolder.rstrip('/')}/" if subfolder else ""
        found = _from_hub(text, options, prefix, select, graphs, local=local_files_only, again=force_download)
    if subfolder and not (found / subfolder).is_dir():
        raise BundleError(f"{text} has no folder {subfolder}")
    return found / subfolder if subfolder else found


def _entry_points(group: str) -> dict[str, str]:
    # Imported here: it costs more than all the rest of a start from a folder.
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=group)}


def default_model(task: str) -> Path:
    """The bundle of the installed model package that serves `task` by default.

    Raises TaskError if no installed package does.
    """
    module = _entry_points(DEFAULTS).get(task)
    if module is None:
        raise TaskError(
            f"no installed package brings a default model for {task!r}. Name a bundle, "
            "or install one: pip install untorch-minilm-sst2 (for sentiment-analysis)"
        )
    logger.warning("No model was supplied, defaulted to %s for %s. Name a model to be sure which runs.", module, task)
    return _package_folder(module)


def installed_models() -> dict[str, str]:
    """Names of the installed model packages' models, and the module that holds each."""
    return _entry_points(MODELS)


def _package_folder(module: str) -> Path:
    """The folder `bundle` inside an installed module, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not (folder := Path(spec.origin).parent / "bundle").is_dir():
        raise BundleError(f"the model package {module} holds no bundle; install it again")
    return folder


def _from_hub(
    name: str,
    options: dict[str, Any],
    prefix: str,
    select: Select | None,
    graphs: Mapping[str, str] | None,
    *,
    local: bool,
    again: bool,
) -> Path:
    """The snapshot of a repository, with what is needed of its folder `prefix` in it."""
    # Imported here: it costs a tenth of a second that a path on disk should not pay.
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    try:
        if local or constants.HF_HUB_OFFLINE:
            # What was not asked for is not there, and huggingface_hub 2 calls such a snapshot incomplete.
            needed = f"{prefix}config.json"
            return Path(snapshot_download(name, allow_patterns=[needed], local_files_only=True, **options))
        if select is None:
            patterns = [f"{prefix}{file}" for file in (*SIDE_FILES, MANIFEST)]
            return Path(snapshot_download(name, allow_patterns=patterns, force_download=again, **options))
        info = HfApi().model_info(name, revision=options["revision"], token=options["token"])
        files = [sibling.rfilename for sibling in info.siblings or () if sibling.rfilename.startswith(prefix)]
        if prefix + MANIFEST in files:
            refuse_names(graphs, name)
            pinned = {**options, "revision": info.sha}
            path = Path(hf_hub_download(name, prefix + MANIFEST, force_download=again, **pinned))
            variants = Manifest.from_json(read_json(path), f"{name}/{prefix}{MANIFEST}").variants
        else:
            names = [file.removeprefix(prefix) for file in files]
            variants = variants_of(names, graphs, name)
            if not variants:
                raise BundleError(
                    f"{name} holds no ONNX model on the Hub (looked for {looked_for()}, there and in onnx/); it holds "
                    f"{named_files(names)}. Where PyTorch is installed, run `untorch export {name} -o BUNDLE` and "
                    "load that folder"
                )
        wanted = [f"{prefix}{file}" for file in (*SIDE_FILES, GOLDEN, *select(variants))]
        return Path(snapshot_download(name, allow_patterns=wanted, force_download=again, **options))
    except UntorchError:
        raise
    except Exception as error:  # the client's errors are its HTTP library's too: requests', httpx's or httpx2's
        raise BundleError(
            f"{name!r} is no folder, no installed model package, and could not be had from the Hub: {first_line(error)}"
        ) from error
