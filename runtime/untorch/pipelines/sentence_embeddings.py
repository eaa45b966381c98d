"""Sentence embeddings: one vector a text, pooled and normalised as the checkpoint's own settings say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from untorch.bundle.folder import file_of, read_json
from untorch.errors import FormatError, InputError, TaskError
from untorch.model.base import AutoModel
from untorch.numerics import POOLINGS, Array, normalize, pool
from untorch.pipelines import inputs
from untorch.pipelines.base import Pipeline
from untorch.pipelines.compatibility import TOKENIZER
from untorch.pipelines.parameters import argument
from untorch.pipelines.tokenizing import TokenizerParameters, settled
from untorch.values import count, flag, string, texts

# sentence-transformers' older names in 1_Pooling/config.json, one flag a mode, in the order in which it joins them.
# Newer files have `pooling_mode`: a name, or a list of names.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


# The vectors that a graph gives itself: Optimum's export of a sentence-transformers checkpoint, in whose folder none of
# that library's files are.
_POOLED = "sentence_embedding"


@dataclass(frozen=True)
class EmbeddingSettings:
    """How a checkpoint makes vectors, as its sentence-transformers files say.

    `pooling` modes are joined; with `include_prompt` off, a prompt's tokens are not pooled; `truncate_dim` keeps the
    first dimensions of a vector (Matryoshka); `prompts` are the texts to put in front, by name.
    """

    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    normalize: bool = False
    max_length: int | None = None
    truncate_dim: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None

    @classmethod
    def load(cls, folder: Path) -> EmbeddingSettings:
        """Read sentence-transformers' files of a folder; without them, mean pooling as that library defaults to.

        Raises TaskError for a module that cannot be run without torch, FormatError for a malformed file,
        IntegrityError for one outside the folder.
        """
        try:
            return cls._read(folder)
        except (AttributeError, KeyError, TypeError) as error:
            raise FormatError(f"{folder / 'modules.json'} or a file it names is malformed: {error!r}") from error

    @classmethod
    def _read(cls, folder: Path) -> EmbeddingSettings:
        modules = folder / "modules.json"
        if not modules.is_file():
            return cls()
        pooling: tuple[str, ...] = ("mean",)
        include_prompt, normal = True, False
        for module in read_json(modules):
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            if kind == "Pooling":
                pooling, include_prompt = _pooling(_config_of(folder, module))
            elif kind == "Normalize":
                normal = True
            elif kind != "Transformer":
                raise TaskError(f"{modules} has a {kind} module, which untorch cannot run")
        limits, config = (
            read_json(folder / name) if (folder / name).is_file() else {}
            for name in ("sentence_bert_config.json", "config_sentence_transformers.json")
        )
        return cls(
            pooling=pooling,
            include_prompt=include_prompt,
            normalize=normal,
            max_length=limits.get("max_seq_length"),
            truncate_dim=config.get("truncate_dim"),
            prompts=config.get("prompts") or {},
            default_prompt_name=config.get("default_prompt_name"),
        )


def _config_of(folder: Path, module: dict[str, Any]) -> Path:
    """A module's config: a file of a folder right inside `folder`, where the manifest's digests are compared."""
    path = file_of(folder, f"{module['path']}/config.json")
    if path.parent.parent != folder:
        raise FormatError(f"{folder / 'modules.json'} keeps a module in {module['path']!r}, not in a folder beside it")
    return path


def _pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    config = read_json(path)
    named = config.get("pooling_mode") or [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    modes = (named,) if isinstance(named, str) else tuple(named)
    if not modes or not set(modes) <= set(POOLINGS):
        raise FormatError(f"{path} names no pooling that untorch knows ({', '.join(POOLINGS)})")
    return modes, bool(config.get("include_prompt", True))


def _modes(value: Any) -> tuple[str, ...]:
    """One pooling, or several whose vectors are joined."""
    wanted = f"one of {', '.join(POOLINGS)}, or a list of them"
    try:
        modes = tuple(texts(value))
    except ValueError:
        raise ValueError(wanted) from None
    if not modes or not set(modes) <= set(POOLINGS):
        raise ValueError(wanted)
    return modes


class SentenceEmbeddingsParameters(TokenizerParameters):
    """The arguments of a call; see the pipeline."""

    pooling: tuple[str, ...] = argument((), _modes)
    normalize: bool | None = argument(None, flag)
    truncate_dim: int | None = argument(None, count)
    prompt: str | None = argument(None, string)
    prompt_name: str | None = argument(None, string)
    # What stands before every text.
    prefix: str = ""


class SentenceEmbeddingsPipeline(Pipeline[SentenceEmbeddingsParameters]):
    """One float32 vector a text: (hidden,) for one text, (texts, hidden) for a list, a stream of vectors for a stream.

    Arguments of a call, each with the checkpoint's own setting as its default: `pooling` (`cls`, `max`, `mean`,
    `mean_sqrt_len_tokens`, `weightedmean`, `lasttoken`, or a list of them, joined), `normalize` (True: the vectors
    given are of length 1; False: not even where the checkpoint says so), `truncate_dim` (keep so many dimensions; a
    checkpoint's own normalising comes before), `prompt_name` (one of the checkpoint's prompts) or `prompt` (a text to
    put in front); and `truncation` (cut at the checkpoint's limit), `max_length`. A text over the limit raises
    SequenceTooLongError unless it is to be cut; sentence-transformers cuts it in silence. A text of no tokens has a
    vector of zeros. A graph without sentence-transformers' files beside it that has an output sentence_embedding pools
    by itself, unless the call says how.
    """

    model_class = AutoModel
    parameters_class = SentenceEmbeddingsParameters
    rules = TOKENIZER
    default_task = "sentence-embeddings"

    def __init__(self, model: AutoModel, *arguments: Any, **keywords: Any) -> None:
        self._require_head(model, keywords.get("task", ""))
        self.settings = EmbeddingSettings.load(model.bundle.path)
        if self.settings == EmbeddingSettings() and any(output.name == _POOLED for output in model.session.outputs):
            self.settings = EmbeddingSettings(pooling=())
            self.also = (_POOLED,)
        super().__init__(model, *arguments, **keywords)

    @property
    def limit(self) -> int | None:
        """The tightest of the model's limit, the tokenizer's, and the checkpoint's own `max_seq_length`."""
        limits = [super().limit, self.tokenizer.model_max_length, self.settings.max_length]
        return min((limit for limit in limits if limit is not None), default=None)

    def _together(self, answers: list[Any]) -> Any:
        return np.stack(answers) if answers else np.empty((0, int(self.model.config.get("hidden_size", 0))), np.float32)

    def _settled(self, parameters: SentenceEmbeddingsParameters) -> SentenceEmbeddingsParameters:
        settings = self.settings
        return settled(parameters, self.max_length).changed(
            pooling=parameters.pooling or settings.pooling,
            truncate_dim=parameters.truncate_dim or settings.truncate_dim,
            prefix=self._prompt(parameters.prompt, parameters.prompt_name),
        )

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        prompts = self.settings.prompts
        if prompt is not None and name is not None:
            raise InputError("give prompt or prompt_name, not both")
        if name is not None and name not in prompts:
            raise InputError(f"the checkpoint has no prompt {name!r}; it has {', '.join(prompts) or 'none'}")
        if prompt is not None:
            return prompt
        return prompts.get(name or self.settings.default_prompt_name or "", "")

    def _answers(
        self, items: list[Any], batch_size: int | None, parameters: SentenceEmbeddingsParameters
    ) -> list[Array]:
        if not items:
            return []
        texts = [parameters.prefix + item for item in inputs.texts(items)]
        encodings = self._encode(texts, None, parameters, empty=True)
        # A row of no tokens has nothing to pool: alone it could not run, and in company it would be its padding's.
        places = [place for place, encoding in enumerate(encodings) if len(encoding)]
        filled = [encodings[place] for place in places]
        skipped = 0 if self.settings.include_prompt else self._prompt_length(parameters)
        vectors: list[Any] = [None] * len(items)
        for rows, (states, *given) in self._forward(filled, batch_size) if filled else ():
            if parameters.pooling:
                lengths = np.array([len(filled[row]) for row in rows])[:, None]
                tokens = np.arange(states.shape[1])[None, :]
                mask = (tokens >= skipped) & (tokens < lengths)
                pooled = np.concatenate([pool(states, mask, mode) for mode in parameters.pooling], axis=-1)
            else:
                pooled = given[0]
            if self.settings.normalize and parameters.normalize is not False:
                pooled = normalize(pooled)
            pooled = pooled[:, : parameters.truncate_dim]
            if parameters.normalize:
                pooled = normalize(pooled)
            for row, vector in zip(rows, pooled, strict=True):
                vectors[places[row]] = vector
        if len(filled) < len(items):
            nothing = self._nothing(next((vector for vector in vectors if vector is not None), None), parameters)
            vectors = [nothing if vector is None else vector for vector in vectors]
        return vectors

    def _nothing(self, beside: Array | None, parameters: SentenceEmbeddingsParameters) -> Array:
        """(dimensions,) zeros, as sentence-transformers gives for a text of no tokens `beside` others."""
        if beside is not None:
            return np.zeros_like(beside)
        size = self.model.config.get("hidden_size")
        if size is None:
            raise InputError("the text is empty: it has no tokens, and config.json does not say how long its vector is")
        return np.zeros((len(parameters.pooling) or 1) * int(size), np.float32)[: parameters.truncate_dim]

    def _prompt_length(self, parameters: SentenceEmbeddingsParameters) -> int:
        """How many tokens a row starts with that are the prompt's or stand before it."""
        if not parameters.prefix:
            return 0
        ids = self._encode([parameters.prefix], None, parameters)[0].ids
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)
