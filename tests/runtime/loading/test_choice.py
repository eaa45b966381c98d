from __future__ import annotations

import copy
import multiprocessing
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from untorch import AutoModel, AutoModelForSequenceClassification, Bundle, BundleError, DeviceError, InputError
from untorch.background import BackgroundTask
from untorch.bundle.arguments import MODEL, Source
from untorch.bundle.hub import open_bundle
from untorch.bundle.manifest import GraphFile, Variant
from untorch.bundle.precisions import Operators, read_name
from untorch.loading.choice import LoadRequest, preferred, role_for, roles, unavailable
from untorch.numerics import Tensor
from untorch.ort.devices import Device, device_name
from untorch.ort.providers import resolve_device

ROOT = Path(__file__).resolve().parents[3]
CPU, GPU, OPENVINO = Device("cpu"), Device("cuda:1"), Device("openvino")


def variant(name, verdict="close", roles=("model", "head")):
    outputs = (Tensor("logits", "float32", ("batch", 2)),)
    return Variant(name, {role: GraphFile(f"{role}_{name}.onnx", outputs=outputs) for role in roles}, verdict)


# ---- values ----


def test_a_device_is_its_name_and_knows_its_parts():
    assert (GPU, GPU.kind, GPU.index, GPU.memory) == ("cuda:1", "cuda", 1, ("cuda", 1))
    assert (CPU.kind, CPU.index, CPU.memory, CPU.reason) == ("cpu", 0, ("cpu", 0), "it was asked for")
    assert (OPENVINO.kind, OPENVINO.memory) == ("openvino", ("cpu", 0))
    assert [device.is_gpu for device in (CPU, GPU, OPENVINO)] == [False, True, False]
    assert Device("cuda") == "cuda:0"
    assert f"{Device('cpu', 'because')}" == "cpu"
    again = pickle.loads(pickle.dumps(Device("cuda:2", "because")))
    assert (again, again.index, again.reason) == ("cuda:2", 2, "because")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "auto"), ("auto", "auto"), (-1, "cpu"), (0, "cuda:0"), (1, "cuda:1"), (np.int64(1).item(), "cuda:1"),
        (torch.device("cpu"), "cpu"), (torch.device("cuda", 1), "cuda:1"), (torch.device("cuda"), "cuda"),
    ],
)  # fmt: skip
def test_devices_in_transformers_spellings(given, name):
    assert device_name(given) == name


def test_a_model_takes_devices_in_transformers_spellings(frozen_bundle):
    for device in ("cpu", -1, torch.device("cpu"), torch.device("cpu", 0), None):
        assert AutoModel.from_pretrained(frozen_bundle, device=device).device == "cpu"
    for device in (torch.device("meta"), "mps"):
        with pytest.raises(DeviceError, match=r"unknown device .*choose auto, cpu"):
            resolve_device(device)
    with pytest.raises(DeviceError, match="device is True; it is a name"):
        resolve_device(True)


@pytest.mark.parametrize(
    ("name", "operators", "device", "base"),
    [
        ("fp32", Operators.STANDARD, None, "fp32"),
        ("int8", Operators.FUSED, None, "int8"),
        ("q4f16", Operators.FUSED, None, "q4f16"),
        ("int8_kernels", Operators.KERNELS, "cpu", "int8"),
        ("fp16_packed", Operators.PACKED, "cuda", "fp16"),
    ],
)
def test_what_a_variants_name_says(name, operators, device, base):
    assert read_name(name) == (operators, device, base)
    assert (variant(name).operators, variant(name).device, variant(name).base) == (operators, device, base)


# ---- which variant runs where ----


def test_each_device_prefers_its_reduced_precision_inside_its_gate():
    names = ("fp32", "int8", "fp16", "fp16_packed", "q4")
    trusted = {name: variant(name) for name in names}
    assert [preferred(trusted, ["logits"], device).precision for device in (CPU, GPU, OPENVINO)] == [
        "int8", "fp16", "fp32",
    ]  # fmt: skip
    failed = {name: variant(name, "failed") for name in names}
    assert {preferred(failed, ["logits"], device).precision for device in (CPU, GPU, OPENVINO)} == {"fp32"}
    assert preferred({"q4": variant("q4", "unverified")}, (), CPU).precision == "q4"


def test_roles_are_those_whose_operators_a_device_has():
    assert roles(variant("fp32"), OPENVINO) == ("model",)
    assert roles(variant("int8"), OPENVINO) == roles(variant("fp16_packed"), CPU) == ()
    assert roles(variant("fp16_packed"), GPU) == roles(variant("int8"), GPU) == ("model", "head")
    assert role_for(variant("fp32"), ["logits"], OPENVINO) == "model"
    assert role_for(variant("fp32"), ["logits"], CPU) == "head"
    assert role_for(variant("fp32"), ["last_hidden_state"], CPU) == "model"


def test_what_cannot_run_here_says_why(frozen_bundle):
    assert unavailable(Bundle(frozen_bundle), "cpu") == {}
    assert unavailable(Bundle(frozen_bundle), "openvino") == {"int8": "it has operators that openvino has not"}


