"""OpenTelemetry traces, where the standard OTLP environment variables ask for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crossrank import __version__
from crossrank._extras import needs
from crossrank.errors import InputError
from crossrank.server.core.work import Answer

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["NO_TRACES", "Span", "Tracer", "tracer_of_environment"]


class Span:
    """One request's trace; without a span, it notes nothing."""

    def __init__(self, span: trace.Span | None = None) -> None:
        self._span = span

    def answered(self, answer: Answer) -> None:
        """Note what it was and where its time went."""
        if self._span is None:
            return
        self._span.set_attributes(
            {
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
        )

    def ended(self, status: int) -> None:
        """Note its HTTP status."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)


class Tracer:
    """Makes spans, which a provider sends; without one, spans that note nothing."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("crossrank", __version__) if provider else None

    @contextmanager
    def request(self, path: str, request_id: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request, a child of the one that its headers name (W3C traceparent)."""
        if self._tracer is None:
            yield Span()
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        span = self._tracer.start_span(
            f"POST {path}",
            context=TraceContextTextMapPropagator().extract(headers),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": "POST",
                "http.route": path,
                "crossrank.request_id": request_id,
            },
        )
        try:
            yield Span(span)
        finally:
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
