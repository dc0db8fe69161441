"""The paths of the server, on FastAPI: it routes and describes; bodies are read by ``Service``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial, reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar, cast, get_args

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.openapi.utils import get_openapi
from jinja2 import Environment
from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from crossrank import __version__
from crossrank.errors import InputError, ModelError, UnknownModelError
from crossrank.pairs import PairEncoder
from crossrank.server.core.model import ModelInfo
from crossrank.server.core.registry import Registry, State
from crossrank.server.core.work import Answer
from crossrank.server.http.auth import keys_of
from crossrank.server.http.browsers import Browsers
from crossrank.server.http.dialects import PREFIXED, Context, Dialect, Dialects, Errors
from crossrank.server.http.endpoint import Service, fault_response, json_response
from crossrank.server.http.faults import FAULTS, Fault, Kind
from crossrank.server.http.middleware import OPEN_PATHS, Edge
from crossrank.server.http.playground import add_playground
from crossrank.server.http.tracing import NO_TRACES, Tracer
from crossrank.server.settings import Settings

__all__ = ["create_app"]

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_REF = "#/components/schemas/{model}"


def create_app(settings: Settings, registry: Registry, tracer: Tracer = NO_TRACES) -> FastAPI:
    """The application. Starting and closing the registry is its caller's business.

    ``app.state.failure`` may be set to what keeps the server from ever being ready.

    Raises:
        InputError: the API keys cannot be read.
    """
    keys = keys_of(settings)
    dialects = Dialects(settings.dialect)
    service = Service(registry, dialects, settings)
    app = FastAPI(
        title="CrossRank", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.failure = ""
    # A foreign page has no key, so that a server with keys need not ask where requests come from.
    browsers = None if settings.has_keys else Browsers(settings.allowed_hosts, settings.cors_origins)
    app.add_middleware(Edge, keys=keys, dialects=dialects, browsers=browsers, tracer=tracer)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    ProcessCollector(registry=registry.metrics.registry)

    for path, (summary, kinds) in dialects.paths.items():
        app.add_api_route(
            path,
            service.handle,
            methods=["POST"],
            summary=f"{summary}: {' or '.join(kind.name for kind in kinds)}",
            description=" Or: ".join(str(kind.Request.__doc__).partition("\n")[0] for kind in kinds),
            operation_id=path.strip("/").replace("/", "_"),
            openapi_extra={"requestBody": _body(kinds), "parameters": _HEADERS},
            responses=_responses(kinds),
            response_model=None,
            tags=["rerank"],
        )

    get = partial(_route, app, "GET")

    @get("/ping", "operations", "as /health", {"status": "ready"}, {503: "not ready, and why"}, None)
    @get(
        "/health",
        "operations",
        "every model is ready",
        {"status": "ready"},
        {503: "not ready, and why"},
        None,
    )
    async def health() -> Response:
        """Whether every model is ready, or why not."""
        now = State(False, app.state.failure) if app.state.failure else registry.state
        if now.ready:
            return json_response({"status": "ready"})
        loading = any(model.state == "loading" for model in registry.models())
        status = "loading" if loading and not app.state.failure else "unavailable"
        return json_response({"status": status, "message": now.why}, 503, {"retry-after": "1"})

    @get("/health/live", "operations", "the process answers", {"status": "live"})
    async def live() -> Response:
        """Whether the process answers."""
        return json_response({"status": "live"})

    @get("/version", "operations", "the server's version", {"version": __version__})
    async def version() -> Response:
        """The version of CrossRank, as vLLM tells its own."""
        return json_response({"version": __version__})

    @get("/info", "operations", "the models, and the limits of a request", _INFO)
    async def info() -> Response:
        """The first model as text-embeddings-inference describes it, and all models."""
        return json_response(_info(settings, registry))

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=PlainTextResponse,
        responses={200: {"description": "lines of Prometheus' text format"}},
    )
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(generate_latest(registry.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def listed(**own: object) -> Response:
        models = [_listed(model) | own for model in registry.models()]
        return json_response({"object": "list", "data": models})

    @get("/v1/models", "models", "a list of models", {"object": "list", "data": [_LISTED]})
    async def models() -> Response:
        """The served models, as OpenAI lists them."""
        return listed()

    @get("/v1/models/{name:path}", "models", "the model", _LISTED, {404: "no such model"})
    async def one_model(name: Annotated[str, PathParameter(description="the model's name")]) -> Response:
        """A served model, as OpenAI and Xinference describe it."""
        models = {model.name: model for model in registry.models()}
        if name not in models:
            raise UnknownModelError(name, list(models))
        return json_response(_listed(models[name]))

    @get("/v1/cluster/auth", "models", "whether they are", {"auth": False})
    async def cluster_auth() -> Response:
        """Whether keys are asked for: Xinference's client sends its key only then."""
        return json_response({"auth": settings.has_keys})

    @get("/models", "models", "a list of models", {"object": "list", "data": [_LISTED]})
    async def infinity_models() -> Response:
        """The served models, as infinity lists them."""
        # Its client takes no other owner, and no list without statistics.
        return listed(owned_by="infinity", capabilities=["rerank"], stats={})

    refusals = {
        401: "no key",
        403: "another key, or the server has no admin key",
        404: "no such model",
        500: "the model cannot be loaded; the old one stays",
    }
    reloaded = {"reloaded": ["crossrank-mini"]}

    @_route(app, "POST", "/models/reload", "models", "the models that were loaded", reloaded, refusals)
    async def reload(
        request: Request,
        model: Annotated[str | None, Query(description="the model's name; default: all")] = None,
    ) -> Response:
        """Load a model anew (by default all) without dropping a request. It takes the admin key."""
        keys.check_admin(request.headers.get("authorization"))
        try:
            await registry.reload(model)
        except (ModelError, InputError) as error:  # it is the server's trouble, not the client's
            raise Fault("internal", str(error)) from None
        names = [model] if model else [each.name for each in registry.models() if each.alias_of is None]
        return json_response({"reloaded": names})

    @cache
    def page() -> str:
        template = Path(__file__).with_name("docs.html.jinja").read_text("utf-8")
        return Environment(autoescape=True).from_string(template).render(app.openapi())

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:  # in a thread: the first time takes some tenths of a second
        return HTMLResponse(page())

    add_playground(app)

    async def no_such_path(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind: Kind = "method" if error.status_code == 405 else "not_found"
        message = f"{request.method} {request.url.path} is not served here; /docs lists what is"
        allowed = (error.headers or {}).get("Allow")
        if allowed is not None:
            message = f"{request.url.path} takes {allowed}, and this is {request.method}"
        response = fault_response(request.scope["crossrank"], Fault(kind, message))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(HTTPException, no_such_path)

    app.openapi = cache(partial(_describe, app, dialects, secured=settings.has_keys))  # type: ignore[method-assign]
    return app


_LISTED = {"id": "crossrank-mini", "object": "model", "model_type": "rerank", "state": "ready"}


_INFO = {"model_id": "crossrank-mini", "max_input_length": 512, "max_client_batch_size": 2048}


def _route(
    app: FastAPI,
    method: str,
    path: str,
    tag: str,
    meaning: str,
    example: object,
    errors: Mapping[int, str] = {},
    error: type[BaseModel] | None = Errors.Error,
) -> Callable[[Endpoint], Endpoint]:
    """A decorator for what answers a path in JSON, with what its statuses mean and an example."""
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": meaning, "content": {"application/json": {"example": example}}},
        **{status: {"model": error, "description": why} for status, why in errors.items()},
    }
    return app.api_route(path, methods=[method], tags=[tag], responses=responses)


