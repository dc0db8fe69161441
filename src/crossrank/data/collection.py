"""Test collections: queries, judgments and documents, from folders, files and the names of libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crossrank.data import named, rows, trec
from crossrank.data.lines import plain_suffix, read_lines, read_object
from crossrank.data.trec import Qrels, Run
from crossrank.errors import InputError
from crossrank.text.keywords import KeywordIndex

__all__ = ["Collection", "load_collection"]


@dataclass(slots=True)
class Collection:
    """Queries, what is known of their answers, and the documents.

    Attributes:
        name: of the folder, file or data set.
        queries: their texts, by id; those that are judged, where any is.
        qrels: judgments; empty where there are none.
        documents: gives (place, id, text) of every document, each time it is called.
        first_stage: the order that the collection itself brings, or None.
        notes: what a reader of results should know about how it was read.
    """

    name: str
    queries: dict[str, str]
    qrels: Qrels
    documents: Callable[[], Iterator[tuple[str, str, str]]]
    first_stage: Run | None = None
    notes: list[str] = field(default_factory=list)

    def texts(self) -> dict[str, str]:
        """The texts of all documents, by id.

        Raises:
            InputError: a document is not as it should be, or an id comes twice.
        """
        texts: dict[str, str] = {}
        for place, identity, text in self.documents():
            if identity in texts:
                raise InputError(f"{place}: the id {identity!r} was there before")
            texts[identity] = text
        return texts


def load_collection(
    source: str,
    *,
    split: str | None = None,
    queries: str | None = None,
    qrels: str | None = None,
    judged: bool = True,
    text_field: str = "text",
) -> Collection:
    """Open a collection; documents are read later, when they are asked for.

    Args:
        source: a folder in BEIR's form (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv); a folder with
            TREC documents, topics and qrels, told apart by what is in them; a file of rows with
            labels (JSON Lines, Parquet); "irds:NAME" or "mteb:NAME".
        split: which of BEIR's or MTEB's qrels; default "test", or the only one.
        queries: a file of topics or BEIR queries instead of the collection's own.
        qrels: a file of judgments instead of the collection's own.
        judged: keep the queries that have judgments only. Else judgments need not be there.
        text_field: the field of a document that has its text, in a file of rows.

    Raises:
        InputError: it is not there, is in no form that is known, or a line of it is not as it should be.
    """
    library, colon, name = source.partition(":")
    path = Path(source)
    if colon and library in named.LIBRARIES:
        parts = named.LIBRARIES[library](name, split, judged)
        collection = Collection(source, parts.queries, parts.qrels, parts.documents, parts.first_stage)
    elif not (path.is_dir() or path.is_file()):
        raise InputError(
            f"{source}: there is no such folder or file (a data set's name begins with irds: or mteb:)"
        )
    elif _find(path, "corpus"):
        collection = _beir(path, split, qrels, judged)
    elif split:
        raise InputError(f"{source} has no splits; leave --split out")
    else:
        collection = _trec(path, queries, qrels, judged) if path.is_dir() else _from_rows(source, text_field)
    if queries:
        collection.queries = _read_queries(Path(queries))
    if qrels:
        collection.qrels = trec.read_qrels(qrels)
    _match(collection, judged)
    return collection


def _match(collection: Collection, only_judged: bool) -> None:
    """Bring queries and judgments together, and say what does not fit."""
    judged = collection.qrels
    unknown = [query for query in judged if query not in collection.queries]
    numbers = [str(n) for n in range(1, len(collection.queries) + 1)]
    if unknown and set(judged) == set(numbers):
        # Cranfield's topics carry numbers of an older, longer list; its judgments count from 1.
        collection.queries = dict(zip(numbers, collection.queries.values(), strict=True))
        collection.notes.append(
            f"the judgments number the {len(numbers)} queries from 1 and the queries have other numbers: "
            "they were matched by their place"
        )
    if not only_judged:
        return
    unknown = [query for query in judged if query not in collection.queries]
    if unknown:
        few = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        collection.notes.append(
            f"{len(unknown)} judged queries are not among the queries and are left out: {few}"
        )
    left_out = sum(query not in judged for query in collection.queries)
    if left_out:
        collection.notes.append(f"{left_out} queries have no judgments and are left out")
    collection.queries = {query: text for query, text in collection.queries.items() if query in judged}
    collection.qrels = {query: judged[query] for query in collection.queries}
    if not collection.queries:
        raise InputError(f"{collection.name}: no query has judgments; are these qrels of these queries?")


def _find(folder: Path, stem: str) -> Path | None:
    names = (f"{stem}.jsonl{ending}" for ending in ("", ".gz", ".zst"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _beir(folder: Path, split: str | None, qrels: str | None, judged: bool) -> Collection:
    queries, corpus = _find(folder, "queries"), _find(folder, "corpus")
    if queries is None or corpus is None:
        raise InputError(f"{folder} has a corpus.jsonl but no queries.jsonl")

    def documents() -> Iterator[tuple[str, str, str]]:
        for place, line in read_lines(corpus):
            row = read_object(place, line)
            title, text = (row.get(name) or "" for name in ("title", "text"))
            if not isinstance(title, str) or not isinstance(text, str) or "text" not in row:
                raise InputError(f'{place}: a document has a string "text", and may have a string "title"')
            yield place, _id(place, row), f"{title} {text}".strip()

    found = trec.read_qrels(_beir_qrels(folder, split)) if judged and not qrels else {}
    return Collection(folder.name, _read_queries(queries), found, documents)


def _beir_qrels(folder: Path, split: str | None) -> Path:
    files = {path.name.split(".")[0]: path for path in sorted((folder / "qrels").glob("*.tsv*"))}
    if not files:
        raise InputError(f"{folder} has no judgments: qrels/test.tsv is missing (or give --qrels FILE)")
    wanted = split or ("test" if "test" in files else next(iter(files)))
    if wanted not in files or (split is None and "test" not in files and len(files) > 1):
        raise InputError(f"{folder}/qrels has the splits {', '.join(files)}; choose one with --split")
    return files[wanted]


def _id(place: str, row: dict[str, object]) -> str:
    value = row.get("_id")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f'{place}: the field "_id" is missing, or neither a string nor a number')
    return str(value)


def _read_queries(path: Path) -> dict[str, str]:
    if plain_suffix(path) != ".jsonl":
        return trec.read_topics(path)
    queries: dict[str, str] = {}
    for place, line in read_lines(path):
        row = read_object(place, line)
        text, identity = row.get("text"), _id(place, row)
        if not isinstance(text, str):
            raise InputError(f'{place}: the field "text" is missing, or is not a string')
        if identity in queries:
            raise InputError(f"{place}: the id {identity!r} was there before")
        queries[identity] = text
    return queries


def _trec(folder: Path, queries: str | None, qrels: str | None, judged: bool) -> Collection:
    kinds: dict[str, list[Path]] = {"documents": [], "topics": [], "qrels": [], "run": [], "": []}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            kinds[trec.kind_of(path)].append(path)

    def only(kind: str, option: str) -> Path:
        found = kinds[kind]
        if len(found) == 1:
            return found[0]
        problem = f"{len(found)} files of {kind}" if found else f"no file of {kind}"
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise InputError(f"{folder} has {problem}{names}; give one with {option} FILE")

    if not kinds["documents"]:
        raise InputError(
            f"{folder} is no collection that is known: neither corpus.jsonl (BEIR) nor TREC documents (<doc>)"
        )

    def documents() -> Iterator[tuple[str, str, str]]:
        for path in kinds["documents"]:
            yield from trec.read_documents(path)

    return Collection(
        folder.name,
        {} if queries else trec.read_topics(only("topics", "--queries")),
        {} if qrels or not (judged or kinds["qrels"]) else trec.read_qrels(only("qrels", "--qrels")),
        documents,
    )


def _from_rows(source: str, text_field: str) -> Collection:
    """A file of rows: a document is known by its row's id and its own."""
    collection = Collection(Path(source).name, {}, {}, lambda: iter(documents), {})
    documents: list[tuple[str, str, str]] = []
    assert collection.first_stage is not None
    unranked = 0
    for row in rows.read_rows(source, text_field=text_field):
        query = str(row.id)
        if row.labels is None:
            raise InputError(f'{row.place}: the field "labels" is missing: what is relevant is not known')
        if query in collection.queries:
            raise InputError(f"{row.place}: the id {query!r} was there before")
        ids = [f"{query}/{document.id}" for document in row.documents]
        collection.queries[query] = row.query
        collection.qrels[query] = dict(zip(ids, row.labels, strict=True))
        order = [-float(place) for place in range(len(ids))]
        if not row.is_ranked:
            unranked += 1
            order = KeywordIndex([each.text for each in row.documents]).scores(row.query).tolist()
        collection.first_stage[query] = trec.best_first(dict(zip(ids, order, strict=True)))
        documents += [(row.place, x, each.text) for x, each in zip(ids, row.documents, strict=True)]
    if not collection.queries:
        raise InputError(f"{source}: no rows in it")
    if unranked:
        collection.notes.append(
            f"{unranked} rows give right and wrong texts and no order: theirs is BM25's, over the row's texts"
        )
    return collection
