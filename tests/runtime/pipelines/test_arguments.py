"""No argument is swallowed: every name of transformers' either works or is refused by that name."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from transformers import pipelines as theirs

import untorch
from untorch import DeviceError, InputError, TaskError, UntorchError, pipeline
from untorch.pipelines import TASKS, class_of, compatibility
from untorch.pipelines.arguments import READ

BUNDLE = Path(__file__).parents[2] / "data/bundle-v1"

# Names of transformers' methods that are no arguments of a caller's.
_NOT_THE_CALLERS = {"self", "args", "kwargs", "tokenizer_kwargs", "generate_kwargs", "preprocess_parameters"}
_OF_BOTH = [task for task in TASKS if hasattr(theirs, TASKS[task][1])]


@pytest.fixture(scope="module")
def classify():
    return pipeline(None, BUNDLE, precision="fp32", device="cpu", threads=1)


def names_of(*functions):
    """The names of the functions' arguments, without those that collect others."""
    found = {
        name
        for function in functions
        for name, one in inspect.signature(function).parameters.items()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
    return found - _NOT_THE_CALLERS


def their_names(task):
    """Every name that a call of transformers' pipeline takes."""
    kind = getattr(theirs, TASKS[task][1])
    names = names_of(kind.__call__, kind._sanitize_parameters, theirs.base.Pipeline.__call__)
    source = inspect.getsource(kind._sanitize_parameters)
    if "tokenizer_kwargs" in source and "**tokenizer_kwargs" in source:
        names |= names_of(transformers.PreTrainedTokenizerBase.__call__)
    if "generate_kwargs" in source:
        names |= names_of(transformers.GenerationMixin.generate)
    return names


@pytest.mark.parametrize("task", _OF_BOTH)
def test_every_name_of_a_call_is_taken_or_has_a_reason(task):
    kind = class_of(task)
    known = {*kind.arguments(), *kind.rules, "inputs"}
    assert not their_names(task) - known


def test_every_name_of_the_function_is_taken_or_has_a_reason():
    names = names_of(theirs.pipeline, theirs.base.Pipeline.__init__)
    assert not names - {*names_of(pipeline), *READ, *compatibility.LOADING}


@pytest.mark.parametrize("task", TASKS)
def test_a_name_with_a_reason_is_refused_by_name(task):
    for name, rule in class_of(task).rules.items():
        rule.check(name, None, task)
        for value in rule.neutral or ():
            rule.check(name, value, task)
        if rule.neutral is not None:
            with pytest.raises(InputError, match=rf"{task} takes no {name}="):
                rule.check(name, object(), task)


@pytest.mark.parametrize("name", compatibility.LOADING)
def test_what_cannot_be_had_at_loading_is_refused_by_name(classify, name):
    rule = compatibility.LOADING[name]
    for value in (None, *(rule.neutral or ())):
        assert pipeline(None, classify.model, classify.tokenizer, **{name: value}).task == classify.task
    if rule.neutral is None:
        assert pipeline(None, classify.model, classify.tokenizer, **{name: object()}).task == classify.task
        return
    for build in (pipeline, lambda *given, **more: untorch.TextClassificationPipeline(*given[1:], **more)):
        with pytest.raises(InputError, match=f"takes no {name}="):
            build("text-classification", classify.model, classify.tokenizer, **{name: "something"})


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_name_is_answered_with_the_nearest_and_the_list(task):
    kind = class_of(task)
    name = next(iter(kind.parameters_class.declared))
    with pytest.raises(InputError, match=rf"{task} takes no argument {name}x; did you mean {name}\? It takes .*{name}"):
        kind.parameters_class.of({f"{name}x": 1}, kind.rules, task)


class Device:
    """As torch.device shows itself."""

    def __init__(self, type, index=None):
        self.type, self.index = type, index


@pytest.mark.parametrize("device", [None, -1, "cpu", Device("cpu"), Device("cpu", 0), np.int64(-1), "auto"])
def test_the_cpu_in_every_spelling(classify, device):
    assert pipeline(None, BUNDLE, precision="fp32", device=device).device == "cpu"
    assert pipeline(None, classify.model, device=device).device == "cpu"
    assert untorch.AutoModelForSequenceClassification.from_pretrained(BUNDLE, device=device).device == "cpu"


@pytest.mark.parametrize("device", ["tpu", "cuda:99", 99, Device("mps"), Device("cuda", 99), 1.5, object()])
def test_a_device_that_is_not_here_is_refused(classify, device):
    for model in (BUNDLE, classify.model):
        with pytest.raises(UntorchError):
            pipeline(None, model, device=device)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "the model given is in fp32"),
        ({"dtype": "float16"}, "the model given is in fp32"),
        ({"threads": 2}, "loaded already"),
        ({"revision": "main"}, "loaded already"),
        ({"device": "cpu", "device_map": "auto"}, "device or device_map"),
        ({"device_map": "balanced"}, "one device"),
        ({"device_map": {"a": 0, "b": 1}}, "one device"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float16", "precision": "fp32"}, "give one of them"),
        ({"model_kwargs": {"attn_implementation": "eager"}}, "attn_implementation"),
        ({"model_kwargs": {"dtype": "float32"}, "dtype": "float32"}, "given twice"),
        ({"pipeline_class": dict}, "subclass"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_arguments_of_loading_that_contradict_each_other(classify, arguments, message):
    with pytest.raises((InputError, DeviceError), match=message):
        pipeline(None, classify.model, classify.tokenizer, **arguments)


def test_arguments_of_loading_that_do_what_they_do_in_transformers(classify):
    same = {"dtype": np.float32, "device_map": {"": "cpu"}, "model_kwargs": {"token": None}, "framework": "pt"}
    assert pipeline(None, BUNDLE, **same)("hello") == classify("hello")
    assert pipeline(None, BUNDLE, torch_dtype="float32").precision == "fp32"

    class Loud(untorch.TextClassificationPipeline):
        def _alone(self, item, answer, arguments):
            return "loud"

    assert pipeline("text-classification", BUNDLE, pipeline_class=Loud)("hello") == "loud"


def test_a_tokenizer_in_every_form(classify):
    for form in (BUNDLE, str(BUNDLE), (str(BUNDLE), {"use_fast": True}), classify.tokenizer):
        assert pipeline(None, classify.model, form)("hello") == classify("hello")
    with pytest.raises(InputError, match="give untorch's"):
        pipeline(None, classify.model, transformers.AutoTokenizer.from_pretrained(BUNDLE))


def test_inputs_are_no_default_of_the_constructor(classify):
    with pytest.raises(InputError, match="inputs besides its inputs"):
        pipeline(None, classify.model, classify.tokenizer, inputs="world")


def test_a_model_of_transformers_is_to_be_exported():
    with pytest.raises(InputError, match="export it first"):
        pipeline("text-classification", SimpleNamespace(config=None))


_HEADS = [getattr(untorch, name) for name in untorch.__all__ if name.startswith("AutoModel")]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("head", _HEADS)
def test_a_model_object_of_another_head_is_refused_with_the_task(task, head):
    kind = class_of(task)
    if issubclass(head, kind.model_class) and head.output_names == kind.model_class.output_names:
        return
    with pytest.raises(TaskError, match=rf"{task} needs .*the model given is {head.__name__}"):
        kind(object.__new__(head))


def test_pipeline_classes_are_built_as_in_transformers(classify):
    built = untorch.TextClassificationPipeline(model=classify.model, tokenizer=classify.tokenizer, device=-1, top_k=1)
    assert built.predict(["hello"]) == built.transform(["hello"]) == built(["hello"]) == classify(["hello"], top_k=1)
    assert untorch.TextClassificationPipeline(classify.model)("hello") == classify("hello")
    for task in _OF_BOTH:
        assert hasattr(untorch, TASKS[task][1])


@pytest.mark.parametrize(
    ("built", "call"),
    [
        ({"top_k": 2}, {"return_all_scores": True}),
        ({"return_all_scores": True}, {"top_k": 1}),
        ({"return_all_scores": True}, {"return_all_scores": False}),
        ({"top_k": None}, {"return_all_scores": False}),
    ],
)
@pytest.mark.skipif(
    not hasattr(theirs, "Text2TextGenerationPipeline"), reason="transformers 5 has no return_all_scores"
)
@pytest.mark.filterwarnings("ignore:.return_all_scores. is now deprecated:UserWarning")
def test_of_two_names_for_one_thing_the_calls_counts(classify, built, call):
    ours = untorch.TextClassificationPipeline(classify.model, classify.tokenizer, **built)("hello", **call)
    reference = theirs.TextClassificationPipeline._sanitize_parameters
    config = SimpleNamespace(config=SimpleNamespace())
    merged = {}
    for given in (built, call):
        merged |= reference(SimpleNamespace(model=config), **given)[2]
    expected_list = not (merged.get("top_k", 1) == 1 and merged.get("_legacy", True))
    answer = ours if "top_k" in call else ours[0]
    assert isinstance(answer, list) is expected_list
    if expected_list:
        assert len(answer) == (2 if merged["top_k"] is None else merged["top_k"])
