"""Published scores: what the file has, and how far logits are from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import InputError
from crossrank.evaluation import golden
from crossrank.evaluation.golden import Published, compare, known_models, published_scores, tolerance_of

CONTENTS: dict[str, Any] = json.loads(golden._FILE.read_text("utf-8"))
EVERY = [
    (model, published)
    for model in known_models()
    for template in (True, False)
    for published in published_scores(model, template=template)
]


def test_the_models_that_people_use_are_known() -> None:
    for name in (
        "BAAI/bge-reranker-base",
        "BAAI/bge-reranker-large",
        "BAAI/bge-reranker-v2-m3",
        "cross-encoder/ms-marco-MiniLM-L6-v2",
        "cross-encoder/ms-marco-MiniLM-L12-v2",
        "Alibaba-NLP/gte-reranker-modernbert-base",
        "Alibaba-NLP/gte-multilingual-reranker-base",
        "jinaai/jina-reranker-v2-base-multilingual",
        "cross-encoder/ettin-reranker-32m-v1",
        "mixedbread-ai/mxbai-rerank-base-v1",
        "mixedbread-ai/mxbai-rerank-base-v2",
        "Qwen/Qwen3-Reranker-0.6B",
        "ibm-granite/granite-embedding-reranker-english-r2",
        "cl-nagoya/ruri-v3-reranker-310m",
    ):
        assert published_scores(name), name


@pytest.mark.parametrize("fact", EVERY, ids=lambda fact: f"{fact[0]}, {fact[1].source[:30]}")
def test_every_fact_is_whole(fact: tuple[str, Published]) -> None:
    _, published = fact
    assert len(published.pairs) == len(published.scores) > 0
    assert published.kind in ("logit", "sigmoid")
    assert published.precision in ("fp32", "fp16", "bf16", "unknown")
    assert [round(score, published.decimals) for score in published.scores] == list(published.scores)
    assert 0 < published.tolerance <= 0.25
    assert published.source
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", published.read)
    if published.kind == "sigmoid":
        assert all(0 < score < 1 for score in published.scores)
    low, high = published.bounds()
    assert (low < high).all()


def test_every_text_is_used_and_every_name_means_one_model() -> None:
    rows = [row for model in CONTENTS["models"] for row in model["published"]]
    assert {row["texts"] for row in rows} == set(CONTENTS["texts"])
    names = [name for model in CONTENTS["models"] for name in model["names"]] + CONTENTS["nothing_found"]
    assert (
        len({name.lower().rpartition("/")[2] for name in names}) >= len(set(names)) - 3
    )  # the same, by others


@pytest.mark.parametrize("page", ["parity.md", "parity.zh-CN.md"])
def test_the_documentation_counts_them(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text("utf-8")
    assert re.search(rf"{len(EVERY)} (?:lists|组得分)", text)
    assert re.search(rf"{len(known_models())} (?:models|个模型)", text)
    for precision, tolerance in {"fp32": 0.02, "fp16": 0.05}.items():
        assert f"| {precision} | {tolerance} |" in text
        assert all(p.tolerance == tolerance for _, p in EVERY if p.precision == precision)


def test_two_publications_of_the_same_scores_agree() -> None:
    # FlagEmbedding prints these logits, and their sigmoids as 0.003497, 0.000278 and 0.994840.
    panda = next(p for p in published_scores("BAAI/bge-reranker-v2-m3") if p.precision == "fp16")
    assert 1 / (1 + np.exp(-np.array(panda.scores))) == pytest.approx([0.003497, 0.000278, 0.99484], rel=1e-3)


def _one(score: float, kind: Any, decimals: int, tolerance: float = 0.02) -> Published:
    return Published((("q", "d"),), (score,), kind, "fp32", decimals, tolerance, "here", "2026-11-30")


@pytest.mark.parametrize(
    ("score", "kind", "decimals", "logit", "difference"),
    [
        (8.607, "logit", 3, 8.6072, 0),
        (8.607, "logit", 3, 8.6175, 0.01),
        (0.99999, "sigmoid", 5, 12.0, 0),  # 0.999994
        (0.99999, "sigmoid", 5, 10.0, 1.10745),  # 0.99995
        (0.5, "sigmoid", 5, 0.03, 0.03 - 2e-5),
        (1.0, "sigmoid", 2, 40.0, 0),
        (0.00003, "sigmoid", 5, -20.0, 20 - 10.5966),
    ],
)
def test_a_rounded_score_is_every_logit_that_has_it(
    score: float, kind: Any, decimals: int, logit: float, difference: float
) -> None:
    [row] = compare(_one(score, kind, decimals), [logit], "fp32")
    assert row.difference == pytest.approx(difference, abs=1e-4)
    assert row.published == score
    assert row.found == pytest.approx(logit if kind == "logit" else 1 / (1 + np.exp(-logit)))


def test_the_tolerance_depends_on_the_precision() -> None:
    published = _one(1.0, "logit", 4)
    tolerances = [tolerance_of(published, name) for name in ("fp32", "fp16", "bf16", "int8")]
    assert tolerances == sorted(tolerances)
    assert tolerances == pytest.approx([0.02, 0.07, 0.32, 1.02])
    assert [compare(published, [1.2], name)[0].right for name in ("fp32", "bf16")] == [False, True]
    assert not compare(published, [float("nan")], "int8")[0].right


@pytest.mark.parametrize(
    "name",
    [
        "bge-reranker-v2-m3",
        "baai/BGE-reranker-v2-m3",
        "/models/bge-reranker-v2-m3/",
        "BAAI/bge-reranker-v2-m3",
    ],
)
def test_a_model_is_known_by_the_end_of_its_name(name: str) -> None:
    assert published_scores(name) == published_scores("BAAI/bge-reranker-v2-m3")


def test_old_names_and_copies_are_the_same_model() -> None:
    new = published_scores("cross-encoder/ms-marco-MiniLM-L6-v2")
    assert published_scores("cross-encoder/ms-marco-MiniLM-L-6-v2") == new
    bare = published_scores("tomaarsen/Qwen3-Reranker-0.6B-seq-cls", template=False)
    assert bare == published_scores("Qwen/Qwen3-Reranker-0.6B", template=False)
    assert [published.template for published in bare] == [False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crossrank-mini", "no published scores of crossrank-mini are known; there are scores of"),
        ("BAAI/bge-reranker-v3", r"there are scores of 41 models, such as BAAI/bge-reranker-(base|v2-m3)"),
        ("BAAI/bge-reranker-v2-gemma", "pages were searched and have none"),
    ],
)
def test_models_of_which_nothing_is_known(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        published_scores(name)
