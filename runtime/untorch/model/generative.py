"""Models that generate: language models that continue a text, and encoder-decoders that answer one with another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from untorch.background import BackgroundTask
from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.bundle.manifest import Variant
from untorch.errors import InputError, SequenceTooLongError, TaskError
from untorch.generation import GenerationConfig, State, Stopping, Streamer, processors, sample, search
from untorch.loading.sessions import open_model
from untorch.model.base import AutoModel
from untorch.model.decoder import Cache, Decoder
from untorch.model.outputs import CausalLMOutputWithPast, ModelOutput, Seq2SeqLMOutput
from untorch.ort.session import Session

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer

Array = NDArray[Any]

Seed = int | np.random.Generator | None


class GenerativeModel(AutoModel):
    """What both kinds share: the decoder with its cache, and `generate`."""

    output_names = ("logits",)
    head = "a language model head"
    role: ClassVar[str] = "model"

    def __init__(self, bundle: Bundle, session: Session, variant: Variant, config: ModelConfig) -> None:
        super().__init__(bundle, session, variant, config)
        self.decoder = Decoder(session, bundle.path)
        self.generation_config = GenerationConfig.load(bundle.path, config.to_dict())

    @abstractmethod
    def _begin(self, ids: Array, mask: Array, config: GenerationConfig, start: ArrayLike | None) -> tuple[State, Array]:
        """A state that has read nothing, and the ids that it has to read first (rows, length)."""

    def generate(
        self,
        inputs: ArrayLike | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: Streamer | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        seed: Seed = None,
        **settings: Any,
    ) -> Array:
        """Generate ids (rows × num_return_sequences, length) from `input_ids` (rows, length).

        A decoder-only model continues its input, padded on the left, and returns it too; an encoder-decoder returns
        the decoder's ids. `settings` are transformers' (`max_new_tokens`, `num_beams`, `do_sample`, …) and take
        precedence over `generation_config`, which takes it over the bundle's generation_config.json. `tokenizer` is
        needed for `stop_strings`; `seed` makes sampling repeatable. Raises InputError for settings that do not exist
        or contradict each other and for what the model cannot read, SequenceTooLongError where positions run out.
        """
        prepared = self._prepare(
            inputs if inputs is not None else input_ids,
            attention_mask,
            decoder_input_ids,
            generation_config,
            settings,
        )
        state, ids, config = prepared
        if streamer is not None and config.num_beams > 1:
            raise InputError("a streamer cannot follow beam search; set num_beams=1")
        generator = np.random.default_rng(seed)
        arguments = processors(config, ids.shape[1]), Stopping(config, tokenizer), generator
        if config.num_beams > 1:
            return search(state, ids, config, *arguments)
        if streamer is not None:
            streamer.put(ids)
        columns = [ids.repeat(config.num_return_sequences, 0)]
        for tokens in sample(state, ids, config, *arguments):
            columns.append(tokens[:, None])
            if streamer is not None:
                streamer.put(tokens)
        if streamer is not None:
            streamer.end()
        return np.concatenate(columns, axis=1)

    def stream(
        self,
        inputs: ArrayLike | None = None,
        generation_config: GenerationConfig | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        seed: Seed = None,
        **settings: Any,
    ) -> Iterator[Array]:
        """Yield the new tokens (rows,) of every step; what `generate` returns, without beam search."""
        state, ids, config = self._prepare(
            inputs if inputs is not None else input_ids, attention_mask, decoder_input_ids, generation_config, settings
        )
        if config.num_beams > 1:
            raise InputError("beam search knows its tokens only at the end; set num_beams=1 to stream")
        stopping = Stopping(config, tokenizer)
        return sample(state, ids, config, processors(config, ids.shape[1]), stopping, np.random.default_rng(seed))

    def _prepare(
        self,
        inputs: ArrayLike | None,
        attention_mask: ArrayLike | None,
        decoder_input_ids: ArrayLike | None,
        given: GenerationConfig | None,
        settings: dict[str, Any],
    ) -> tuple[State, Array, GenerationConfig]:
        config = self.generation_config if given is None else given.filled_from(self.generation_config)
        config = config.updated(**settings)
        if inputs is None:
            if config.bos_token_id is None:
                raise InputError("there are no input_ids, and the model has no bos_token_id to begin with")
            inputs = np.full((1, 1), config.bos_token_id)
        ids = self._integers("input_ids", inputs).astype(np.int64)
        self._check_ids(ids)
        if attention_mask is None:
            mask = _mask_of_padding(ids, config)
        else:
            mask = self._integers("attention_mask", attention_mask).astype(np.int64)
            if mask.shape != ids.shape:
                raise InputError(f"attention_mask has shape {mask.shape} and input_ids {ids.shape}; they must be equal")
        if config.pad_token_id is None and (eos := config.eos_tokens()):
            config = config.updated(pad_token_id=eos[0])
        state, first = self._begin(ids, mask, config, decoder_input_ids)
        config = config.for_prompt(
            first.shape[1],
            max_length_given=settings.get("max_length") is not None,
            position_limit=self.config.get("max_position_embeddings"),
        )
        return state, first, config

    def _check_position(self, length: int) -> None:
        limit = self.max_sequence_length
        if limit is not None and length > limit:
            raise SequenceTooLongError(
                f"the text has grown to {length} tokens and the model takes at most {limit}; set max_new_tokens so "
                "that the prompt and what follows fit"
            )


class AutoModelForCausalLM(GenerativeModel):
    """A language model that continues a text: `logits` (batch, sequence, vocabulary)."""

    output_class = CausalLMOutputWithPast
    tasks = ("text-generation",)

    def __call__(  # type: ignore[override]  # a cache is no array
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        past_key_values: Cache | None = None,
        **inputs: ArrayLike,
    ) -> ModelOutput:
        """Read `input_ids` (batch, sequence) after what `past_key_values` holds.

        `attention_mask` (batch, past + sequence) covers both; positions follow from it. The outputs are `logits` of
        every new position and `past_key_values` to continue from. Raises as `AutoModel` does.
        """
        if input_ids is None:
            raise InputError("input_ids are missing; pass the tokenizer's output: model(**tokenizer(texts, …))")
        ids = self._integers("input_ids", input_ids).astype(np.int64)
        self._check_ids(ids)
        past = 0 if past_key_values is None else len(past_key_values)
        self._check_position(past + ids.shape[1])
        shape = (len(ids), past + ids.shape[1])
        mask = np.ones(shape, np.int64) if attention_mask is None else np.asarray(attention_mask).astype(np.int64)
        if mask.shape != shape:
            raise InputError(f"attention_mask has shape {mask.shape}; with what was read before, it is {shape}")
        logits, cache = self.decoder.run(_with_positions(ids, mask), past_key_values)
        return self.output_class({"logits": logits, "past_key_values": cache})  # type: ignore[dict-item]

    def _begin(self, ids: Array, mask: Array, config: GenerationConfig, start: ArrayLike | None) -> tuple[State, Array]:
        if start is not None:
            raise InputError("a decoder-only model has no decoder_input_ids; pass input_ids")
        if not mask[:, -1].all():
            raise InputError(
                "the batch is padded on the right, and the model would continue the padding; tokenize it with "
                "padding_side='left'"
            )
        return _CausalState(self, mask), ids


class AutoModelForSeq2SeqLM(GenerativeModel):
    """An encoder-decoder: `logits` (batch, sequence, vocabulary) of what the decoder has read."""

    output_class = Seq2SeqLMOutput
    tasks = ("text2text-generation", "summarization", "translation")

    def __init__(
        self, bundle: Bundle, session: Session, variant: Variant, config: ModelConfig, encoder: Session
    ) -> None:
        super().__init__(bundle, session, variant, config)
        self.encoder = encoder

    @classmethod
    def _from_bundle(
        cls,
        bundle: Bundle,
        device: str,
        precision: str,
        threads: int | None,
        background: BackgroundTask[Any] | None = None,
    ) -> Self:
        if bundle.task and bundle.task not in cls.tasks:
            raise TaskError(
                f"{bundle.path} was exported for {bundle.task}; {cls.__name__} needs an encoder-decoder. "
                "Export the checkpoint with a task that has this head"
            )
        variant, [encoder, decoder] = open_model(
            bundle,
            precision,
            cls.output_names,
            device=device,
            threads=threads,
            roles=("encoder", "decoder"),
            background=background,
        )
        with bundle.held():
            return cls(bundle, decoder, variant, ModelConfig.load(bundle.path), encoder)

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        decoder_input_ids: ArrayLike | None = None,
        **inputs: ArrayLike,
    ) -> ModelOutput:
        """Read `input_ids` (batch, source) with the encoder and `decoder_input_ids` (batch, sequence) with the decoder.

        The outputs are `logits` of every decoder position, `past_key_values`, and `encoder_last_hidden_state`
        (batch, source, hidden). Raises as `AutoModel` does.
        """
        if input_ids is None or decoder_input_ids is None:
            raise InputError("an encoder-decoder reads input_ids and decoder_input_ids; to get an answer, use generate")
        ids = self._integers("input_ids", input_ids).astype(np.int64)
        self._check_ids(ids)
        mask = np.ones_like(ids) if attention_mask is None else self._integers("attention_mask", attention_mask)
        first = self._integers("decoder_input_ids", decoder_input_ids).astype(np.int64)
        self._check_ids(first)
        state = _Seq2SeqState(self, ids, mask.astype(np.int64))
        logits, cache = self.decoder.run({**state.feeds, "input_ids": first}, state.cache)
        states = state.feeds["encoder_hidden_states"].numpy()
        return self.output_class({"logits": logits, "past_key_values": cache, "encoder_last_hidden_state": states})  # type: ignore[dict-item]

    def _begin(self, ids: Array, mask: Array, config: GenerationConfig, start: ArrayLike | None) -> tuple[State, Array]:
        token = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
        if token is None:
            raise InputError("the model names neither decoder_start_token_id nor bos_token_id; pass one of them")
        first = np.full((len(ids), 1), token)
        if start is not None:
            given = self._integers("decoder_input_ids", start)
            self._check_ids(given)
            first = np.concatenate([first, given], axis=1) if (given[:, 0] != token).all() else given
        return _Seq2SeqState(self, ids, mask), first.astype(np.int64)


class _CausalState:
    """A decoder-only model in the middle of a text."""

    def __init__(self, model: AutoModelForCausalLM, mask: Array) -> None:
        self._model = model
        self._decoder = model.decoder
        self._mask = mask
        self._cache: Cache | None = None

    def read(self, ids: Array) -> Array:
        if self._cache is not None:
            self._mask = np.concatenate([self._mask, np.ones_like(ids)], axis=1)
        self._model._check_position(self._mask.shape[1])
        logits, self._cache = self._decoder.run(_with_positions(ids, self._mask), self._cache)
        return logits[:, -1].astype(np.float32)

    def repeat(self, times: int) -> None:
        assert self._cache is not None
        self._mask = self._mask.repeat(times, 0)
        self._cache = self._cache.repeat(self._decoder.session, times)

    def reorder(self, rows: Array) -> None:
        assert self._cache is not None
        # Beams of one text share its mask.
        self._cache = self._cache.reorder(self._decoder.session, rows)


class _Seq2SeqState:
    """An encoder-decoder whose encoder has read the source."""

    def __init__(self, model: AutoModelForSeq2SeqLM, ids: Array, mask: Array) -> None:
        self._model = model
        self._decoder = model.decoder
        names = {tensor.name for tensor in model.encoder.inputs}
        feeds = {name: array for name, array in (("input_ids", ids), ("attention_mask", mask)) if name in names}
        encoded = [tensor.name for tensor in model.encoder.outputs if tensor.name.startswith("present.")]
        _, (states, *values) = model.encoder.run_values(feeds, [], ["last_hidden_state", *encoded])
        self.feeds: dict[str, Any] = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        self.cache = self._decoder.begin(len(ids), dict(zip(encoded, values, strict=True)))

    def read(self, ids: Array) -> Array:
        self._model._check_position(ids.shape[1] + (0 if self.cache is None else len(self.cache)))
        logits, self.cache = self._decoder.run({**self.feeds, "input_ids": ids}, self.cache)
        return logits[:, -1].astype(np.float32)

    def repeat(self, times: int) -> None:
        assert self.cache is not None
        session = self._decoder.session
        states = session.value(self.feeds["encoder_hidden_states"].numpy().repeat(times, 0))
        mask = self.feeds["encoder_attention_mask"].repeat(times, 0)
        self.feeds = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        self.cache = self.cache.repeat(session, times)

    def reorder(self, rows: Array) -> None:
        assert self.cache is not None
        self.cache = self.cache.reorder(self._decoder.session, rows)


def _with_positions(ids: Array, mask: Array) -> dict[str, Any]:
    """The decoder's inputs for the last tokens of a text, whose mask (rows, length) covers all of it."""
    positions = np.where(mask, mask.cumsum(-1) - 1, 1)[:, -ids.shape[1] :]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": np.ascontiguousarray(positions)}


def _mask_of_padding(ids: Array, config: GenerationConfig) -> Array:
    """The mask that ids without one have: padding is not text, unless it may just as well be the end of one."""
    pad = config.pad_token_id
    if pad is None or pad in config.eos_tokens():
        return np.ones_like(ids)
    return np.asarray(ids != pad, dtype=np.int64)
