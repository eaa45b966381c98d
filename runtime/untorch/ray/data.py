"""Answers for a Ray dataset: a pool of actors over the cluster, and jobs that go on where they were killed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from pandas.util import hash_array
from pyarrow import fs
from ray.data import ActorPoolStrategy, Dataset
from ray.data.checkpoint import CheckpointConfig

from untorch.errors import InputError, IntegrityError
from untorch.jobs.arrow import pa
from untorch.jobs.bundles import identity
from untorch.jobs.worker import Worker
from untorch.numerics import Array
from untorch.ray import nodes

# Rows of a batch: the worker runs windows of a quarter, and Ray's cost a batch is shared by more rows.
BATCH_SIZE = 4096


class _Actor:
    """A worker in an actor, with the bundle that was checked before the job and no other."""

    def __init__(self, worker: Worker, bundle: str) -> None:
        self._worker = worker
        if identity(worker.load().model.bundle) != bundle:
            raise IntegrityError(f"{worker.bundle} is another bundle than the one that the job began with")

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._worker(table)


def predict(
    dataset: Dataset,
    bundle: str,
    column: str | Mapping[str, str] | None = None,
    *,
    id: str | None = None,
    checkpoint: str | None = None,
    threads: int | None = None,
    gpus: float = 0,
    **settings: Any,
) -> Dataset:
    """A dataset with the answers beside the columns of `dataset`, computed when it is consumed.

    `bundle`, `column` and further `settings` are those of `untorch.jobs.Worker`; a row that cannot be answered has its
    reason in the column `error`. The bundle is a path or an installed model that every node has, or a URL, fetched once
    a node. Actors of `threads` cores each (default: 2, or 1 on nodes of fewer than 4) and `gpus` GPUs share the rows,
    as many as the cluster has room for.

    With `id`, a column of unique values, and `checkpoint`, a folder or URL that every node can write, a job that writes
    files (`.write_parquet(…)`) and was killed goes on where it was when it is run again with the same output: rows
    whose answers are written are not answered again. Ray keeps the ids in the checkpoint, which stays when the job is
    done, so that running it once more adds nothing. Without them a block that is written twice, because the first
    writer was lost before it said so, is there twice.

    Everything is checked before anything starts, on every node. Raises InputError for a column that is missing or not
    text, ids that are null or not unique, a checkpoint of another job, or a cluster without room; DependencyError
    for a node without untorch or with another version; BundleError or IntegrityError, naming node and file, for a
    bundle that is missing or altered on one.
    """
    if (id is None) != (checkpoint is None):
        raise InputError("give both id and checkpoint to resume by, or neither")
    if not ray.is_initialized():
        ray.init()
    if id is not None:
        dataset.context.checkpoint_config = None  # an earlier job's: what is read for the checks is all there is
    threads = threads or (2 if min(_cores()) >= 4 else 1)
    device = settings.pop("device", "cuda" if gpus else "cpu")
    worker = Worker(bundle, column=column, threads=threads, device=device, **settings)
    schema = _schema(dataset)
    size = nodes.pool_size(threads, gpus)
    checked = nodes.check(worker, schema)
    if id is not None and checkpoint is not None:
        _check_ids(dataset, id, schema)
        job = hashlib.sha256(f"{worker!r} {checked}".encode()).hexdigest()[:16]
        dataset.context.checkpoint_config = CheckpointConfig(
            id, _progress(checkpoint, job), delete_checkpoint_on_success=False
        )
    return dataset.map_batches(
        _Actor,
        fn_constructor_args=(worker, checked),
        batch_size=BATCH_SIZE,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=size),
        num_cpus=threads,
        num_gpus=gpus or None,
        udf_modifying_row_count=False,
    )


def _cores() -> list[float]:
    return [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]


def _schema(dataset: Dataset) -> pa.Schema | None:
    """The dataset's Arrow schema; None where it has no rows, or has another form until it is read."""
    schema = dataset.schema()
    base = None if schema is None else schema.base_schema
    return base if isinstance(base, pa.Schema) else None


def _check_ids(dataset: Dataset, id: str, schema: pa.Schema | None) -> None:
    if schema is not None and id not in schema.names:
        raise InputError(f"there is no column {id!r} to resume by; there is {', '.join(schema.names)}")
    # Eight bytes a row come here: a shuffle would tell as well, in two hundred tasks.
    parts = list(
        dataset.select_columns([id]).map_batches(_hashed, batch_format="pyarrow").iter_batches(batch_size=None)
    )
    if any(part["null"].any() for part in parts):
        raise InputError(f"some ids in {id!r} are null, so that they do not tell the rows apart")
    hashes = np.sort(np.concatenate([part["hash"] for part in parts])) if parts else np.empty(0, np.uint64)
    again = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])[:1000]
    if not len(again):
        return
    # Two ids may have one hash, so that the ids themselves decide.
    suspects = dataset.select_columns([id]).map_batches(_with_hashes, fn_args=(again,), batch_format="pyarrow")
    counts = Counter(row[id] for row in suspects.take_all())
    for value, count in counts.most_common(1):
        if count > 1:
            raise InputError(f"the ids in {id!r} are not unique: {value!r} is there {count} times")


def _hashed(ids: pa.Table) -> pa.Table:
    """The hashes of a column of ids, and which of them are null."""
    column = ids.column(0)
    return pa.table({"hash": _hashes(column), "null": column.is_null()})


def _with_hashes(ids: pa.Table, wanted: Array) -> pa.Table:
    return ids.filter(pa.array(np.isin(_hashes(ids.column(0)), wanted)))


def _hashes(column: pa.ChunkedArray) -> Array:
    """(rows,) 64-bit hashes that are the same in every process."""
    values = column.to_numpy()
    return np.asarray(hash_array(values if values.dtype.kind in "iu" else values.astype(object), categorize=False))


def _progress(checkpoint: str, job: str) -> str:
    """The folder of this job's ids. Raises InputError where the checkpoint holds another job's."""
    try:
        system, root = fs.FileSystem.from_uri(checkpoint)
        system.create_dir(root, recursive=True)
        found = system.get_file_info(fs.FileSelector(root))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"the checkpoint {checkpoint} cannot be used: {error}") from error
    for other in found:
        if other.base_name != job:
            raise InputError(
                f"the checkpoint {checkpoint} is of another job: its bundle, column or arguments were others. "
                "Choose another folder, or remove this one"
            )
    return f"{checkpoint.rstrip('/')}/{job}"
