"""How to generate: transformers' `generation_config.json`, its defaults, and what a call changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from untorch.bundle.arguments import Rule
from untorch.bundle.folder import read_json
from untorch.errors import FormatError, InputError
from untorch.values import Read, count, either, flag, ids, items, one_of, read, real, size, string, texts, whole

_IDS = either("an id, or a list of ids", whole(), ids)
_WORDS = either("a list of lists of ids", lambda value: [ids(word) for word in items(value)])

# transformers' own defaults of what can be asked for here, and how a value is read.
_SETTINGS: dict[str, tuple[Any, Read]] = {
    "max_length": (20, count),
    "max_new_tokens": (None, count),
    "min_length": (0, size),
    "min_new_tokens": (None, size),
    "early_stopping": (False, either('True, False or "never"', flag, one_of("never"))),
    "stop_strings": (None, either("a text, or a list of texts", string, texts)),
    "do_sample": (False, flag),
    "num_beams": (1, count),
    "num_return_sequences": (1, count),
    "temperature": (1.0, real),
    "top_k": (50, whole()),
    "top_p": (1.0, real),
    "min_p": (None, real),
    "repetition_penalty": (1.0, real),
    "length_penalty": (1.0, real),
    "no_repeat_ngram_size": (0, size),
    "encoder_repetition_penalty": (1.0, real),
    "encoder_no_repeat_ngram_size": (0, size),
    "bad_words_ids": (None, _WORDS),
    "suppress_tokens": (None, ids),
    "begin_suppress_tokens": (None, ids),
    "renormalize_logits": (False, flag),
    "forced_bos_token_id": (None, whole()),
    "forced_eos_token_id": (None, _IDS),
    "pad_token_id": (None, whole()),
    "bos_token_id": (None, whole()),
    "eos_token_id": (None, _IDS),
    "decoder_start_token_id": (None, whole()),
}
DEFAULTS: dict[str, Any] = {name: default for name, (default, _) in _SETTINGS.items()}

# Where None is no value of its own, it stands for the default.
_NEVER_NONE = (
    "max_length", "min_length", "early_stopping", "do_sample", "num_beams", "num_return_sequences", "length_penalty",
    "renormalize_logits",
)  # fmt: skip

# The first transformers that writes only what was set, and whose pipelines follow it before their own defaults.
_WRITES_WHAT_WAS_SET = 5

# What transformers also has and untorch does not: its neutral values change nothing, others are refused.
UNSUPPORTED: dict[str, Any] = {
    "top_h": None,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": None,
    "guidance_scale": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "sequence_bias": None,
    "constraints": None,
    "force_words_ids": None,
    "watermarking_config": None,
    "max_time": None,
    "token_healing": False,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}

# How PyTorch runs it, which is no matter here: the cache is always used, and invalid values do not occur.
IGNORED = {
    "use_cache",
    "use_mtp",
    "max_cache_len",
    "continuous_batching_config",
    "speculation_type",
    "assistant_ensemble_weight",
    "cache_implementation",
    "cache_config",
    "low_memory",
    "prefill_chunk_size",
    "compile_config",
    "disable_compile",
    "remove_invalid_values",
    "transformers_version",
    "return_legacy_cache",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "max_matching_ngram_size",
}

# Every name that may be set, whether it has an effect here or not.
NAMES = frozenset({*DEFAULTS, *UNSUPPORTED, *IGNORED})

# What else transformers' generate takes, and why it cannot be had.
RULES: Mapping[str, Rule] = {
    "synced_gpus": Rule((False,), "a model runs on one device"),
    "assistant_model": Rule((), "assisted decoding is not supported"),
    "assistant_tokenizer": Rule((), "assisted decoding is not supported"),
    "negative_prompt_ids": Rule((), "classifier-free guidance is not supported"),
    "negative_prompt_attention_mask": Rule((), "classifier-free guidance is not supported"),
    "use_model_defaults": Rule((True,), "the checkpoint's settings are always the defaults; name those to change"),
    "custom_generate": Rule((), "a bundle runs no code from outside"),
    "generation_mode_kwargs": Rule((), "name the settings themselves"),
    "trust_remote_code": Rule(None, "a bundle has no code that could be run"),
}


class GenerationConfig:
    """Settings by transformers' names, as attributes: `config.num_beams`. Those not given have its defaults."""

    max_length: int
    max_new_tokens: int | None
    min_length: int
    min_new_tokens: int | None
    early_stopping: bool | str
    stop_strings: str | list[str] | None
    do_sample: bool
    num_beams: int
    num_return_sequences: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    length_penalty: float
    no_repeat_ngram_size: int | None
    encoder_repetition_penalty: float | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: list[list[int]] | None
    suppress_tokens: list[int] | None
    begin_suppress_tokens: list[int] | None
    renormalize_logits: bool
    forced_bos_token_id: int | None
    forced_eos_token_id: int | list[int] | None
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    decoder_start_token_id: int | None

    # What a file says outright, even of a default: the transformers that wrote it writes nothing else.
    said: frozenset[str] = frozenset()

    def __init__(self, **settings: Any) -> None:
        self.__dict__.update(DEFAULTS)
        self._take(settings)

    @classmethod
    def load(cls, folder: Path, model: Mapping[str, Any]) -> Self:
        """Read `generation_config.json` of a folder; without one, what `model`, its config.json, says of generating.

        Raises FormatError for a malformed file.
        """
        path = folder / "generation_config.json"
        if not path.is_file():
            return cls(**{name: model[name] for name in DEFAULTS if model.get(name) is not None})
        values = read_json(path)
        if not isinstance(values, dict):
            raise FormatError(f"{path} is not a JSON object")
        config = cls()
        config._take({name: value for name, value in values.items() if not name.startswith("_")}, str(path))
        major = str(values.get("transformers_version", "")).partition(".")[0]
        if major.isdigit() and int(major) >= _WRITES_WHAT_WAS_SET:
            config.said = frozenset(name for name in DEFAULTS if values.get(name) is not None)
        return config

    def __repr__(self) -> str:
        return f"GenerationConfig({self.to_diff_dict()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Every setting."""
        return {name: getattr(self, name) for name in DEFAULTS}

    def to_diff_dict(self) -> dict[str, Any]:
        """The settings that are not transformers' defaults."""
        return {name: value for name, value in self.to_dict().items() if value != DEFAULTS[name]}

    def updated(self, **settings: Any) -> Self:
        """A copy with these settings. Raises InputError for one that does not exist or is not supported."""
        copy = type(self)(**self.to_dict())
        copy._take(settings)
        return copy

    def filled_from(self, other: GenerationConfig) -> Self:
        """A copy in which everything that is at transformers' default has `other`'s value."""
        return type(self)(**{**other.to_dict(), **self.to_diff_dict()})

    def eos_tokens(self) -> list[int]:
        """The ids that end a sequence; empty if none does."""
        ids = self.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else [int(index) for index in ids]

    def for_prompt(self, length: int, *, max_length_given: bool, position_limit: int | None) -> Self:
        """A copy with `max_length` and `min_length` in tokens of the whole sequence, for a prompt of `length` tokens.

        Raises InputError where no token is left to generate, and for settings that contradict each other.
        """
        copy = self.updated()
        if self.max_new_tokens is not None:
            copy.max_length = self.max_new_tokens + length
        elif not max_length_given and self.max_length == DEFAULTS["max_length"]:
            copy.max_length = min(self.max_length + length, position_limit or self.max_length + length)
        if self.min_new_tokens is not None:
            copy.min_length = self.min_new_tokens + length
        if length >= copy.max_length:
            raise InputError(
                f"the prompt has {length} tokens and max_length is {copy.max_length}, so that no token is left to "
                "generate; raise max_length or, better, set max_new_tokens"
            )
        copy._check()
        return copy

    def _check(self) -> None:
        if self.num_return_sequences > 1 and self.num_beams == 1 and not self.do_sample:
            raise InputError(
                "greedy decoding gives one sequence; for num_return_sequences > 1 set do_sample=True or num_beams"
            )
        if 1 < self.num_beams < self.num_return_sequences:
            raise InputError(
                f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams} gives"
            )
        if self.do_sample and not self.temperature > 0:
            raise InputError(f"temperature is {self.temperature}; it is above 0. For greedy decoding: do_sample=False")
        if self.num_beams < 1 or self.num_return_sequences < 1:
            raise InputError("num_beams and num_return_sequences are numbers from 1")
        if self.early_stopping not in (True, False, "never"):
            raise InputError(f'early_stopping is {self.early_stopping!r}; it is True, False or "never"')

    def _take(self, settings: Mapping[str, Any], file: str = "") -> None:
        """Take settings; those of a `file` may have names that no version of untorch knows."""
        for name, value in settings.items():
            if name in DEFAULTS:
                if value is None:
                    value = DEFAULTS[name] if name in _NEVER_NONE else None
                else:
                    value = self._read(name, value, file)
                setattr(self, name, value)
            elif name in UNSUPPORTED:
                if value is not None and value != UNSUPPORTED[name]:
                    raise InputError(f"{file or 'generate'}: {name}={value!r} is not supported; leave it out")
            elif name in RULES:
                RULES[name].check(name, value, file or "generate")
            elif name not in IGNORED and not file:
                raise InputError(f"generate takes no argument {name!r}; it takes {', '.join(DEFAULTS)}")

    def _read(self, name: str, value: Any, file: str) -> Any:
        try:
            return read(_SETTINGS[name][1], name, value, file or "generate")
        except InputError as error:
            if file:
                raise FormatError(str(error)) from error
            raise
