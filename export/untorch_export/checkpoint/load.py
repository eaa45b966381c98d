"""Loading a checkpoint: a local folder or a Hub id becomes a PyTorch model in fp32, its tokenizer and its source.

It does not know ONNX. Weights are read from safetensors unless pickle is allowed, and no code of the checkpoint's
runs unless it is trusted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untorch.bundle.config import LIMIT, ModelConfig
from untorch.bundle.folder import digest, read_json
from untorch.errors import first_line
from untorch_export.answers import Answer
from untorch_export.checkpoint import newer, refusals, tasks, vocabulary
from untorch_export.checkpoint.tasks import Task
from untorch_export.errors import ExportError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_HUB_FILES = ["*.json", "*.txt", "*.model", "*.spm", "*.safetensors"]
_HUB_OTHER_FORMATS = ["onnx/*", "openvino/*", "coreml/*", "runs/*"]
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    `config` is the model's full configuration, defaults included, as it was before anything else touched the
    model. `folder` holds the model's files and `root` the checkpoint's; they differ only in sentence-transformers
    checkpoints that keep the transformer in a subfolder. `source` is what the manifest says of it. `read` gives the
    model once more, as it was before a forward pass or a tracer touched it. `trusted` says that code of the
    checkpoint's own may run.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    task: Task
    config: dict[str, Any]
    root: Path
    folder: Path
    source: dict[str, Any]
    read: Callable[[], PreTrainedModel]
    trusted: bool = False

    def afresh(self) -> Checkpoint:
        """The checkpoint with its model loaded once more: a forward pass can change a model for good."""
        return replace(self, model=self.read())

    def own_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer as transformers loads it from the checkpoint, slow or fast, with the model's padding."""
        return vocabulary.own(self.folder, self.tokenizer, self.trusted)

    def limited(self, tokens: int) -> Checkpoint:
        """The checkpoint of a model that takes so many tokens at most; the bundle's config will say so."""
        return replace(self, config={**self.config, LIMIT: tokens})

    @property
    def answer(self) -> Answer:
        """The kind of answer that this model gives: its task's, unless the config makes it another."""
        return self.task.answer.of(self.config)

    @property
    def limit(self) -> int | None:
        """The longest sequence the model can take, in tokens, as the runtime reads it from the config."""
        return ModelConfig(self.config).max_sequence_length

    @property
    def pad_token_id(self) -> int:
        """The id that fills short rows: the tokenizer's, else the config's, else 0."""
        ids = (getattr(self.tokenizer, "pad_token_id", None), self.config.get("pad_token_id"), 0)
        return next(value for value in ids if value is not None)