def _body(kinds: list[Dialect]) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(model=kind.Request.__name__)} for kind in kinds]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_HEADERS = [
    {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
    for name, description, schema in (
        ("X-Request-Id", "comes back in the answer and the log", {"type": "string", "maxLength": 128}),
        ("X-Client-Name", "who asks, for the log", {"type": "string"}),
        (
            "X-Request-Timeout",
            "seconds until the answer is of no use; at most the server's own --timeout",
            {"type": "number", "exclusiveMinimum": 0},
        ),
    )
]


def _responses(kinds: list[Dialect]) -> dict[int | str, dict[str, Any]]:
    errors: Any = reduce(operator.or_, (kind.errors.Error for kind in kinds))
    answers = reduce(operator.or_, (kind.Response for kind in kinds))
    meanings: dict[int, dict[str, None]] = {}
    for kind in kinds:
        for fault, row in FAULTS.items():
            if row.meaning:
                meanings.setdefault(kind.errors.statuses.get(fault, row.status), {})[row.meaning] = None
    responses: dict[int | str, dict[str, Any]] = {200: {"model": answers, "description": "the answer"}}
    for status, each in meanings.items():
        responses[status] = {"model": errors, "description": "; ".join(each)}
    return responses


def _examples(kind: Dialect) -> dict[str, Any]:
    """A dialect's answer to its example of a request, and its error, by the names of their schemas."""
    context = Context("3984915a5656439693348eb4214d4f7d", False, kind.errors, created=1795540781)
    asked: Any = kind.Request.model_config["json_schema_extra"]
    # All texts fit.
    encoder = cast(PairEncoder, SimpleNamespace(kept=lambda *_, **__: None, taken=lambda told: told))
    call = kind.expand(kind.read(asked["examples"][0], context), lambda: encoder)
    count = len(call.work.texts)
    answer = Answer("crossrank-mini", np.linspace(-0.57, 6.2, count), [False] * count, [13] * count)
    body: Any = kind.answer(call, answer, context)
    error = kind.errors.error(Fault("invalid", "missing field `query`"), context.request_id)
    answered = kind.Response
    while inner := get_args(answered):
        answered = inner[0]
    while isinstance(body, list):
        body = body[0]
    return {answered.__name__: body, kind.errors.Error.__name__: error}


def _info(settings: Settings, registry: Registry) -> dict[str, Any]:
    models = registry.models()
    first = models[0]
    labels = dict(first.id2label)
    return {
        "model_id": first.source,
        "model_sha": first.revision or None,
        "model_dtype": _DTYPES.get(first.precision, first.precision),
        "model_type": {
            "reranker": {"id2label": labels, "label2id": {label: int(i) for i, label in labels.items()}}
        },
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": first.max_length,
        "max_batch_tokens": first.batch_tokens,
        "max_client_batch_size": settings.limits.max_documents,
        "auto_truncate": True,
        "tokenization_workers": registry.texts.threads,
        "version": __version__,
        "first": registry.first,
        "keep": None if registry.first is None else registry.keep,
        "models": [
            {name: value for name, value in asdict(model).items() if name != "id2label"} for model in models
        ],
    }


def _listed(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "crossrank",
        "root": model.source,
        "max_model_len": model.max_length,
        "model_type": "rerank",
        "state": model.state,
    }


_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


_DESCRIPTION = (
    "Rerank search results with cross-encoders. A request below a prefix is read as that API's, whatever its "
    f"body looks like: {', '.join(f'/{name}' for name in PREFIXED)}. All other paths are there below each "
    "prefix, too, such as /infinity/models."
)


def _describe(app: FastAPI, dialects: Dialects, *, secured: bool) -> dict[str, Any]:
    """FastAPI's description, and the bodies that ``Service`` reads."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=_DESCRIPTION,
        routes=app.routes,
    )
    every = [kind for _, kinds in dialects.paths.values() for kind in kinds]
    requests = dict.fromkeys(kind.Request for kind in every)
    _, definitions = models_json_schema([(model, "validation") for model in requests], ref_template=_REF)
    schemas = schema["components"]["schemas"]
    schemas |= definitions["$defs"]
    for kind in every:
        for name, body in _examples(kind).items():
            schemas[name]["examples"] = [body]
    # FastAPI adds an error for parameters that are no strings; here, all are.
    for path in ("/v1/models/{name}", "/models/reload"):
        for operation in schema["paths"][path].values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if secured:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
        for path in OPEN_PATHS:
            schema["paths"][path]["get"]["security"] = []
    return schema
