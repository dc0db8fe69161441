"""Test collections: queries, judgments and documents, from folders, from files, or by name from libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crossrank.data import named, rows, trec
from crossrank.data.lines import UTF_8, plain_suffix, read_lines, read_object
from crossrank.data.trec import Qrels, Run
from crossrank.errors import InputError
from crossrank.text.keywords import KeywordIndex

__all__ = ["Collection", "load_collection"]


@dataclass(slots=True)
class Collection:
    """Queries, judgments and documents.

    Attributes:
        name: the name of the folder, file or data set.
        queries: texts by id.
        qrels: judgments, which may be empty.
        documents: function that reads the documents at each call, and yields (place, id, text) of each.
        first_stage: the run that comes with the collection, or None.
        instructions: of queries that have one of their own, by id.
        notes: remarks for the reader of results about how the collection was read.
    """

    name: str
    queries: dict[str, str]
    qrels: Qrels
    documents: Callable[[], Iterator[tuple[str, str, str]]]
    first_stage: Run | None = None
    instructions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def texts(self) -> dict[str, str]:
        """Read the texts of all documents, by id.

        Raises:
            InputError: a document is malformed, or two documents have the same id.
        """
        texts: dict[str, str] = {}
        for place, identity, text in self.documents():
            if identity in texts:
                raise InputError(f"{place}: duplicate id {identity!r}")
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
    encoding: str = UTF_8,
) -> Collection:
    """Open a collection. Its documents are read later, by ``Collection.documents``.

    Args:
        source: a folder in BEIR's form (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv); a folder with
            TREC documents, topics and qrels, which are recognised by their content; a file of rows with
            labels (JSON Lines, Parquet); "irds:NAME" or "mteb:NAME".
        split: the split of BEIR's or MTEB's judgments; default "test", or the only one.
        queries: a file of topics or BEIR queries to use instead of the collection's own.
        qrels: a file of judgments to use instead of the collection's own.
        judged: keep only queries that have judgments. If False, there need not be any judgments.
        text_field: the field of a document that has its text, in a file of rows.
        encoding: the encoding of its files.

    Raises:
        InputError: the collection does not exist, its form is unknown, or one of its lines is malformed.
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
        collection = _beir(path, split, qrels, judged, encoding)
    elif split:
        raise InputError(f"{source} has no splits; leave --split out")
    elif path.is_dir():
        collection = _trec(path, queries, qrels, judged, encoding)
    else:
        collection = _from_rows(source, text_field, encoding)
    if queries:
        collection.queries = _read_queries(Path(queries), encoding)
    if qrels:
        collection.qrels = trec.read_qrels(qrels, encoding)
    _match(collection, judged)
    return collection


