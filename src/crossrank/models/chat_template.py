"""Prompts that sentence-transformers saved: a chat template with the roles system, query and document."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.files import read_object
from crossrank.models.prompt import Prompt

__all__ = ["LONGEST", "read_chat_prompt"]

LONGEST = 8192
"""Tokens of a pair by default, where its folder says no smaller number."""

_Render: TypeAlias = Callable[[Mapping[str, str]], str]
"""The template's text for the texts of some roles."""

_ROLES = {"system": "instruction", "query": "query", "document": "document"}
_MARKS = {role: f"\ue000{role}\ue001" for role in _ROLES}
"""Texts that no template contains, to be found again in what it makes of them."""


def read_chat_prompt(folder: Path, *, is_needed: bool) -> Prompt | None:
    """The prompt that a folder's chat template is; None if it is not one of query and document.

    Args:
        folder: the model's.
        is_needed: nothing else says what the prompt is.

    Raises:
        CheckpointError: a file is damaged.
        UnsupportedModelError: it is needed, and there is none or it cannot be read.
    """
    settings = _read_object(folder / "sentence_bert_config.json")
    modalities = settings.get("modality_config")
    if not is_needed and not (isinstance(modalities, dict) and "message" in modalities):
        return None
    options = dict((settings.get("processing_kwargs") or {}).get("chat_template") or {})
    options.pop("restore_suffix", None)
    template = _template(folder, options.pop("chat_template", "default"))
    if template is None or not all(re.search(rf"\b{role}\b", template) for role in ("query", "document")):
        if not is_needed:
            return None
        raise UnsupportedModelError(
            f"{folder} has a LogitScore module, but no chat template with the roles query and document; "
            "save it again with sentence-transformers 5.4 or newer"
        )
    try:
        render = _renderer(folder, template, options, modalities)
    except ImportError as error:
        if not is_needed:
            return None
        raise UnsupportedModelError(
            f"{folder} has a chat template, which takes jinja2 to read: pip install jinja2"
        ) from error
    # A tokenizer that was made without a limit has 10^30.
    limit = _read_object(folder / "tokenizer_config.json").get("model_max_length")
    longest = limit if isinstance(limit, int) and 0 < limit < LONGEST else LONGEST
    return replace(_as_prompt(folder, render), max_length=longest)


def _as_prompt(folder: Path, render: _Render) -> Prompt:
    """What a template makes of an instruction, a query and a document."""
    saved = _read_object(folder / "config_sentence_transformers.json")
    prompts = saved.get("prompts")
    default = prompts.get(saved.get("default_prompt_name")) if isinstance(prompts, dict) else None
    if default is not None and not isinstance(default, str):
        raise CheckpointError(
            f"{folder / 'config_sentence_transformers.json'}: its default prompt is no text"
        )
    pair = {role: _MARKS[role] for role in ("query", "document")}
    told = _rendered(folder, render, {"system": _MARKS["system"], **pair})
    if any(told.count(mark) != 1 for mark in pair.values()):
        raise UnsupportedModelError(
            f"{folder}: its chat template does not contain the query and the document once each"
        )
    padded = {role: f" \n{mark}\n " for role, mark in _MARKS.items()}
    spaced = _rendered(folder, render, padded)
    stripped = frozenset(field for role, field in _ROLES.items() if padded[role] not in spaced)
    takes_instruction = told.count(_MARKS["system"]) == 1
    if not takes_instruction:
        without = told if default is not None else _rendered(folder, render, pair)
        return Prompt((_with_fields(without),), stripped=stripped - {"instruction"})
    if default is not None:
        return Prompt((_with_fields(told),), default, stripped=stripped)
    untold = _rendered(folder, render, pair)
    start, end = told.split(_MARKS["system"])
    if untold.startswith(start) and untold.endswith(end) and len(untold) >= len(start) + len(end):
        own = untold[len(start) : len(untold) - len(end)]
        return Prompt((_with_fields(told),), own, stripped=stripped)
    return Prompt((_with_fields(told),), "", bare=(_with_fields(untold),), stripped=stripped)


def _with_fields(text: str) -> str:
    for role, field in _ROLES.items():
        text = text.replace(_MARKS[role], f"{{{field}}}")
    return text


def _rendered(folder: Path, render: _Render, texts: Mapping[str, str]) -> str:
    try:
        return render(texts)
    except Exception as error:  # a template may raise anything
        raise UnsupportedModelError(
            f"{folder}: its chat template does not read a query and a document ({error})"
        ) from error


def _renderer(folder: Path, template: str, options: Mapping[str, Any], modalities: object) -> _Render:
    """As transformers renders chat templates."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )

    def fail(message: str) -> None:
        raise ValueError(message)

    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = fail
    compiled = environment.from_string(template)
    tokens = _special_tokens(folder)
    message = modalities.get("message") if isinstance(modalities, dict) else None
    is_structured = isinstance(message, dict) and message.get("format") == "structured"

    def render(texts: Mapping[str, str]) -> str:
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if is_structured else text}
            for role, text in texts.items()
        ]
        values = {"add_generation_prompt": False, "tools": None, "documents": None, **tokens, **options}
        return compiled.render(messages=messages, **values)

    return render


def _template(folder: Path, name: object) -> str | None:
    """A folder's chat template: in a file of its own, or in tokenizer_config.json."""
    file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
    try:
        return (folder / file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        found = _read_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, str):
        return found if name == "default" else None
    listed = found if isinstance(found, Sequence) else ()
    named = {each.get("name"): each.get("template") for each in listed if isinstance(each, dict)}
    template = named.get(name)
    return template if isinstance(template, str) else None


def _special_tokens(folder: Path) -> dict[str, str]:
    """What a template may call by name, such as bos_token."""
    settings = _read_object(folder / "tokenizer_config.json")
    found = {}
    for name, value in settings.items():
        token = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(token, str):
            found[name] = token
    return found


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one if it is not there."""
    return read_object(path)[0] if path.is_file() else {}
