from __future__ import annotations

import json
import shutil

import pytest

from untorch import BundleError
from untorch.bundle.folder import Bundle
from untorch.cli import main
from untorch.loading import plans
from untorch.loading.choice import remembered
from untorch.loading.plans import Plan
from untorch.model.base import AutoModel
from untorch.pipelines import pipeline
from untorch.tools.tuning import Trial, best

PLAN = Plan("fp32", "cpu", 1, 2, 96)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nobody's own plans are read or written."""
    monkeypatch.setenv("UNTORCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(frozen_bundle):
    return Bundle(frozen_bundle)


def test_without_a_plan_the_defaults_hold(bundle):
    model = AutoModel.from_bundle(bundle)
    assert model.plan is None
    assert model.callers == max(1, model.session.threads // 2)
    assert model.max_batch_tokens == 160


def test_a_remembered_plan_is_taken_where_nothing_else_is_asked_for(bundle):
    plans.remember(bundle, PLAN, {})
    answering = pipeline("text-classification", bundle.path)
    assert (answering.precision, answering.device, answering.model.session.threads) == ("fp32", "cpu", 1)
    assert (answering.model.callers, answering.max_batch_tokens) == (2, 96)
    asked = pipeline("text-classification", bundle.path, precision="int8")
    assert (asked.precision, asked.model.plan) == ("int8", None)
    assert pipeline("text-classification", bundle.path, threads=2).model.plan is None
    assert pipeline("text-classification", bundle.path, device="cpu").model.plan is None


def test_answers_do_not_depend_on_the_plan(bundle):
    texts = ["hello world", "this movie is great", "a", "I hate the awful film"] * 8
    before = pipeline("text-classification", bundle.path, precision="fp32")(texts)
    plans.remember(bundle, PLAN, {})
    after = pipeline("text-classification", bundle.path)(texts)
    assert [answer["label"] for answer in after] == [answer["label"] for answer in before]
    assert [answer["score"] for answer in after] == pytest.approx([answer["score"] for answer in before], abs=1e-5)


def test_a_plan_belongs_to_a_bundle_a_processor_its_cores_and_an_onnxruntime(bundle, tmp_path, monkeypatch):
    plans.remember(bundle, PLAN, {})
    assert remembered(bundle, ["logits"]) == PLAN
    changed = Bundle(shutil.copytree(bundle.path, tmp_path / "changed"))
    manifest = json.loads((changed.path / "untorch.json").read_text())
    (changed.path / "untorch.json").write_text(json.dumps({**manifest, "created": "another day"}))
    assert remembered(Bundle(changed.path), ["logits"]) is None
    for name, value in (
        ("_processor", lambda: "another"),
        ("usable_cores", lambda: 99),
        ("installed_wheels", lambda: {"onnxruntime": "0.1"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(plans, name, value)
            assert remembered(bundle, ["logits"]) is None
    assert remembered(bundle, ["logits"]) == PLAN


def test_a_plan_never_brings_a_variant_that_missed_its_gate_or_lacks_an_output(bundle):
    plans.remember(bundle, Plan("int8", "cpu", 1, 1, 96), {})
    assert remembered(bundle, ["logits"]) is not None
    assert remembered(bundle, ["start_logits"]) is None
    manifest = json.loads((bundle.path / "untorch.json").read_text())
    manifest["variants"]["int8"]["verdict"] = "failed"
    (bundle.path / "untorch.json").write_text(json.dumps(manifest))
    failed = Bundle(bundle.path)
    plans.remember(failed, Plan("int8", "cpu", 1, 1, 96), {})
    assert remembered(failed, ["logits"]) is None


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"plan": {}}', '{"plan": {"precision": "fp32", "device": "cpu", "threads": 0, "callers": 1}}',
     '{"plan": {"precision": "fp32", "device": "cpu", "threads": 0, "callers": 1, "max_tokens": 1}}',
     '{"plan": {"precision": "fp32", "device": "cpu", "threads": "x", "callers": 1, "max_tokens": 1}}'],
)  # fmt: skip
def test_a_plan_that_cannot_be_read_is_said_and_left_aside(bundle, content, caplog):
    path = plans.remember(bundle, PLAN, {})
    path.write_text(content)
    assert remembered(bundle, ["logits"]) is None
    assert "untorch tune" in caplog.text


def test_a_folder_without_a_manifest_has_no_plan(bundle):
    (bundle.path / "untorch.json").unlink()
    unverified = Bundle(bundle.path)
    assert remembered(unverified, ["logits"]) is None
    with pytest.raises(BundleError, match="no manifest"):
        plans.remember(unverified, PLAN, {})


def trial(precision, threads, callers, latency, throughput):
    return Trial(Plan(precision, "cpu", threads, callers, 160), {16: latency, 128: 4 * latency}, throughput)


def test_the_goal_decides():
    quick, both, many = (
        trial("int8", 2, 1, 0.004, 90.0), trial("int8", 2, 2, 0.004, 120.0), trial("int8", 1, 2, 0.006, 150.0),
    )  # fmt: skip
    broken = Trial(Plan("fp32", "cpu", 1, 1, 160), {}, 0.0, "it died")
    assert best([broken, quick, both, many], "latency") is both
    assert best([broken, quick, both, many], "throughput") is many
    with pytest.raises(Exception, match="no plan ran here: it died"):
        best([broken], "latency")


def test_tuning_measures_every_trusted_variant_and_remembers(bundle, capsys):
    assert main(["tune", str(bundle.path), "--goal", "throughput", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["error"] for row in found["trials"]} == {None}
    assert {row["plan"]["precision"] for row in found["trials"]} == {"fp32", "int8"}
    assert all(row["throughput"] > 0 and min(row["latency"].values()) > 0 for row in found["trials"])
    most = max(found["trials"], key=lambda row: row["throughput"])
    assert found["plan"] == most["plan"]
    model = AutoModel.from_bundle(Bundle(bundle.path))
    assert model.plan == Plan(**found["plan"])
    assert main(["tune", str(bundle.path), "--task", "fill-mask"]) == 2
    assert "can be tuned" in capsys.readouterr().err