def test_what_is_downloaded_is_what_is_loaded():
    variants = {name: variant(name) for name in ("fp32", "int8", "fp16", "fp16_packed")}
    assert LoadRequest("cpu").files(variants) == ["model_int8.onnx", "head_int8.onnx"]
    # What removes padding runs beside the variant that does not.
    assert LoadRequest("cpu", "fp16_packed").files(variants) == [
        "model_fp16_packed.onnx", "head_fp16_packed.onnx", "model_fp16.onnx", "head_fp16.onnx",
    ]  # fmt: skip
    with pytest.raises(BundleError, match="no int4 variant; it has fp32, int8"):
        LoadRequest("cpu", "int4").files(variants)


# Rooms that may look at a device's name, or at a variant's.
_ROOMS = {"ort/devices.py", "bundle/precisions.py"}
_COMPARED = re.compile(
    r"""(==|!=|(?<!for.device.)\bin\b|startswith\(|endswith\(|removesuffix\(|partition\()\s*\(?\s*f?["']
    (cpu|cuda|openvino|_kernels|_packed|int8_kernels|fp16_packed)\b""",
    re.VERBOSE,
)


@pytest.mark.parametrize("package", ["runtime/untorch", "export/untorch_export"])
def test_no_room_but_its_own_compares_a_device_or_a_suffix(package):
    folder = ROOT / package
    found = [
        f"{path.relative_to(folder)}:{number}: {line.strip()}"
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).as_posix() not in _ROOMS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _COMPARED.search(line) or re.search(r"[dD]evice\w*\.(partition|split|startswith)\(", line)
    ]
    assert not found


# ---- arguments of from_pretrained ----


def test_arguments_that_change_nothing_are_accepted_and_others_refused_by_name(frozen_bundle):
    for name in MODEL.keys() - {"file_name"}:  # which a bundle without a manifest takes
        AutoModel.from_pretrained(frozen_bundle, precision="fp32", **{name: None})
        if MODEL[name].neutral is None:
            AutoModel.from_pretrained(frozen_bundle, precision="fp32", **{name: True})
            continue
        with pytest.raises(InputError, match=rf"AutoModel.from_pretrained takes no {name}='something': \w+"):
            AutoModel.from_pretrained(frozen_bundle, **{name: "something"})
    with pytest.raises(InputError, match=r"no torch_dtype=torch.float16: .*precision='fp16'"):
        AutoModel.from_pretrained(frozen_bundle, torch_dtype=torch.float16)
    AutoModel.from_pretrained(frozen_bundle, torch_dtype="auto", precision="fp32")
    with pytest.raises(InputError, match="takes no argument precison; did you mean precision"):
        AutoModel.from_pretrained(frozen_bundle, precison="fp32")


def test_every_argument_of_transformers_from_pretrained_is_known():
    """Those that its base class names, or reads from its keywords."""
    import inspect

    from transformers import PreTrainedModel

    signature = inspect.signature(PreTrainedModel.from_pretrained)
    names = {
        name
        for name, one in signature.parameters.items()
        if one.kind is one.KEYWORD_ONLY or one.default is not one.empty
    }
    names |= set(re.findall(r"kwargs\.pop\(\"(\w+)\"", inspect.getsource(PreTrainedModel.from_pretrained)))
    private = {name for name in names if name.startswith("_")}
    assert names - private - {"cls"} <= {*MODEL, *Source.__annotations__}


def test_a_folder_takes_the_hubs_arguments(frozen_bundle):
    found = AutoModel.from_pretrained(
        frozen_bundle.parent, subfolder=frozen_bundle.name, precision="fp32", revision="main", token="t",
        cache_dir="/nowhere", local_files_only=True, force_download=True,
    )  # fmt: skip
    assert found.bundle.path == frozen_bundle


# ---- copies and other processes ----


def _answer(model):
    return model([[2, 10, 11, 3]]).logits


def test_a_model_is_loaded_again_from_where_it_came_from(frozen_bundle, monkeypatch):
    monkeypatch.chdir(frozen_bundle.parent)
    model = AutoModelForSequenceClassification.from_pretrained(frozen_bundle.name, precision="fp32", threads=1)
    monkeypatch.chdir("/")
    sent = pickle.dumps(model)
    assert len(sent) < 2000
    for again in (pickle.loads(sent), copy.copy(model), copy.deepcopy(model)):
        assert (again.precision, again.session.threads, again.device) == ("fp32", 1, "cpu")
        assert np.array_equal(_answer(again), _answer(model))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(_answer, (model,)), _answer(model))


def test_a_name_travels_and_a_token_stays(frozen_bundle, monkeypatch):
    from untorch.bundle import hub

    monkeypatch.setattr(hub, "_from_hub", lambda name, options, *_, **__: frozen_bundle)
    bundle = open_bundle("some/thing", select=LoadRequest("cpu").files, revision="v2", token="secret")
    sent = pickle.dumps(bundle)
    assert [text in sent for text in (b"some/thing", b"v2")] == [True, True]
    assert [text in sent for text in (b"secret", str(frozen_bundle).encode())] == [False, False]
    assert pickle.loads(sent).path == frozen_bundle


def test_work_that_went_on_while_a_model_was_loaded_does_not_travel_with_it(frozen_bundle):
    request = LoadRequest("cpu", "fp32", 2, BackgroundTask(lambda: None))
    model = AutoModel.load(Bundle(frozen_bundle), request)
    assert pickle.loads(pickle.dumps(model)).session.threads == 2
