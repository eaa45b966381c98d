"""What every node of a cluster must have before a job starts: untorch of one version, and one bundle, whole."""

from __future__ import annotations

from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from untorch.errors import DependencyError, InputError, IntegrityError, UntorchError
from untorch.jobs.arrow import pa
from untorch.jobs.bundles import identity
from untorch.jobs.worker import Worker
from untorch.version import __version__


class _Found(NamedTuple):
    """What a node has: untorch's version, the bundle's identity, or what is wrong with one of them."""

    version: str
    bundle: str
    error: UntorchError | None


def _look(worker: Worker, schema: pa.Schema | None) -> _Found:
    try:
        bundle = worker.load().model.bundle
        bundle.check()
        if schema is not None:
            worker.schema(schema)
        return _Found(__version__, identity(bundle), None)
    except UntorchError as error:
        return _Found(__version__, "", error)


def check(worker: Worker, schema: pa.Schema | None) -> str:
    """The identity of the bundle, which every node was found to have whole.

    Every file's digest is compared, and `schema` is tried on the model. Raises, naming the node: DependencyError for
    one without untorch or with another version, IntegrityError for one whose bundle is altered or another one, and
    else what loading or the schema raised.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    # In a process of its own, which ends with the model it loaded.
    look_at = ray.remote(num_cpus=0, max_calls=1, max_retries=2)(_look)
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    looks = [look_at.options(scheduling_strategy=place).remote(worker, schema) for place in places]
    first = ""
    for node, look in zip(nodes, looks, strict=True):
        name = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
        try:
            found = ray.get(look)
        except ray.exceptions.RayError as error:
            raise DependencyError(f"{name} cannot run untorch {__version__}: {_last_line(error)}") from error
        if found.version != __version__:
            raise DependencyError(f"{name} has untorch {found.version}; here it is {__version__}")
        if isinstance(found.error, InputError):
            raise found.error  # about the columns, and the same on every node
        if found.error is not None:
            raise type(found.error)(f"{name}: {found.error}") from found.error
        first = first or found.bundle
        if found.bundle != first:
            raise IntegrityError(f"{name} has another bundle than the others under the name {worker.bundle}")
    return first


def _last_line(error: Exception) -> str:
    return str(error).strip().rsplit("\n", 1)[-1]


def pool_size(cpus: int, gpus: float) -> int:
    """How many actors of so many cores and GPUs the cluster has room for, a core for reading left over.

    Raises InputError where there is no room for one.
    """
    total, free = 0, 0.0
    for node in ray.nodes():
        if node["Alive"]:
            resources: dict[str, Any] = node["Resources"]
            room = int(resources.get("CPU", 0) // cpus)
            total += min(room, int(resources.get("GPU", 0) // gpus)) if gpus else room
            free += resources.get("CPU", 0)
    if free - total * cpus < 1:
        total -= 1
    if total < 1:
        asked = f"{cpus} CPU{'s' * (cpus > 1)}" + (f" and {gpus:g} GPU" if gpus else "")
        raise InputError(f"no node has {asked} for an actor and the cluster one CPU more for reading")
    return total
