from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from crossrank import Reranker
from tests.cli.conftest import Run

QUERY = "capital of China"
DOCUMENT = "Paris is a city.  The capital of China is Beijing. 大熊猫吃竹子。"
TEXTS = ["Paris is a city.", "The capital of China is Beijing.", "大熊猫吃竹子。"]


def test_json_has_all_of_an_explanation(crossrank: Run, tiny: str) -> None:
    answer = json.loads(crossrank("explain", QUERY, DOCUMENT, "--model", tiny, "--json").out)
    expected = Reranker(tiny).explain(QUERY, DOCUMENT)
    assert (answer["query"], answer["document"], answer["model"]) == (QUERY, DOCUMENT, tiny)
    assert answer["logit"] == pytest.approx(expected.logit, abs=1e-5)
    assert [sentence["text"] for sentence in answer["sentences"]] == TEXTS
    for sentence, wanted in zip(answer["sentences"], expected.sentences, strict=True):
        assert (sentence["start"], sentence["end"]) == (wanted.start, wanted.end)
        assert sentence["logit_fall"] == pytest.approx(wanted.logit_fall, abs=1e-5)
        assert sentence["score_fall"] == pytest.approx(wanted.score_fall, abs=1e-5)


def test_lines_and_tsv(crossrank: Run, tiny: str) -> None:
    lines = crossrank("explain", QUERY, DOCUMENT, "--model", tiny, "--jsonl").out.splitlines()
    sentences = [json.loads(line) for line in lines]
    assert [sentence["text"] for sentence in sentences] == TEXTS
    for raw, names in ((False, ("score", "score_fall")), (True, ("logit", "logit_fall"))):
        options = ["--tsv", "--raw"] if raw else ["--tsv"]
        head, *rows = crossrank("explain", QUERY, DOCUMENT, "--model", tiny, *options).out.splitlines()
        assert head.split("\t") == ["start", "end", *names, "text"]
        for row, sentence in zip(rows, sentences, strict=True):
            cells = row.split("\t")
            assert cells[:2] == [str(sentence["start"]), str(sentence["end"])]
            assert [float(cell) for cell in cells[2:4]] == pytest.approx(
                [sentence[n] for n in names], abs=1e-5
            )
            assert cells[4] == sentence["text"]


def test_a_table_says_what_was_not_read(crossrank: Run, tiny: str) -> None:
    long = DOCUMENT + " The giant panda is a bear." * 9
    done = crossrank("explain", QUERY, long, "--model", tiny, "--max-length", "64", "--max-sentences", "7")
    assert (done.code, done.err) == (0, "")
    assert [text in done.out for text in TEXTS] == [True] * 3
    assert "(not read)" in done.out
    assert f"of {len(long)} characters" in done.out
    assert "5 more sentences" in done.out
    whole = crossrank("explain", QUERY, DOCUMENT, "--model", tiny, "--raw").out
    assert "logit" in whole
    assert "not read" not in whole
    assert "The query was truncated" not in whole
    asked = crossrank("explain", "long " * 100, "One. Two.", "--model", tiny, "--max-length", "64").out
    assert asked.count("truncated") == asked.count("The query was truncated") == 1


def test_a_file_is_one_document_as_it_stands(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "document.txt"
    file.write_bytes("\ufeffOne.\r\n\r\nTwo [bold].\n".encode())
    answer = json.loads(crossrank("explain", "q", "-f", str(file), "--model", tiny, "--json").out)
    assert answer["document"] == "One.\r\n\r\nTwo [bold].\n"
    assert [sentence["text"] for sentence in answer["sentences"]] == ["One.", "Two [bold]."]
    assert "Two [bold]." in crossrank("explain", "q", "-f", str(file), "--model", tiny).out


def test_standard_input(tiny: str) -> None:
    command = [sys.executable, "-m", "crossrank", "explain", "q", "-f", "-", "--model", tiny, "--json"]
    done = subprocess.run(command, input="One. Two.", capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["document"] == "One. Two."


def test_mistakes_are_one_line(crossrank: Run, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for options, message in (
        (["q"], "one document is explained"),
        (["q", "d", "-f", "f"], "one document is explained"),
        (["q", "-f", str(tmp_path / "none")], "No such file"),
        (["q", "-f", str(tmp_path / "latin")], "not UTF-8 (byte 4)"),
        (["q", "d", "--max-sentences", "0"], "max_sentences is 0"),
        (["q", "d", "--json", "--tsv"], "exclude each other"),
    ):
        done = crossrank("explain", *options, "--model", tiny)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert message in done.err


def test_the_best_window_of_a_long_document_is_explained(crossrank: Run, tiny: str) -> None:
    document = " ".join(f"Sentence {i} has the number {i * i}." for i in range(50))
    command = ["explain", "49", document, "--model", tiny, "--max-length", "64", "--long", "windows"]
    found = json.loads(crossrank(*command, "--json").out)
    start, end = found["window"]
    assert found["read"] == end - start
    assert found["sentences"][0]["start"] <= start + 1
    table = " ".join(crossrank(*command).out.split())
    assert f"The score is that of the best window, characters {start} to {end} of {len(document)}." in table
