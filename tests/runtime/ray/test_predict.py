"""A real cluster of three nodes: one process's answers, each once, whatever is killed; and what is refused before."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="pip install 'untorch[ray]'")
from pyarrow import parquet  # noqa: E402

from untorch.errors import DependencyError, InputError, IntegrityError  # noqa: E402
from untorch.jobs import Worker  # noqa: E402

pytestmark = pytest.mark.scale

ROWS = int(os.environ.get("UNTORCH_RAY_ROWS", "200000"))
KILLS = int(os.environ.get("UNTORCH_RAY_KILLS", "2"))


def sentences(rows: int) -> pa.Table:
    from helpers.checkpoints import WORDS

    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS.split(), k=chance.randint(1, 20))) for _ in range(rows)]
    return pa.table({"id": [f"row {number}" for number in range(rows)], "text": texts})


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    parquet.write_table(sentences(ROWS), folder / "a.parquet", row_group_size=max(1, ROWS // 24))
    return folder


@pytest.fixture(scope="module")
def embedder(make_bundle) -> Path:
    from helpers.checkpoints import small_bert

    return make_bundle("jobs-BertModel", lambda folder: small_bert(folder, "BertModel"), precisions=["fp32"])[1]


def job(nodes, bundle, task, source, folder) -> list[str]:
    """The command of a driver, alone in its folder: Ray puts that on the path of every process of the job."""
    script = str(Path(__file__).with_name("job.py"))
    places = (str(source), str(folder / "out"), str(folder / "checkpoint"))
    return [sys.executable, script, nodes.address, str(bundle), task, *places]


def one_process(bundle, task, source) -> dict:
    """Every row's answer by its id, as a worker in this process gives it."""
    worker = Worker(bundle, task, precision="fp32")
    batches = parquet.read_table(source).to_batches(max_chunksize=4096)
    return by_id(pa.Table.from_batches(map(worker, batches)))


def by_id(table: pa.Table) -> dict:
    ids = table["id"].to_pylist()
    name = "embedding" if "embedding" in table.schema.names else "score"
    assert table["error"].null_count == table.num_rows
    assert len(set(ids)) == len(ids), "a row is there twice"
    values = table[name].combine_chunks()
    numbers = (values.flatten() if name == "embedding" else values).to_numpy(zero_copy_only=False)
    return dict(zip(ids, numbers.reshape(len(ids), -1), strict=True))


def assert_the_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys(), "rows are lost"
    ids = list(expected)
    np.testing.assert_allclose(np.stack([found[id] for id in ids]), np.stack([expected[id] for id in ids]), atol=1e-4)


@pytest.mark.parametrize("task", ["text-classification", "sentence-embeddings"])
def test_the_cluster_gives_one_processs_answers_by_id(nodes, tiny_bundle, embedder, source, tmp_path, task):
    bundle = tiny_bundle if task == "text-classification" else embedder
    expected = one_process(bundle, task, source)
    command = job(nodes, bundle, task, source, tmp_path)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=580)
    assert_the_same(by_id(parquet.read_table(tmp_path / "out")), expected)
    # Done is done: once more adds nothing.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=580)
    assert parquet.read_table(tmp_path / "out").num_rows == ROWS


@pytest.mark.parametrize("victim", ["actor", "node", "driver"])
@pytest.mark.parametrize("number", range(KILLS))
def test_killed_and_resumed_nothing_is_lost_and_nothing_is_twice(nodes, tiny_bundle, source, tmp_path, victim, number):
    chance = random.Random(f"{victim}{number}")
    out = tmp_path / "out"
    command = job(nodes, tiny_bundle, "text-classification", source, tmp_path)
    victim_node = nodes.add() if victim == "node" else None
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not (nodes.actors() and any(out.glob("*.parquet"))):
        time.sleep(0.1)
    time.sleep(chance.uniform(0, 2))
    assert running.poll() is None, running.stderr.read()
    if victim == "actor":
        nodes.kill_actor(chance)
    elif victim == "node":
        nodes.remove(victim_node)
    else:
        running.kill()
    errors = running.communicate(timeout=400)[1]
    for _ in range(3):
        if running.returncode == 0:
            break
        running = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=400)
        errors = running.stderr
    assert running.returncode == 0, errors
    assert_the_same(by_id(parquet.read_table(out)), one_process(tiny_bundle, None, source))


