"""Names to arrays to outputs: the base of all model classes, and the road by which each of them is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from untorch.batching import MAX_TOKENS
from untorch.bundle import arguments as loading
from untorch.bundle.config import ModelConfig
from untorch.bundle.folder import Bundle
from untorch.errors import FormatError, InputError, SequenceTooLongError, TaskError
from untorch.loading.choice import LoadRequest
from untorch.loading.plans import Plan
from untorch.loading.sessions import OpenModel, open_model
from untorch.model import inputs as arguments
from untorch.model.outputs import BaseModelOutput, ModelOutput
from untorch.numerics import Array, Tensor
from untorch.ort.cuda import packing
from untorch.ort.devices import Device
from untorch.ort.session import Session

# What `from_pretrained` takes of its own, besides where files come from.
_OWN = ("device", "precision", "threads")

# Optimum's arguments that name a graph file, by the role that it plays.
_FILE_NAMES = {"model": "file_name", "encoder": "encoder_file_name", "decoder": "decoder_file_name"}

# What others call an output: Optimum's export of a sentence-transformers checkpoint.
_OTHER_NAMES = {"last_hidden_state": "token_embeddings"}


class AutoModel:
    """A bundle's model without its head: token states.

    Subclasses name the head they read. Build one with `from_pretrained`.
    """

    output_names: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    output_class: ClassVar[type[ModelOutput]] = BaseModelOutput
    head: ClassVar[str] = "token states"
    # Tasks whose bundles have this head; empty where any bundle may. Heads share output names, so names do not tell.
    tasks: ClassVar[tuple[str, ...]] = ()
    # Roles of the graphs that are opened; empty: the one graph that gives the outputs.
    roles: ClassVar[tuple[str, ...]] = ()
    # Axes of input_ids and of the outputs: (batch, sequence) and, for token states, (batch, sequence, hidden).
    input_rank: ClassVar[int] = 2
    output_rank: ClassVar[int] = 3
    # How many leading axes the outputs share with input_ids.
    shared_axes: ClassVar[int] = 2

    def __init__(self, bundle: Bundle, opened: OpenModel, config: ModelConfig) -> None:
        self.bundle = bundle
        # The graph that gives the outputs; an encoder's comes before it.
        self.session = opened.sessions[-1]
        # The same model without padding in its layers, for batches that have much of it; on a GPU only.
        self.packed: Session | None = opened.packed
        self.precision = opened.variant.precision
        # Whether an answer depends on the rows beside it; rows run one by one then, unless a caller asks for batches.
        self.batch_ranges = opened.variant.batch_ranges
        self.config = config
        # How batches share the cores, where `untorch tune` has found it out.
        self.plan: Plan | None = opened.plan
        self.input_names = tuple(tensor.name for tensor in self.session.inputs)
        # This head's outputs by the graph's own names.
        self.graph_names = _graph_names(self.output_names, self.session.outputs)
        # What a copy, or a process that unpickles the model, asks for when it loads the bundle.
        self._request = LoadRequest()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        device: Any = "auto",
        precision: str = "auto",
        threads: int | None = None,
        **others: Any,
    ) -> Self:
        """Load a bundle: a folder, an installed model package's name, or a Hub id.

        `device` is `auto` (or None), `cpu` (or -1), `cuda`, `cuda:N` (or N), `openvino`, or a torch.device.
        `precision="auto"` takes int8 on the CPU and fp16 on a GPU where its parity gate was passed, else fp32; before
        int8 int8_kernels, where untorch-kernels is installed and the faster choice for the processor. Where
        `untorch tune` has remembered a plan and nothing here asks for something else, the plan is taken. Digests are
        compared with the manifest's while ONNX Runtime opens the graph.

        `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only` and `force_download` say where files come
        from, as in transformers. In a folder without a manifest, `file_name` names the graph file where it is called
        something else than model.onnx; `encoder_file_name` and `decoder_file_name` do for an encoder-decoder, as in
        Optimum. Of transformers' other arguments, those that change nothing here are accepted
        (`trust_remote_code`, `use_safetensors`, `attn_implementation`, …), and those that would are refused by name
        (`torch_dtype`, `device_map`, …). Raises BundleError, TaskError (the bundle has no such head), DeviceError, or
        InputError for an argument that is not taken.
        """
        from untorch.bundle.hub import open_bundle

        source = loading.take_source(others)
        named = {role: _FILE_NAMES[role] for role in cls.roles or ("model",)}
        graphs = {role: name for role, argument in named.items() if (name := others.pop(argument, None)) is not None}
        own = (*_OWN, *named.values())
        loading.refuse_others(others, loading.MODEL, own, f"{cls.__name__}.from_pretrained")
        request = LoadRequest(device, precision, threads)
        bundle = open_bundle(pretrained_model_name_or_path, select=request.files, graphs=graphs, **source)
        return cls.load(bundle, request)

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, *, device: Any = "auto", precision: str = "auto", threads: int | None = None
    ) -> Self:
        """Load an opened bundle; see `from_pretrained`."""
        return cls.load(bundle, LoadRequest(device, precision, threads))

    @classmethod
    def load(cls, bundle: Bundle, request: LoadRequest) -> Self:
        """Load an opened bundle as a request says; see `from_pretrained`."""
        other_task = cls.tasks and bundle.task and bundle.task not in cls.tasks
        if other_task:
            raise cls._wrong_head(bundle, ())
        opened = open_model(bundle, request, cls.output_names, cls.roles)
        session = opened.sessions[-1]
        axes = {tensor.name: len(tensor.axes) for tensor in session.outputs}
        if any(axes.get(name) != cls.output_rank for name in _graph_names(cls.output_names, session.outputs)):
            raise cls._wrong_head(bundle, session.outputs)
        strange = [f"{tensor.name}: {tensor.dtype}" for tensor in session.inputs if "(" in tensor.dtype]
        if strange or all(tensor.name != "input_ids" for tensor in session.inputs):
            raise FormatError(
                f"{bundle.path}: the graph takes {', '.join(strange) or 'no input_ids'}; it reads no tokens"
            )
        with bundle.held():
            model = cls(bundle, opened, ModelConfig.load(bundle.path))
        model._request = replace(request, background=None)
        session.capture(model.max_sequence_length, {"input_ids": model.config.get("pad_token_id") or 0})
        return model

    @classmethod
    def _wrong_head(cls, bundle: Bundle, outputs: tuple[Tensor, ...]) -> TaskError:
        facts = [f"was exported for {bundle.task}"] if bundle.task else []
        facts += [f"gives {', '.join(tensor.name for tensor in outputs)}"] if outputs else []
        return TaskError(
            f"{bundle.path} {' and '.join(facts)}; {cls.__name__} needs {cls.head} ({', '.join(cls.output_names)}). "
            "Export the checkpoint with a task that has this head"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or what another process unpickles, is loaded from where this one came from.
        return _load_again, (type(self), self.bundle.reopen, self._request)

    @property
    def device(self) -> Device:
        """Where the model runs: `cpu`, `cuda:N` or `openvino`. Its `reason` says why it was taken."""
        return self.session.device

    def warmup(self) -> None:
        """Do now what the first calls would: allocate, and on a GPU capture the CUDA graphs of small batches."""
        self.session.warmup(self.graph_names)

    @property
    def callers(self) -> int:
        """How many batches are best run at once: on a CPU one for every two threads, on a GPU one after the other.

        More of them would take the cores from each other's threads, which stay awake between two operators.
        """
        if self.plan is not None:
            return self.plan.callers
        return max(1, self.session.threads // 2) if self.device.is_cpu else 1

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of a batch, padding counted, where no batch size is given."""
        if self.plan is not None:
            return self.plan.max_tokens
        return MAX_TOKENS[self.device.kind]

    @property
    def max_sequence_length(self) -> int | None:
        """Most tokens a row may have; None if there is no limit."""
        return self.config.max_sequence_length

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        **inputs: Any,
    ) -> ModelOutput:
        """Run a batch: `input_ids` (batch, sequence), masks of the same shape. Returns this head's named outputs.

        Left out, the attention mask is ones and the token types zeros. `inputs` are the graph's other inputs
        (`position_ids`, …), and what a tokenizer returns besides, which is not read. `return_dict=False` gives a plain
        tuple. Raises InputError for any other argument, by name, and for a missing batch axis, ragged rows, wrong
        dtypes or shapes and ids outside the vocabulary; SequenceTooLongError for rows over the model's limit.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids, **inputs}
        arguments.refuse_unknown(type(self).__name__, inputs, self.input_names)
        feeds = self._feeds({name: value for name, value in given.items() if value is not None})
        apart = self.batch_ranges and len(feeds["input_ids"]) > 1
        arrays = self._apart(feeds) if apart else AutoModel.forward(self, feeds)
        return as_asked(self.output_class(zip(self.output_names, arrays, strict=True)), inputs)

    def forward(self, feeds: Mapping[str, Array], also: tuple[str, ...] = ()) -> list[Array]:
        """Run arrays that are known to be good, in the graph's own dtypes; this head's outputs in order.

        After them come those that the graph gives `also`. Raises FormatError for outputs of the head that are not an
        answer for each row, whatever the graph declared.
        """
        session = self.session
        if self.packed is not None and packing.pays(feeds[packing.MASK]):
            session, feeds = self.packed, packing.feeds(self.packed.inputs, feeds)
        # A run drives everything else out of the processor's caches, so that little should be looked up after it.
        rank, shared = self.output_rank, feeds["input_ids"].shape[: self.shared_axes]
        outputs = session.run(feeds, self.graph_names + also)
        for name, output in zip(self.graph_names, outputs, strict=False):
            shape = output.shape
            if len(shape) != rank or shape[: len(shared)] != shared:
                raise FormatError(
                    f"{self.bundle.path}: the graph gave {name} of shape {shape} "
                    f"for input_ids of shape {feeds['input_ids'].shape}"
                )
        return outputs

    def _apart(self, feeds: Mapping[str, Array]) -> list[Array]:
        """This head's outputs of rows that run one by one, each without the padding behind it, where they are 0."""
        count, width = feeds["input_ids"].shape[:2]
        mask = feeds.get("attention_mask")
        found: list[list[Array]] = []
        for row in range(count):
            cut = width
            if self.input_rank == 2 and mask is not None and mask[row].any():
                cut = int(np.flatnonzero(mask[row])[-1]) + 1
            outputs = AutoModel.forward(self, {name: feed[row : row + 1, :cut] for name, feed in feeds.items()})
            if self.shared_axes == 2 and cut < width:
                outputs = [np.pad(one, [(0, 0), (0, width - cut)] + [(0, 0)] * (one.ndim - 2)) for one in outputs]
            found.append(outputs)
        return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]

    def check_length(self, length: int, what: str = "the sequence") -> None:
        """Raise SequenceTooLongError if a row of `length` tokens does not fit."""
        limit = self.max_sequence_length
        if limit is not None and length > limit:
            raise SequenceTooLongError(
                f"{what} has {length} tokens and the model takes at most {limit}. Cut it with truncation=True, "
                "or split it into windows (return_overflowing_tokens=True with a stride)"
            )

    def _feeds(self, given: Mapping[str, Any]) -> dict[str, Array]:
        """The graph's inputs, checked and in its types."""
        ids = self._ids(given.get("input_ids"))
        feeds = {}
        for tensor in self.session.inputs:
            name = tensor.name
            if name == "input_ids":
                array = ids
            elif name == "position_ids" and name in given:
                array = positions(given[name], ids)
            elif name in given:
                array = arguments.same_shape(name, given[name], ids)
            elif name == "attention_mask":
                arguments.warn_of_padding(ids, self.config.get("pad_token_id"), stacklevel=3)
                array = np.ones_like(ids)
            elif name == "token_type_ids":
                array = np.zeros_like(ids)
            elif name == "position_ids":
                array = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)
            else:
                raise InputError(f"the graph wants {name} {list(tensor.axes)}, which was not given")
            feeds[name] = np.ascontiguousarray(array, dtype=tensor.dtype)
        return feeds

    def _ids(self, value: ArrayLike | None, name: str = "input_ids") -> Array:
        """The argument of that name as ids that the model can read. Raises InputError or SequenceTooLongError."""
        ids = arguments.whole_numbers(name, arguments.require_ids(value), self.input_rank)
        arguments.check_ids(ids, self.config.get("vocab_size"))
        self.check_length(ids.shape[-1])
        return ids


def _graph_names(wanted: Sequence[str], outputs: Iterable[Tensor]) -> tuple[str, ...]:
    """The names that a graph has for the outputs `wanted`; where it has none, those are left."""
    given = {tensor.name for tensor in outputs}
    others = {name: other for name, other in _OTHER_NAMES.items() if name not in given and other in given}
    return tuple(others.get(name, name) for name in wanted)


def _load_again(model_class: type[AutoModel], reopen: Callable[[], Bundle], request: LoadRequest) -> AutoModel:
    return model_class.load(reopen(), request)


def positions(value: Any, ids: Array) -> Array:
    """`position_ids` (batch, sequence), of which one row may stand for all, as in transformers."""
    array = arguments.whole_numbers("position_ids", value, ids.ndim)
    if array.shape == (1, *ids.shape[1:]):
        return np.broadcast_to(array, ids.shape)
    return arguments.same_shape("position_ids", array, ids)


def as_asked(outputs: ModelOutput, inputs: Mapping[str, Any]) -> ModelOutput:
    """The outputs, or with `return_dict=False` a tuple of them."""
    if inputs.get("return_dict") is False:
        return outputs.to_tuple()  # type: ignore[return-value]  # as transformers does; typed calls leave it out
    return outputs
