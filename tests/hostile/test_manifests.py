"""Manifests that lie, files that change hands, and the policy that wants a manifest at all."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import suppress

import pytest

from untorch import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Bundle,
    BundleError,
    FormatError,
    IntegrityError,
    UntorchError,
    pipeline,
)
from untorch.cli import main
from untorch.loading import sessions
from untorch.ort.session import Session


def edit(folder, change):
    path = folder / "untorch.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def load(folder):
    return pipeline(None, folder, precision="fp32", device="cpu", threads=1)


FILES = ("config.json", "tokenizer.json", "onnx/head.onnx", "onnx/model.onnx_data")


@pytest.mark.parametrize("name", FILES)
def test_a_digest_that_lies(frozen_bundle, name):
    edit(frozen_bundle, lambda manifest: manifest["files"][name].update(sha256="0" * 64))
    with pytest.raises(IntegrityError, match=f"{name} was altered"):
        load(frozen_bundle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("difference", [-1, 1, 1 << 50])
def test_a_size_that_lies(frozen_bundle, name, difference):
    size = (frozen_bundle / name).stat().st_size
    edit(frozen_bundle, lambda manifest: manifest["files"][name].update(size=size + difference))
    with pytest.raises(IntegrityError, match=name):
        Bundle(frozen_bundle)


def test_a_file_that_is_listed_and_not_there(frozen_bundle):
    edit(frozen_bundle, lambda manifest: manifest["files"].update({"more.json": {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(IntegrityError, match=r"more\.json is missing"):
        Bundle(frozen_bundle)


def test_a_model_whose_config_was_altered(frozen_bundle):
    path = frozen_bundle / "config.json"
    path.write_text(path.read_text().replace("POSITIVE", "NEGATIV3"))
    with pytest.raises(IntegrityError, match=r"config\.json was altered"):
        AutoModelForSequenceClassification.from_pretrained(frozen_bundle)


@pytest.mark.parametrize(
    "name",
    [
        "added_tokens.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "generation_config.json",
        "modules.json",
        "1_Pooling/config.json",
    ],
)
def test_a_file_that_would_be_read_and_is_not_listed(frozen_bundle, name):
    (frozen_bundle / name).parent.mkdir(exist_ok=True)
    (frozen_bundle / name).write_text("{}")
    for read in (load, AutoTokenizer.from_pretrained, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(IntegrityError, match=f"holds {name}, which its manifest does not list"):
            read(frozen_bundle)


def test_files_that_are_never_read_may_be_added(frozen_bundle):
    for name in ("README.md", "LICENSE", "model.sig"):
        (frozen_bundle / name).write_text("words")
    load(frozen_bundle)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"])
def test_a_tokenizer_alone_is_held_to_the_manifest(frozen_bundle, name):
    path = frozen_bundle / name
    path.write_text(path.read_text().replace(":", ": ", 1))
    with pytest.raises(IntegrityError, match=name):
        AutoTokenizer.from_pretrained(frozen_bundle)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_side_file_that_changes_while_it_is_read(frozen_bundle, name):
    """Even when the very same bytes come back afterwards."""
    path = frozen_bundle / name
    content = path.read_bytes()
    bundle = Bundle(frozen_bundle)

    def swap():
        with bundle.held():
            path.write_bytes(content.replace(b"hello", b"hallo"))
            path.write_bytes(content)

    with pytest.raises(IntegrityError, match="changed while they were read"):
        swap()
    load(frozen_bundle)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "tokenizer_config.json"])
def test_without_a_manifest_links_out_are_refused_all_the_same(frozen_bundle, tmp_path, name):
    (frozen_bundle / "untorch.json").unlink()
    (frozen_bundle / name).rename(tmp_path / "secret.json")
    (frozen_bundle / name).symlink_to(tmp_path / "secret.json")
    for read in (AutoTokenizer.from_pretrained, AutoModelForSequenceClassification.from_pretrained):
        with pytest.raises(IntegrityError, match="leads out of the bundle"):
            read(frozen_bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_hard_link_to_a_file_outside(frozen_bundle, tmp_path, name):
    """A hard link is a file like any other (package managers make them), so it is its bytes that are judged."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * (frozen_bundle / name).stat().st_size)
    (frozen_bundle / name).unlink()
    (frozen_bundle / name).hardlink_to(secret)
    with pytest.raises(IntegrityError, match=f"{name} was altered"):
        load(frozen_bundle)


