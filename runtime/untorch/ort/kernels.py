"""The package untorch-kernels: operators of our own for int8, as a library that ONNX Runtime loads. It knows no graphs.

It is imported only where a bundle has a variant for it, or where somebody asks, and loaded from where it is installed:
nothing in a bundle can name another library.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path
from typing import Any

from untorch.errors import DependencyError, DeviceError, UntorchError, first_line

logger = logging.getLogger("untorch")

PACKAGE = "untorch-kernels"
# The domain of its operators.
DOMAIN = "untorch"


def require() -> Path:
    """The library to register with ONNX Runtime.

    Raises DependencyError if the package is not installed or its library cannot be loaded, DeviceError, naming the
    instructions, if this processor cannot run it.
    """
    try:
        import untorch_kernels

        library = untorch_kernels.library()
    except ImportError as error:
        raise DependencyError(
            f"this variant needs the package {PACKAGE}, which cannot be imported ({error}). It is for Linux on x86-64. "
            "Run: pip install 'untorch[kernels]', or take another variant (precision='int8')"
        ) from error
    try:
        missing = untorch_kernels.missing()
    except (OSError, AttributeError) as error:  # it is no library, or has not the functions of ours
        raise _broken(error) from error
    if missing is not None:
        raise DeviceError(
            f"the operators of {PACKAGE} need {missing}, which this processor lacks. "
            "Take another variant (precision='int8')"
        )
    return library


def problem() -> UntorchError | None:
    """What keeps the operators from being used here, as `require` would raise it; None if nothing does."""
    try:
        require()
    except UntorchError as error:
        return error
    return None


def usable() -> bool:
    """Whether the operators can be used here."""
    return problem() is None


def preferred() -> bool:
    """Whether they can be used here and are the faster choice: not where ONNX Runtime's own int8 has AMX.

    A package that is installed and broken is left aside, with a warning in the log.
    """
    found = problem()
    if found is None:
        import untorch_kernels

        return untorch_kernels.preferred()
    if isinstance(found, DependencyError) and version() is not None:
        _warn(str(found))
    return False


def version() -> str | None:
    """The installed version; None where the package is not installed. It imports nothing."""
    spec = importlib.util.find_spec("untorch_kernels")
    if spec is None or spec.origin is None:
        return None
    # A listing of one folder, because importlib.metadata would cost more than all the rest of a start.
    found = sorted(Path(spec.origin).parent.parent.glob("untorch_kernels-*.dist-info"))
    return found[-1].name.removesuffix(".dist-info").partition("-")[2] if found else "unknown"


def register(options: Any) -> None:
    """Have the session of these options (ONNX Runtime's SessionOptions) know the operators.

    Raises what `require` raises, and DependencyError if ONNX Runtime does not take the library.
    """
    library = require()
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # ONNX Runtime's errors have no common base below Exception
        raise _broken(error) from error


def _broken(error: Exception) -> DependencyError:
    return DependencyError(
        f"the library of {PACKAGE} {version()} cannot be loaded: {first_line(error)}. "
        f"Run: pip install --force-reinstall {PACKAGE}"
    )


@functools.cache
def _warn(reason: str) -> None:
    """Say it in the log; the same only once."""
    logger.warning("int8 runs without our own operators: %s", reason)
