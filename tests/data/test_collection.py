import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_datasets
import pytest
import zstandard

from crossrank import InputError
from crossrank.data.collection import load_collection

CRANFIELD = Path(__file__).parent / "cranfield"


def test_cranfield_as_it_lies() -> None:
    collection = load_collection(str(CRANFIELD))
    # The third topic has the number 4, and the judgments call it 3.
    assert collection.queries["3"].startswith("what problems of heat conduction in composite slabs")
    assert list(collection.queries) == list(collection.qrels) == [str(n) for n in range(1, 9)]
    [note] = collection.notes
    assert "matched by position" in note
    texts = collection.texts()
    assert set(collection.qrels["3"]) <= set(texts)
    assert any("composite slab" in texts[x] for x, label in collection.qrels["3"].items() if label)


def test_topics_with_the_judgments_numbers_are_matched_by_them(tmp_path: Path) -> None:
    shutil.copytree(CRANFIELD, tmp_path / "c")
    judgments = tmp_path / "c" / "cranqrel.trec.txt"
    judgments.write_text("4 0 184 1\n13 0 29 1\n99 0 29 1\n")
    collection = load_collection(str(tmp_path / "c"))
    assert collection.queries["4"].startswith("what problems of heat")
    assert list(collection.queries) == ["4", "13"]
    assert collection.notes == [
        "1 judged queries are not among the queries and are left out: 99",
        "6 queries have no judgments and are left out",
    ]


def write_beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": "d1", "title": "Paris", "text": "is a city"}, {"_id": "d2", "text": "a panda"}]
    queries = [{"_id": "q1", "text": "capital"}, {"_id": "q2", "text": "bear", "metadata": {}}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return folder


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_beir_folder(tmp_path: Path, ending: str) -> None:
    folder = write_beir(tmp_path / "beir")
    for path in [*folder.glob("*.jsonl"), *folder.glob("qrels/*")]:
        data = path.read_bytes()
        if ending:
            packed = gzip.compress(data) if ending == ".gz" else zstandard.compress(data)
            path.with_name(path.name + ending).write_bytes(packed)
            path.unlink()
    collection = load_collection(str(folder))
    assert collection.texts() == {"d1": "Paris is a city", "d2": "a panda"}
    assert collection.queries == {"q1": "capital"}
    assert collection.qrels == {"q1": {"d1": 1}}
    assert list(load_collection(str(folder), judged=False).queries) == ["q1", "q2"]


def test_splits_of_a_beir_folder(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "beir")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td2\t1\n")
    assert list(load_collection(str(folder)).queries) == ["q1"]
    assert list(load_collection(str(folder), split="dev").queries) == ["q2"]
    with pytest.raises(InputError, match="has the splits dev, test; choose one with --split"):
        load_collection(str(folder), split="train")
    other = tmp_path / "judgments"
    other.write_text("q2 0 d1 1\n")
    assert load_collection(str(folder), qrels=str(other)).qrels == {"q2": {"d1": 1}}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("corpus.jsonl", '{"text": "x"}', 'corpus.jsonl, line 1: the field "_id" is missing'),
        (
            "corpus.jsonl",
            '{"_id": "x", "text": "a"}\n{"_id": "x", "text": "b"}',
            "corpus.jsonl, line 2: duplicate id 'x'",
        ),
        ("corpus.jsonl", '{"_id": "x"}', 'corpus.jsonl, line 1: a document has a string "text"'),
        ("queries.jsonl", '{"_id": "x", "text": 1}', 'queries.jsonl, line 1: the field "text"'),
        ("qrels/test.tsv", "q1 d1 1\nq1 d2\n", "test.tsv, line 2: 2 columns"),
        ("qrels/test.tsv", "x d1 1\n", "no query has judgments"),
    ],
)
def test_a_malformed_beir_folder(tmp_path: Path, name: str, line: str, message: str) -> None:
    folder = write_beir(tmp_path / "beir")
    (folder / name).write_text(line)
    with pytest.raises(InputError) as caught:
        load_collection(str(folder)).texts()
    assert message in str(caught.value)


