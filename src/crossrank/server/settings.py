"""Everything that can be set about a server, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from crossrank.cascade import KEEP, SHARED, check_keep
from crossrank.errors import InputError
from crossrank.loading import load_model
from crossrank.models.resolve import BUNDLED
from crossrank.server.core.model import ModelSpec
from crossrank.server.core.registry import Options, Registry

__all__ = ["Limits", "Settings"]

DIALECTS = ("cohere", "jina", "vllm", "xinference", "infinity", "voyage")
"""Whose API /v1/rerank may be where they differ."""

_AT_LEAST_ONE = (
    *("max_body_bytes", "max_connections", "max_documents", "max_document_chars"),
    *("max_concurrent_requests", "max_client_requests", "max_queue_tokens"),
)
_SECONDS = ("timeout", "read_timeout", "write_timeout")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may have.

    Attributes:
        max_body_bytes: of the body as sent.
        max_bodies_bytes: of all bodies at a time, those on their way and those at work; one client
            may have half of it.
        max_documents: in a request.
        max_document_chars: of a document or a query. Longer than the model's window is cut;
            longer than this is refused.
        max_connections: at a time.
        read_timeout: seconds until the whole body must be here.
        write_timeout: seconds in which a client must read a part of its answer.
        timeout: seconds until the answer, unless the request asks for less.
    """

    max_body_bytes: int = 16 << 20
    max_bodies_bytes: int = 512 << 20
    max_documents: int = 2048
    max_document_chars: int = 1_000_000
    max_connections: int = 1000
    read_timeout: float = 30.0
    write_timeout: float = 30.0
    timeout: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What ``crossrank serve`` is told.

    Attributes:
        models: "SOURCE" or "NAME=SOURCE"; the source is what ``load_model`` takes, the name what
            requests say (by default the source).
        model_options: of ``load_model``, for every model.
        first: "SOURCE" or "NAME=SOURCE" of a smaller model that reads all documents of a ranking, before
            another one reads the best of them; "": there is none. It is served, too, and has no options of
            ``model_options`` but those of ``cascade.SHARED``.
        keep: how many documents of a ranking, or which share of them, the other model reads.
        aliases: "ALIAS=NAME": another name that requests may use for a served model.
        host: where it listens.
        port: where it listens; 0 takes any port that is free.
        uds: a Unix socket instead.
        dialect: of /v1/rerank, and with "vllm" of all paths that vLLM has.
        api_keys: a client must send one of them; without keys everybody may ask.
        api_key_file: a file with more keys, one a line.
        admin_key: who may reload models; "": nobody.
        cors_origins: pages of which other origins may ask from a browser; "*": all.
        allowed_hosts: names under which browsers may know the server, if it has no keys; "*": any.
        limits: of requests and connections.
        max_concurrent_requests: at work at a time, those that wait in the queue included.
        max_client_requests: the same of one client; None: half of them.
        max_queue_tokens: of all requests that wait or run.
        score_cache_bytes: memory for scores of pairs that come again; 0: no cache.
        drain_timeout: seconds for running requests when the server stops.

    Raises:
        InputError: something is out of range.
    """

    models: Sequence[str] = (BUNDLED,)
    model_options: dict[str, Any] = field(default_factory=dict)
    first: str = ""
    keep: float = KEEP
    aliases: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None
    dialect: str = "cohere"
    api_keys: Sequence[str] = ()
    api_key_file: Path | None = None
    admin_key: str = ""
    cors_origins: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    max_concurrent_requests: int = 512
    max_client_requests: int | None = None
    max_queue_tokens: int = 1_000_000
    score_cache_bytes: int = 0
    drain_timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise InputError(f"the dialect {self.dialect!r} is not one of {', '.join(DIALECTS)}")
        for origin in self.cors_origins:
            if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise InputError(f"--cors-origin {origin!r} is none; it must be *, or as https://HOST:PORT")
        for host in self.allowed_hosts:
            if host != "*" and not re.fullmatch(r"[^\s/:*@]+", host):
                raise InputError(f"--allowed-host {host!r} is none; it must be a name without a port, or *")
        if not 0 <= self.port <= 65535:
            raise InputError(f"the port {self.port} is not one; ports are 0 to 65535")
        numbers = {
            each.name: getattr(owner, each.name) for owner in (self, self.limits) for each in fields(owner)
        }
        for name in _AT_LEAST_ONE:
            if numbers[name] is not None and numbers[name] < 1:
                raise InputError(f"{_option(name)} is {numbers[name]}; it must be at least 1")
        if self.limits.max_bodies_bytes < 2 * self.limits.max_body_bytes:
            raise InputError(
                f"--max-bodies is {self.limits.max_bodies_bytes}; it must be at least twice --max-body, "
                f"{2 * self.limits.max_body_bytes}"
            )
        for name in _SECONDS:
            if not 0 < numbers[name] < math.inf:
                raise InputError(
                    f"{_option(name)} is {numbers[name]}; it must be a number of seconds above 0"
                )
        if not 0 <= self.drain_timeout < math.inf:
            raise InputError(f"--drain-timeout is {self.drain_timeout}; it must be 0 or more seconds")
        of_one = {"revision": "serve folders instead", "instruction": "send it with each request instead"}
        for name, advice in of_one.items():
            if len(self.models) > 1 and self.model_options.get(name):
                raise InputError(f"--{name} is of one model, and there are several; {advice}")
        check_keep(self.keep)
        self.names_of_aliases()

    def specs(self) -> list[ModelSpec]:
        """The models to serve.

        Raises:
            InputError: one has no name, or two have the same.
        """
        specs: list[ModelSpec] = []
        for model in self.models:
            name, source = _named(model, "--model")
            if any(spec.name == name for spec in specs):
                raise InputError(f"two models are called {name!r}; name one of them: --model NAME={source}")
            specs.append(ModelSpec(name, partial(load_model, source, **self.model_options), source))
        if self.first:
            name, source = _named(self.first, "--first")
            shared = {name: value for name, value in self.model_options.items() if name in SHARED}
            known = next((spec for spec in specs if spec.name == name), None)
            if known is None:
                specs.append(ModelSpec(name, partial(load_model, source, **shared), source))
            elif len(specs) == 1:
                raise InputError(f"--first {self.first} is the server's only model; give another --model")
            elif known.source != source:
                raise InputError(f"two models are called {name!r}; name one of them: --first NAME={source}")
        return specs

    def names_of_aliases(self) -> dict[str, str]:
        """The model of each alias, by their names.

        Raises:
            InputError: an alias is none, is taken, or is of a model that is not served.
        """
        served = [spec.name for spec in self.specs()]
        found: dict[str, str] = {}
        for text in self.aliases:
            alias, _, name = text.partition("=")
            if not alias.strip() or not name.strip():
                raise InputError(f"--alias {text!r} is not ALIAS=NAME")
            if alias in served or alias in found:
                raise InputError(f"--alias {text}: {alias!r} is already the name of a model; choose another")
            if name not in served:
                raise InputError(
                    f"--alias {text}: no model {name!r} is served; there is: {', '.join(served)}"
                )
            found[alias] = name
        return found

    def registry(self) -> Registry:
        """The registry of these models, not started."""
        options = Options(max_queue_tokens=self.max_queue_tokens, score_cache_bytes=self.score_cache_bytes)
        first = _named(self.first, "--first")[0] if self.first else None
        aliases = self.names_of_aliases()
        return Registry(self.specs(), options, first=first, keep=self.keep, aliases=aliases)

    @property
    def has_keys(self) -> bool:
        """Whether a key is asked for."""
        return bool(self.api_keys) or self.api_key_file is not None


def _named(model: str, option: str) -> tuple[str, str]:
    """The name and the source of a model.

    Raises:
        InputError: one of them is empty.
    """
    name, _, source = model.partition("=")
    source = source if "=" in model else name
    if not name.strip() or not source.strip():
        raise InputError(f"{option} {model!r} is not SOURCE or NAME=SOURCE")
    return name, source


def _option(name: str) -> str:
    """The option of ``crossrank serve`` for a field."""
    return "--" + name.removesuffix("_bytes").replace("_", "-")
