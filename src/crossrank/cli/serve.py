"""``crossrank serve``: every rerank API over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from crossrank._extras import needs
from crossrank.cli import options as o
from crossrank.cli.serving import server_logs
from crossrank.errors import InputError
from crossrank.models.resolve import BUNDLED

_LISTEN, _ACCESS = "Where it listens", "Who may ask"
_LIMITS, _LOGS = "Limits", "Logs"

_PORT = 8080


def _port(value: str | int) -> int:
    """A port. Kubernetes sets CROSSRANK_PORT, too, for a Service that is called crossrank."""
    text = str(value)
    if text.startswith("tcp://"):
        typer.echo(
            f"CROSSRANK_PORT is {text[:100]!r}, which Kubernetes sets for its Service crossrank; the server "
            f"listens on {_PORT} (choose with --port; enableServiceLinks: false leaves the variable out)",
            err=True,
        )
        return _PORT
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text[:100]!r} is not a port; ports are 0 to 65535") from None


def serve(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="A model's name or folder, or NAME=either to choose what requests call it. "
            "Several: the first answers requests that name none.",
            envvar="CROSSRANK_MODEL",
            rich_help_panel="Model options",
        ),
    ] = [BUNDLED],  # noqa: B006 - typer wants a list, and copies it
    dialect: Annotated[
        str,
        typer.Option(
            help="Whose API /v1/rerank is where they differ: cohere, jina, vllm, xinference, infinity "
            "or voyage.",
            envvar="CROSSRANK_DIALECT",
        ),
    ] = "cohere",
    host: Annotated[
        str,
        typer.Option(
            help="0.0.0.0 is every network of this machine.",
            envvar="CROSSRANK_HOST",
            rich_help_panel=_LISTEN,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            help="0: any that is free.",
            envvar="CROSSRANK_PORT",
            rich_help_panel=_LISTEN,
            parser=_port,
            metavar="INTEGER",
        ),
    ] = _PORT,
    uds: Annotated[
        Path | None,
        typer.Option(help="A Unix socket instead.", envvar="CROSSRANK_UDS", rich_help_panel=_LISTEN),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Pages of this origin may ask from a browser; may be given several times.",
            envvar="CROSSRANK_CORS_ORIGIN",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name of this server in browsers, where it has no keys; localhost, addresses and names "
            "without a dot need none. May be given several times; *: any.",
            envvar="CROSSRANK_ALLOWED_HOST",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Requests must send one of these keys; may be given several times. Others see a command's "
            "options: prefer the file or the variable.",
            envvar="CROSSRANK_API_KEY",
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Keys, one a line.", envvar="CROSSRANK_API_KEY_FILE", rich_help_panel=_ACCESS),
    ] = None,
    admin_key: Annotated[
        str,
        typer.Option(
            help="The key for POST /models/reload; without it nobody may.",
            envvar="CROSSRANK_ADMIN_KEY",
            show_default=False,
            rich_help_panel=_ACCESS,
        ),
    ] = "",
    max_body: Annotated[
        str, typer.Option(help="Bytes of a body.", envvar="CROSSRANK_MAX_BODY", rich_help_panel=_LIMITS)
    ] = "16MiB",
    max_bodies: Annotated[
        str,
        typer.Option(
            help="Bytes of all bodies at a time; one client may have half of it.",
            envvar="CROSSRANK_MAX_BODIES",
            rich_help_panel=_LIMITS,
        ),
    ] = "512MiB",
    max_documents: Annotated[
        int,
        typer.Option(
            help="Documents of a request.", envvar="CROSSRANK_MAX_DOCUMENTS", rich_help_panel=_LIMITS
        ),
    ] = 2048,
    max_document_chars: Annotated[
        int,
        typer.Option(
            help="Characters of a document; what is longer than the model's window, but not than this, "
            "is cut.",
            envvar="CROSSRANK_MAX_DOCUMENT_CHARS",
            rich_help_panel=_LIMITS,
        ),
    ] = 1_000_000,
    max_connections: Annotated[
        int,
        typer.Option(
            help="Connections at a time; idle ones make room for others.",
            envvar="CROSSRANK_MAX_CONNECTIONS",
            rich_help_panel=_LIMITS,
        ),
    ] = 1000,
    max_concurrent_requests: Annotated[
        int,
        typer.Option(
            help="Requests at a time, waiting ones included.",
            envvar="CROSSRANK_MAX_CONCURRENT_REQUESTS",
            rich_help_panel=_LIMITS,
        ),
    ] = 512,
    max_queue_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens of all requests at a time.",
            envvar="CROSSRANK_MAX_QUEUE_TOKENS",
            rich_help_panel=_LIMITS,
        ),
    ] = 1_000_000,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds for a request; its header X-Request-Timeout may ask for less.",
            envvar="CROSSRANK_TIMEOUT",
            rich_help_panel=_LIMITS,
        ),
    ] = 60.0,
    read_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds until a request's body must be here.",
            envvar="CROSSRANK_READ_TIMEOUT",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
    write_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds in which a client must read its answer, or the next MiB of it.",
            envvar="CROSSRANK_WRITE_TIMEOUT",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds for running requests once the server is told to stop.",
            envvar="CROSSRANK_DRAIN_TIMEOUT",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
    score_cache: Annotated[
        str,
        typer.Option(
            help="Memory for scores of pairs that come again, 256MB say; 0: none.",
            envvar="CROSSRANK_SCORE_CACHE",
            rich_help_panel=_LIMITS,
        ),
    ] = "0",
    log_format: Annotated[
        str, typer.Option(help="text or json.", envvar="CROSSRANK_LOG_FORMAT", rich_help_panel=_LOGS)
    ] = "text",
    log_level: Annotated[
        str,
        typer.Option(
            help="debug, info, warning or error.", envvar="CROSSRANK_LOG_LEVEL", rich_help_panel=_LOGS
        ),
    ] = "info",
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    batch_tokens: o.BatchTokens = None,
    precision: o.PrecisionOption = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
) -> None:
    """Serve rerank APIs over HTTP: those of Cohere, Jina, TEI, vLLM, Xinference and infinity.

    OpenTelemetry traces go where OTEL_EXPORTER_OTLP_ENDPOINT says.
    """
    with needs("server", "the server"):
        from crossrank.server import run, settings
        from crossrank.server.http.limits import Limits, parse_size
    if log_format not in ("text", "json"):
        raise InputError(f"--log-format is {log_format!r}; it must be text or json")
    if log_level not in ("debug", "info", "warning", "error"):
        raise InputError(f"--log-level is {log_level!r}; it must be debug, info, warning or error")
    for name, given in (("CROSSRANK_API_KEY", api_key), ("CROSSRANK_API_KEY_FILE", api_key_file)):
        # A secret that was not filled in must not open the server to everybody.
        if not str(given or "").strip() and not os.environ.get(name, "unset").strip():
            raise InputError(f"{name} is empty; give it a value, or unset it")
    wanted = settings.Settings(
        models=model,
        model_options={
            "revision": revision,
            "source": source,
            "max_length": max_length,
            "batch_tokens": batch_tokens,
            "precision": precision,
            "device": device,
            "threads": threads,
            "offline": offline,
        },
        host=host,
        port=port,
        uds=uds,
        dialect=dialect,
        api_keys=api_key or [],
        api_key_file=api_key_file,
        admin_key=admin_key,
        cors_origins=cors_origin or [],
        allowed_hosts=allowed_host or [],
        limits=Limits(
            max_body_bytes=parse_size(max_body),
            max_bodies_bytes=parse_size(max_bodies),
            max_documents=max_documents,
            max_document_chars=max_document_chars,
            max_connections=max_connections,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            timeout=timeout,
        ),
        max_concurrent_requests=max_concurrent_requests,
        max_queue_tokens=max_queue_tokens,
        score_cache_bytes=parse_size(score_cache),
        drain_timeout=drain_timeout,
    )
    with server_logs(log_format, log_level):
        run.run(wanted)