def _match(collection: Collection, only_judged: bool) -> None:
    """Match queries with judgments, and note what does not match."""
    judged = collection.qrels
    unknown = [query for query in judged if query not in collection.queries]
    numbers = [str(n) for n in range(1, len(collection.queries) + 1)]
    if unknown and set(judged) == set(numbers):
        # Cranfield's topics have the numbers of an older, longer list; its judgments number them from 1.
        collection.queries = dict(zip(numbers, collection.queries.values(), strict=True))
        collection.notes.append(
            f"the judgments number the {len(numbers)} queries from 1 and the queries have other numbers: "
            "they were matched by position"
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
        raise InputError(f"{collection.name}: no query has judgments; do the qrels belong to these queries?")


def _find(folder: Path, stem: str) -> Path | None:
    names = (f"{stem}.jsonl{ending}" for ending in ("", ".gz", ".zst"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _beir(folder: Path, split: str | None, qrels: str | None, judged: bool, encoding: str) -> Collection:
    queries, corpus = _find(folder, "queries"), _find(folder, "corpus")
    if queries is None or corpus is None:
        raise InputError(f"{folder} has a corpus.jsonl but no queries.jsonl")

    def documents() -> Iterator[tuple[str, str, str]]:
        for place, line in read_lines(corpus, encoding=encoding):
            row = read_object(place, line)
            title, text = (row.get(name) or "" for name in ("title", "text"))
            if not isinstance(title, str) or not isinstance(text, str) or "text" not in row:
                raise InputError(f'{place}: a document has a string "text" and optionally a string "title"')
            yield place, _id(place, row), f"{title} {text}".strip()

    found = trec.read_qrels(_beir_qrels(folder, split), encoding) if judged and not qrels else {}
    return Collection(folder.name, _read_queries(queries, encoding), found, documents)


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


def _read_queries(path: Path, encoding: str) -> dict[str, str]:
    if plain_suffix(path) != ".jsonl":
        return trec.read_topics(path, encoding)
    queries: dict[str, str] = {}
    for place, line in read_lines(path, encoding=encoding):
        row = read_object(place, line)
        text, identity = row.get("text"), _id(place, row)
        if not isinstance(text, str):
            raise InputError(f'{place}: the field "text" is missing, or is not a string')
        if identity in queries:
            raise InputError(f"{place}: duplicate id {identity!r}")
        queries[identity] = text
    return queries


def _trec(folder: Path, queries: str | None, qrels: str | None, judged: bool, encoding: str) -> Collection:
    kinds: dict[str, list[Path]] = {"documents": [], "topics": [], "qrels": [], "run": [], "": []}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            kinds[trec.kind_of(path, encoding)].append(path)

    def only(kind: str, option: str) -> Path:
        found = kinds[kind]
        if len(found) == 1:
            return found[0]
        problem = f"{len(found)} files of {kind}" if found else f"no file of {kind}"
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        raise InputError(f"{folder} has {problem}{names}; give one with {option} FILE")

    if not kinds["documents"]:
        raise InputError(
            f"{folder} is not a known kind of collection: it has neither corpus.jsonl (BEIR) nor TREC "
            "documents (<doc>)"
        )

    def documents() -> Iterator[tuple[str, str, str]]:
        for path in kinds["documents"]:
            yield from trec.read_documents(path, encoding)

    topics = {} if queries else trec.read_topics(only("topics", "--queries"), encoding)
    judgments: Qrels = {}
    if not qrels and (judged or kinds["qrels"]):
        judgments = trec.read_qrels(only("qrels", "--qrels"), encoding)
    return Collection(folder.name, topics, judgments, documents)


def _from_rows(source: str, text_field: str, encoding: str) -> Collection:
    """Open a file of rows. A document's id in the collection is its row's id, a slash and its own id."""
    collection = Collection(Path(source).name, {}, {}, lambda: iter(documents), {})
    documents: list[tuple[str, str, str]] = []
    assert collection.first_stage is not None
    unranked = 0
    for row in rows.read_rows(source, text_field=text_field, encoding=encoding):
        query = str(row.id)
        if row.labels is None:
            raise InputError(f'{row.place}: the field "labels" is missing; without it, relevance is unknown')
        if query in collection.queries:
            raise InputError(f"{row.place}: duplicate id {query!r}")
        ids = [f"{query}/{document.id}" for document in row.documents]
        collection.queries[query] = row.query
        if row.instruction is not None:
            collection.instructions[query] = row.instruction
        collection.qrels[query] = dict(zip(ids, row.labels, strict=True))
        order = [-float(place) for place in range(len(ids))]
        if not row.is_ranked:
            unranked += 1
            order = KeywordIndex([each.text for each in row.documents]).scores(row.query).tolist()
        collection.first_stage[query] = trec.best_first(dict(zip(ids, order, strict=True)))
        documents += [(row.place, x, each.text) for x, each in zip(ids, row.documents, strict=True)]
    if not collection.queries:
        raise InputError(f"{source}: the file has no rows")
    if unranked:
        collection.notes.append(
            f"{unranked} rows have positive and negative texts but no order: BM25 orders each row's texts"
        )
    return collection
