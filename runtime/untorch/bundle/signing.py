"""Signatures over a whole bundle, in the format of OpenSSF model signing, with elliptic-curve keys.

The manifest says what a bundle holds; a signature says who stands for it. It covers every file of the folder, and
`model_signing verify key` takes it too. Signing and checking need no network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from untorch.bundle.folder import Bundle, check_size, read_json
from untorch.bundle.manifest import MANIFEST, Manifest
from untorch.errors import BundleError, DependencyError, InputError, IntegrityError


def sign(bundle: Bundle, *, private_key: str | os.PathLike[str], signature: str | os.PathLike[str]) -> None:
    """Write a signature over every file of the bundle to the file `signature`.

    `private_key` is a PEM file with a key on the curve P-256, P-384 or P-521, without a password. Digests are checked
    first. Raises BundleError for a folder without a manifest, IntegrityError for a damaged one, InputError for a key
    that cannot be used or a signature that cannot be written.
    """
    library = _library()
    if bundle.manifest is None:
        raise BundleError(f"{bundle.path} has no {MANIFEST}; only a bundle that untorch exported can be signed")
    bundle.check()
    path = Path(signature)
    hashing = library.hashing.Config()
    if (inside := path.resolve()).is_relative_to(folder := bundle.path.resolve()):
        # A signature cannot cover itself.
        hashing.set_ignored_paths(paths=[inside.relative_to(folder)])
    try:
        signer = library.signing.Config().use_elliptic_key_signer(private_key=Path(private_key))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{private_key} is no private key to sign with: {error}") from error
    try:
        signer.set_hashing_config(hashing).sign(bundle.path, path)
    except (OSError, ValueError) as error:
        raise InputError(f"{bundle.path} could not be signed: {error}") from error


def check_signature(bundle: Bundle, *, signature: str | os.PathLike[str], public_key: str | os.PathLike[str]) -> None:
    """Raise IntegrityError unless the key's owner signed exactly these files, and the manifest that `bundle` read.

    A file that was changed, added or removed since breaks the signature. What is loaded from `bundle` afterwards is
    held to the signed manifest's digests. Raises InputError for a public key that cannot be used.
    """
    library = _library()
    path = Path(signature)
    if not path.is_file():
        raise IntegrityError(f"there is no signature {path}; ask whoever made the bundle for it")
    check_size(path)
    try:
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=Path(public_key))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{public_key} is no public key to check with: {error}") from error
    before = bundle.identities([MANIFEST])
    manifest = bundle.path / MANIFEST
    same = Manifest.from_json(read_json(manifest), str(manifest)) == bundle.manifest
    try:
        verifier.verify(bundle.path, path)
    except Exception as error:  # the library parses what anybody may have written, and lets every parser's errors out
        # A list's repr: what differs is named first, then come digests as raw bytes, which tell nobody anything.
        reason = str(error).removeprefix("Signature mismatch: ").partition(": Expected")[0]
        reason = reason.lstrip("[\"'").rstrip(']"').replace("\\'", "'") or "it was made with another key, or altered"
        raise IntegrityError(f"{path} does not hold for {bundle.path}: {reason}") from error
    # The manifest that was signed must be the one that was read when the bundle was opened.
    if not same or bundle.identities([MANIFEST]) != before:
        raise IntegrityError(f"{manifest} changed while its signature was checked; open the bundle again")


def _library() -> Any:
    """The package model_signing. Raises DependencyError where it is not installed."""
    try:
        import model_signing
    except ModuleNotFoundError as error:
        raise DependencyError(f'signatures need {error.name}: pip install "untorch[sign]"') from error
    return model_signing
