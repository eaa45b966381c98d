from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.paths import DATA
from untorch import BundleError, DependencyError, DeviceError, pipeline
from untorch.ort import opening, openvino, providers
from untorch.ort.cuda import libraries
from untorch.ort.devices import onnxruntime
from untorch.ort.providers import Node
from untorch.ort.session import Session
from untorch.tools.diagnosis import PROBE

MESSAGES = json.loads((DATA / "cuda-messages.json").read_text())["messages"]


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:-1", "", "gpu", "openvino:0"])
def test_unknown_devices(name):
    with pytest.raises(DeviceError, match="choose auto, cpu, cuda, cuda:N or openvino"):
        providers.resolve_device(name)


def test_cuda_without_its_wheel_names_the_extra():
    if libraries.is_built_in():
        pytest.skip("the CUDA build is installed here")
    with pytest.raises(DeviceError, match=r"installed: onnxruntime \d.*untorch\[gpu\]"):
        Session(PROBE, device="cuda")
    assert providers.resolve_device("auto") == "cpu"


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{message['from'][:4]} {message['how']}")
def test_real_messages_say_what_to_do(message):
    explained = libraries.explain(message["text"])
    for words in message["says"]:
        assert words in explained
    assert "/onnxruntime_src/" not in explained
    assert "\n" not in explained


def test_a_message_nobody_knows_is_passed_on():
    assert "warp drive offline" in libraries.explain("warp drive offline")


@pytest.fixture
def cuda_build(monkeypatch):
    """A build of ONNX Runtime that claims the CUDA provider; its libraries are this machine's, which may have none."""
    monkeypatch.setattr(libraries, "is_built_in", lambda: True)
    loaded = libraries._loaded
    loaded.cache_clear()
    yield
    loaded.cache_clear()


@pytest.fixture
def no_library(monkeypatch, cuda_build):
    def fail(name):
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(libraries, "_load", fail)


def test_a_missing_library_is_named_and_nothing_runs_on_the_cpu(no_library):
    with pytest.raises(DeviceError, match=r"libcudart\.so\.\d+.*nvidia-cuda-runtime.*untorch\[gpu\]"):
        Session(PROBE, device="cuda")


def test_auto_says_once_why_it_left_the_card(no_library, tiny_bundle, caplog):
    providers._announced.clear()
    with caplog.at_level(logging.INFO, "untorch"):
        first = pipeline(model=tiny_bundle, device="auto")
        pipeline(model=tiny_bundle, device="auto")
    assert first.device == "cpu"
    assert "libcudart" in first.device.reason
    records = [record for record in caplog.records if "device auto" in record.message]
    assert [record.levelname for record in records] == ["WARNING"]
    assert "libcudart" in records[0].message


def test_auto_falls_back_where_the_card_does_not_run_the_graph(monkeypatch, tiny_bundle, caplog):
    """The libraries load and a card answers, and the session fails all the same."""
    providers._announced.clear()
    monkeypatch.setattr(providers, "choose", lambda: providers.Device("cuda:0", "a card is here"))

    def fail(*_):
        raise DeviceError("CUDA says: out of memory (2)")

    monkeypatch.setattr(opening, "_open_on_gpu", fail)
    with caplog.at_level(logging.INFO, "untorch"):
        found = pipeline(model=tiny_bundle, device="auto")
    assert found.device == "cpu"
    assert "out of memory" in found.device.reason
    assert found("good")


def test_a_card_that_is_not_there(monkeypatch, cuda_build):
    here = libraries.Cuda("580.1", "13.0", "13.0", "9.1.0", ("NVIDIA H200",))
    monkeypatch.setattr(libraries, "_loaded", lambda: here)
    assert providers.resolve_device("cuda") == "cuda:0"
    with pytest.raises(DeviceError, match="no cuda:1; the GPUs here are cuda:0 NVIDIA H200"):
        providers.resolve_device("cuda:1")


