"""`AutoConfig`, the name under which transformers' users look for a checkpoint's config."""

from __future__ import annotations

import os
from typing import Any

from untorch.bundle import hub
from untorch.bundle.arguments import CONFIG, refuse_unknown, take_source
from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle, refuse_unverified, side_files
from untorch.bundle.manifest import MANIFEST
from untorch.errors import BundleError, InputError


class AutoConfig:
    """transformers' entry point: `AutoConfig.from_pretrained(folder)` gives a `ModelConfig`."""

    def __init__(self) -> None:
        raise InputError("read a config with AutoConfig.from_pretrained(folder)")

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | os.PathLike[str], *, return_unused_kwargs: bool = False, **overrides: Any
    ) -> Any:
        """Read the `config.json` of a bundle, of a folder, or of whatever folder a name stands for.

        `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only` and `force_download` say where files come
        from, as in transformers. `overrides` replace what the file says; one that is no attribute of the config is
        refused, or with `return_unused_kwargs` left over: the answer is `(config, left over)` then. What a config says
        of a model that was exported with another is not what its graph does.

        Raises BundleError where there is no config.json, FormatError for a malformed one, IntegrityError for one that
        is not what the bundle's manifest says, InputError for an argument that is not taken.
        """
        folder = hub.resolve(pretrained_model_name_or_path, select=None, **take_source(overrides))
        if not (folder / "config.json").is_file():
            raise BundleError(f"{folder} has no config.json")
        if (folder / MANIFEST).is_file():
            with Bundle(folder).held():
                config = ModelConfig.load(folder)
        else:
            refuse_unverified(folder)
            side_files(folder)  # refuses links that lead out of the folder
            config = ModelConfig.load(folder)
        for name in CONFIG.keys() & overrides.keys():
            CONFIG[name].check(name, overrides.pop(name), "AutoConfig.from_pretrained")
        known = {name: value for name, value in overrides.items() if hasattr(config, name)}
        unused = {name: value for name, value in overrides.items() if name not in known}
        if unused and not return_unused_kwargs:
            refuse_unknown(next(iter(unused)), [*config.to_dict(), *CONFIG], "AutoConfig.from_pretrained")
        config = config.changed(known)
        return (config, unused) if return_unused_kwargs else config
