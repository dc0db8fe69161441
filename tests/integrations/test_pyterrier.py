"""PyTerrier without Java: its transformers and experiments need none, only Terrier's own index does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest
from pyterrier.measures import AP, nDCG
from sentence_transformers import CrossEncoder

from crossrank import CrossRankError, InputError, Reranker
from crossrank.integrations.pyterrier import CrossRankTransformer
from crossrank.packing import Pack
from tests.integrations import DOCUMENTS, LONG, QUERY
from tests.server.process import Server

# PyTerrier's own, with the newest pandas.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")

QUERIES = {"7": QUERY, "10": "大熊猫吃什么？", "x": "rerank"}


TEXTS = (*DOCUMENTS[3:], LONG, *DOCUMENTS[:3])


def results(texts: Sequence[str] = TEXTS) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [
        {"qid": qid, "query": query, "docno": f"d{i}", "text": text, "score": -i, "rank": i, "shelf": i % 3}
        for i, text in enumerate(texts)
        for qid, query in QUERIES.items()  # one query's results do not lie together
    ]
    return pd.DataFrame(rows, index=range(100, 100 + len(rows)))


def test_the_order_is_that_of_pyterriers_own_way(folder: Path, reranker: Reranker) -> None:
    """A cross-encoder in PyTerrier is a function of pt.apply that scores rows."""
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    own = pt.apply.doc_score(
        lambda rows: model.predict(list(zip(rows["query"], rows["text"], strict=True))), batch_size=8
    )
    columns = ["qid", "docno", "rank"]
    theirs = own(results(DOCUMENTS)).sort_values(["qid", "rank"])[columns].to_dict("records")
    ours = CrossRankTransformer(reranker)(results(DOCUMENTS)).sort_values(["qid", "rank"])[columns]
    assert ours.to_dict("records") == theirs


@pytest.mark.parametrize("where", ["here", "served"])
def test_a_new_frame_with_scores_and_ranks(where: str, reranker: Reranker, server: Server, key: str) -> None:
    if where == "here":
        transformer = CrossRankTransformer(reranker)
    else:
        transformer = CrossRankTransformer(server.url, api_key=key)
    given = results()
    found = transformer(given)
    pd.testing.assert_frame_equal(given, results())
    assert list(found["qid"].unique()) == list(QUERIES)
    for qid, query in QUERIES.items():
        rows = found[found["qid"] == qid]
        candidates = given[given["qid"] == qid]
        expected = reranker.rank(query, candidates["text"].tolist())
        assert rows["docno"].tolist() == [candidates["docno"].iloc[hit.index] for hit in expected]
        assert rows["score"].tolist() == [hit.logit for hit in expected]
        assert rows["rank"].tolist() == list(range(len(expected)))
        assert rows["truncated"].tolist() == [hit.index == 12 for hit in expected]
        assert rows["shelf"].tolist() == [hit.index % 3 for hit in expected]


def test_all_queries_go_through_the_model_together(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs: list[int] = []
    logits = reranker.engine.logits

    def count(pack: Pack) -> Any:
        packs.append(len(pack.offsets) - 1)
        return logits(pack)

    monkeypatch.setattr(reranker.engine, "logits", count)
    short = results(["China", "Beijing"])
    CrossRankTransformer(reranker)(short)
    assert packs == [len(short)]


def test_in_a_pipeline_and_an_experiment(reranker: Reranker) -> None:
    first = pt.Transformer.from_df(results())
    pipeline = (first % 5) >> CrossRankTransformer(reranker, top_n=3)
    topics = pd.DataFrame({"qid": QUERIES.keys(), "query": QUERIES.values()})
    found = pipeline(topics)
    assert found.groupby("qid").size().tolist() == [3, 3, 3]
    best = found[found["rank"] == 0]
    qrels = best[["qid", "docno"]].assign(label=1)
    table = pt.Experiment(
        [first, pipeline], topics, qrels, [nDCG @ 10, AP], names=["first", "ours"], plan="tree"
    )
    assert table["nDCG@10"].iloc[1] == 1 > table["nDCG@10"].iloc[0]
    outputs = pt.inspect.transformer_outputs(pipeline, ["qid", "query"])
    assert {"docno", "score", "rank", "truncated"} <= set(outputs)


def test_threshold_top_n_and_nothing(reranker: Reranker) -> None:
    scores = [hit.score for hit in reranker.rank(QUERY, DOCUMENTS)]
    found = CrossRankTransformer(reranker, threshold=scores[2])(results(DOCUMENTS))
    assert (found["qid"] == "7").sum() == 3
    none = CrossRankTransformer(reranker, top_n=0)(results())
    assert none.empty
    assert list(none.columns) == [*results().columns, "truncated"]
    pd.testing.assert_frame_equal(CrossRankTransformer(reranker)(results()[:0]), none, check_dtype=False)


def test_another_column(reranker: Reranker) -> None:
    given = results().rename(columns={"text": "body"})
    found = CrossRankTransformer(reranker, text_field="body")(given)
    assert found["score"].tolist() == CrossRankTransformer(reranker)(results())["score"].tolist()


def test_copied_and_pickled(folder: Path, reranker: Reranker) -> None:
    named = CrossRankTransformer(folder, options={"precision": "fp32", "threads": 1})
    expected = named(results())
    for again in (
        copy.deepcopy(named),
        pickle.loads(pickle.dumps(named)),
        copy.deepcopy(CrossRankTransformer(reranker)),
    ):
        pd.testing.assert_frame_equal(again(results()), expected)
    with pytest.raises(InputError, match="a Reranker object cannot be saved"):
        pickle.dumps(CrossRankTransformer(reranker))


def test_its_name_and_attributes(reranker: Reranker, server: Server, key: str) -> None:
    transformer = CrossRankTransformer(reranker, top_n=3)
    assert repr(transformer) == "CrossRankTransformer('tiny', top_n=3)"
    found = {each.name: each.value for each in pt.inspect.transformer_attributes(transformer)}
    assert found == {
        "model": reranker,
        "text_field": "text",
        "top_n": 3,
        "threshold": None,
        "instruction": None,
        "api_key": None,
        "options": None,
    }
    fewer = pt.inspect.transformer_apply_attributes(transformer, top_n=1)
    assert len(fewer(results())) == len(QUERIES)
    served = CrossRankTransformer(server.url, api_key=key, options={"model": "tiny"})
    assert repr(served) == f"CrossRankTransformer('{server.url}', options={{'model': 'tiny'}})"


def test_mistakes_are_errors(reranker: Reranker, server: Server) -> None:
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        CrossRankTransformer(reranker)(results().drop(columns="text"))
    given = results()
    given.loc[103, "text"] = None
    with pytest.raises(InputError, match="document 1 is a "):
        CrossRankTransformer(reranker)(given)
    given = results()
    given.loc[given.index[2], "qid"] = None
    with pytest.raises(InputError, match="row 2 has no qid"):
        CrossRankTransformer(reranker)(given)
    with pytest.raises(CrossRankError, match="key"):
        CrossRankTransformer(server.url)(results())


def test_no_java_was_needed() -> None:
    assert not pt.java.started()
