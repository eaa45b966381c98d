from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from untorch.ort import devices
from untorch.ort.session import Session
from untorch.tools.diagnosis import PROBE, diagnose


def test_cores_follow_the_affinity_mask():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity mask")
    code = (
        "import os; os.sched_setaffinity(0, {0}); from untorch.ort.devices import usable_cores; print(usable_cores())"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (0.5, 1), (1.0, 1), (2.5, 2), (3.0, 3), (64.0, 4)])
def test_cores_follow_the_cgroup_quota(monkeypatch, quota, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(devices, "_cgroup_quota", lambda: quota)
    assert devices.usable_cores() == expected


def load_onnxruntime(path=None, prelude=""):
    """What a fresh process with `path` first on its module path prints when it loads ONNX Runtime."""
    code = (
        f"{prelude}\nfrom untorch import UntorchError\nfrom untorch.ort.devices import onnxruntime\n"
        "try: print(onnxruntime().__file__)\nexcept UntorchError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)


def test_two_wheels_conflict(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").touch()
    (tmp_path / "onnxruntime-1.32.0.dist-info").mkdir()
    (tmp_path / "onnxruntime_ep_openvino-1.8.1.dist-info").mkdir()
    assert "onnxruntime/__init__.py" in load_onnxruntime(tmp_path)
    (tmp_path / "onnxruntime_gpu-1.31.1.dist-info").mkdir()
    printed = load_onnxruntime(tmp_path)
    assert "onnxruntime and onnxruntime-gpu are both installed" in printed
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in printed


def test_a_missing_onnxruntime_says_what_to_install():
    printed = load_onnxruntime(prelude="import sys; sys.modules['onnxruntime'] = None")
    assert "pip install 'untorch[cpu]'" in printed


def test_the_probe_is_the_matrix_product_it_says():
    model = onnx.load(PROBE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]


def test_doctor_tries_the_cpu():
    report = diagnose()
    assert report["devices"]["cpu"].startswith("works")
    assert report["installed"]["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert report["machine"]["cores"].startswith(str(devices.usable_cores()))


def test_a_session_states_what_goes_in_and_out(tiny_bundle):
    session = Session(tiny_bundle / "onnx/model.onnx")
    assert [tensor.name for tensor in session.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert session.inputs[0].axes == ("batch", "sequence")
    assert session.inputs[0].dtype == "int64"
    ids = np.array([[2, 10, 3]])
    feeds = {tensor.name: np.ones_like(ids) if "mask" in tensor.name else ids * 0 for tensor in session.inputs}
    (logits,) = session.run(feeds, ["logits"])
    assert logits.shape == (1, 2)
