"""The operators of untorch-kernels: where they are, and whether this processor can run them."""

from __future__ import annotations

from pathlib import Path

from untorch.errors import DependencyError, DeviceError

# The domain of its operators.
DOMAIN = "untorch"


def require() -> Path:
    """The library to register with ONNX Runtime.

    Raises DependencyError where untorch-kernels is not installed, DeviceError where the processor cannot run it.
    """
    try:
        import untorch_kernels

        library: Path = untorch_kernels.library()
        missing = untorch_kernels.missing()
    except (ImportError, OSError) as error:
        raise DependencyError(
            f"this variant needs untorch-kernels, which cannot be loaded ({error}): pip install untorch-kernels"
        ) from error
    if missing is not None:
        raise DeviceError(f"the operators of untorch-kernels need {missing}, which this processor lacks")
    return library


def usable() -> bool:
    """Whether graphs with these operators can run here."""
    try:
        require()
    except (DependencyError, DeviceError):
        return False
    return True
