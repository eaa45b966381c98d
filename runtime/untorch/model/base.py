"""Names to arrays to outputs. Checks ranks, dtypes, lengths and ids before ONNX Runtime can fail obscurely."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from untorch.background import BackgroundTask
from untorch.batching import MAX_TOKENS
from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.bundle.manifest import PACKED, Variant
from untorch.errors import FormatError, InputError, SequenceTooLongError, TaskError
from untorch.loading.plans import Plan, remembered
from untorch.loading.sessions import open_model, open_session
from untorch.model.outputs import BaseModelOutput, ModelOutput
from untorch.ort.cuda import packing
from untorch.ort.providers import resolve_device
from untorch.ort.session import Session

Array = NDArray[Any]


class AutoModel:
    """A bundle's model without its head: token states.

    Subclasses name the head they read. Build one with `from_pretrained`.
    """

    output_names: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    output_class: ClassVar[type[ModelOutput]] = BaseModelOutput
    head: ClassVar[str] = "token states"
    # Tasks whose bundles have this head; empty where any bundle may. Heads share output names, so names do not tell.
    tasks: ClassVar[tuple[str, ...]] = ()
    # Axes of input_ids and of the outputs: (batch, sequence) and, for token states, (batch, sequence, hidden).
    input_rank: ClassVar[int] = 2
    output_rank: ClassVar[int] = 3
    # How many leading axes the outputs share with input_ids.
    shared_axes: ClassVar[int] = 2

    def __init__(self, bundle: Bundle, session: Session, variant: Variant, config: ModelConfig) -> None:
        self.bundle = bundle
        self.session = session
        # The same model without padding in its layers, for batches that have much of it; on a card only.
        self.packed: Session | None = None
        self.precision = variant.precision
        self.config = config
        # How batches share the cores, where `untorch tune` has found it out.
        self.plan: Plan | None = None
        self.input_names = tuple(tensor.name for tensor in session.inputs)

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: str = "auto",
        revision: str | None = None,
        threads: int | None = None,
    ) -> Self:
        """Load a bundle: a folder, an installed model package's name, or a Hub id.

        `precision="auto"` takes int8 on the CPU and fp16 on a card where its parity gate was passed, else fp32; before
        int8 int8_kernels, where untorch-kernels is installed and the faster choice for the processor. Where
        `untorch tune` has remembered a plan and nothing here asks for something else, the plan is taken. Digests are
        compared with the manifest's while ONNX Runtime opens the graph. Raises BundleError, TaskError (the bundle has
        no such head) or DeviceError.
        """
        from untorch.bundle.hub import resolve

        return cls.from_bundle(
            Bundle(resolve(checkpoint, revision=revision, precision=precision, device=device)),
            device=device,
            precision=precision,
            threads=threads,
        )

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, *, device: str = "auto", precision: str = "auto", threads: int | None = None
    ) -> Self:
        """Load an opened bundle; see `from_pretrained`."""
        return cls._from_bundle(bundle, device, precision, threads)

    @classmethod
    def _from_bundle(
        cls,
        bundle: Bundle,
        device: str,
        precision: str,
        threads: int | None,
        background: BackgroundTask[Any] | None = None,
    ) -> Self:
        """The same for a caller that has something to go on `background`, which begins when that gains something."""
        untold = (device, precision, threads) == ("auto", "auto", None)
        plan = remembered(bundle, cls.output_names) if untold else None
        if plan is not None and plan.device not in ("cpu", "openvino", resolve_device("auto")):
            plan = None  # the card that it was made on is not here today
        if plan is not None:
            device, precision, threads = plan.device, plan.precision, plan.threads
        variant, [session] = open_model(
            bundle, precision, cls.output_names, device=device, threads=threads, background=background
        )
        outputs = {tensor.name: len(tensor.axes) for tensor in session.outputs}
        other_task = cls.tasks and bundle.task and bundle.task not in cls.tasks
        if other_task or any(outputs.get(name) != cls.output_rank for name in cls.output_names):
            raise TaskError(
                f"{bundle.path} {f'was exported for {bundle.task} and ' if bundle.task else ''}gives "
                f"{', '.join(outputs)}; {cls.__name__} needs {cls.head} ({', '.join(cls.output_names)}). "
                "Export the checkpoint with a task that has this head"
            )
        strange = [f"{tensor.name}: {tensor.dtype}" for tensor in session.inputs if "(" in tensor.dtype]
        if strange or all(tensor.name != "input_ids" for tensor in session.inputs):
            raise FormatError(
                f"{bundle.path}: the graph takes {', '.join(strange) or 'no input_ids'}; it reads no tokens"
            )
        packed = None
        if variant.precision.endswith(PACKED):
            plain = bundle.variant(variant.precision.removesuffix(PACKED))
            role = plain.role_for(cls.output_names, session.device)
            packed, session = session, open_session(bundle, plain, role, device=session.device, threads=threads)
        with bundle.held():
            config = ModelConfig.load(bundle.path)
            model = cls(bundle, session, variant, config)
        model.packed, model.plan = packed, plan
        session.capture(config.max_sequence_length, {"input_ids": config.get("pad_token_id") or 0})
        return model

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:N` or `openvino`. Its `reason` says why it was taken."""
        return self.session.device

    def warmup(self) -> None:
        """Do now what the first calls would: allocate, and on a card capture the CUDA graphs of small batches."""
        self.session.warmup(self.output_names)

    @property
    def callers(self) -> int:
        """How many batches are best run at once: on a CPU one for two threads, on a card one after the other.

        More of them would take the cores from each other's threads, which stay awake between two operators.
        """
        if self.plan is not None:
            return self.plan.callers
        return max(1, self.session.threads // 2) if self.device == "cpu" else 1

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of a batch, padding counted, where no batch size is given."""
        if self.plan is not None:
            return self.plan.max_tokens
        return MAX_TOKENS[self.device.partition(":")[0]]

    @property
    def max_sequence_length(self) -> int | None:
        """Most tokens a row may have; None if there is no limit."""
        return self.config.max_sequence_length

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        **inputs: ArrayLike,
    ) -> ModelOutput:
        """Run a batch: `input_ids` (batch, sequence), masks of the same shape. Returns this head's named outputs.

        Left out, the attention mask is ones and the token types zeros. Inputs that the graph does not have are
        ignored. Raises InputError for a missing batch axis, ragged rows, wrong dtypes or shapes and ids outside the
        vocabulary, SequenceTooLongError for rows over the model's limit.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids, **inputs}
        feeds = self._check({name: value for name, value in given.items() if value is not None})
        return self.output_class(zip(self.output_names, AutoModel.forward(self, feeds), strict=True))

    def forward(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run arrays that are known to be good, in the graph's own dtypes; this head's outputs in order.

        Raises FormatError for outputs that are not an answer for each row, whatever the graph declared.
        """
        session = self.session
        if self.packed is not None and packing.pays(feeds[packing.MASK]):
            session, feeds = self.packed, packing.feeds(self.packed.inputs, feeds)
        # A run drives everything else out of the processor's caches, so that little should be looked up after it.
        rank, shared = self.output_rank, feeds["input_ids"].shape[: self.shared_axes]
        outputs = session.run(feeds, self.output_names)
        for output in outputs:
            shape = output.shape
            if len(shape) != rank or shape[: len(shared)] != shared:
                name = next(name for name, given in zip(self.output_names, outputs, strict=True) if given is output)
                raise FormatError(
                    f"{self.bundle.path}: the graph gave {name} of shape {shape} "
                    f"for input_ids of shape {feeds['input_ids'].shape}"
                )
        return outputs

    def check_length(self, length: int, what: str = "the sequence") -> None:
        """Raise SequenceTooLongError if a row of `length` tokens does not fit."""
        limit = self.max_sequence_length
        if limit is not None and length > limit:
            raise SequenceTooLongError(
                f"{what} has {length} tokens and the model takes at most {limit}. Cut it with truncation=True, "
                "or split it into windows (return_overflowing_tokens=True with a stride)"
            )

    def _check(self, given: Mapping[str, ArrayLike]) -> dict[str, Array]:
        if "input_ids" not in given:
            raise InputError("input_ids are missing; pass the tokenizer's output: model(**tokenizer(texts, …))")
        ids = self._integers("input_ids", given["input_ids"])
        self._check_ids(ids)
        feeds = {}
        for tensor in self.session.inputs:
            name = tensor.name
            if name in given:
                array = ids if name == "input_ids" else self._integers(name, given[name])
                if array.shape != ids.shape:
                    raise InputError(f"{name} has shape {array.shape} and input_ids {ids.shape}; they must be equal")
            elif name == "attention_mask":
                self._warn_of_padding(ids)
                array = np.ones_like(ids)
            elif name == "token_type_ids":
                array = np.zeros_like(ids)
            elif name == "position_ids":
                array = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)
            else:
                raise InputError(f"the graph wants {name} {list(tensor.axes)}, which was not given")
            feeds[name] = np.ascontiguousarray(array, dtype=tensor.dtype)
        return feeds

    def _integers(self, name: str, value: ArrayLike) -> Array:
        try:
            array = np.asarray(value)
        except ValueError:
            raise InputError(
                f"{name} is ragged: its rows have different lengths. Pad them: "
                "tokenizer(texts, padding=True) or tokenizer.pad(…)"
            ) from None
        if array.ndim == self.input_rank - 1 and array.dtype.kind in "iu":
            raise InputError(
                f"{name} has shape {array.shape}: the batch axis is missing. Pass a batch of one: model([ids])"
            )
        if array.dtype.kind not in "iub":
            if array.size == 0:
                raise InputError(f"{name} has shape {array.shape}: there is no token in it to run")
            raise InputError(f"{name} holds {array.dtype}, not whole numbers; pass the tokenizer's ids, not its tokens")
        if array.ndim != self.input_rank:
            raise InputError(f"{name} has {array.ndim} axes {array.shape}; the model takes {self.input_rank}")
        return array

    def _check_ids(self, ids: Array) -> None:
        if ids.size == 0:
            raise InputError(f"input_ids has shape {ids.shape}: there is no token in it to run")
        self.check_length(ids.shape[-1])
        size = self.config.get("vocab_size")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or (size is not None and high >= size):
            raise InputError(
                f"input_ids holds {low if low < 0 else high}, outside the model's vocabulary of {size} tokens. "
                "Is this the model's own tokenizer?"
            )

    def _warn_of_padding(self, ids: Array) -> None:
        pad = self.config.get("pad_token_id")
        if pad is not None and (ids[..., -1] == pad).any():
            warnings.warn(
                f"no attention_mask was given and there are padding ids ({pad}) in input_ids: padding counts as text "
                "and changes the answer. Pass attention_mask",
                stacklevel=4,
            )
