"""A cluster of three node processes on this machine's loopback address, and what kills parts of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before Ray is imported: no telemetry, no tokens between processes of one machine, the loopback address alone.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")

ROOT = Path(__file__).resolve().parents[3]
OBJECTS = 200 << 20


class Nodes:
    """The cluster, and the processes of it."""

    def __init__(self, cluster):
        self.cluster = cluster

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self, **options):
        return self.cluster.add_node(num_cpus=1, object_store_memory=OBJECTS, include_dashboard=False, **options)

    def remove(self, node):
        self.cluster.remove_node(node, allow_graceful=False)

    def actors(self) -> list[int]:
        """The process ids of the actors that answer."""
        raylets = {
            info.process.pid
            for node in [self.cluster.head_node, *self.cluster.worker_nodes]
            for info in node.all_processes.get("raylet", ())
        }
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "cmdline").read_bytes()
                parent = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if name.startswith(b"ray::MapWorker") and parent in raylets:
                found.append(int(process.name))
        return found

    def kill_actor(self, chance) -> None:
        os.kill(chance.choice(self.actors()), signal.SIGKILL)


@pytest.fixture(scope="session")
def nodes():
    ray = pytest.importorskip("ray", reason="pip install 'untorch[ray]'")
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")])
    head = {"num_cpus": 2, "object_store_memory": OBJECTS, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = Nodes(cluster)
    try:
        for _ in range(2):
            nodes.add()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        yield nodes
    finally:
        ray.shutdown()
        cluster.shutdown()
