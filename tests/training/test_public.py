import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from training import public


def write(data: Path, folder: str, rows: list[dict[str, Any]]) -> None:
    (data / folder).mkdir(parents=True)
    with gzip.open(data / folder / f"{folder}.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_page_is_on_one_side_in_every_language(tmp_path: Path) -> None:
    rows = [
        {"id": f"s:{lang}:{i}", "lang": lang, "kind": "faq", "group": f"page {i}"}
        | {"query": f"question {i} {lang}", "passage": f"answer {i} in {lang}"}
        for i in range(60)
        for lang in ("en", "zh")
    ]
    write(tmp_path, "faq", rows)
    trained = {e.group for e in public.examples(tmp_path, "faq", False, random.Random(1))}
    held = {e.group for e in public.examples(tmp_path, "faq", True, random.Random(1))}
    assert held
    assert trained | held == {f"page {i}" for i in range(60)}
    assert not trained & held


@pytest.mark.parametrize(
    ("title", "keywords"),
    [
        ("Install", "Install"),
        ("Guide > Setup > Options", "Guide Options"),
        ("Guide > Guide for everyone", "Guide for everyone"),
        ("Guide > A heading that is long enough by itself", "A heading that is long enough by itself"),
    ],
)
def test_a_title_path_becomes_keywords(title: str, keywords: str) -> None:
    assert public.keywords_of(title) == keywords


def test_first_sentences() -> None:
    assert public.first_sentence("One e.g.this. Two.") == "One e.g.this."
    assert public.first_sentence("一句。二句。") == "一句。"
    assert public.first_sentence("line\nnext") == "line"


def test_a_clause_is_taken_out_of_its_text() -> None:
    text = "第一条规定了很多事情，第二条规定了其余的事情。"
    found = public.clause_of(text, random.Random(0))
    assert found is not None
    assert found[0] in text
    assert found[0] not in found[1]
    assert public.clause_of("too short", random.Random(0)) is None


def test_paraphrases_are_of_one_intent() -> None:
    rows = [
        {"id": f"i:{i}", "lang": "en", "passage": f"utterance {i}", "group": f"intent {i % 3}"}
        for i in range(9)
    ]
    found = public.paraphrases(rows, random.Random(0))
    for _ in range(20):
        example = next(found)
        a, b = int(example.query.split()[1]), int(example.text.split()[1])
        assert a != b
        assert a % 3 == b % 3
