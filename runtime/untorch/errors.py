"""Every error untorch raises on purpose.

A message says in one or two lines what was wrong, where, and what to do about it. The command
line prints the message alone; a traceback is for a defect, never for a user's mistake.
"""

from __future__ import annotations


class UntorchError(Exception):
    """Base of the family: catch this to catch everything untorch raises on purpose."""


class BundleError(UntorchError):
    """A bundle cannot be found, or is not one."""


class FormatError(BundleError):
    """A bundle's manifest, config or tokenizer is malformed, or of a newer format version."""


class IntegrityError(BundleError):
    """A bundle's file is missing, truncated or altered, or reaches outside the bundle."""


class TaskError(UntorchError):
    """A task that does not exist, or that this bundle cannot do."""


class InputError(UntorchError, ValueError, TypeError):
    """The caller's texts, ids or arguments cannot be used as given.

    transformers raises now a ValueError, now a TypeError for these: code that catches either catches this.
    """


class SequenceTooLongError(InputError):
    """A sequence is longer than the model's limit and truncation is off."""


class DeviceError(UntorchError):
    """A device, or a precision on it, that cannot be had on this machine."""


class DependencyError(UntorchError, ImportError):
    """A package that this call needs is not installed, or two installed packages conflict."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not blank; its type's name where it has none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
