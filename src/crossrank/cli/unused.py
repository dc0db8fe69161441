"""Options without effect: a line on stderr for each that was given, in every command.

Options that contradict each other are errors of the commands themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossrank.cli.options import is_given
from crossrank.models.files import local_place
from crossrank.models.resolve import BUNDLED

__all__ = ["warn_of_unused_options"]

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Rule:
    """Parameters that have no effect where ``when`` is true of a command's values, and why."""

    names: tuple[str, ...]
    when: Callable[[Values], object]
    why: str


def _is_elsewhere(v: Values) -> bool:
    """Whether all models are on a server. Commands of one model have --server or its address instead."""
    from crossrank.integrations.ranker import is_url  # which other commands have no need to import

    model = v.get("model")
    if isinstance(model, list) and model:
        return False
    return bool(v.get("server")) or is_url(model or "")


_FETCH = _Rule(
    ("source",),
    lambda v: not _is_elsewhere(v) and _are_here(v["model"]) and _are_here(v.get("first") or BUNDLED),
    "the model is on this machine",
)
_KEEP = _Rule(
    ("keep",),
    lambda v: not v["first"] and not _is_elsewhere(v),
    "it is for a cascade; name its small model with --first",
)
_WINDOWS = _Rule(
    ("max_windows",),
    lambda v: v["long"] != "windows" and not _is_elsewhere(v),
    "it is for --long windows",
)
_FETCH_NAMED = _Rule(("source",), lambda v: _are_here(v["name"]), "the model is on this machine")
_RAW = _Rule(
    ("raw",), lambda v: v["json"] or v["jsonl"], "with --json and --jsonl, results have scores and logits"
)
_ENCODING = _Rule(("encoding",), lambda v: v["file"] is None, "it is for --file")
_MODEL_OPTIONS = ("revision", "source", "max_length", "batch_tokens", "device", "threads", "offline")
"""Options of ``eval`` and ``verify`` for a model that runs here."""

_OF_A_MODEL = ("revision", "max_length", "device", "threads", "offline", "first", "keep")
"""Options of ``mcp`` for a model that runs here."""

_RULES: dict[str, tuple[_Rule, ...]] = {
    "rank": (_RAW, _ENCODING, _FETCH, _KEEP, _WINDOWS),
    "score": (_RAW, _FETCH, _WINDOWS),
    "explain": (_RAW, _ENCODING, _FETCH, _WINDOWS),
    "eval": (
        _Rule(
            (*_MODEL_OPTIONS, "instruction", "long"),
            lambda v: not v["model"],
            "it is for models; give a --model",
        ),
        _WINDOWS,
        _Rule(("depth",), lambda v: v["pool"], "with --pool, all relevant texts are ranked"),
        _Rule(("text_field",), lambda v: not _is_rows(v["data"]), "it is for a file of rows"),
        _Rule(
            ("encoding",),
            lambda v: (
                _is_named(v["data"])
                and not any(v[name] for name in ("queries", "qrels", "run", "first_stage"))
            ),
            "no text file is read",
        ),
        _Rule(("split",), lambda v: v["qrels"] and not _is_named(v["data"]), "--qrels replaces the split's"),
        _FETCH,
        _KEEP,
    ),
    "cascade": (_FETCH, _WINDOWS),
    "bulk": (
        _Rule(("overwrite",), lambda v: v["output"] == "-", "standard output cannot be resumed"),
        _Rule(("text",), lambda v: _ends(v["output"], ".run", ".trec"), "a run has no texts"),
        _Rule(("encoding",), lambda v: _ends(v["file"], ".parquet"), "Parquet is UTF-8"),
        _Rule(("text_field",), lambda v: _ends(v["file"], ".tsv"), "TSV has no fields"),
        _Rule(
            ("top_n", "depth"), lambda v: _ends(v["file"], ".tsv"), "TSV has pairs, with one document each"
        ),
        _FETCH,
        _KEEP,
        _WINDOWS,
    ),
    "serve": (
        _Rule(("host", "port"), lambda v: v["uds"], "the server listens on the Unix socket of --uds"),
        _Rule(
            ("allowed_host",),
            lambda v: v["api_key"] or v["api_key_file"],
            "with keys, no request is refused for its host",
        ),
        _FETCH,
        _KEEP,
    ),
    "play": (_FETCH,),
    "mcp": (
        _Rule(
            (*_OF_A_MODEL, "instruction", "precision"),
            _is_elsewhere,
            "it is an option of the server, which must be started with it",
        ),
        _FETCH,
        _KEEP,
        _WINDOWS,
    ),
    "verify": (
        _FETCH,
        _Rule(
            (*_MODEL_OPTIONS, "precision"),
            lambda v: v.get("server") and v.get("golden"),
            "with --server and --golden, no model runs here",
        ),
    ),
    "models pull": (_FETCH_NAMED,),
    "models show": (_FETCH_NAMED,),
    "models path": (_FETCH_NAMED,),
}


def warn_of_unused_options(command: str, context: Any) -> None:
    """Write a line for each option that was given to a command and has no effect."""
    parameters = {parameter.name: parameter for parameter in context.command.params}
    for rule in _RULES.get(command, ()):
        given = [name for name in rule.names if is_given(context, name, variables=True)]
        if given and rule.when(context.params):
            for name in given:
                option = max(parameters[name].opts, key=len)
                print(f"warning: {option} has no effect: {rule.why}", file=sys.stderr)


def _are_here(models: str | list[str] | None) -> bool:
    """Whether no model is fetched: all are bundled, or folders."""
    names = [models] if isinstance(models, str) else models or []
    sources = [name.partition("=")[2] or name for name in names]
    return bool(sources) and all(
        source == BUNDLED or Path(source).is_dir() or local_place(source).is_dir() for source in sources
    )


def _is_named(data: str) -> bool:
    return data.startswith(("irds:", "mteb:"))


def _is_rows(data: str) -> bool:
    return not _is_named(data) and not Path(data).is_dir()


def _ends(path: str, *endings: str) -> bool:
    return path.removesuffix(".gz").removesuffix(".zst").endswith(endings)
