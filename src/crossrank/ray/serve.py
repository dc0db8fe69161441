"""The server as a Ray Serve application: several replicas behind one address, scaled by load."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig

from crossrank.errors import InputError, UnavailableError
from crossrank.inputs import check_integer
from crossrank.server.http.app import create_app
from crossrank.server.http.tracing import tracer_of_environment
from crossrank.server.settings import Settings

__all__ = ["deployment"]

_CPUS = 4
"""Default number of cores per replica, if the machine has that many."""

_TARGET_REQUESTS = 8.0
"""Concurrent requests per replica that autoscaling aims at; enough to fill a replica's packs."""


class _Replica:
    """A complete server in an actor: registry, scheduler and engines."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc] # Ray awaits it
        self._registry = settings.registry()
        self._tracer = tracer_of_environment()
        self._app = create_app(settings, self._registry, self._tracer)
        # Ray sends a replica no requests before this returns, and starts another one if it raises.
        await self._registry.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def check_health(self) -> None:
        """Report the health of the replica; Ray calls this every few seconds.

        Ray replaces a replica after three failures in a row. The server usually restarts a failed engine
        faster than that; a replica whose engine hangs or cannot be restarted is replaced.

        Raises:
            UnavailableError: the server is not ready.
        """
        state = self._registry.state
        if not state.ready:
            raise UnavailableError(state.why, 1.0)

    async def __del__(self) -> None:
        """Shut down; Ray calls this when it stops a replica, after the replica's requests have ended."""
        await self._registry.close()
        self._tracer.close()


def deployment(
    settings: Settings | None = None,
    *,
    replicas: int | None = None,
    autoscaling: Mapping[str, Any] | AutoscalingConfig | None = None,
    cpus: int | None = None,
    gpus: float = 0,
) -> serve.Application:
    """The server as a Ray Serve application, for ``serve.run`` or a Serve config file.

    All endpoints of ``crossrank serve`` behave as they do there; ``/health`` and ``/metrics`` describe the
    replica that answers. Each machine resolves the names of the models itself.

    Args:
        settings: the settings of ``crossrank serve``, without host, port and socket, which Ray decides.
            The default serves the bundled model.
        replicas: a fixed number of replicas.
        autoscaling: Ray's autoscaling options, such as ``{"min_replicas": 1, "max_replicas": 8}``. Ray
            adds replicas while each has more than 8 concurrent requests, unless the options set another
            target. Without ``replicas`` and ``autoscaling``, there are 1 to 4 replicas.
        cpus: cores per replica, and threads of its engine; by default 4, or all cores of this machine if it
            has fewer. Ray waits forever if no machine has that many cores.
        gpus: GPUs per replica; with 0 the model runs on the CPU.

    Raises:
        InputError: both ``replicas`` and ``autoscaling`` are given, or a number is out of range.
    """
    if replicas is not None and autoscaling is not None:
        raise InputError("give either replicas or autoscaling, not both")
    if replicas is not None:
        check_integer("replicas", replicas)
    if cpus is None:
        cpus = min(_CPUS, os.cpu_count() or 1)
    check_integer("cpus", cpus)
    settings = settings or Settings()
    own: dict[str, Any] = {"threads": cpus} if gpus else {"threads": cpus, "device": "cpu"}
    settings = dataclasses.replace(settings, model_options=own | settings.model_options)
    options: dict[str, Any] = {
        "name": "crossrank",
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        # The server's own queue is fair to all requests; Ray's is not, so no request should wait there.
        "max_ongoing_requests": settings.max_concurrent_requests,
        "graceful_shutdown_timeout_s": settings.drain_timeout,
    }
    if replicas is not None:
        options["num_replicas"] = replicas
    elif isinstance(autoscaling, AutoscalingConfig):
        options["autoscaling_config"] = autoscaling
    else:
        scaling = {"min_replicas": 1, "max_replicas": 4} if autoscaling is None else autoscaling
        options["autoscaling_config"] = {"target_ongoing_requests": _TARGET_REQUESTS, **scaling}
    return serve.deployment(**options)(serve.ingress()(_Replica)).bind(settings)
