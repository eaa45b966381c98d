"""The routes of `untorch serve` on Ray Serve: replicas that come and go with the queue, and roll-outs without a gap."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray import serve

from untorch.errors import InputError
from untorch.jobs.bundles import fetched
from untorch.serving import app
from untorch.serving.application import Application

# Requests that a replica has in hand before Ray Serve starts another: a batch and those that wait for the next.
TARGET_REQUESTS = 32


def deployment(
    bundles: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    threads: int = 2,
    gpus: float = 0,
    replicas: tuple[int, int] = (1, 8),
    **settings: Any,
) -> serve.Application:
    """An application for `ray.serve.run`: the same routes as `untorch serve` has, on `replicas` (least, most).

    `bundles` are as for `untorch.serving.app`, or URLs, fetched once a node and held to their manifests. Each replica
    has `threads` cores and `gpus` GPUs, loads all bundles before it takes requests, and puts what waits into batches
    by tokens. A replica that is taken down answers what it has in hand first. Running an application of the same name
    with another bundle replaces replica by replica. `settings` are those of `untorch serve`. Raises InputError for a
    setting that does not exist, or replicas that are no range.

        serve.run(untorch.ray.deployment({"sst2": "s3://bundles/sst2"}, replicas=(2, 40)))
    """
    least, most = replicas
    if not 1 <= least <= most:
        raise InputError(f"replicas is {replicas}; it is (least, most), from 1 on")
    named = {"default": bundles} if isinstance(bundles, (str, os.PathLike)) else bundles
    # Paths as text, and absolute: a replica has another working folder.
    sources = {name: _absolute(os.fspath(path)) for name, path in named.items()}
    settings = {"threads": threads, "device": "cuda" if gpus else "cpu", **settings}
    timeout = app(sources, **settings).settings.drain_timeout  # raises for a wrong setting here, not in a replica

    def build() -> Application:
        return app({name: fetched(source) for name, source in sources.items()}, **settings)

    served = serve.deployment(
        name="untorch",
        # What a replica has in hand is answered in batches, so that there are more than Ray's default of 5.
        max_ongoing_requests=8 * TARGET_REQUESTS,
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": TARGET_REQUESTS,
        },
        graceful_shutdown_timeout_s=timeout,
        ray_actor_options={"num_cpus": threads, "num_gpus": gpus},
    )
    return served(serve.ingress(build)()).bind()


def _absolute(name: str) -> str:
    return name if "://" in name or not os.path.isdir(name) else os.path.abspath(name)  # noqa: PTH100, PTH112
