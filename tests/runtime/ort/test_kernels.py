"""Our own operators: when they are loaded, what they compute, and what is said where they cannot be used."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from helpers.own_operators import Network, add_variant, shared_table
from untorch import AutoModel, AutoModelForSequenceClassification, Bundle, DependencyError, DeviceError, pipeline
from untorch.bundle.folder import discover
from untorch.bundle.manifest import GraphFile, Variant
from untorch.cli import main
from untorch.loading import plans
from untorch.loading.choice import LoadRequest, preferred, remembered, roles
from untorch.loading.plans import Plan
from untorch.numerics import Tensor
from untorch.ort import kernels, openvino
from untorch.ort.devices import Device
from untorch.ort.session import Session
from untorch.tools import tuning
from untorch.tools.benchmark import engines
from untorch.tools.diagnosis import diagnose

REASON = str(kernels.problem() or "")
able = pytest.mark.skipif(bool(REASON), reason=REASON)
installed = pytest.mark.skipif(kernels.version() is None, reason="untorch-kernels is not installed here")
LACKING = DeviceError("the operators of untorch-kernels need AVX-512 VNNI, which this processor lacks.")
NAMED = "int8_kernels"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nobody's own plans are read or written."""
    monkeypatch.setenv("UNTORCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(frozen_bundle):
    return add_variant(frozen_bundle)


@pytest.fixture
def elsewhere(monkeypatch):
    """A processor without the instructions."""

    def refuse():
        raise LACKING

    monkeypatch.setattr(kernels, "require", refuse)


def variant(precision, verdict="close", outputs=("logits",)):
    graph = GraphFile(f"onnx/model_{precision}.onnx", outputs=tuple(Tensor(name, "float32", ()) for name in outputs))
    return Variant(precision, {"model": graph}, verdict)


def fresh(code, *arguments, prelude="", path=""):
    """Run code in a new interpreter; gives what it printed, and what it wrote to stderr."""
    start = f"import sys\n{prelude}\n" + (f"sys.path.insert(0, {path!r})\n" if path else "")
    command = [sys.executable, "-c", start + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


CPU = Device("cpu")


# ---- which variant is taken ----


@pytest.mark.parametrize(("faster", "taken"), [(True, NAMED), (False, "int8")])
def test_they_come_before_int8_where_they_are_the_faster_choice(monkeypatch, faster, taken):
    monkeypatch.setattr(kernels, "preferred", lambda: faster)
    variants = {name: variant(name) for name in ("fp32", "int8", NAMED)}
    assert preferred(variants, (), CPU).precision == taken
    assert preferred(variants, ["logits"], CPU).precision == taken


@pytest.mark.parametrize("device", ["cuda:0", "openvino"])
def test_they_are_for_the_cpu(monkeypatch, device):
    monkeypatch.setattr(kernels, "preferred", lambda: True)
    variants = {name: variant(name) for name in ("fp32", "int8", NAMED)}
    assert roles(variants[NAMED], CPU) == ("model",)
    assert roles(variants[NAMED], Device(device)) == ()
    assert preferred(variants, (), Device(device)).precision == "fp32"


@pytest.mark.parametrize("left", [variant(NAMED, verdict="failed"), variant(NAMED, outputs=()), None])
def test_the_gate_and_the_outputs_decide_before_they_are_asked_for(monkeypatch, left):
    def never():
        raise AssertionError("the package was asked for without need")

    monkeypatch.setattr(kernels, "preferred", never)
    variants = {"fp32": variant("fp32"), "int8": variant("int8"), **({NAMED: left} if left else {})}
    assert preferred(variants, ["logits"], CPU).precision == "int8"


@able
@pytest.mark.parametrize(("faster", "taken"), [(True, NAMED), (False, "int8")])
def test_auto_asks_whether_they_are_faster_here(folder, monkeypatch, faster, taken):
    import untorch_kernels

    monkeypatch.setattr(untorch_kernels, "preferred", lambda: faster)
    assert pipeline("text-classification", folder).precision == taken
    # By name it is taken wherever it runs.
    assert pipeline("text-classification", folder, precision=NAMED).precision == NAMED


def test_auto_takes_int8_on_a_processor_without_the_instructions(folder, elsewhere, caplog):
    assert pipeline("text-classification", folder).precision == "int8"
    assert "own operators" not in caplog.text
    with pytest.raises(DeviceError, match=r"AVX-512 VNNI, which this processor lacks"):
        pipeline("text-classification", folder, precision=NAMED)


@installed
def test_the_instructions_that_lack_are_named(monkeypatch):
    import untorch_kernels

    monkeypatch.setattr(untorch_kernels, "missing", lambda: "AVX-512 VNNI")
    with pytest.raises(DeviceError, match=r"need AVX-512 VNNI, which this processor lacks.*precision='int8'"):
        kernels.require()
    assert not kernels.usable()
    assert not kernels.preferred()


def test_openvino_is_told_what_it_can_run(folder, monkeypatch):
    monkeypatch.setattr(openvino, "require", lambda: [])
    with pytest.raises(DeviceError, match=r"int8_kernels variant .* openvino has not.*can run fp32"):
        pipeline(model=folder, device="openvino", precision=NAMED)


def test_the_hub_downloads_what_will_be_loaded(folder, monkeypatch):
    variants = Bundle(folder).variants
    for faster, taken in ((True, NAMED), (False, "int8")):
        monkeypatch.setattr(kernels, "preferred", lambda faster=faster: faster)
        assert set(LoadRequest("cpu").files(variants)) == set(variants[taken].files)
    assert "onnx/model_int8.onnx_data" in LoadRequest("cpu", NAMED).files(variants)
    # Without a manifest nothing says that the embeddings are shared.
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    unlisted = discover([*names, "onnx/model_int8_shared.onnx_data"])
    for name in ("int8", NAMED):
        assert "onnx/model_int8_shared.onnx_data" in LoadRequest("cpu", name).files(unlisted)


def test_each_variant_may_be_deleted(folder):
    """They share the file of the embeddings, which stays for the other's sake."""
    for gone, left in (("int8", NAMED), (NAMED, "int8")):
        copy = shutil.copytree(folder, folder.with_name(f"without-{gone}"))
        for file in copy.glob(f"onnx/*_{gone}.onnx"):
            file.unlink()
        bundle = Bundle(copy)
        assert list(bundle.variants) == ["fp32", left]
        bundle.check()


@able
def test_a_folder_without_a_manifest(folder):
    (folder / "untorch.json").unlink()
    assert set(Bundle(folder).variants) == {"fp32", "int8", NAMED}
    assert pipeline("text-classification", folder).precision == "fp32"
    answers = pipeline("text-classification", folder, precision=NAMED)
    assert answers("hello world")[0]["label"] in ("NEGATIVE", "POSITIVE")


def test_a_plan_is_for_the_installed_version(folder, monkeypatch):
    bundle = Bundle(folder)
    plan = Plan(NAMED, "cpu", 1, 1, 96)
    monkeypatch.setattr(kernels, "version", lambda: "1.0")
    monkeypatch.setattr(kernels, "problem", lambda: None)
    plans.remember(bundle, plan, {})
    assert remembered(bundle, ["logits"]) == plan
    monkeypatch.setattr(kernels, "problem", lambda: DeviceError("this processor lacks them"))
    assert remembered(bundle, ["logits"]) is None
    monkeypatch.setattr(kernels, "problem", lambda: None)
    for version in ("1.1", None):
        monkeypatch.setattr(kernels, "version", lambda version=version: version)
        assert remembered(bundle, ["logits"]) is None


# ---- what they compute ----


@able
def test_they_compute_what_they_say(folder):
    ids = np.array([[2, 17, 40, 99, 3], [2, 8, 3, 0, 0], [2, 206, 3, 5, 0]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    model = AutoModelForSequenceClassification.from_pretrained(folder, precision=NAMED)
    expected = Network().compute(shared_table(folder), ids, mask)
    # A number between two levels may be rounded either way, and attention may be in bf16.
    np.testing.assert_allclose(model(input_ids=ids, attention_mask=mask).logits, expected, atol=5e-2)
    hidden = AutoModel.from_pretrained(folder, precision=NAMED)(input_ids=ids, attention_mask=mask)
    assert hidden.last_hidden_state.shape == (3, 5, 32)


@able
def test_rows_do_not_see_each_other(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder, precision=NAMED)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 207, (9, 33))
    mask = (np.arange(33) < rng.integers(1, 34, (9, 1))).astype(int)
    together = model(input_ids=ids, attention_mask=mask).logits
    for row in range(9):
        length = mask[row].sum()
        alone = model(input_ids=ids[row : row + 1, :length], attention_mask=mask[row : row + 1, :length]).logits[0]
        np.testing.assert_allclose(alone, together[row], atol=1e-2)


@able
def test_many_threads_and_two_sessions(folder):
    """Of one session and of several at once; none is disturbed when another one goes."""
    rng = np.random.default_rng(1)
    feeds = []
    for _ in range(12):
        ids = rng.integers(0, 207, (rng.integers(1, 5), rng.integers(1, 64)))
        feeds.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    path = folder / "onnx/model_int8_kernels.onnx"
    sessions = [Session(path, device="cpu", threads=threads, optimized=True, kernels=True) for threads in (1, 2)]
    expected = [sessions[0].run(feed, ["logits"])[0] for feed in feeds]
    failures = []

    def call(number):
        try:
            own = Session(path, device="cpu", threads=1, optimized=True, kernels=True) if number % 3 == 0 else None
            for turn in range(30):
                which = (number + turn) % len(feeds)
                got = (own or sessions[turn % 2]).run(feeds[which], ["logits"])[0]
                np.testing.assert_allclose(got, expected[which], atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---- where they are not ----

ANSWERS = """
from untorch import UntorchError, pipeline
print(pipeline("text-classification", sys.argv[1]).precision)
try: pipeline("text-classification", sys.argv[1], precision="int8_kernels")
except UntorchError as error: print(type(error).__name__, error)
"""


def test_without_the_package_auto_takes_int8_and_the_name_says_what_to_install(folder):
    printed, logged = fresh(ANSWERS, folder, prelude="sys.modules['untorch_kernels'] = None")
    auto, _, named = printed.partition("\n")
    assert auto == "int8"
    assert named.startswith("DependencyError")
    assert "pip install 'untorch[kernels]'" in named
    assert "\n" not in named
    assert logged == ""


def library_of(site, content):
    """A package like ours around another library."""
    package = site / "untorch_kernels"
    package.mkdir(parents=True)
    shutil.copy(Path(importlib.util.find_spec("untorch_kernels").origin), package / "__init__.py")
    if content is not None:
        (package / "_operators.abi3.so").write_bytes(content)
    (site / "untorch_kernels-9.9.dist-info").mkdir()
    return str(site)


@installed
def test_a_broken_library_is_said_and_left_aside(folder, tmp_path):
    site = library_of(tmp_path / "site", b"this is no library")
    printed, logged = fresh(ANSWERS, folder, path=site)
    auto, _, named = printed.partition("\n")
    assert auto == "int8"
    assert named.startswith("DependencyError the library of untorch-kernels 9.9 cannot be loaded")
    assert "--force-reinstall untorch-kernels" in named
    # It was installed to be used, so that auto says why it is not: once.
    assert logged.count("int8 runs without our own operators") == 1


@installed
def test_a_package_that_was_not_compiled(folder, tmp_path):
    printed, _ = fresh(ANSWERS, folder, path=library_of(tmp_path / "site", None))
    assert printed.startswith("int8\nDependencyError")
    assert "holds no compiled operators" in printed


@installed
def test_a_library_of_somebody_else(folder, tmp_path):
    import _ctypes

    if not hasattr(_ctypes, "__file__"):
        pytest.skip("this Python has no module to take as a library")
    site = library_of(tmp_path / "site", Path(_ctypes.__file__).read_bytes())
    printed, _ = fresh(ANSWERS, folder, path=site)
    assert printed.startswith("int8\nDependencyError the library of untorch-kernels 9.9 cannot be loaded")


def test_a_library_that_onnx_runtime_refuses(folder, tmp_path, monkeypatch):
    (tmp_path / "library.so").write_bytes(b"this is no library")
    monkeypatch.setattr(kernels, "require", lambda: tmp_path / "library.so")
    with pytest.raises(DependencyError, match=r"cannot be loaded: .*library\.so.*force-reinstall"):
        Session(folder / "onnx/model_int8_kernels.onnx", device="cpu", kernels=True)


def test_the_package_is_not_imported_without_need(frozen_bundle):
    code = (
        "import untorch\nfrom untorch import pipeline\n"
        "pipeline('text-classification', sys.argv[1])('hello')\n"
        "print('untorch_kernels' in sys.modules)"
    )
    assert fresh(code, frozen_bundle)[0] == "False"


# ---- the commands ----


def test_doctor_without_the_package(monkeypatch):
    monkeypatch.setattr(kernels, "version", lambda: None)
    assert "pip install 'untorch[kernels]'" in diagnose()["installed"]["untorch-kernels"]


def test_doctor_names_the_instructions(monkeypatch, elsewhere):
    monkeypatch.setattr(kernels, "version", lambda: "9.9")
    said = diagnose()["installed"]["untorch-kernels"]
    assert said.startswith("9.9, cannot be used: ")
    assert "AVX-512 VNNI" in said


@able
@pytest.mark.parametrize(("faster", "says"), [(True, "auto takes int8_kernels"), (False, "auto takes int8,")])
def test_doctor_says_what_auto_takes(monkeypatch, faster, says):
    import untorch_kernels

    monkeypatch.setattr(untorch_kernels, "preferred", lambda: faster)
    said = diagnose()["installed"]["untorch-kernels"]
    assert said.startswith(f"{kernels.version()}, works")
    assert says in said


@able
def test_verify_replays_it(folder, capsys):
    assert main(["verify", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "int8_kernels holds" in printed
    assert "not checked" not in printed


def test_verify_says_what_it_could_not_check(folder, elsewhere, capsys):
    assert main(["verify", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "int8_kernels not checked here: the operators of untorch-kernels need AVX-512 VNNI" in printed
    assert printed.endswith("verified\n")
    assert main(["verify", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["unchecked"]) == [NAMED]
    assert [replay["precision"] for replay in report["replays"]] == ["fp32", "int8"]


@able
def test_tune_and_bench_measure_it(folder):
    bundle = Bundle(folder)
    pools = [(plan.precision, plan.device) for plan in tuning.pools(bundle)]
    assert (NAMED, "cpu") in pools
    assert all(device == "cpu" for precision, device in pools if precision == NAMED)
    assert f"untorch {NAMED}" in [engine.name for engine in engines(bundle)]
    (trial, *_) = tuning.measured(bundle, "text-classification", Plan(NAMED, "cpu", 1, 1, 80))
    assert trial.error is None
    assert trial.throughput > 0


def test_tune_and_bench_leave_out_what_cannot_run(folder, elsewhere):
    bundle = Bundle(folder)
    assert {plan.precision for plan in tuning.pools(bundle)} == {"fp32", "int8"}
    assert f"untorch {NAMED}" not in [engine.name for engine in engines(bundle)]


@able
def test_run_and_explain_take_it_by_name(folder, capsys):
    assert main(["run", str(folder), "hello world", "--precision", NAMED]) == 0
    assert f"in {NAMED}" in capsys.readouterr().err
    assert main(["explain", str(folder), "hello world", "--precision", NAMED]) == 0
    assert f"in {NAMED} on cpu" in capsys.readouterr().out


def test_run_says_what_lacks(folder, elsewhere, capsys):
    assert main(["run", str(folder), "hello world", "--precision", NAMED]) == 2
    assert "AVX-512 VNNI" in capsys.readouterr().err


def test_the_warning_of_a_broken_package_comes_once(monkeypatch, caplog):
    kernels._warn.cache_clear()

    def refuse():
        raise DependencyError("it is broken")

    monkeypatch.setattr(kernels, "require", refuse)
    monkeypatch.setattr(kernels, "version", lambda: "9.9")
    with caplog.at_level(logging.WARNING, "untorch"):
        assert not kernels.preferred()
        assert not kernels.preferred()
    assert [record.message for record in caplog.records] == ["int8 runs without our own operators: it is broken"]
    kernels._warn.cache_clear()
