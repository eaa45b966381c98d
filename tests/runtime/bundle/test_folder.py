from __future__ import annotations

import json
import shutil

import pytest

from untorch import Bundle, BundleError, FormatError, IntegrityError, pipeline
from untorch.bundle.manifest import Manifest


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def edit(folder, change):
    path = folder / "untorch.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_manifest_survives_reading_and_writing(tiny_bundle):
    data = json.loads((tiny_bundle / "untorch.json").read_text())
    assert Manifest.from_json(data).to_json() == data


def test_unknown_fields_are_kept(tiny_bundle):
    data = json.loads((tiny_bundle / "untorch.json").read_text())
    data["colour"] = "blue"
    data["variants"]["fp32"]["smell"] = ["faint"]
    assert Manifest.from_json(data).to_json() == data


def test_every_digest_holds(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    bundle.check()
    assert bundle.verified
    assert {"config.json", "tokenizer.json", "onnx/model.onnx", "golden.npz"} <= set(bundle.manifest.files)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json", "config.json"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        Bundle(copy)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"])
def test_a_truncated_file_is_named(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match=f"{name} is truncated"):
        Bundle(copy)


@pytest.mark.parametrize("name", ["onnx/head.onnx", "onnx/model.onnx_data", "tokenizer.json", "config.json"])
def test_an_altered_file_is_caught_before_the_first_answer(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name} was altered"):
        pipeline(None, copy, precision="fp32")


def test_a_bundle_may_be_slimmed_by_a_whole_variant(copy):
    for name in Bundle(copy).variant("fp32").files:
        (copy / name).unlink()
    slim = Bundle(copy)
    assert list(slim.variants) == ["int8"]
    slim.check()
    with pytest.raises(BundleError, match="no fp32 variant; it has int8"):
        slim.variant("fp32")


def test_a_newer_format_is_refused_by_number(copy):
    edit(copy, lambda manifest: manifest.update(format_version=99))
    with pytest.raises(FormatError, match="format version 99"):
        Bundle(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "onnx/../../outside", "a\\b", ""])
def test_a_manifest_cannot_reach_outside_the_bundle(copy, name):
    edit(copy, lambda manifest: manifest["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(IntegrityError, match="outside the bundle"):
        Bundle(copy)


def test_a_link_out_of_the_bundle_is_refused(copy, tmp_path):
    target = tmp_path / "elsewhere.json"
    (copy / "config.json").rename(target)
    (copy / "config.json").symlink_to(target)
    with pytest.raises(IntegrityError, match="leads out of the bundle"):
        Bundle(copy)


def test_a_folder_that_is_a_link_out_of_the_bundle_is_refused(copy, tmp_path):
    (copy / "onnx").rename(tmp_path / "elsewhere")
    (copy / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="leads out of the bundle"):
        Bundle(copy)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"format_version": "1"}', '{"format_version": 1}', "\x00"])
def test_a_malformed_manifest_is_a_format_error(copy, content):
    (copy / "untorch.json").write_text(content)
    with pytest.raises(FormatError):
        Bundle(copy)


def test_a_variant_whose_files_have_no_digest_is_refused(copy):
    edit(copy, lambda manifest: manifest["files"].pop("onnx/model.onnx"))
    with pytest.raises(IntegrityError, match="has no digest"):
        Bundle(copy)


def test_an_absent_precision_names_those_there_are(tiny_bundle):
    with pytest.raises(BundleError, match="no fp7 variant; it has fp32"):
        Bundle(tiny_bundle).variant("fp7")


def test_a_folder_without_a_model_says_how_to_make_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="untorch export"):
        Bundle(tmp_path)


def test_a_folder_that_is_not_there():
    with pytest.raises(BundleError, match="not a folder"):
        Bundle("nowhere/at/all")
