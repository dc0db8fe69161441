import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossrank import Reranker
from tests.cli.conftest import Run
from tests.server.process import Server, serving

DOCUMENTS = ["北京是中国的政治中心。", "上海是中国最大的城市。", "a\tb", "long " * 100]


def test_a_table(crossrank: Run, tiny: str) -> None:
    done = crossrank("rank", "中国的首都", *DOCUMENTS, "--model", tiny, "--max-length", "64")
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[1].split() == ["rank", "score", "index", "document"]
    for document in DOCUMENTS[:2]:
        assert document in done.out
    assert "(truncated)" in done.out
    assert "The query was truncated" not in done.out


def test_a_query_that_was_cut_is_called_the_query(crossrank: Run, tiny: str) -> None:
    command = ["rank", "long " * 100, "one", "two", "--model", tiny, "--max-length", "32"]
    done = crossrank(*command)
    assert "(truncated)" not in done.out
    assert done.out.count("The query was truncated") == 1
    results = json.loads(crossrank(*command, "--json").out)["results"]
    assert [(hit["query_truncated"], hit["truncated"]) for hit in results] == [(True, False)] * 2


def test_json_has_all_of_a_hit(crossrank: Run, tiny: str) -> None:
    done = crossrank("rank", "中国的首都", *DOCUMENTS, "--model", tiny, "--json")
    answer = json.loads(done.out)
    assert (answer["query"], answer["model"]) == ("中国的首都", tiny)
    expected = Reranker(tiny).rank("中国的首都", DOCUMENTS)
    assert [hit["index"] for hit in answer["results"]] == [hit.index for hit in expected]
    best = answer["results"][0]
    assert best["rank"] == 1
    assert best["score"] == pytest.approx(expected[0].score, abs=1e-6)
    assert best["logit"] == pytest.approx(expected[0].logit, abs=1e-5)
    assert best["text"] == expected[0].text
    assert {hit["truncated"] for hit in answer["results"]} == {False}


def test_json_lines_keep_other_fields_but_not_over_the_hits_own(
    crossrank: Run, tiny: str, tmp_path: Path
) -> None:
    file = tmp_path / "documents.jsonl"
    rows = [{"text": "one", "id": "A", "rank": "mine"}, {"text": "two", "id": "B"}]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    done = crossrank("rank", "q", "--file", str(file), "--model", tiny, "--jsonl")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert sorted(hit["id"] for hit in found) == ["A", "B"]
    assert [hit["rank"] for hit in found] == [1, 2]


def test_tsv_is_one_line_a_hit_with_numbers_or_logits(crossrank: Run, tiny: str) -> None:
    scores = crossrank("rank", "q", *DOCUMENTS, "--model", tiny, "--tsv").out.splitlines()
    logits = crossrank("rank", "q", *DOCUMENTS, "--model", tiny, "--tsv", "--raw").out.splitlines()
    assert scores[0].split("\t") == ["rank", "index", "score", "text"]
    assert logits[0].split("\t") == ["rank", "index", "logit", "text"]
    assert len(scores) == len(logits) == 5
    assert all(line.count("\t") == 3 for line in scores)
    ranking = Reranker(tiny).rank("q", DOCUMENTS)
    for line, hit in zip(scores[1:], ranking, strict=True):
        assert float(line.split("\t")[2]) == pytest.approx(hit.score, abs=1e-5)
    for line, hit in zip(logits[1:], ranking, strict=True):
        assert float(line.split("\t")[2]) == pytest.approx(hit.logit, abs=1e-4)


def test_top_n_and_threshold(crossrank: Run, tiny: str) -> None:
    everything = crossrank("rank", "q", *DOCUMENTS, "--model", tiny, "--tsv").out.splitlines()[1:]
    top = crossrank("rank", "q", *DOCUMENTS, "--model", tiny, "--tsv", "--top-n", "2").out.splitlines()[1:]
    assert top == everything[:2]
    bar = str(float(everything[1].split("\t")[2]) - 1e-5)
    over = crossrank("rank", "q", *DOCUMENTS, "--model", tiny, "--tsv", "--threshold", bar)
    assert over.out.splitlines()[1:] == everything[:2]