@pytest.mark.parametrize("place", ["../secret", "/etc", "a/../../secret", "1_Pooling/deeper", ".", "linked"])
def test_a_module_that_lies_outside(frozen_bundle, tmp_path, place):
    """sentence-transformers' modules.json names folders."""
    (frozen_bundle / "untorch.json").unlink()
    for folder in (tmp_path / "secret", frozen_bundle / "1_Pooling/deeper"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (frozen_bundle / "linked").symlink_to(tmp_path / "secret")
    modules = [{"type": "sentence_transformers.models.Pooling", "path": place}]
    (frozen_bundle / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BundleError, match=r"outside|leads out|not in a folder beside it"):
        pipeline("sentence-embeddings", frozen_bundle, precision="fp32")


@pytest.mark.parametrize("modules", ["1", "{}", "[1]", '["x"]', '[{"type": "Pooling"}]', "null"])
def test_modules_of_the_wrong_type(frozen_bundle, modules):
    (frozen_bundle / "untorch.json").unlink()
    (frozen_bundle / "modules.json").write_text(modules)
    if modules == "{}":
        assert pipeline("sentence-embeddings", frozen_bundle, precision="fp32")("hello").shape == (32,)
        return
    with pytest.raises(FormatError, match=r"modules\.json"):
        pipeline("sentence-embeddings", frozen_bundle, precision="fp32")


@pytest.mark.parametrize("name", ["onnx/head.onnx", "onnx/model.onnx_data"])
@pytest.mark.parametrize("way", ["replaced", "written over"])
def test_a_file_that_changes_between_check_and_load(frozen_bundle, monkeypatch, name, way):
    """Even when the very same bytes come back: what was hashed is not what was opened."""
    path = frozen_bundle / name
    content = path.read_bytes()

    def swap(graph, **arguments):
        if way == "replaced":
            path.unlink()
        path.write_bytes(content)
        return Session(graph, **arguments)

    monkeypatch.setattr(sessions, "Session", swap)
    # Whether the digest or the identity notices first depends on which of the two threads is ahead.
    with pytest.raises(IntegrityError):
        load(frozen_bundle)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damage_anywhere_is_caught_before_the_first_answer(frozen_bundle, damage):
    """100 places of each kind, over all the files that are read for an answer."""
    load(frozen_bundle)("hello")  # undamaged it loads
    chance = random.Random(6)
    for _ in range(100):
        name = chance.choice(FILES)
        content = (frozen_bundle / name).read_bytes()
        place = chance.randrange(len(content))
        changed = bytearray(content)
        if damage == "truncated":
            del changed[place:]
        else:
            changed[place] ^= 1 << chance.randrange(8)
        (frozen_bundle / name).write_bytes(changed)
        with pytest.raises(IntegrityError, match=name):
            load(frozen_bundle)
        (frozen_bundle / name).write_bytes(content)


def test_a_damaged_manifest_is_a_typed_error_or_changes_no_answer(frozen_bundle):
    """It has no digest of its own: a flipped bit may rename a tool, but never pass a file that is not the one."""
    path = frozen_bundle / "untorch.json"
    content = path.read_bytes()
    expected = load(frozen_bundle)("hello world")
    chance = random.Random(7)
    for _ in range(60):
        place = chance.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        with suppress(UntorchError):
            assert load(frozen_bundle)("hello world") == expected


def test_trust_levels(frozen_bundle, monkeypatch):
    monkeypatch.setenv("UNTORCH_REQUIRE_VERIFIED", "1")
    assert Bundle(frozen_bundle).trust == "verified"
    load(frozen_bundle)
    (frozen_bundle / "untorch.json").unlink()
    with pytest.raises(IntegrityError, match="UNTORCH_REQUIRE_VERIFIED"):
        Bundle(frozen_bundle)
    for read in (AutoTokenizer.from_pretrained, AutoModelForSequenceClassification.from_pretrained, load):
        with pytest.raises(IntegrityError, match="UNTORCH_REQUIRE_VERIFIED"):
            read(frozen_bundle)
    monkeypatch.setenv("UNTORCH_REQUIRE_VERIFIED", "0")
    assert Bundle(frozen_bundle).trust == "unverified"


def test_trust_on_the_command_line(frozen_bundle, monkeypatch, capsys):
    monkeypatch.setenv("UNTORCH_REQUIRE_VERIFIED", "0")
    assert main(["verify", str(frozen_bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trust"] == "verified"
    command = ["run", str(frozen_bundle), "--task", "text-classification", "hello"]
    assert main([*command, "--trust", "verified"]) == 0
    (frozen_bundle / "untorch.json").unlink()
    assert main([*command, "--trust", "unverified"]) == 0
    assert main([*command, "--trust", "verified"]) == 2
    assert "no manifest" in capsys.readouterr().err
    main(["doctor"])
    assert "refused (UNTORCH_REQUIRE_VERIFIED)" in capsys.readouterr().out


def test_a_running_process_answers_from_the_bundle_it_loaded(frozen_bundle, tmp_path):
    """A bundle is replaced by another folder in its place, as the exporter does it; its files are never written to."""
    classify = load(frozen_bundle)
    expected = classify("hello world")
    other = shutil.copytree(frozen_bundle, tmp_path / "other")
    path = other / "onnx/model.onnx_data"
    path.write_bytes(bytes(path.stat().st_size))
    frozen_bundle.rename(tmp_path / "old")
    other.rename(frozen_bundle)
    shutil.rmtree(tmp_path / "old")
    assert classify("hello world") == expected
    with pytest.raises(IntegrityError, match="was altered"):  # a reload takes nothing that it cannot vouch for
        load(frozen_bundle)
    assert classify("hello world") == expected
