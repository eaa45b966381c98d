"""Bundles that are not what was signed, and signatures that are not who they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from helpers.signing_keys import make_key
from untorch import AutoModelForSequenceClassification, Bundle, BundleError, InputError, IntegrityError
from untorch.bundle.folder import digest
from untorch.bundle.signing import check_signature, sign
from untorch.cli import main


@pytest.fixture
def keys(tmp_path):
    return make_key(tmp_path, "key")


@pytest.fixture
def signature(frozen_bundle, keys, tmp_path):
    """A signature over the frozen bundle, beside it."""
    sign(Bundle(frozen_bundle), private_key=keys[0], signature=tmp_path / "frozen.sig")
    return tmp_path / "frozen.sig"


def verify(bundle, signature, key):
    return main(["verify", str(bundle), "--signature", str(signature), "--public-key", str(key)])


def test_signing_and_verifying_on_the_command_line(frozen_bundle, keys, tmp_path, capsys):
    signature = tmp_path / "frozen.sig"
    command = ["sign", str(frozen_bundle), "--private-key", str(keys[0]), "--signature", str(signature)]
    assert main(command) == 0
    assert verify(frozen_bundle, signature, keys[1]) == 0
    assert f"signature {signature} holds" in " ".join(capsys.readouterr().out.split())
    assert main(["verify", str(frozen_bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed"] is False


def test_the_signature_is_one_that_model_signing_takes(frozen_bundle, signature, keys):
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(frozen_bundle)]
    command += ["--signature", str(signature), "--public_key", str(keys[1])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_signature_inside_the_bundle(frozen_bundle, keys):
    sign(Bundle(frozen_bundle), private_key=keys[0], signature=frozen_bundle / "model.sig")
    assert verify(frozen_bundle, frozen_bundle / "model.sig", keys[1]) == 0


def test_a_copy_under_another_name_is_the_same_bundle(frozen_bundle, signature, keys, tmp_path):
    assert verify(shutil.copytree(frozen_bundle, tmp_path / "elsewhere"), signature, keys[1]) == 0


@pytest.mark.parametrize("name", ["untorch.json", "config.json", "onnx/model.onnx", "onnx/model_int8.onnx_data"])
def test_one_byte_changed_with_the_manifest_rewritten_to_match(frozen_bundle, signature, keys, capsys, name):
    """Whoever can write files can write the manifest; only the signature tells."""
    path = frozen_bundle / name
    content = bytearray(path.read_bytes())
    if name == "untorch.json":
        content[content.index(b"20")] ^= 1  # in the date: no check but the signature's sees it
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if name != "untorch.json":
        manifest = json.loads((frozen_bundle / "untorch.json").read_text())
        manifest["files"][name]["sha256"] = digest(path)
        (frozen_bundle / "untorch.json").write_text(json.dumps(manifest))
    Bundle(frozen_bundle).check()  # the manifest has no objection
    assert verify(frozen_bundle, signature, keys[1]) == 1
    assert f"Hash mismatch for '{name}'" in capsys.readouterr().err


def test_a_file_added(frozen_bundle, signature, keys, capsys):
    (frozen_bundle / "chat_template.jinja").write_text("{{ messages }}")
    assert verify(frozen_bundle, signature, keys[1]) == 1
    assert "Extra files found" in capsys.readouterr().err


def test_a_variant_removed(frozen_bundle, signature, keys, capsys):
    for name in Bundle(frozen_bundle).variant("int8").files:
        (frozen_bundle / name).unlink()
    assert verify(frozen_bundle, signature, keys[1]) == 1
    assert "Missing files" in capsys.readouterr().err


def test_a_symbolic_link_in_the_folder(frozen_bundle, signature, keys, tmp_path, capsys):
    (tmp_path / "secret").write_text("secret")
    (frozen_bundle / "linked").symlink_to(tmp_path / "secret")
    assert verify(frozen_bundle, signature, keys[1]) == 1
    assert "symlink" in capsys.readouterr().err


def test_the_wrong_key(frozen_bundle, signature, tmp_path, capsys):
    assert verify(frozen_bundle, signature, make_key(tmp_path, "other")[1]) == 1
    assert "does not hold" in capsys.readouterr().err


def test_a_signature_of_another_key_that_claims_to_be_this_one(frozen_bundle, signature, keys, tmp_path):
    """The hint that names the key is not covered by the signature."""
    forger, _ = make_key(tmp_path, "forger")
    sign(Bundle(frozen_bundle), private_key=forger, signature=tmp_path / "forged.sig")
    forged, honest = (json.loads((tmp_path / name).read_text()) for name in ("forged.sig", "frozen.sig"))
    forged["verificationMaterial"] = honest["verificationMaterial"]
    (tmp_path / "forged.sig").write_text(json.dumps(forged))
    assert verify(frozen_bundle, tmp_path / "forged.sig", keys[1]) == 1


def test_the_signature_of_another_bundle(frozen_bundle, keys, tmp_path):
    other = shutil.copytree(frozen_bundle, tmp_path / "other")
    path = other / "untorch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": "2020-01-01"}))
    sign(Bundle(other), private_key=keys[0], signature=tmp_path / "other.sig")
    assert verify(other, tmp_path / "other.sig", keys[1]) == 0
    assert verify(frozen_bundle, tmp_path / "other.sig", keys[1]) == 1


@pytest.mark.parametrize("content", ["", "null", "{}", "[" * 100_000, '{"dsseEnvelope": {}}', "\0\xff", None])
def test_what_is_no_signature(frozen_bundle, keys, tmp_path, content):
    if content is not None:
        (tmp_path / "no.sig").write_text(content, encoding="latin-1")
    with pytest.raises(IntegrityError, match=r"no\.sig"):
        check_signature(Bundle(frozen_bundle), signature=tmp_path / "no.sig", public_key=keys[1])
    assert verify(frozen_bundle, tmp_path / "no.sig", keys[1]) == 1


def test_a_manifest_swapped_between_opening_and_checking(frozen_bundle, signature, keys):
    """The bundle was opened with another manifest than the one that is there, and signed, when it is checked."""
    path = frozen_bundle / "untorch.json"
    signed = path.read_bytes()
    path.write_text(json.dumps({**json.loads(signed), "task": "text-ranking"}))
    bundle = Bundle(frozen_bundle)
    path.write_bytes(signed)
    with pytest.raises(IntegrityError, match=r"untorch\.json changed"):
        check_signature(bundle, signature=signature, public_key=keys[1])


def test_a_file_swapped_between_checking_and_loading(frozen_bundle, signature, keys):
    """What is loaded from a checked bundle is held to the signed manifest, even where that was replaced too."""
    bundle = Bundle(frozen_bundle)
    check_signature(bundle, signature=signature, public_key=keys[1])
    path = frozen_bundle / "config.json"
    path.write_text(path.read_text().replace("POSITIVE", "NEGATIV3"))
    manifest = json.loads((frozen_bundle / "untorch.json").read_text())
    manifest["files"]["config.json"]["sha256"] = digest(path)
    (frozen_bundle / "untorch.json").write_text(json.dumps(manifest))
    AutoModelForSequenceClassification.from_pretrained(frozen_bundle)  # opened anew, it is another bundle
    with pytest.raises(IntegrityError, match=r"config\.json was altered"):
        AutoModelForSequenceClassification.from_bundle(bundle)


def test_keys_that_cannot_be_used(frozen_bundle, signature, keys, tmp_path):
    bundle = Bundle(frozen_bundle)
    rsa_key = make_key(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    curve = make_key(tmp_path, "curve", ec.generate_private_key(ec.SECP256K1()))
    (tmp_path / "no.pem").write_text("no key")
    for private, public in (rsa_key, curve, (tmp_path / "no.pem",) * 2, (tmp_path / "absent",) * 2, keys[::-1]):
        with pytest.raises(InputError, match="no private key"):
            sign(bundle, private_key=private, signature=tmp_path / "x.sig")
        with pytest.raises(InputError, match="no public key"):
            check_signature(bundle, signature=signature, public_key=public)
    assert not (tmp_path / "x.sig").exists()


def test_what_is_not_signed(frozen_bundle, keys, tmp_path):
    signature = tmp_path / "x.sig"
    with pytest.raises(InputError, match="could not be signed"):
        sign(Bundle(frozen_bundle), private_key=keys[0], signature=tmp_path / "no/such/folder.sig")
    path = frozen_bundle / "config.json"
    path.write_text(path.read_text().replace("POSITIVE", "NEGATIV3"))
    with pytest.raises(IntegrityError, match="altered"):
        sign(Bundle(frozen_bundle), private_key=keys[0], signature=signature)
    (frozen_bundle / "untorch.json").unlink()
    with pytest.raises(BundleError, match=r"has no untorch\.json"):
        sign(Bundle(frozen_bundle), private_key=keys[0], signature=signature)
    assert not signature.exists()


def test_a_signature_needs_a_key_and_a_key_a_signature(frozen_bundle, signature, keys, capsys):
    assert main(["verify", str(frozen_bundle), "--signature", str(signature)]) == 2
    assert main(["verify", str(frozen_bundle), "--public-key", str(keys[1])]) == 2
    assert "together" in capsys.readouterr().err


def test_without_the_package(frozen_bundle, signature, keys, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert verify(frozen_bundle, signature, keys[1]) == 2
    assert 'pip install "untorch[sign]"' in capsys.readouterr().err
