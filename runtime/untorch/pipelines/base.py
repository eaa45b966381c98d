"""What every pipeline shares: one text, many or a stream in; batches through the model; answers in order out."""

from __future__ import annotations

import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from untorch import batching
from untorch.bundle.arguments import Rule
from untorch.errors import InputError, TaskError
from untorch.model.base import AutoModel
from untorch.ort.devices import Device
from untorch.pipelines import inputs as given_inputs
from untorch.pipelines.compatibility import LOADING
from untorch.pipelines.parameters import Parameters
from untorch.pipelines.rows import Rows
from untorch.values import count, read, size

if TYPE_CHECKING:
    from untorch.tokenizer import Tokenizer

P = TypeVar("P", bound=Parameters)

# Names that every call takes besides the task's own.
_OF_EVERY_CALL = ("batch_size", "num_workers")


class Pipeline(Rows, ABC, Generic[P]):
    """A task: preprocess, forward, postprocess. Call it with one input, several, or a stream of them.

    One input gives one answer; a list, tuple, array or Series gives a list of answers in the same order; a generator,
    any other iterator, or a dataset gives a generator. Arguments given to the constructor are defaults for every call.

    A stream is read ahead by at most 1,024 inputs in a thread of its own, so that what has arrived is answered while
    its source waits. With `num_workers=0` it is read in the calling thread, `batch_size` inputs (default one) at a
    time: for a source that knows its thread, such as a cursor of sqlite3.

    A pipeline can be pickled and copied: what is sent is how it was loaded, and it is loaded again there.
    """

    model_class: ClassVar[type[AutoModel]]
    # The arguments of a call.
    parameters_class: type[P]
    # transformers' names that change nothing here or are refused.
    rules: ClassVar[Mapping[str, Rule]] = {}
    default_task: ClassVar[str]
    # The name of the first argument of a call, as in transformers.
    input_names: ClassVar[tuple[str, ...]] = ("inputs",)
    # Whether many inputs may be answered in windows side by side, where the device gains by it.
    overlapping: ClassVar[bool] = True
    # How many inputs of a stream are tokenized, sorted and answered together, at most.
    stream_window: ClassVar[int] = 1024
    # The fields of one input, as a file's columns name them; an input with the first alone is that text itself.
    input_fields: ClassVar[tuple[str, ...]] = ("text",)
    # How `pipeline(…)` was called for this, so that another process can do the same.
    origin: Callable[[], Pipeline[Any]] | None = None

    def __init__(
        self,
        model: AutoModel,
        tokenizer: Tokenizer | None = None,
        *,
        task: str = "",
        device: Any = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **defaults: Any,
    ) -> None:
        self.task = task or self.default_task
        self._require_head(model, self.task)
        if device is not None:
            from untorch.pipelines.arguments import require_own

            require_own(model, device, "auto", None, None)
        for name in LOADING.keys() & defaults.keys():
            LOADING[name].check(name, defaults.pop(name), self.task)
        self.model = model
        self.tokenizer = _own_tokenizer(model) if tokenizer is None else tokenizer
        self._batch_size = None if batch_size is None else read(count, "batch_size", batch_size)
        self._num_workers = None if num_workers is None else read(size, "num_workers", num_workers)
        # A GPU leaves the processor's cores free for the steps before and after the model.
        self._overlaps = self.overlapping and self.device.is_gpu
        # The tokenizer takes all cores, so where windows are answered side by side, they take turns.
        self._turn = threading.Lock() if self._overlaps else nullcontext()
        self._given = {"batch_size": batch_size, "num_workers": num_workers, **defaults}
        self._defaults: dict[str, Any] = {}
        self._defaults = self._merged(defaults)
        self._default_parameters = self._read(self._defaults)

    @property
    def device(self) -> Device:
        """Where the model runs: `cpu`, `cuda:N` or `openvino`. Its `reason` says why it was taken."""
        return self.model.device

    def warmup(self) -> None:
        """Do now what the first calls would: allocate, and on a GPU capture the CUDA graphs of small batches."""
        self.model.warmup()

    @property
    def precision(self) -> str:
        """The variant in use: `fp32`, `int8` and so on."""
        return self.model.precision

    def __call__(
        self,
        inputs: Any = ...,
        *more: Any,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **arguments: Any,
    ) -> Any:
        """Answer one input, several, or a stream.

        `batch_size` fixes the rows of a batch (default: by tokens); `num_workers=0` reads a stream in the calling
        thread. See the class for the task's own arguments. Raises InputError for inputs and arguments that the task
        does not take, SequenceTooLongError for a text over the model's limit.
        """
        if more:
            raise InputError(f"{self.task} takes one input or a list of them; got {1 + len(more)} positional arguments")
        if inputs is ...:
            inputs = self._named_inputs(arguments)
        parameters = self._read(self._merged(arguments)) if arguments else self._default_parameters
        batch_size = self._batch_size if batch_size is None else read(count, "batch_size", batch_size)
        if isinstance(inputs, str):
            return self._alone(inputs, self._answers([inputs], batch_size, parameters)[0], arguments)
        kind, given = self._sort(inputs, parameters)
        if kind == "several":
            return self._together(self._each(given, batch_size, parameters))
        if kind == "one":
            return self._alone(given, self._answers([given], batch_size, parameters)[0], arguments)
        workers = self._num_workers if num_workers is None else read(size, "num_workers", num_workers)
        return self._stream(given, batch_size, parameters, read_ahead=workers != 0)

    def each(
        self, items: Sequence[Any], *, batch_size: int | None = None, alone: bool = False, **arguments: Any
    ) -> list[Any]:
        """The answers to some inputs, one for each and in order, whatever form the task gives to a list's answers.

        With `alone`, each in the form that it would have if its input had been the only one.
        """
        parameters = self._read(self._merged(arguments)) if arguments else self._default_parameters
        batch_size = self._batch_size if batch_size is None else read(count, "batch_size", batch_size)
        items = [self._item(item) for item in items]
        answers = self._each(items, batch_size, parameters)
        if not alone:
            return answers
        return [self._alone(item, answer, arguments) for item, answer in zip(items, answers, strict=True)]

    def predict(self, X: Any) -> Any:  # noqa: N803  # scikit-learn's name
        """The same as a call: scikit-learn's name for it, as transformers has it."""
        return self(X)

    def transform(self, X: Any) -> Any:  # noqa: N803
        """The same as a call: scikit-learn's name for it, as transformers has it."""
        return self(X)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Copy the bundle that the pipeline runs into a folder, made if need be; `pipeline(task, folder)` reads it.

        Raises InputError where the folder is a file, is not empty, or where the tokenizer is not the bundle's own: save
        that with its own `save_pretrained`.
        """
        folder, bundle = Path(save_directory), self.model.bundle
        if Path(self.tokenizer.name_or_path).resolve() != bundle.path.resolve():
            raise InputError(
                f"the tokenizer comes from {self.tokenizer.name_or_path}, not from the bundle, whose files are saved "
                "as they are; save it beside: pipeline.tokenizer.save_pretrained(…)"
            )
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise InputError(f"{folder} is {'a file' if folder.is_file() else 'not empty'}; name a new or empty folder")
        with bundle.held():
            shutil.copytree(bundle.path, folder, dirs_exist_ok=True)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is not None:
            return self.origin, ()
        return partial(type(self), task=self.task, **self._given), (self.model, self.tokenizer)

    @classmethod
    def arguments(cls) -> list[str]:
        """The names of a call's arguments."""
        return [*cls.input_names, *cls.parameters_class.declared, *_OF_EVERY_CALL]

    @classmethod
    def from_words(cls, words: list[str]) -> list[Any]:
        """The inputs that the words of a command line stand for: each is one, unless the task says otherwise."""
        return list(words)

    @classmethod
    def _require_head(cls, model: AutoModel, task: str) -> None:
        """Raise TaskError for a model that has not the task's head."""
        wanted, task = cls.model_class, task or cls.default_task
        if not isinstance(model, AutoModel):
            raise TaskError(
                f"{task} needs an {wanted.__name__}, and the model given is {type(model).__name__}. A model of "
                "transformers is exported first: untorch export CHECKPOINT -o BUNDLE"
            )
        if not isinstance(model, wanted) or model.output_names != wanted.output_names:
            raise TaskError(
                f"{task} needs {wanted.head} ({wanted.__name__}); the model given is {type(model).__name__}, "
                f"with {type(model).head}"
            )

    def _named_inputs(self, arguments: dict[str, Any]) -> Any:
        """The inputs of a call that names them."""
        for name in (*self.input_names, "inputs"):
            if name in arguments:
                return arguments.pop(name)
        raise InputError(f"{self.task} was given nothing to answer; pass it first, or as {self.input_names[0]}=…")

    def _sort(self, inputs: Any, parameters: P) -> tuple[given_inputs.Kind, Any]:  # noqa: ARG002  # for tasks that ask
        """Whether the inputs are one, several or a stream, and the inputs."""
        return given_inputs.sort(inputs)

    def _item(self, item: Any) -> Any:
        """One input in the form that `_answers` takes."""
        return item

    def _alone(self, item: Any, answer: Any, arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002  # for tasks that ask
        """The answer to one input that did not come in a list."""
        return answer

    def _together(self, answers: list[Any]) -> Any:
        """The answer to several inputs."""
        return answers

    def _merged(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments and, over them, a call's. Raises InputError for names the task does not know."""
        if twice := sorted(arguments.keys() & {*self.input_names, "inputs"}):
            raise InputError(
                f"{self.task} was given {' and '.join(twice)} besides its inputs; the first argument is one"
            )
        given = self.parameters_class.named(arguments, self.rules, self.task, (*self.input_names, *_OF_EVERY_CALL))
        return {**self._defaults, **given}

    def _read(self, arguments: Mapping[str, Any]) -> P:
        return self._settled(self.parameters_class.read(arguments, self.task))

    def _settled(self, parameters: P) -> P:
        """The parameters with what follows from the model and the tokenizer filled in. Raises InputError."""
        return parameters

    @abstractmethod
    def _answers(self, items: list[Any], batch_size: int | None, parameters: P) -> list[Any]:
        """One answer for each item, in order."""

    def _each(self, items: list[Any], batch_size: int | None, parameters: P) -> list[Any]:
        """The same, in windows side by side where the device gains by it and there is more than one."""
        if self._overlaps:
            # Imported here: a start on the CPU should not pay for it.
            from untorch.pipelines import overlap

            if len(items) > overlap.WINDOW:
                try:
                    return overlap.answered(lambda window: self._answers(window, batch_size, parameters), items)
                except InputError:
                    pass  # a window does not know which of all the inputs is at fault: below it is raised again, or not
        return self._answers(items, batch_size, parameters)

    def _stream(
        self, inputs: Iterator[Any], batch_size: int | None, parameters: P, *, read_ahead: bool
    ) -> Iterator[Any]:
        # Imported here: a call with a list should not pay for it.
        from untorch.pipelines import streams

        def answer(window: list[Any]) -> list[Any]:
            return self._answers(window, batch_size, parameters) if window else []

        if not read_ahead:
            yield from chain.from_iterable(map(answer, batching.windows(inputs, batch_size or 1)))
        elif self._overlaps:
            from untorch.pipelines import overlap

            yield from chain.from_iterable(overlap.streamed(answer, streams.arrived(inputs, overlap.CHUNK)))
        else:
            yield from chain.from_iterable(map(answer, streams.arrived(inputs, self.stream_window)))


def _own_tokenizer(model: AutoModel) -> Tokenizer:
    """The tokenizer of a model's own bundle."""
    from untorch.tokenizer import Tokenizer

    return Tokenizer.from_bundle(model.bundle)
