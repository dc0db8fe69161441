"""The server as a Ray Serve application: replicas of it, one address, as many as the load asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig

from crossrank.arguments import check_integer
from crossrank.errors import InputError, UnavailableError
from crossrank.server.http.app import create_app
from crossrank.server.http.tracing import tracer_of_environment
from crossrank.server.settings import Settings

__all__ = ["deployment"]

_BUSY = 8.0
"""Requests at a time that a replica is to have, where autoscaling decides: enough to fill its packs."""


class _Replica:
    """A whole server in an actor: its registry, its scheduler, its engines."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc] # Ray awaits it
        self._registry = settings.registry()
        self._tracer = tracer_of_environment()
        self._app = create_app(settings, self._registry, self._tracer)
        # Ray gives a replica no requests before this returns, and tries another where it raises.
        await self._registry.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def check_health(self) -> None:
        """Called by Ray every few seconds; a replica that raises is replaced.

        An engine that failed is restarted by the server itself; one that hangs or cannot be restarted
        is not ready for as long, and Ray's threshold of three failures bears the shorter case.

        Raises:
            UnavailableError: the server is not ready.
        """
        state = self._registry.state
        if not state.ready:
            raise UnavailableError(state.why, 1.0)

    async def __del__(self) -> None:
        """Called by Ray when it stops a replica, after its requests have ended."""
        await self._registry.close()
        self._tracer.close()


def deployment(
    settings: Settings | None = None,
    *,
    replicas: int | None = None,
    autoscaling: Mapping[str, Any] | AutoscalingConfig | None = None,
    cpus: int = 4,
    gpus: float = 0,
) -> serve.Application:
    """The server as a Ray Serve application, for ``serve.run`` or a Serve config file.

    Every path of ``crossrank serve`` answers as it does there; ``/health`` and ``/metrics`` are those of
    the replica that answers. Each machine looks the models up itself.

    Args:
        settings: as of ``crossrank serve``; its host, port and socket are Ray's business. None: the
            bundled model.
        replicas: a fixed number.
        autoscaling: Ray's autoscaling options instead, ``{"min_replicas": 1, "max_replicas": 8}`` say.
            By default replicas are added where each has more than 8 requests at a time. Neither:
            between 1 and 4 replicas.
        cpus: cores of a replica, and threads of its engine.
        gpus: GPUs of a replica; 0: the model runs on the CPU.

    Raises:
        InputError: both numbers of replicas are given, or one is out of range.
    """
    if replicas is not None and autoscaling is not None:
        raise InputError("give either replicas or autoscaling, not both")
    if replicas is not None:
        check_integer("replicas", replicas)
    check_integer("cpus", cpus)
    settings = settings or Settings()
    own: dict[str, Any] = {"threads": cpus} if gpus else {"threads": cpus, "device": "cpu"}
    settings = dataclasses.replace(settings, model_options=own | settings.model_options)
    options: dict[str, Any] = {
        "name": "crossrank",
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        # The server's own queue is fair between requests; Ray's is not, so nothing waits there.
        "max_ongoing_requests": settings.max_concurrent_requests,
        "graceful_shutdown_timeout_s": settings.drain_timeout,
    }
    if replicas is not None:
        options["num_replicas"] = replicas
    elif isinstance(autoscaling, AutoscalingConfig):
        options["autoscaling_config"] = autoscaling
    else:
        wanted = {"min_replicas": 1, "max_replicas": 4} if autoscaling is None else autoscaling
        options["autoscaling_config"] = {"target_ongoing_requests": _BUSY, **wanted}
    return serve.deployment(**options)(serve.ingress()(_Replica)).bind(settings)
