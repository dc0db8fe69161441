import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crossrank import InputError
from crossrank.data.rows import Document, Row, parse_shard, read_rows

ROWS: list[dict[str, Any]] = [
    {"id": "a", "query": "q", "documents": [{"id": "x", "text": "one"}, {"text": "two"}], "labels": [1, 0]},
    {"query": "r", "documents": []},
    {"id": 7, "query": "中国", "documents": [{"id": 3, "text": "三"}], "labels": [0], "more": "is ignored"},
]


def expected(path: Path, word: str, identity: int | str = 7, of_document: int | str = 3) -> list[Row]:
    return [
        Row(f"{path}, {word} 1", "a", "q", (Document("x", "one"), Document("1", "two")), (1, 0)),
        Row(f"{path}, {word} 2", "1", "r", ()),
        Row(f"{path}, {word} 3", identity, "中国", (Document(of_document, "三"),), (0,)),
    ]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert list(read_rows(str(path))) == expected(path, "line")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    plain = [row | {"id": row.get("id") and str(row["id"])} for row in ROWS]
    plain = [
        row
        | {"documents": [{"id": d.get("id") and str(d["id"]), "text": d["text"]} for d in row["documents"]]}
        for row in plain
    ]
    pq.write_table(pa.Table.from_pylist(plain), path)
    assert list(read_rows(str(path))) == expected(path, "row", "7", "3")


def test_parquet_with_documents_that_are_strings(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"query": ["q"], "documents": [["one", "two"]]}), path)
    [row] = read_rows(str(path))
    assert row.documents == (Document("0", "one"), Document("1", "two"))


def test_pairs(tmp_path: Path) -> None:
    lines, table = tmp_path / "pairs.jsonl", tmp_path / "pairs.tsv"
    lines.write_text('{"query": "q", "document": "d"}\n{"id": "x", "query": "r", "document": ""}\n')
    table.write_text("q\td\nr\t\n")
    found = [list(read_rows(str(path))) for path in (lines, table)]
    assert [[(r.id, r.query, r.documents[0].text) for r in rows] for rows in found] == [
        [("0", "q", "d"), ("x", "r", "")],
        [("0", "q", "d"), ("1", "r", "")],
    ]
    assert all(row.is_pair for rows in found for row in rows)


def test_shards_are_all_of_it_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"query": str(i), "documents": []}) + "\n" for i in range(11)))
    parts = [[row.id for row in read_rows(str(path), parse_shard(f"{i}/3"))] for i in (1, 2, 3)]
    assert parts[0] == ["0", "3", "6", "9"]
    assert sorted(int(x) for part in parts for x in part) == list(range(11))


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "a/b", "-1/3", "1/0", "1/3/4"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="must be i/n"):
        parse_shard(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, column 2: not JSON"),
        ("[]", "line 2: a JSON array"),
        ("1", "line 2: not a JSON object"),
        ('{"query": "q", "pos": 1}', 'line 2: the field "pos" is neither a text nor a list'),
        ('{"documents": []}', 'line 2: the field "query" is missing'),
        ('{"query": 1, "documents": []}', 'line 2: the field "query" is not a string'),
        ('{"query": "q"}', 'line 2: the field "documents" is missing; a pair has a field "document" instead'),
        ('{"query": "q", "documents": "d"}', 'line 2: the field "documents" is not a list'),
        ('{"query": "q", "documents": ["d", 1]}', "line 2: document 1 is neither a string nor an object"),
        ('{"query": "q", "documents": [{"id": "x"}]}', "line 2: document 0 is neither"),
        (
            '{"query": "q", "documents": [{"id": "1", "text": ""}, {"id": 1, "text": "d"}]}',
            "line 2: two documents have the id '1'",
        ),
        ('{"query": "q", "documents": [{"id": [], "text": ""}]}', "line 2: the id of document 0 is a list"),
        ('{"query": "q", "documents": [], "id": true}', 'line 2: the field "id" is a bool'),
        ('{"query": "q", "documents": ["d"], "labels": [1, 0]}', "line 2: 2 labels for 1 documents"),
        (
            '{"query": "q", "documents": ["d"], "labels": [0.5]}',
            'line 2: the field "labels" is not a list of whole',
        ),
        ('{"query": "q", "document": "d"}', "line 2: a row with one document after rows with documents"),
    ],
)
def test_malformed_rows_are_named_with_their_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "documents": []}\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        list(read_rows(str(path)))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_parquet_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("PAR1 no more")
    with pytest.raises(InputError, match="not Parquet, or damaged"):
        list(read_rows(str(path)))
    pq.write_table(pa.table({"query": ["q", None], "documents": [["a"], ["b"]]}), path)
    with pytest.raises(InputError, match='row 2: the field "query" is missing'):
        list(read_rows(str(path)))


def test_a_place_that_another_document_is_called_by(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "tea", "documents": [{"id": "1", "text": "a pot"}, "green tea"]}\n')
    [row] = read_rows(str(path))
    assert row.documents == (Document("1", "a pot"), Document("#1", "green tea"))


@pytest.mark.parametrize(
    "line",
    [
        '{"query": "tea", "pos": ["green", "black"], "neg": ["pot"]}',
        '{"query": "tea", "positive": ["green", "black"], "negative": "pot"}',
        '{"query": "tea", "documents": ["green", "black", "pot"], "labels": [1.0, 1, 0.0]}',
    ],
)
def test_training_data_and_labels_with_a_point(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    [row] = read_rows(str(path))
    assert [document.text for document in row.documents] == ["green", "black", "pot"]
    assert row.labels == (1, 1, 0)
    assert row.is_ranked == ("labels" in line)


def test_texts_in_another_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "tea", "documents": [{"id": 5, "content": "a pot", "text": "no"}]}\n')
    [row] = read_rows(str(path), text_field="content")
    assert row.documents == (Document(5, "a pot"),)
    path.write_text('{"query": "tea", "documents": [{"content": "a pot"}]}\n')
    with pytest.raises(InputError, match="--text-field"):
        list(read_rows(str(path)))


@pytest.mark.parametrize(
    "texts",
    [{"documents": ["d"]}, {"document": "d"}, {"pos": ["d"], "neg": []}],
    ids=["documents", "document", "pos"],
)
def test_a_row_may_have_an_instruction(tmp_path: Path, texts: dict[str, object]) -> None:
    rows = [{"query": "q", "instruction": told, **texts} for told in ("Find it", None)]
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.table({"query": ["q"], "document": ["d"], "instruction": ["Find it"]}), table)
    assert [row.instruction for row in read_rows(str(lines))] == ["Find it", None]
    assert [row.instruction for row in read_rows(str(table))] == ["Find it"]


def test_an_instruction_that_is_no_string_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "q", "documents": [], "instruction": 3}\n')
    with pytest.raises(InputError, match=r'line 1: the field "instruction" is'):
        list(read_rows(str(path)))