def test_a_driver_that_refuses_is_quoted(monkeypatch, cuda_build):
    """The runtime's calls answer with a status; its own words for it are passed on."""

    class Refusing:
        def __init__(self):
            self.cudaGetErrorString = lambda status: b"no CUDA-capable device is detected"
            self.cudaGetDeviceCount = lambda count: 100

    monkeypatch.setattr(libraries, "_load", lambda name: Refusing())
    with pytest.raises(DeviceError, match=r"no CUDA-capable device is detected \(100\)"):
        libraries.require("cuda:0")


def test_placement_is_what_onnx_runtime_says():
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(PROBE), options, providers=["CPUExecutionProvider"])
    nodes = providers.placement(session)
    assert [(node.provider, node.operator) for node in nodes] == [(providers.CPU, "MatMul")]
    with pytest.raises(DeviceError, match=r"1 nodes would run on the CPU \(MatMul\)"):
        providers.require_on_device(nodes, "cuda:0")


def test_shape_arithmetic_may_stay_on_the_cpu():
    nodes = [
        Node(libraries.PROVIDER, "MatMul", "a"),
        Node(providers.CPU, "Shape", "b"),
        Node(providers.CPU, "Concat", "c"),
    ]
    providers.require_on_device(nodes, "cuda:0")


def test_provider_options():
    assert providers.cuda_options(providers.Device("cuda:3"))["device_id"] == "3"
    assert "enable_cuda_graph" not in providers.cuda_options(providers.Device("cuda:0"))
    assert providers.cuda_options(providers.Device("cuda:0"), graphs=True)["enable_cuda_graph"] == "1"
    assert all(
        isinstance(value, str) for value in providers.cuda_options(providers.Device("cuda:0"), graphs=True).values()
    )


def test_openvino_without_its_plugin_names_the_extra():
    if importlib.util.find_spec("onnxruntime_ep_openvino"):
        pytest.skip("the plugin is installed here")
    with pytest.raises(DependencyError, match=r"untorch\[openvino\]"):
        Session(PROBE, device="openvino")


def test_an_openvino_that_offers_no_device_says_so(monkeypatch):
    """What the real plugin (1.8.1) gives on an AMD processor: it registers, and its devices are not in the list."""
    kind = onnxruntime().OrtHardwareDeviceType.CPU
    listed = [SimpleNamespace(ep_name="CPUExecutionProvider", device=SimpleNamespace(type=kind, vendor="AMD"))]
    ort = SimpleNamespace(get_ep_devices=lambda: listed, OrtHardwareDeviceType=onnxruntime().OrtHardwareDeviceType)
    monkeypatch.setattr(openvino, "_register", lambda: "1.8.1")
    monkeypatch.setattr(openvino, "onnxruntime", lambda: ort)
    with pytest.raises(DeviceError, match=r"1\.8\.1.*no device on this machine.*by AMD.*device='cpu'"):
        openvino.require()


def test_openvino_prefers_its_cpu(monkeypatch):
    kinds = onnxruntime().OrtHardwareDeviceType
    listed = [
        SimpleNamespace(ep_name=openvino.PROVIDER, device=SimpleNamespace(type=kind, vendor="Intel"))
        for kind in (kinds.GPU, kinds.CPU)
    ]
    ort = SimpleNamespace(get_ep_devices=lambda: listed, OrtHardwareDeviceType=kinds)
    monkeypatch.setattr(openvino, "_register", lambda: "1.8.1")
    monkeypatch.setattr(openvino, "onnxruntime", lambda: ort)
    assert [device.device.type for device in openvino.require()] == [kinds.CPU]


def test_the_real_plugin_registers_and_answers():
    """In a process of its own, since a registration lasts as long as the process."""
    if not importlib.util.find_spec("onnxruntime_ep_openvino"):
        pytest.skip("the plugin is not installed: pip install 'untorch[openvino]'")
    code = (
        "from untorch import DeviceError\nfrom untorch.ort.session import Session\n"
        "from untorch.tools.diagnosis import PROBE\n"
        "try: print('ran on', {node.provider for node in Session(PROBE, device='openvino').nodes})\n"
        "except DeviceError as error: print(error)"
    )
    printed = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout
    assert "ran on {'OpenVINOExecutionProvider'}" in printed or "offers no device on this machine" in printed


