"""Turn a name into a local folder: a path, an installed model package, or a Hub repository in the local cache."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

from untorch.bundle.folder import GOLDEN, GRAPH_STEMS, SIDE_FILES, read_json
from untorch.bundle.manifest import INT8_SHARED, MANIFEST, PACKED, Manifest, preferred
from untorch.errors import BundleError, TaskError
from untorch.ort import kernels
from untorch.ort.providers import resolve_device

logger = logging.getLogger(__name__)

MODELS = "untorch.models"
DEFAULTS = "untorch.default_models"


def resolve(
    name: str | os.PathLike[str], *, revision: str | None = None, precision: str | None = None, device: str = "cpu"
) -> Path:
    """The local folder that `name` stands for.

    A folder's path is taken as it is; then the installed model packages are asked (entry points of the group
    `untorch.models`); then the Hub, where only what a runtime reads is downloaded: the side files and the graphs of
    one variant (`precision`, or the one preferred on `device`, or fp32). With HF_HUB_OFFLINE=1 only the Hub's cache is
    read.

    Raises BundleError, saying what was tried.
    """
    path = Path(name)
    if path.is_dir():
        return path
    text = os.fspath(name)
    if (module := installed_models().get(text)) is not None:
        return _package_folder(module)
    if path.is_absolute() or text.startswith(".") or text.count("/") > 1 or text.endswith("/"):
        raise BundleError(f"there is no folder {text}")
    return _from_hub(text, revision, precision, device)


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


def _from_hub(name: str, revision: str | None, precision: str | None, device: str) -> Path:
    # Imported here: it costs a tenth of a second that a path on disk should not pay.
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if constants.HF_HUB_OFFLINE:
            return Path(snapshot_download(name, revision=revision))
        info = HfApi().model_info(name, revision=revision)
        files = [sibling.rfilename for sibling in info.siblings or ()]
        manifest = None
        if MANIFEST in files:
            path = Path(hf_hub_download(name, MANIFEST, revision=info.sha))
            manifest = Manifest.from_json(read_json(path), f"{name}/{MANIFEST}")
        graphs = _graphs(name, files, precision, manifest, device)
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*SIDE_FILES, GOLDEN, *graphs]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise BundleError(
            f"{name!r} is no folder, no installed model package, and could not be had from the Hub: {reason}"
        ) from error


def _graphs(name: str, files: list[str], precision: str | None, manifest: Manifest | None, device: str) -> list[str]:
    """The graph files to download, external data included: one variant's. Raises BundleError if it is not there."""
    there = sorted(file for file in files if file.endswith(".onnx"))
    if not there:
        raise BundleError(
            f"{name} holds no ONNX model on the Hub. Where PyTorch is installed, run `untorch export {name} -o BUNDLE` "
            "and load that folder"
        )
    if manifest is not None:
        if precision in (None, "auto"):
            # Loading chooses by the same rule, and would miss another variant.
            return list(preferred(manifest.variants, (), resolve_device(device), kernels.preferred).files)
        if precision in manifest.variants:
            # What removes padding runs beside the variant that does not.
            wanted = {precision, str(precision).removesuffix(PACKED)} & manifest.variants.keys()
            return [file for variant in sorted(wanted) for file in manifest.variants[variant].files]
    suffix = "" if precision in (None, "auto", "fp32") else f"_{precision}"
    graphs = [f"{folder}{stem}{suffix}.onnx" for folder in ("onnx/", "") for stem in GRAPH_STEMS]
    if not any(graph in files for graph in graphs):
        raise BundleError(f"{name} has no graph in that precision on the Hub; it has {', '.join(there)}")
    data = [f"{graph}{ending}" for graph in graphs for ending in ("_data", ".data")]
    # Without a manifest nothing says that int8's variants share one.
    return [*graphs, *data, *(f"{folder}{INT8_SHARED}" for folder in ("onnx/", "") if suffix.startswith("_int8"))]
