"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

__all__ = ["Metrics"]


class Metrics:
    """Counters of one server.

    Attributes:
        registry: what ``prometheus_client.generate_latest`` writes out.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