def load(
    checkpoint: str | os.PathLike[str],
    *,
    task: str | None = None,
    revision: str | None = None,
    random_init: bool = False,
    seed: int = 0,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a checkpoint in fp32, ready to trace.

    With `random_init` only the config is read, and the weights are drawn from `seed`: the same seed gives the same
    bytes. Raises ExportError for a checkpoint that cannot be loaded as asked, TaskError for an unknown task.
    """
    root, name, commit = _locate(checkpoint, revision, random_init, allow_pickle, trust_remote_code)
    refusals.refuse_parts(root)
    modules = modules_of(root)
    folder = root / modules[0]["path"] if modules else root
    if not (folder / "config.json").is_file():
        raise ExportError(f"{folder} has no config.json; it is not a transformers checkpoint")
    raw = read_json(folder / "config.json")
    refusals.refuse_quantized(folder, raw)
    refusals.refuse_other_inputs(folder, raw)
    chosen = tasks.named(task) if task else tasks.infer(raw, sentence_transformer=_sentence_transformer(root, modules))

    source: dict[str, Any] = {"name": name, "revision": commit}
    files: list[Path] = []
    if random_init:
        source["random_init"] = {"seed": seed, "config": digest(folder / "config.json")}
    else:
        files = _weight_files(folder, allow_pickle)
        source["weights"] = {file.name: digest(file) for file in files}
    tokenizer = vocabulary.load(folder, raw, trust_remote_code)

    def read() -> PreTrainedModel:
        config = _config(folder, raw, trust_remote_code)
        if random_init:
            model = _draw(chosen, config, seed, trust_remote_code)
        else:
            model = _read(chosen, folder, config, files, trust_remote_code)
        if chosen.answer.one_a_row:
            _agree_on_padding(model, tokenizer)
        return model.eval()

    model = read()
    if tokenizer is not None:
        refusals.refuse_foreign_ids(folder, tokenizer, model)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        task=chosen,
        config=_full_config(model),
        root=root,
        folder=folder,
        source=source,
        read=read,
        trusted=trust_remote_code,
    )


def _locate(
    checkpoint: str | os.PathLike[str], revision: str | None, random_init: bool, allow_pickle: bool, trusted: bool
) -> tuple[Path, str, str | None]:
    """(folder, name, revision) of a checkpoint. The name of a local folder leaves out where it lies."""
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ExportError(f"{path} is a local folder, which has no revisions; leave out --revision")
        return path, path.resolve().name, None
    if path.exists():
        raise ExportError(f"{path} is a file; give the folder that holds config.json and the weights")
    name = os.fspath(checkpoint)
    if not _HUB_ID.fullmatch(name):
        raise ExportError(f"there is no folder {name}, and it is not the form of a Hub id (owner/name)")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    wanted = [pattern for pattern in _HUB_FILES if not (random_init and pattern == "*.safetensors")]
    wanted += ["*.bin"] * allow_pickle + ["*.py"] * trusted
    try:
        snapshot = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=_HUB_OTHER_FORMATS)
    except RevisionNotFoundError as error:
        raise ExportError(f"{name} has no revision {revision!r} on the Hub") from error
    except LocalEntryNotFoundError as error:
        raise ExportError(
            f"there is no folder {name}, and the Hub could not be reached to look for the checkpoint of that name"
        ) from error
    except HfHubHTTPError as error:
        raise ExportError(f"there is no folder {name}, and the Hub refuses {name}: {first_line(error)}") from error
    except OSError as error:
        raise ExportError(
            f"there is no folder {name}, and the Hub could not be reached: {first_line(error)}"
        ) from error
    folder = Path(snapshot)
    if (folder / "config.json").is_file():
        # The vocabulary may have a name that only its tokenizer's class knows.
        names = sorted(vocabulary.files_of(folder, read_json(folder / "config.json")))
        others = [file for file in names if not any(fnmatch(file, pattern) for pattern in wanted)]
        if others:
            snapshot_download(name, revision=revision, allow_patterns=others)
    return folder, name, folder.name


def modules_of(root: Path) -> list[dict[str, str]]:
    """What sentence-transformers' `modules.json` says: each module's `type`, and its folder in `root`, or none.

    Raises ExportError for a file that says something else, such as a folder elsewhere.
    """
    path = root / "modules.json"
    modules = read_json(path) if path.is_file() else []
    try:
        found = [{"type": str(module["type"]), "path": str(module.get("path", ""))} for module in modules]
    except (AttributeError, KeyError, TypeError) as error:
        raise ExportError(f"{path} is malformed: {error!r}") from error
    for module in found:
        if module["path"] in (".", "..") or any(char in module["path"] for char in "/\\\0"):
            raise ExportError(f"{path} keeps a module in {module['path']!r}, not in a folder beside it")
    return found


def _sentence_transformer(root: Path, modules: list[dict[str, str]]) -> str | None:
    """The sentence-transformers class that saved a folder, None for another library's.

    Before version 5 only one kind had such folders, and did not say which.
    """
    path = root / "config_sentence_transformers.json"
    named = (read_json(path) if path.is_file() else {}).get("model_type")
    if named is None and any("sparse_encoder" in module["type"] for module in modules):
        return "SparseEncoder"
    return str(named) if named is not None else "SentenceTransformer" if modules else None


def _config(folder: Path, raw: dict[str, Any], trusted: bool) -> PretrainedConfig:
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = raw.get("model_type")
    if kind not in CONFIG_MAPPING and not (trusted and "auto_map" in raw):
        if "auto_map" in raw:
            raise ExportError(
                f"{folder} brings its own model code, which would run on this machine; if you trust it, "
                "say --trust-remote-code"
            )
        raise ExportError(f"{folder / 'config.json'}: transformers knows no model_type {kind!r}")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
        if kind not in CONFIG_MAPPING:
            return config
        translated = newer.understood(folder, raw, newer.defaults(type(config)))
        return config if translated is raw else type(config).from_dict(translated)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ExportError(f"{folder / 'config.json'} is no config for {kind}: {first_line(error)}") from error


def _weight_files(folder: Path, allow_pickle: bool) -> list[Path]:
    """The weight files of a checkpoint, safetensors first. Raises ExportError where there are none to read."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        files = sorted(folder.glob(f"{stem}.{suffix}")) or sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))
        if files and suffix == "bin" and not allow_pickle:
            raise ExportError(
                f"{folder} has its weights as pickle only ({files[0].name}), and reading a pickle can run code; "
                "if you trust it, say --allow-pickle, or convert it to safetensors"
            )
        if files:
            return files
    raise ExportError(
        f"{folder} has no weights (model.safetensors); to export the config with random weights, say --random-init"
    )


def _auto_class(task: Task, config: PretrainedConfig) -> Any:
    """The class to load a checkpoint with. Embeddings of an encoder-decoder's text are its encoder's states."""
    import transformers

    named = str((config.architectures or [""])[0])
    if task.bare and named.endswith("EncoderModel"):
        return getattr(transformers, named, getattr(transformers, task.auto))
    return getattr(transformers, task.auto)


def _read(task: Task, folder: Path, config: PretrainedConfig, files: list[Path], trusted: bool) -> PreTrainedModel:
    import torch

    try:
        model, info = _auto_class(task, config).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=files[0].suffix == ".safetensors",
            trust_remote_code=trusted,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and torch each raise their own kinds for a bad file
        raise ExportError(f"{folder} cannot be loaded as {task.auto}: {first_line(error)}") from error
    # Weights that the checkpoint lacks are filled at random. A pooler is no part of a bare model's hidden states.
    missing = sorted(key for key in info["missing_keys"] if not (task.bare and "pooler." in key))
    if missing:
        raise ExportError(
            f"{folder} has no weights for {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}, so it cannot do "
            f"{task.name}: its architecture is {', '.join(config.architectures or ['not named'])}. "
            "Choose its own task with --task, or say --random-init"
        )
    return model


def _draw(task: Task, config: PretrainedConfig, seed: int, trusted: bool) -> PreTrainedModel:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            kind = _auto_class(task, config)
            if hasattr(kind, "from_config"):
                return kind.from_config(config, dtype=torch.float32, trust_remote_code=trusted)
            return kind(config).float()
        except Exception as error:  # each architecture checks its config in its own way
            raise ExportError(f"{config.model_type} cannot be built as {task.auto}: {first_line(error)}") from error


def _agree_on_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Where a decoder classifies at the last token that is no padding, have model and tokenizer pad with one token.

    The model finds that token by `pad_token_id`; a config without it works for single texts only. The head is called
    `score` in every decoder of transformers. Raises ExportError where neither names a token.
    """
    if not hasattr(model, "score"):
        return
    pad = model.config.pad_token_id
    if pad is None:
        pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        raise ExportError(
            f"neither config.json (pad_token_id) nor the tokenizer (pad_token) names a token to pad with, by which "
            f"{type(model).__name__} finds the last token of a text in a batch; name one in config.json"
        )
    model.config.pad_token_id = pad
    if tokenizer is not None and tokenizer.pad_token_id != pad:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)


def _full_config(model: PreTrainedModel) -> dict[str, Any]:
    """The config with its defaults, for a runtime that has no transformers to look them up in."""
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)
    config["architectures"] = [type(model).__name__]
    return config
