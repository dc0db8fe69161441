"""Run on several machines: the bulk job on Ray Data, and the server on Ray Serve."""

from __future__ import annotations

from typing import Any

from crossrank._extras import needs

with needs("ray", "a cluster"):
    from crossrank.ray.bulk import answers, connect

__all__ = ["answers", "connect", "deployment"]


def __getattr__(name: str) -> Any:
    # Ray Serve takes seconds to import, and the bulk job does not use it.
    if name == "deployment":
        from crossrank.ray.serve import deployment

        return deployment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