def test_documents_of_the_command_line_and_of_a_file(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "documents.txt"
    file.write_bytes("\ufeffone\r\n\r\n二\n".encode())
    done = crossrank("rank", "q", "zero", "--file", str(file), "--model", tiny, "--json")
    texts = {hit["index"]: hit["text"] for hit in json.loads(done.out)["results"]}
    assert texts == {0: "zero", 1: "one", 2: "二"}


def test_documents_from_standard_input(tiny: str) -> None:
    command = [sys.executable, "-m", "crossrank", "rank", "q", "-f", "-", "--model", tiny, "--json"]
    done = subprocess.run(command, input='{"text": "one"}\n', capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["results"][0]["text"] == "one"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2, column 10: not JSON"),
        (b'{"text": "a"}\n\n{"title": "b"}\n', 'line 3: the field "text" is missing'),
        (b'{"text": "a"}\n{"text": 7}\n', 'line 2: the field "text" is not a string'),
        (b'{"text": "a"}\n[1]\n', "line 2: a JSON array"),
        (b"fine\nnot \xff fine\n", "line 2: not UTF-8 (byte 5 of the line)"),
        (b'{"text": "a"}\n' + b'{"text":' * 100_000, "line 2: "),
        (b"\n  \n", "no documents"),
        (b"", "no documents"),
    ],
)
def test_bad_files_are_refused_with_the_line(
    crossrank: Run, tiny: str, tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "documents"
    file.write_bytes(content)
    done = crossrank("rank", "q", "--file", str(file), "--model", tiny)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert done.err.count("\n") == 1


def test_markup_and_surrogates_in_documents_are_only_text(crossrank: Run, tiny: str) -> None:
    done = crossrank("rank", "q", "[bold]x[/bold]", "a\udcffb", "--model", tiny)
    assert done.code == 0
    assert "[bold]x[/bold]" in done.out
    done = crossrank("rank", "q", "a\udcffb", "--model", tiny, "--json")
    assert json.loads(done.out)["results"][0]["text"] == "a\udcffb"
    assert crossrank("rank", "q", "a\udcffb", "--model", tiny, "--tsv").out.endswith("\ta?b\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--model", "one=crossrank-mini", "--model", "two=crossrank-mini", "--threads", "1"]
    with serving(tmp_path_factory.mktemp("server"), *options, "--api-key", "secret") as running:
        running.wait_until_ready()
        yield running


def test_a_server_ranks_as_the_library_does(
    crossrank: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["rank", "中国的首都", *DOCUMENTS, "--json", "--top-n", "3"]
    here = json.loads(crossrank(*asked, "--threads", "1").out)
    there = json.loads(crossrank(*asked, "--server", server.url, "--api-key", "secret").out)
    assert (here["model"], there["model"]) == ("crossrank-mini", "one")
    assert there["results"] == here["results"]
    monkeypatch.setenv("CROSSRANK_API_KEY", "secret")
    named = json.loads(crossrank(*asked, "--server", server.url, "-m", "two").out)
    assert named["model"] == "two"
    assert named["results"] == here["results"]
    assert "(truncated)" not in crossrank("rank", "q", "a", "--server", server.url).out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "this server takes an API key"),
        (["--api-key", "secret", "-m", "three"], 2, "no model 'three' is served here; there is: one, two"),
        (["--api-key", "secret", "--precision", "fp32"], 2, "--precision is an option of the server"),
        (["--api-key", "secret", "--from", "hub"], 2, "--from is an option of the server"),
        (["--timeout", "0"], 2, "timeout is 0"),
        (["--server", "127.0.0.1"], 2, "is not an address"),
        (["--server", "http://127.0.0.1:9", "--timeout", "0.1"], 1, "does not answer"),
    ],
)
def test_what_a_server_refuses_is_one_line(
    crossrank: Run, server: Server, options: list[str], code: int, message: str
) -> None:
    done = crossrank("rank", "q", "a", "--server", server.url, *options)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert message in done.err


