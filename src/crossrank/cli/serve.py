"""``crossrank serve``: every rerank API over HTTP."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from crossrank._extras import needs
from crossrank.cascade import KEEP
from crossrank.cli import options as o
from crossrank.cli.serving import server_logs
from crossrank.errors import InputError
from crossrank.models.resolve import BUNDLED
from crossrank.pairs import MAX_WINDOWS

_NETWORK, _ACCESS, _LIMITS, _LOGS = "Network", "Access", "Limits", "Logs"

_PORT = 8080


def _port(value: str | int) -> int:
    """Parse a port. Kubernetes sets CROSSRANK_PORT, too, for a Service that is called crossrank."""
    text = str(value)
    if text.startswith("tcp://"):
        typer.echo(
            f"CROSSRANK_PORT is {text[:100]!r}, which Kubernetes sets for its Service crossrank; the server "
            f"listens on {_PORT} (choose with --port; enableServiceLinks: false removes the variable)",
            err=True,
        )
        return _PORT
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text[:100]!r} is not a port; ports are 0 to 65535") from None


# Each option is also an environment variable: CROSSRANK_ and the name of serve's parameter.


_Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        help="A model's name or folder, or NAME=either to choose the name that requests use. "
        "Can be given several times: the first model answers requests that name none.",
        rich_help_panel="Model options",
        autocompletion=o.model_names,
    ),
]
_First = Annotated[
    str,
    typer.Option(
        help="A smaller model that reads all documents of a ranking; a model (-m) then reads only the best "
        "of them. NAME=either chooses its name.",
        show_default=False,
        rich_help_panel="Model options",
        autocompletion=o.model_names,
    ),
]
_Aliases = Annotated[
    list[str] | None,
    typer.Option(
        metavar="<alias=name>",
        help="Another name that requests may use for a served model. Can be given several times.",
        rich_help_panel="Model options",
    ),
]
_Dialect = Annotated[
    str,
    typer.Option(
        help="The API that /v1/rerank follows where APIs differ: cohere, jina, vllm, xinference, infinity "
        "or voyage.",
        autocompletion=o.one_of("cohere", "jina", "vllm", "xinference", "infinity", "voyage"),
    ),
]

_Host = Annotated[
    str,
    typer.Option(
        help="The address to listen on; 0.0.0.0 is every network of this machine.", rich_help_panel=_NETWORK
    ),
]
_Port = Annotated[
    int,
    typer.Option(
        help="The port to listen on; 0 chooses a free one.",
        rich_help_panel=_NETWORK,
        parser=_port,
        metavar="<int>",
    ),
]
_Uds = Annotated[Path | None, typer.Option(help="Listen on a Unix socket instead.", rich_help_panel=_NETWORK)]

_CorsOrigins = Annotated[
    list[str] | None,
    typer.Option(
        help="An origin whose pages may call the server from a browser. Can be given several times.",
        rich_help_panel=_ACCESS,
    ),
]
_AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(
        help="A name by which browsers may call a server without keys. localhost, addresses and names "
        "without a dot are always allowed. Can be given several times; * allows every name.",
        rich_help_panel=_ACCESS,
    ),
]
_ApiKeys = Annotated[
    list[str] | None,
    typer.Option(
        help="A key; requests must send one of them. Can be given several times. Other users see a "
        "command's options: prefer the file or the variable.",
        rich_help_panel=_ACCESS,
    ),
]
_ApiKeyFile = Annotated[
    Path | None, typer.Option(help="A file with one key per line.", rich_help_panel=_ACCESS)
]
_AdminKey = Annotated[
    str,
    typer.Option(
        help="The key for POST /models/reload, which is refused if there is none.",
        show_default=False,
        rich_help_panel=_ACCESS,
    ),
]

_MaxBody = Annotated[str, typer.Option(help="Max bytes of a request's body.", rich_help_panel=_LIMITS)]
_MaxBodies = Annotated[
    str,
    typer.Option(
        help="Max bytes of all bodies at a time. A client may have half of it.", rich_help_panel=_LIMITS
    ),
]
_MaxDocuments = Annotated[int, typer.Option(help="Max documents of a request.", rich_help_panel=_LIMITS)]
_MaxDocumentChars = Annotated[
    int,
    typer.Option(
        help="Max characters of a document. A shorter one that exceeds the model's window is truncated.",
        rich_help_panel=_LIMITS,
    ),
]
_MaxConnections = Annotated[
    int,
    typer.Option(
        help="Max connections at a time. Idle and slow ones are closed to make room for others.",
        rich_help_panel=_LIMITS,
    ),
]
_MaxConcurrentRequests = Annotated[
    int, typer.Option(help="Max requests at a time, including waiting ones.", rich_help_panel=_LIMITS)
]
_MaxClientRequests = Annotated[
    int | None,
    typer.Option(
        help="Max running and queued requests of one client; by default half of all.", rich_help_panel=_LIMITS
    ),
]
_MaxQueueTokens = Annotated[
    int, typer.Option(help="Max tokens of all requests at a time.", rich_help_panel=_LIMITS)
]
_Timeout = Annotated[
    float,
    typer.Option(
        help="Seconds for a request. Its header X-Request-Timeout may ask for less.", rich_help_panel=_LIMITS
    ),
]
_ReadTimeout = Annotated[
    float,
    typer.Option(help="Seconds in which a request's body must arrive.", rich_help_panel=_LIMITS),
]
_WriteTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds in which a client must read its answer, or the next MiB of it.",
        rich_help_panel=_LIMITS,
    ),
]
_DrainTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds for running requests after the server is told to stop.", rich_help_panel=_LIMITS
    ),
]
_ScoreCache = Annotated[
    str,
    typer.Option(
        help="Memory for scores of pairs that may come again, such as 256MB; 0 turns the cache off.",
        rich_help_panel=_LIMITS,
    ),
]

_LogFormat = Annotated[
    str,
    typer.Option(help="text or json.", rich_help_panel=_LOGS, autocompletion=o.one_of("text", "json")),
]
_LogLevel = Annotated[
    str,
    typer.Option(
        help="debug, info, warning or error.",
        rich_help_panel=_LOGS,
        autocompletion=o.one_of("debug", "info", "warning", "error"),
    ),
]


def serve(
    context: typer.Context,
    model: _Models = [BUNDLED],  # noqa: B006 - typer wants a list, and copies it
    dialect: _Dialect = "cohere",
    host: _Host = "127.0.0.1",
    port: _Port = _PORT,
    uds: _Uds = None,
    cors_origin: _CorsOrigins = None,
    allowed_host: _AllowedHosts = None,
    api_key: _ApiKeys = None,
    api_key_file: _ApiKeyFile = None,
    admin_key: _AdminKey = "",
    max_body: _MaxBody = "16MiB",
    max_bodies: _MaxBodies = "512MiB",
    max_documents: _MaxDocuments = 2048,
    max_document_chars: _MaxDocumentChars = 1_000_000,
    max_connections: _MaxConnections = 1000,
    max_concurrent_requests: _MaxConcurrentRequests = 512,
    max_client_requests: _MaxClientRequests = None,
    max_queue_tokens: _MaxQueueTokens = 1_000_000,
    timeout: _Timeout = 60.0,
    read_timeout: _ReadTimeout = 30.0,
    write_timeout: _WriteTimeout = 30.0,
    drain_timeout: _DrainTimeout = 30.0,
    score_cache: _ScoreCache = "0",
    log_format: _LogFormat = "text",
    log_level: _LogLevel = "info",
    revision: o.Revision = None,
    source: o.SourceOption = "hub",
    max_length: o.MaxLength = None,
    long: o.Long = "cut",
    max_windows: o.MaxWindows = MAX_WINDOWS,
    instruction: o.Instruction = None,
    batch_tokens: o.BatchTokens = None,
    precision: o.PrecisionOption = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    offline: o.Offline = False,
    first: _First = "",
    keep: o.Keep = KEEP,
    alias: _Aliases = None,
) -> None:
    """Serve rerank APIs over HTTP: those of Cohere, Jina, TEI, vLLM, Xinference and infinity.

    OpenTelemetry traces are sent to OTEL_EXPORTER_OTLP_ENDPOINT, if it is set.
    """
    with needs("server", "the server"):
        from crossrank.server import run
        from crossrank.server.settings import Limits, Settings
    if _is_from_variable(context, "model"):
        model = _split_variable("CROSSRANK_MODEL")
    if _is_from_variable(context, "alias"):
        alias = _split_variable("CROSSRANK_ALIAS")
    _check_logs(log_format, log_level)
    _check_secrets(api_key, api_key_file)
    wanted = Settings(
        models=model,
        model_options={
            "revision": revision,
            "source": source,
            "max_length": max_length,
            "long": long,
            "max_windows": max_windows,
            "instruction": instruction,
            "batch_tokens": batch_tokens,
            "precision": precision,
            "device": device,
            "threads": threads,
            "offline": offline,
        },
        first=first,
        keep=keep,
        aliases=alias or (),
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
        max_client_requests=max_client_requests,
        max_queue_tokens=max_queue_tokens,
        score_cache_bytes=parse_size(score_cache),
        drain_timeout=drain_timeout,
    )
    with server_logs(log_format, log_level):
        run.run(wanted)


_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes of "16MiB", "256MB", "1g" or "4096".

    Raises:
        InputError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d+)\s*([KMG]I?)?B?\s*", text, re.IGNORECASE)
    if found is None:
        raise InputError(f"{text!r} is not a size; write it as 4096, 256MB or 16MiB")
    return int(found[1]) * _UNITS[(found[2] or "").upper()]


def _check_logs(log_format: str, log_level: str) -> None:
    if log_format not in ("text", "json"):
        raise InputError(f"--log-format is {log_format!r}; it must be text or json")
    if log_level not in ("debug", "info", "warning", "error"):
        raise InputError(f"--log-level is {log_level!r}; it must be debug, info, warning or error")


def _check_secrets(api_key: list[str] | None, api_key_file: Path | None) -> None:
    """Refuse an empty secret, which a template left unfilled: it must not open the server to everybody."""
    for name, given in (("CROSSRANK_API_KEY", api_key), ("CROSSRANK_API_KEY_FILE", api_key_file)):
        if not str(given or "").strip() and not os.environ.get(name, "unset").strip():
            raise InputError(f"{name} is empty; give it a value, or unset it")


def _is_from_variable(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def _split_variable(variable: str) -> list[str]:
    """Split an environment variable at spaces that are not in quotes. click would split it at every space."""
    value = os.environ[variable]
    try:
        return shlex.split(value)
    except ValueError as error:  # a quote that is not closed
        raise InputError(f"{variable} is {value[:200]!r}, which cannot be split: {error}") from None
