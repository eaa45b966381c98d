"""untorch on a Ray cluster: `predict` for datasets. Needs `untorch[ray]`.

answered = untorch.ray.predict(ray.data.read_parquet("s3://reviews/"), "s3://bundles/minilm", column="text")
answered.write_parquet("s3://answers/")
"""

from __future__ import annotations

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

__all__ = ["predict"]