@pytest.mark.parametrize("option", [["--timeout", "9"], ["--api-key", "secret"]])
def test_an_option_for_a_server_needs_one(
    crossrank: Run, tiny: str, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    monkeypatch.setenv("CROSSRANK_API_KEY", "secret")  # which stands in many a shell
    assert crossrank("rank", "q", "a", "--model", tiny).code == 0
    done = crossrank("rank", "q", "a", "--model", tiny, *option)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: {option[0]} is for a server; give its address with --server\n"


def test_the_client_says_what_it_lacks(crossrank: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "crossrank.client", raising=False)
    done = crossrank("rank", "q", "a", "--server", "http://127.0.0.1:9")
    assert (done.code, done.out) == (2, "")
    assert "pip install 'crossrank[client]'" in done.err


def test_a_json_array_is_documents_and_text_may_begin_with_a_bracket(
    crossrank: Run, tiny: str, tmp_path: Path
) -> None:
    path = tmp_path / "documents.json"
    path.write_text('[\n {"body": "Paris", "text": 1, "n": 2},\n "Cats"\n]\n')
    done = crossrank("rank", "q", "--file", str(path), "--model", tiny, "--jsonl", "--text-field", "body")
    assert {json.loads(line)["text"] for line in done.out.splitlines()} == {"Paris", "Cats"}
    path.write_text("[1")
    done = crossrank("rank", "q", "--file", str(path), "--model", tiny)
    assert done.code == 2
    assert "not JSON" in done.err
    text = tmp_path / "documents.txt"
    text.write_text("[1] Paris\n[2] Cats\n")
    done = crossrank("rank", "q", "--file", str(text), "--model", tiny, "--jsonl")
    assert {json.loads(line)["text"] for line in done.out.splitlines()} == {"[1] Paris", "[2] Cats"}


TWO = ("--first", "crossrank-mini", "--keep", "1")


def test_with_two_models_each_hit_says_its_own(crossrank: Run, tiny: str) -> None:
    command = ["rank", "中国的首都", *DOCUMENTS[:2], "--model", tiny, *TWO]
    table = crossrank(*command).out.splitlines()
    assert table[1].split() == ["rank", "score", "index", "model", "document"]
    assert [line.split()[-2] for line in table[3:5]] == ["tiny", "crossrank-mini"]
    found = json.loads(crossrank(*command, "--json").out)["results"]
    expected = Reranker(tiny, first="crossrank-mini", keep=1).rank("中国的首都", DOCUMENTS[:2])
    assert [(hit["index"], hit["model"]) for hit in found] == [(hit.index, hit.model) for hit in expected]
    rows = [line.split("\t") for line in crossrank(*command, "--tsv").out.splitlines()]
    assert rows[0] == ["rank", "index", "score", "text", "model"]
    assert [row[4] for row in rows[1:]] == ["tiny", "crossrank-mini"]


@pytest.mark.parametrize("keep", ["0", "1.0", "-1", "auto", "nan", "1e3"])
def test_what_keep_may_not_be(crossrank: Run, keep: str) -> None:
    done = crossrank("rank", "q", "a", "--first", "crossrank-mini", "--keep", keep)
    assert done.code == 2
    assert f"'{keep}' is neither a number such as 20 nor a share such as 0.2" in done.err


def test_two_models_are_options_of_the_server(crossrank: Run) -> None:
    done = crossrank("rank", "q", "a", "--first", "crossrank-mini", "--server", "http://127.0.0.1:1")
    assert done.code == 2
    assert "--first is an option of the server" in done.err


def test_a_long_document_is_read_in_windows_and_the_table_shows_the_best_one(
    crossrank: Run, tiny: str
) -> None:
    document = " ".join(f"Sentence {i} has the number {i * i}." for i in range(200))
    command = ["rank", "49", document, "short", "--model", tiny, "--max-length", "64", "--long", "windows"]
    answer = json.loads(crossrank(*command, "--max-windows", "1000", "--json").out)["results"]
    expected = Reranker(tiny, max_length=64, long="windows", max_windows=1000).rank("49", [document, "short"])
    assert [hit["index"] for hit in answer] == [hit.index for hit in expected]
    whole, short = sorted(answer, key=lambda hit: int(hit["index"]))
    assert "window" not in short
    start, end = whole["window"]
    assert (whole["truncated"], whole["text"]) == (False, document)
    table = crossrank(*command, "--max-windows", "1000").out
    assert f"(characters {start} to {end} of {len(document)})" in " ".join(table.split())
    assert "(truncated)" not in table
    assert document[start : start + 10] in table
    assert document[-10:] not in table or end == len(document)
    assert "(truncated)" in crossrank(*command, "--max-windows", "2").out


@pytest.mark.parametrize(
    ("options", "wrong"),
    [(["--long", "split"], "long is 'split'"), (["--max-windows", "0"], "max_windows is 0")],
)
def test_options_of_windows_are_checked(crossrank: Run, tiny: str, options: list[str], wrong: str) -> None:
    done = crossrank("rank", "q", "one", "--model", tiny, *options)
    assert (done.code, wrong in done.err) == (2, True)


def test_a_server_is_told_of_windows(crossrank: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSRANK_API_KEY", "secret")
    document = " ".join(f"Sentence {i} has the number {i * i}." for i in range(300))
    command = ["rank", "49", document, "short", "--server", server.url, "--json"]
    for options, has_window in (([], False), (["--long", "windows"], True), (["--max-windows", "2"], False)):
        results = json.loads(crossrank(*command, *options).out)["results"]
        assert any("window" in hit for hit in results) == has_window
