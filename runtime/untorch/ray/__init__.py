"""untorch on a Ray cluster: `predict` for datasets. Needs `untorch[ray]`.

answered = untorch.ray.predict(ray.data.read_parquet("s3://reviews/"), "s3://bundles/minilm", column="text")
answered.write_parquet("s3://answers/")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from untorch.errors import DependencyError

try:
    import ray
except ImportError as error:
    raise DependencyError("this needs Ray: pip install 'untorch[ray]'") from error

# Checkpoints commit in two steps since this version; before it a killed write could be there twice.
OLDEST = (2, 60)

if tuple(map(int, ray.__version__.split(".")[:2])) < OLDEST:
    raise DependencyError(f"Ray {ray.__version__} is installed; this needs {'.'.join(map(str, OLDEST))} or newer")

from untorch.ray.data import predict  # noqa: E402

if TYPE_CHECKING:
    from untorch.ray.serve import deployment

__all__ = ["deployment", "predict"]


def __getattr__(name: str) -> Any:
    if name != "deployment":
        raise AttributeError(f"module 'untorch.ray' has no attribute {name!r}")
    # Imported when it is asked for: Ray Serve and what serves HTTP may not be installed.
    try:
        from untorch.ray.serve import deployment
    except ModuleNotFoundError as error:
        raise DependencyError(f"this needs {error.name}: pip install 'untorch[ray,serve]' 'ray[serve]'") from error
    return deployment
