"""What the benchmark of long documents is made of, and how it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.long_documents import LONGEST, SETS, SHORTEST, build, gain, measure
from crossrank import Reranker
from crossrank.engines.fake import FakeEngine
from crossrank.models.resolve import BUNDLED, resolve
from crossrank.pairs import PairEncoder
from training.sources import held_out

SENTENCE = "The {} of town {} was built of stone in the year {} by people whose names nobody knows. "


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every paragraph has one town, and one question on it."""
    folder = tmp_path_factory.mktemp("data")
    titles = [f"title {i}" for i in range(60)]
    assert {held_out(title) for title in titles} == {True, False}
    articles = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": SENTENCE.format("tower", i, 1000 + i) * 6,
                    "qas": [
                        {
                            "id": str(i),
                            "question": f"When was the tower of town {i} built?",
                            "answers": [{"text": str(1000 + i), "answer_start": 0}],
                        }
                    ],
                }
            ],
        }
        for i, title in enumerate(titles)
    ]
    for name in {file for files in SETS.values() for file in files}:
        path = folder / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"version": "1", "data": articles}))
    return folder


def test_the_answer_stands_where_it_is_said(data: Path) -> None:
    tasks = list(build(data, 3))
    assert len(tasks) == 3 * len(SETS)
    assert tasks == list(build(data, 3))
    count = PairEncoder(resolve(BUNDLED) / "tokenizer.json", max_length=8192).ids
    for task in tasks:
        town = task.query.split()[6]
        answer = SENTENCE.format("tower", town, 1000 + int(town))
        start, middle, end = (task.right[position] for position in ("start", "middle", "end"))
        assert start.startswith(answer)
        assert end.endswith(answer * 6)
        assert 0.3 < middle.index(answer) / len(middle) < 0.7
        assert sorted(start.split("\n")) == sorted(middle.split("\n")) == sorted(end.split("\n"))
        assert len(task.wrong) == 9
        assert not any(answer in text for text in task.wrong)
        for text, ids in zip([start, *task.wrong], count([start, *task.wrong]), strict=True):
            assert SHORTEST - 300 < len(ids) < LONGEST + 100, text[:80]


def test_gains_are_those_of_the_one_right_document() -> None:
    assert gain(2.0, [1.0, 0.0]) == 1.0
    assert gain(2.0, [3.0, 0.0]) == pytest.approx(0.6309, abs=1e-4)
    assert gain(2.0, [2.0, 0.0]) < 1.0  # a tie is no success
    assert gain(0.0, [1.0] * 9) == pytest.approx(0.2891, abs=1e-4)
    assert gain(0.0, [1.0] * 10) == 0.0


def test_tokens_are_those_of_all_windows(data: Path) -> None:
    tasks = list(build(data, 1))[:1]
    tokenizer = resolve(BUNDLED) / "tokenizer.json"
    engine = FakeEngine(batch_tokens=4096)
    reranker = Reranker.from_parts(PairEncoder(tokenizer, long="windows", max_windows=3), engine)
    found = measure(reranker, tasks)
    assert found.tokens == sum(len(pack.token_ids) for pack in engine.packs)
    assert {position for _, position in found.gains} == {"start", "middle", "end"}
