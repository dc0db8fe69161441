"""Write the results of ``crossrank eval`` as JSON, or as one self-contained HTML file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from crossrank import __version__
from crossrank._extras import needs
from crossrank.data.collection import Collection
from crossrank.evaluation.measure import Comparison, System, compare

__all__ = ["Evaluation", "as_html", "as_object"]

_EXAMPLES = 5  # queries that gained most, and as many that lost most
_EXAMPLE_DOCUMENTS = 5  # best documents shown per query and system
_EXAMPLE_CHARACTERS = 400  # a longer document is shortened


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The systems that were measured on a collection.

    Attributes:
        collection: the collection.
        texts: the texts of all documents, by id.
        metrics: the names of the metrics; plots and examples use the first one.
        depth: the maximum number of candidates per query that were reranked.
        systems: all systems, with the baseline first.
    """

    collection: Collection
    texts: Mapping[str, str]
    metrics: tuple[str, ...]
    depth: int
    systems: tuple[System, ...]

    @property
    def baseline(self) -> System:
        """The system that the others are compared with."""
        return self.systems[0]

    def comparison(self, system: System, metric: str) -> Comparison:
        """Compare a system with the baseline on a metric."""
        return compare(system.measures[metric], self.baseline.measures[metric])


def as_object(evaluation: Evaluation) -> dict[str, Any]:
    """All results, for ``--json``."""
    queries = list(evaluation.collection.queries)
    return {
        "crossrank": __version__,
        "collection": evaluation.collection.name,
        "queries": len(queries),
        "documents": len(evaluation.texts),
        "depth": evaluation.depth,
        "notes": evaluation.collection.notes,
        "baseline": evaluation.baseline.name,
        "systems": [_system_object(evaluation, system, queries) for system in evaluation.systems],
    }


def _system_object(evaluation: Evaluation, system: System, queries: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": system.name, "metrics": {}, "cost": None}
    for metric in evaluation.metrics:
        values = system.measures[metric]
        entry: dict[str, Any] = {"mean": float(values.mean())}
        if system is not evaluation.baseline:
            c = evaluation.comparison(system, metric)
            entry |= {"difference": c.difference, "interval_95": c.interval and list(c.interval)}
            entry |= {"wins": c.wins, "losses": c.losses}
        entry["per_query"] = dict(zip(queries, values.tolist(), strict=True))
        found["metrics"][metric] = entry
    if system.cost:
        cost = system.cost
        found["cost"] = {"engine": cost.engine, "device": cost.device, "precision": cost.precision}
        found["cost"] |= {"pairs": cost.pairs, "load_seconds": cost.load_s, "seconds": cost.seconds}
        found["cost"] |= {"pairs_per_second": cost.rate, "peak_memory_bytes": cost.memory}
    return found


def as_html(evaluation: Evaluation) -> str:
    """Render the report: a table, plots (inline SVG), and the queries that changed most.

    Raises:
        MissingLibraryError: Jinja2 or matplotlib is not installed.
    """
    with needs("eval", "the report"):
        import jinja2
        import matplotlib  # noqa: F401
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        files("crossrank.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    )
    metric = evaluation.metrics[0]
    compared = [system for system in evaluation.systems if system is not evaluation.baseline]
    sections = [
        {
            "name": system.name,
            "gains": _gains(evaluation, system),
            "scores": _histogram(evaluation, system),
            "changed": _changed(evaluation, system),
        }
        for system in compared
    ]
    comparisons = {
        system.name: {name: evaluation.comparison(system, name) for name in evaluation.metrics}
        for system in compared
    }
    return template.render(
        evaluation=evaluation, metric=metric, comparisons=comparisons, sections=sections, version=__version__
    )


def _svg(figure: Any) -> str:
    import matplotlib as mpl

    # Text stays text in the reader's fonts. There is no date, so the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "crossrank"}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight", transparent=True)
    return out.getvalue()[out.getvalue().index("<svg") :]


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _gains(evaluation: Evaluation, system: System) -> str:
    """Plot the gain or loss of each query, largest gain first."""
    metric = evaluation.metrics[0]
    gains = np.sort(system.measures[metric] - evaluation.baseline.measures[metric])[::-1]
    figure, axes = _figure(2.6)
    colours = np.where(gains >= 0, "#1a7f5a", "#c0392b")
    axes.bar(np.arange(len(gains)), gains, width=1.0, color=colours)
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.set_xlabel("queries, sorted by gain")
    axes.set_ylabel(f"{metric}, minus {evaluation.baseline.name}")
    return _svg(figure)


def _histogram(evaluation: Evaluation, system: System) -> str:
    """Plot the scores of relevant candidates and of all others; "" for a run, which has no scores."""
    if system.scores is None:
        return ""
    qrels = evaluation.collection.qrels
    relevant: list[float] = []
    others: list[float] = []
    for query, found in system.scores.items():
        for document, score in found.items():
            (relevant if qrels.get(query, {}).get(document, 0) > 0 else others).append(score)
    figure, axes = _figure(2.2)
    bins = np.linspace(0, 1, 41)
    for values, label, colour in (
        (others, "not relevant or not judged", "#999"),
        (relevant, "relevant", "#1a7f5a"),
    ):
        if values:
            weights = np.full(len(values), 1 / len(values))
            axes.hist(
                values, bins, weights=weights, label=f"{label} ({len(values)})", color=colour, alpha=0.6
            )
    axes.set_xlabel("score")
    axes.set_ylabel("share")
    if relevant or others:
        axes.legend(frameon=False)
    return _svg(figure)


def _changed(evaluation: Evaluation, system: System) -> list[dict[str, Any]]:
    """The queries that gained or lost most, with their best documents before and after."""
    metric = evaluation.metrics[0]
    gains = system.measures[metric] - evaluation.baseline.measures[metric]
    order = np.argsort(-gains, kind="stable")
    best = [i for i in order[:_EXAMPLES] if gains[i] > 0]
    worst = [i for i in order[::-1][:_EXAMPLES] if gains[i] < 0]
    queries = list(evaluation.collection.queries.items())
    changed = []
    for i in [*best, *worst]:
        identity, text = queries[i]
        changed.append(
            {
                "id": identity,
                "query": text,
                "before": float(evaluation.baseline.measures[metric][i]),
                "after": float(system.measures[metric][i]),
                "tops": [
                    (shown.name, _top(evaluation, shown, identity)) for shown in (evaluation.baseline, system)
                ],
            }
        )
    return changed


def _top(evaluation: Evaluation, system: System, query: str) -> list[dict[str, Any]]:
    labels = evaluation.collection.qrels.get(query, {})
    return [
        {
            "id": document,
            "label": labels.get(document),
            "score": (system.scores or {}).get(query, {}).get(document),
            "text": _short(evaluation.texts.get(document, "")),
        }
        for document in list(system.run.get(query, {}))[:_EXAMPLE_DOCUMENTS]
    ]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[: _EXAMPLE_CHARACTERS - 1] + "…"
