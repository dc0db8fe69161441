"""/docs: the OpenAPI description as one plain page, which asks no other host for anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

__all__ = ["page"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}code{font-size:13px}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}
th{border-bottom:1px solid #ccc}
"""


def page(description: dict[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    info = description["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])} ",
        "The same for programs: <a href=openapi.json>openapi.json</a>.",
    ]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts += _operation(description, path, method, operation)
    return "".join(parts)


def _operation(
    description: dict[str, Any], path: str, method: str, operation: dict[str, Any]
) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}"
    if "description" in operation:
        yield f"<p>{escape(operation['description'])}"
    if "parameters" in operation:
        rows = [
            (each["name"], _type(each["schema"]), each["in"], each.get("description", ""))
            for each in operation["parameters"]
        ]
        yield _table(("name", "type", "where", ""), rows)
    if "requestBody" in operation:
        for schema in _schemas(
            description, operation["requestBody"]["content"]["application/json"]["schema"]
        ):
            yield f"<h3>Body</h3><p>{escape(schema.get('description', ''))}{_fields(schema)}"
    for code, response in operation["responses"].items():
        yield f"<h3>{code}</h3><p>{escape(response['description'])}"
        content = response.get("content", {}).get("application/json")
        for schema in _schemas(description, content["schema"]) if content else []:
            yield _fields(schema)


def _schemas(description: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects that a schema refers to."""
    if "$ref" in schema:
        yield description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for each in [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]:
        yield from _schemas(description, each)


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (name, _type(of), "required" if name in required else _default(of), of.get("description", ""))
        for name, of in schema.get("properties", {}).items()
    ]
    return _table(("field", "type", "default", ""), rows)


def _default(schema: dict[str, Any]) -> str:
    return json.dumps(schema["default"]) if schema.get("default") is not None else ""


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_type(each) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "items" in schema:
        return f"[{_type(schema['items'])}]"
    return str(schema.get("type") or schema.get("$ref", "").rpartition("/")[2] or "any")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = "".join(f"<th>{escape(cell)}" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{cells}{body}</table>" if rows else ""
