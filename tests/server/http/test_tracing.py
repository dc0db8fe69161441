"""Traces, as a collector receives them."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from crossrank.errors import InputError
from crossrank.server.http.app import create_app
from crossrank.server.http.tracing import NO_TRACES, tracer_of_environment
from crossrank.server.settings import Settings
from tests.server.asgi import ask, body_of
from tests.server.serving import fake, registry

VARIABLES = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_TRACES_EXPORTER",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Collector(http.server.ThreadingHTTPServer):
    """Keeps what it is sent: (path, headers, spans)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, Any, ExportTraceServiceRequest]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, self.headers, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def value(attribute: Any) -> Any:
    return getattr(attribute.value, attribute.value.WhichOneof("value"))


def test_a_request_is_a_span_of_its_callers_trace(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=me")
    tracer = tracer_of_environment()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

    async def main() -> None:
        async with registry(fake()) as served:
            app = create_app(Settings(), served, tracer)
            headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "mine"}
            await ask(app, "/v1/rerank", body_of("/v1/rerank"), headers=headers)
            await ask(app, "/rerank", b"{")
            await served.drain(1)
            await ask(app, "/score", body_of("/score"))

    asyncio.run(main())
    tracer.close()
    path, headers, _ = collector.received[0]
    assert path == "/v1/traces"
    assert headers["x-tenant"] == "me"
    resources = [resource for _, _, sent in collector.received for resource in sent.resource_spans]
    names = {attribute.key: value(attribute) for attribute in resources[0].resource.attributes}
    assert names["service.name"] == "crossrank"
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["POST /v1/rerank", "POST /rerank", "POST /score"]
    good, wrong, refused = ({a.key: value(a) for a in span.attributes} for span in spans)
    assert (spans[0].trace_id.hex(), spans[0].parent_span_id.hex()) == (trace, parent)
    assert spans[1].parent_span_id == b""
    assert (good["crossrank.request_id"], good["crossrank.model"], good["crossrank.pairs"]) == (
        "mine",
        "model",
        2,
    )
    assert good["crossrank.tokens"] > 0
    assert good["crossrank.inference_seconds"] >= 0
    assert [each["http.response.status_code"] for each in (good, wrong, refused)] == [200, 400, 503]
    assert [span.status.code for span in spans] == [0, 0, 2]
    assert spans[0].end_time_unix_nano > spans[0].start_time_unix_nano


def test_the_environment_names_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{collector.server_port}/my/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "search")
    tracer = tracer_of_environment()
    tracer.record("/rerank", {}, 0, 200, "mine", None)
    tracer.close()
    path, _, sent = collector.received[0]
    assert path == "/my/traces"
    attributes = {each.key: value(each) for each in sent.resource_spans[0].resource.attributes}
    assert attributes["service.name"] == "search"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_SERVICE_NAME": "search"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_traced_unless_it_is_asked_for(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in variables.items():
        monkeypatch.setenv(name, content)
    assert tracer_of_environment() is NO_TRACES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER is 'zipkin'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf only"),
    ],
)
def test_what_is_not_spoken_here(
    name: str, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, content)
    with pytest.raises(InputError, match=message):
        tracer_of_environment()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InputError, match=r"pip install 'crossrank\[otel\]'"):
        tracer_of_environment()
