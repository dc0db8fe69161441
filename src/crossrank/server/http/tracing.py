"""OpenTelemetry traces, where the standard OTLP environment variables ask for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from crossrank import __version__
from crossrank._extras import needs
from crossrank.errors import InputError
from crossrank.server.core.work import Answer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["NO_TRACES", "Tracer", "tracer_of_environment"]


class Tracer:
    """Sends a span of each request; without a provider, none."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("crossrank", __version__) if provider else None

    def record(
        self,
        path: str,
        headers: Mapping[str, str],
        begun: int,
        status: int,
        request_id: str,
        answer: Answer | None,
    ) -> None:
        """A request has ended: a child of the span that its headers name (W3C traceparent).

        Args:
            begun: nanoseconds since 1970.
            status: of HTTP.
            answer: None: it got none.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        attributes: dict[str, str | int | float] = {
            "http.request.method": "POST",
            "http.route": path,
            "http.response.status_code": status,
            "crossrank.request_id": request_id,
        }
        if answer is not None:
            attributes |= {
                "crossrank.model": answer.model,
                "crossrank.pairs": len(answer),
                "crossrank.tokens": sum(answer.tokens),
                "crossrank.truncated": sum(answer.truncated),
                "crossrank.query_truncated": sum(answer.query_truncated),
                "crossrank.cached": answer.cached,
                "crossrank.tokenization_seconds": answer.tokenization_s,
                "crossrank.queue_seconds": answer.queue_s,
                "crossrank.inference_seconds": answer.inference_s,
            }
        parent = TraceContextTextMapPropagator().extract(headers)
        span = self._tracer.start_span(f"POST {path}", parent, SpanKind.SERVER, attributes, start_time=begun)
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what was not sent yet."""
        if self._provider is not None:
            self._provider.shutdown()


NO_TRACES = Tracer()


def _provider() -> TracerProvider:
    """What sends spans to the collector that the environment names, in batches, from a thread."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {"service.version": __version__}
    if "OTEL_SERVICE_NAME" not in os.environ:
        own["service.name"] = "crossrank"
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def tracer_of_environment() -> Tracer:
    """What OTEL_EXPORTER_OTLP_ENDPOINT and its relatives ask for; without them nothing is traced.

    Raises:
        InputError: they ask for what is not installed, or not spoken here.
    """
    get = os.environ.get
    exporter = get("OTEL_TRACES_EXPORTER", "").strip()
    wanted = exporter or get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not wanted or exporter == "none" or get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NO_TRACES
    if exporter not in ("", "otlp"):
        raise InputError(f"OTEL_TRACES_EXPORTER is {exporter!r}; this server exports by otlp only")
    protocol = get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise InputError(
            f"the OTLP protocol is set to {protocol!r}; this server speaks http/protobuf only "
            "(OTEL_EXPORTER_OTLP_PROTOCOL, usually port 4318)"
        )
    with needs("otel", "tracing, which OTEL_EXPORTER_OTLP_ENDPOINT asks for,"):
        return Tracer(_provider())
