"""Data sets by their names in ir_datasets and MTEB, which fetch them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from crossrank._extras import needs
from crossrank.data.trec import Qrels, Run, best_first
from crossrank.errors import InputError

__all__ = ["LIBRARIES", "Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """A data set's queries, judgments, documents and first stage, which may be missing.

    ``documents`` is a function that reads the documents and yields (place, id, text) of each.
    """

    queries: dict[str, str]
    qrels: Qrels
    documents: Callable[[], Iterator[tuple[str, str, str]]]
    first_stage: Run | None = None


def _irds(name: str, split: str | None, judged: bool) -> Parts:
    """Load a data set of ir_datasets, such as ``irds:beir/scifact/test``."""
    with needs("eval", f"irds:{name}"):
        import ir_datasets
    if split:
        raise InputError(f"irds:{name} names its split itself; leave --split out")
    try:
        dataset = ir_datasets.load(name)
    except KeyError as error:
        raise InputError(f"ir_datasets knows no data set {name!r}; see https://ir-datasets.com") from error
    needed = ("docs", "queries", "qrels") if judged else ("docs", "queries")
    missing = [what for what in needed if not getattr(dataset, f"has_{what}")()]
    if missing:
        raise InputError(f"irds:{name} has no {' and no '.join(missing)}; see https://ir-datasets.com")
    try:
        queries = {str(query.query_id): query.default_text() for query in dataset.queries_iter()}
        qrels: Qrels = {}
        for judgment in dataset.qrels_iter() if dataset.has_qrels() else ():
            qrels.setdefault(str(judgment.query_id), {})[str(judgment.doc_id)] = int(judgment.relevance)
        run: Run = {}
        for scored in dataset.scoreddocs_iter() if dataset.has_scoreddocs() else ():
            run.setdefault(str(scored.query_id), {})[str(scored.doc_id)] = float(scored.score)
    except Exception as error:  # of the network, the disk, or the library
        raise InputError(f"ir_datasets cannot read {name}: {error}") from error

    def documents() -> Iterator[tuple[str, str, str]]:
        for document in dataset.docs_iter():
            yield f"irds:{name}", str(document.doc_id), document.default_text()

    first_stage = {query: best_first(scores) for query, scores in run.items()}
    return Parts(queries, qrels, documents, first_stage or None)


def _mteb(name: str, split: str | None, judged: bool) -> Parts:  # noqa: ARG001  every task has judgments
    """Load a retrieval or reranking task of MTEB: ``mteb:NAME``, or a part of it: ``mteb:NAME/LANGUAGE``."""
    with needs("mteb", f"mteb:{name}"):
        import mteb
    name, _, part = name.partition("/")
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        raise InputError(f"MTEB knows no task {name!r}") from error
    try:
        task.load_data()
    except Exception as error:  # of the network, the disk, or the library
        raise InputError(f"MTEB cannot load {name}: {error}") from error
    parts: Any = getattr(task, "dataset", None)
    if not _is_retrieval(parts):
        raise InputError(f"mteb:{name} is not a retrieval or reranking task")
    part = _choose(f"mteb:{name}", "parts", parts, part or "default", f"mteb:{name}/PART")
    split = _choose(f"mteb:{name}", "splits", parts[part], split or "test", "--split")
    data = parts[part][split]

    def documents() -> Iterator[tuple[str, str, str]]:
        for row in data["corpus"]:
            yield f"mteb:{name}", str(row["id"]), f"{row.get('title') or ''} {row['text']}".strip()

    qrels = {
        str(q): {str(d): int(x) for d, x in judged.items()} for q, judged in data["relevant_docs"].items()
    }
    queries = {str(row["id"]): str(row["text"]) for row in data["queries"]}
    # A reranking task brings candidates without scores.
    top = data.get("top_ranked") or {}
    run = {str(query): {str(x): -float(i) for i, x in enumerate(found)} for query, found in top.items()}
    return Parts(queries, qrels, documents, run or None)


def _is_retrieval(parts: Any) -> bool:
    try:
        return all("corpus" in data for splits in parts.values() for data in splits.values())
    except (AttributeError, TypeError):
        return False


def _choose(source: str, what: str, found: Any, wanted: str, how: str) -> str:
    if wanted in found:
        return wanted
    if len(found) == 1 and wanted in ("default", "test"):
        return str(next(iter(found)))
    raise InputError(f"{source} has the {what} {', '.join(map(str, found))}; choose one with {how}")


LIBRARIES: dict[str, Callable[[str, str | None, bool], Parts]] = {"irds": _irds, "mteb": _mteb}
"""For each prefix of a name (before the colon), the function that loads the data set.

It takes the rest of the name, the split, and whether the data set must have judgments.
"""