def test_rows_with_labels(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": "a", "query": "q", "documents": ["x", {"id": "k", "text": "y"}], "labels": [0, 2]}\n'
    )
    collection = load_collection(str(path))
    assert collection.qrels == {"a": {"a/0": 0, "a/k": 2}}
    assert collection.texts() == {"a/0": "x", "a/k": "y"}
    assert collection.first_stage is not None
    assert list(collection.first_stage["a"]) == ["a/0", "a/k"]
    rows = [("a/b", "c"), ("a", "b/c")]
    documents = '{"id": "%s", "query": "q", "documents": [{"id": "%s", "text": "x"}], "labels": [1]}\n'
    path.write_text("".join(documents % row for row in rows))
    with pytest.raises(InputError, match="line 2: duplicate id 'a/b/c'"):
        load_collection(str(path)).texts()
    path.write_text('{"query": "q", "documents": ["x"]}\n')
    with pytest.raises(InputError, match='line 1: the field "labels" is missing'):
        load_collection(str(path))


def test_folders_that_are_no_collection(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder or file"):
        load_collection(str(tmp_path / "none"))
    with pytest.raises(InputError, match="neither corpus"):
        load_collection(str(tmp_path))
    shutil.copytree(CRANFIELD, tmp_path / "c")
    with pytest.raises(InputError, match="c has no splits; leave --split out"):
        load_collection(str(tmp_path / "c"), split="test")
    (tmp_path / "c" / "more.txt").write_text("1 0 184 1\n")
    with pytest.raises(InputError, match=r"2 files of qrels \(cranqrel.trec.txt, more.txt\); give one"):
        load_collection(str(tmp_path / "c"))


def test_a_name_of_ir_datasets(tmp_path: Path) -> None:
    (tmp_path / "docs.tsv").write_text("d1\tParis is a city\nd2\ta panda\n")
    (tmp_path / "queries.tsv").write_text("q1\tcapital\nq2\tbear\n")
    (tmp_path / "qrels").write_text("q1 0 d1 1\n")
    (tmp_path / "run").write_text("q1 Q0 d2 1 0.1 t\nq1 Q0 d1 2 0.9 t\n")
    dataset = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels"),
    )
    name = f"crossrank-test-{os.getpid()}"
    ir_datasets.registry.register(name, dataset)
    collection = load_collection(f"irds:{name}")
    assert collection.queries == {"q1": "capital"}
    assert collection.qrels == {"q1": {"d1": 1}}
    assert collection.texts() == {"d1": "Paris is a city", "d2": "a panda"}
    with pytest.raises(InputError, match="ir_datasets knows no data set 'none/such'"):
        load_collection("irds:none/such")
    with pytest.raises(InputError, match="leave --split out"):
        load_collection(f"irds:{name}", split="test")


# In a process of its own: MTEB takes seconds to import, and its libraries warn of each other.
MTEB = """
import json, sys
import mteb
from crossrank.data.collection import load_collection
from crossrank import InputError

task = mteb.get_task("NFCorpus")  # the real task, its data from a folder
type(task).metadata = task.metadata.model_copy(update={"dataset": {"path": sys.argv[1], "revision": None}})
collection = load_collection("mteb:NFCorpus")
found = collection.queries, collection.qrels, collection.texts(), collection.first_stage
print(json.dumps(found))
asked = ("NoSuchTask", None), ("Banking77Classification", None), ("NFCorpus", "dev")
for name, split in asked:
    try:
        load_collection("mteb:" + name, split=split)
    except InputError as error:
        print(error)
"""


def test_a_name_of_mteb(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    parts: dict[str, list[dict[str, Any]]] = {
        "corpus": [
            {"_id": "d1", "title": "Paris", "text": "is a city"},
            {"_id": "d2", "title": "", "text": "x"},
        ],
        "queries": [{"_id": "q1", "text": "capital"}],
        "qrels": [{"query-id": "q1", "corpus-id": "d1", "score": 1}],
    }
    configs = []
    for name, rows in parts.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        data_files = [{"split": "test", "path": f"{name}.jsonl"}]
        configs.append({"config_name": "default" if name == "qrels" else name, "data_files": data_files})
    (folder / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")
    done = subprocess.run(
        [sys.executable, "-c", MTEB, str(folder)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "1",
            "MTEB_CACHE": str(tmp_path),
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, unknown, *others = done.stdout.strip().splitlines()
    assert json.loads(found) == [
        {"q1": "capital"},
        {"q1": {"d1": 1}},
        {"d1": "Paris is a city", "d2": "x"},
        None,
    ]
    assert unknown == "MTEB knows no task 'NoSuchTask'"
    assert others[0].startswith("MTEB cannot load Banking77Classification")
    assert others[1] == "mteb:NFCorpus has the splits test; choose one with --split"
