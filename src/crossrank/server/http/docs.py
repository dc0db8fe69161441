"""/docs: the OpenAPI description as one plain page."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, Template

__all__ = ["page"]


def page(description: dict[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    return _template().render(description)


@cache
def _template() -> Template:
    text = Path(__file__).with_name("docs.html.jinja").read_text("utf-8")
    return Environment(autoescape=True).from_string(text)