@pytest.fixture
def small(tmp_path):
    def dataset(**columns):
        import ray

        folder = tmp_path / f"data-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        parquet.write_table(pa.table(columns), folder / "a.parquet")
        return ray.data.read_parquet(str(folder))

    return dataset


def test_columns_and_ids_that_will_not_do_are_named_before_anything_starts(nodes, tiny_bundle, small, tmp_path):
    from untorch.ray import predict

    with pytest.raises(InputError, match="there is no column 'body'; there is text"):
        predict(small(text=["a"]), tiny_bundle, "body")
    with pytest.raises(InputError, match="the column 'text' is int64, not text"):
        predict(small(text=[1]), tiny_bundle)
    checkpoint = str(tmp_path / "checkpoint")
    with pytest.raises(InputError, match="there is no column 'id' to resume by"):
        predict(small(text=["a"]), tiny_bundle, id="id", checkpoint=checkpoint)
    with pytest.raises(InputError, match="the ids in 'id' are not unique: 7 is there 2 times"):
        predict(small(text=["a", "b", "c"], id=[7, 8, 7]), tiny_bundle, id="id", checkpoint=checkpoint)
    with pytest.raises(InputError, match="some ids in 'id' are null"):
        predict(small(text=["a", "b"], id=["x", None]), tiny_bundle, id="id", checkpoint=checkpoint)
    with pytest.raises(InputError, match="give both id and checkpoint"):
        predict(small(text=["a"]), tiny_bundle, id="id")
    with pytest.raises(InputError, match="no node has 64 CPUs for an actor"):
        predict(small(text=["a"]), tiny_bundle, threads=64)


def test_the_checkpoint_of_another_job_is_refused(nodes, tiny_bundle, small, tmp_path):
    from untorch.ray import predict

    dataset = small(text=["a", "b"], id=[1, 2])
    checkpoint = str(tmp_path / "checkpoint")
    predict(dataset, tiny_bundle, id="id", checkpoint=checkpoint).write_parquet(str(tmp_path / "out"))
    with pytest.raises(InputError, match="is of another job"):
        predict(dataset, tiny_bundle, id="id", checkpoint=checkpoint, top_k=2)


def test_a_bad_row_has_its_reason_in_a_column_and_the_job_goes_on(nodes, tiny_bundle, small):
    from untorch.ray import predict

    rows = predict(small(text=["good", None, "hello " * 500]), tiny_bundle).take_all()
    assert sorted((row["error"] or "")[:16] for row in rows) == ["", "the text has 502", "the text is null"]


def test_an_altered_bundle_is_named_with_its_node_and_file(nodes, tiny_bundle, small, tmp_path):
    from untorch.ray import predict

    url = shutil.copytree(tiny_bundle, tmp_path / "bundle").as_uri()
    cache = tmp_path / "cache"
    node = nodes.add(env_vars={"UNTORCH_CACHE": str(cache)})
    try:
        # Fetched by every node, then altered on that one alone.
        assert predict(small(text=["a"]), url, precision="fp32").take_all()
        (copy,) = cache.glob("bundles/*/onnx/model.onnx")
        copy.write_bytes(copy.read_bytes()[:-1] + b"x")
        with pytest.raises(IntegrityError, match=rf"node .*{node.unique_id[:8]}.*model.onnx was altered"):
            predict(small(text=["a"]), url, precision="fp32")
    finally:
        nodes.remove(node)


def test_another_version_on_a_node_is_named(nodes, tiny_bundle, small, tmp_path):
    import untorch
    from untorch.ray import predict

    other = shutil.copytree(Path(untorch.__file__).parent, tmp_path / "site/untorch")
    (other / "version.py").write_text('__version__ = "0.0.1"\n')
    node = nodes.add(env_vars={"PYTHONPATH": os.pathsep.join([str(other.parent), os.environ["PYTHONPATH"]])})
    try:
        with pytest.raises(DependencyError, match=rf"{node.unique_id[:8]}\) has untorch 0.0.1; here it is"):
            predict(small(text=["a"]), tiny_bundle)
    finally:
        nodes.remove(node)


def test_actors_are_spread_over_the_nodes(nodes, tiny_bundle, source):
    import ray

    from untorch.ray import predict

    most = 0
    finished = threading.Event()

    def watch():
        nonlocal most
        while not finished.wait(0.05):
            most = max(most, len(nodes.actors()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        predict(ray.data.read_parquet(str(source), override_num_blocks=24), tiny_bundle).count()
    finally:
        finished.set()
        watching.join()
    assert most >= 2