def test_the_libraries_of_the_cuda_build_load_by_themselves():
    """With the gpu extra and nothing else, what is missing can only be the driver or the card."""
    if not libraries.is_built_in():
        pytest.skip("the CUDA build is not installed: pip install 'untorch[gpu]'")
    for pattern in libraries.LIBRARIES:
        assert isinstance(libraries._load(libraries._name(pattern)), ctypes.CDLL)


def test_openvino_is_not_given_fused_graphs(monkeypatch, tiny_bundle):
    """They are made of ONNX Runtime's own operators. What it can run is named."""
    monkeypatch.setattr(openvino, "require", lambda: [])
    with pytest.raises(DeviceError, match=r"int8 variant .* openvino has not.*can run fp32"):
        pipeline(model=tiny_bundle, device="openvino", precision="int8")


def test_a_file_that_is_no_model_is_no_fault_of_the_card(monkeypatch, tmp_path):
    monkeypatch.setattr(providers, "resolve_device", lambda device: providers.Device("cuda:0"))
    monkeypatch.setattr(providers, "CPU", "CPUExecutionProvider")
    monkeypatch.setattr(libraries, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(providers, "cuda_options", lambda device, graphs: {})
    (tmp_path / "model.onnx").write_bytes(b"this is no model")
    with pytest.raises(BundleError, match="cannot load"):
        Session(tmp_path / "model.onnx", device="cuda:0")


@pytest.mark.parametrize(("capturable", "asked"), [(True, ["1", None]), (False, [None])])
def test_a_graph_that_cannot_be_captured_is_opened_without(monkeypatch, capturable, asked):
    """ONNX Runtime refuses in these words; the CPU's provider stands in for the card's."""
    monkeypatch.setattr(providers, "resolve_device", lambda device: providers.Device("cuda:0"))
    monkeypatch.setattr(providers, "require_on_device", lambda nodes, device: None)
    monkeypatch.setattr(libraries, "PROVIDER", "CPUExecutionProvider")
    opened, seen = opening._open, []

    def refuse(path, device, options, chosen):
        seen.append(chosen[0][1].get("enable_cuda_graph"))
        if seen[-1]:
            raise DeviceError("This session cannot use the graph capture feature as requested by the user")
        return opened(path, device, options, ["CPUExecutionProvider"])

    monkeypatch.setattr(opening, "_open", refuse)
    session = Session(PROBE, device="cuda:0", capturable=capturable)
    assert seen == asked
    session.capture(None, {})
    assert session.executor.buckets == ()


class Runtime:
    """The CUDA runtime's calls for page-locked memory, over the host's allocator."""

    def __init__(self, status=0):
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype = ctypes.c_void_p
        self.status, self.freed, self.card = status, [], None
        self.cudaGetErrorString = lambda status: b"out of memory"

    def cudaSetDevice(self, card):
        self.card = card
        return 0

    def cudaHostAlloc(self, place, size, flags):
        if not self.status:
            place._obj.value = self.libc.malloc(size)
        return self.status

    def cudaFreeHost(self, place):
        self.freed.append(place.value)
        self.libc.free(place)
        return 0


def test_page_locked_memory_lives_as_long_as_its_views(monkeypatch):
    runtime = Runtime()
    monkeypatch.setattr(libraries, "_load", lambda name: runtime)
    array = libraries.pinned((3, 5), "int64", 1)
    array[...] = np.arange(15).reshape(3, 5)
    view = array[1:, :2]
    del array
    gc.collect()
    assert not runtime.freed
    assert view.tolist() == [[5, 6], [10, 11]]
    del view
    gc.collect()
    assert len(runtime.freed) == 1
    assert runtime.card == 1


def test_page_locked_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr(libraries, "_load", lambda name: Runtime(status=2))
    with pytest.raises(DeviceError, match=r"out of memory \(2\).*too little free memory"):
        libraries.pinned((1,), "int64", 0)
