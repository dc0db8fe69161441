from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mteb import ResultCache
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.models import CrossEncoderWrapper
from mteb.models.models_protocols import CrossEncoderProtocol
from sentence_transformers import CrossEncoder
from torch.utils.data import DataLoader

from crossrank import CrossRankError, InputError, Reranker, ServiceError, UnavailableError, UnknownModelError
from crossrank.client import Client
from crossrank.engines.fake import FakeEngine
from crossrank.integrations.mteb import CrossRankCrossEncoder
from tests.checkpoints import write_xlm_roberta
from tests.integrations import DOCUMENTS, LONG, QUERY
from tests.server.process import Server, serving

QUERIES = {"q1": QUERY, "q2": "大熊猫吃什么？", "q3": "a query without candidates' order", "q4": QUERY}


class Task(AbsTaskRetrieval):  # type: ignore[misc]
    """A reranking task whose data is here."""

    metadata = mteb.TaskMetadata(
        name="CrossRankTestReranking",
        type="Reranking",
        description="For tests.",
        reference="https://example.org",
        dataset={"path": "none", "revision": "none"},
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, **_: Any) -> None:
        ids = [f"d{i}" for i in range(len(DOCUMENTS))]
        data = RetrievalSplitData(
            corpus=Dataset.from_dict({"id": ids, "text": DOCUMENTS, "title": [""] * len(ids)}),
            queries=Dataset.from_dict({"id": list(QUERIES), "text": list(QUERIES.values())}),
            relevant_docs={"q1": {"d0": 1, "d7": 1}, "q2": {"d8": 1}, "q3": {"d3": 1}, "q4": {"d2": 1}},
            top_ranked={"q1": ids, "q2": ids[4:], "q3": ids[:6], "q4": ids[::-1]},
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True


def evaluate(model: Any, folder: Path) -> tuple[float, dict[str, dict[str, float]]]:
    """nDCG@10, and the scores of each query's documents."""
    result = mteb.evaluate(
        model, Task(), cache=None, co2_tracker=False, prediction_folder=folder, show_progress_bar=False
    )
    [file] = folder.rglob("*.json")
    predictions = json.loads(file.read_text())["default"]["test"]
    return result.task_results[0].get_score(), predictions


def test_the_order_is_mtebs_own(folder: Path, reranker: Reranker, tmp_path: Path) -> None:
    own = CrossEncoderWrapper(CrossEncoder(str(folder), device="cpu", local_files_only=True))
    expected, theirs = evaluate(own, tmp_path / "theirs")
    score, ours = evaluate(CrossRankCrossEncoder(reranker), tmp_path / "ours")
    assert score == expected
    assert 0 < score < 1
    assert ours.keys() == theirs.keys() == QUERIES.keys()
    for query in QUERIES:
        order = [sorted(scores[query], key=scores[query].__getitem__) for scores in (ours, theirs)]
        assert order[0] == order[1]


def test_a_server_scores_alike(reranker: Reranker, server: Server, key: str, tmp_path: Path) -> None:
    here = evaluate(CrossRankCrossEncoder(reranker), tmp_path / "here")
    served = CrossRankCrossEncoder(server.url, api_key=key, options={"model": "tiny"})
    assert evaluate(served, tmp_path / "served") == here
    assert served.mteb_model_meta.name == "crossrank/tiny"


def test_logits_of_pairs_in_their_order(reranker: Reranker) -> None:
    model = CrossRankCrossEncoder(reranker)
    queries = [QUERY, QUERY, "x", QUERY, "x", "x"]
    pairs = list(zip(queries, DOCUMENTS, strict=False))
    loaders = [
        DataLoader(Dataset.from_dict({"text": side}), batch_size=4) for side in zip(*pairs, strict=True)
    ]
    task: Any = {"task_metadata": Task.metadata, "hf_split": "test", "hf_subset": "default"}
    found = model.predict(*loaders, **task, batch_size=2)
    assert found.dtype == np.float32
    assert found.tolist() == reranker.logits(pairs).tolist()
    fewer = DataLoader(Dataset.from_dict({"text": queries[:4]}), batch_size=4)
    with pytest.raises(ValueError, match="longer"):
        model.predict(fewer, loaders[1], **task)
    images: Any = [{"image": [None], "label": [0]}]
    with pytest.raises(InputError, match="a batch has image, label and no text"):
        model.predict(images, images, **task)


def is_run(model: CrossRankCrossEncoder, cache: ResultCache) -> bool:
    """Whether MTEB asks the model, or has its result in the cache."""
    asked = []
    predict = model.predict

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(args)
        return predict(*args, **options)

    with patch.object(model, "predict", noted):
        mteb.evaluate(model, Task(), cache=cache, co2_tracker=False, show_progress_bar=False)
    return bool(asked)


def test_results_are_kept_by_all_that_changes_them(folder: Path, reranker: Reranker, tmp_path: Path) -> None:
    model = CrossRankCrossEncoder(reranker)
    assert isinstance(model, CrossEncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.max_tokens) == ("crossrank/tiny", 512)
    cache = ResultCache(tmp_path)
    assert is_run(model, cache)
    assert not is_run(CrossRankCrossEncoder(reranker), cache)
    changes: list[dict[str, Any]] = [
        {"precision": "bf16"},
        {"max_length": 16},
        {"max_length": 16, "truncation": "longest_first"},
        {"max_length": 16, "query_share": 0.3},
        {"max_length": 16, "long": "windows"},
        {"max_length": 16, "long": "windows", "max_windows": 2},
    ]
    for change in changes:
        options = {"precision": "fp32", "threads": 1} | change
        assert is_run(CrossRankCrossEncoder(folder, options=options), cache), change
        assert not is_run(CrossRankCrossEncoder(folder, options=options), cache), change


def test_results_of_parts_are_never_reused(reranker: Reranker, tmp_path: Path) -> None:
    for _ in range(2):
        parts = Reranker.from_parts(reranker.encoder, FakeEngine())
        assert is_run(CrossRankCrossEncoder(parts), ResultCache(tmp_path))


def test_a_servers_results_are_kept_while_it_serves_the_same(folder: Path, tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "cache")
    other = write_xlm_roberta(tmp_path / "other", seed=1)
    options = ["--precision", "fp32", "--threads", "1"]
    with serving(tmp_path, "--model", f"tiny={folder}", *options) as server:
        server.wait_until_ready()
        url, port = server.url, server.port
        model = CrossRankCrossEncoder(url)
        meta = model.mteb_model_meta
        assert (meta.name, meta.max_tokens) == ("crossrank/tiny", 512)
        assert is_run(model, cache)
        assert not is_run(CrossRankCrossEncoder(url), cache)
        with pytest.raises(UnknownModelError, match="no model 'none' is served here; there is: tiny"):
            is_run(CrossRankCrossEncoder(url, options={"model": "none"}), cache)
    gone = CrossRankCrossEncoder(url, options={"retries": 0})
    with pytest.raises(UnavailableError):
        is_run(gone, cache)
    with serving(tmp_path, "--model", f"tiny={other}", *options, "--port", str(port)) as server:
        server.wait_until_ready()
        assert is_run(model, cache)  # the object from before the server's restart
        assert not is_run(CrossRankCrossEncoder(url), cache)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ({"model_id": "of another server"}, ServiceError, "http://x does not describe its models"),
        ({"models": []}, ServiceError, "http://x does not describe its models"),
        (
            {"models": [{"name": "m", "state": "loading", "why": "m is loading"}]},
            UnavailableError,
            "m is load",
        ),
    ],
)
def test_a_server_that_does_not_say_what_it_serves(
    body: dict[str, Any], error: type[ServiceError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "info", lambda _: body)
    with pytest.raises(error, match=message):
        _ = CrossRankCrossEncoder("http://x").mteb_model_meta


def test_cut_documents_are_reported_once(reranker: Reranker, caplog: pytest.LogCaptureFixture) -> None:
    documents = [*DOCUMENTS[:2], LONG, LONG]
    loaders = [
        DataLoader(Dataset.from_dict({"text": side}), batch_size=2)
        for side in ([QUERY, QUERY, QUERY, "x"], documents)
    ]
    task: Any = {"task_metadata": Task.metadata, "hf_split": "test", "hf_subset": "default"}
    CrossRankCrossEncoder(reranker).predict(*loaders, **task)
    assert caplog.messages == ["2 of 4 pairs were truncated to fit the model's window"]


def test_errors_are_crossranks(server: Server) -> None:
    with pytest.raises(CrossRankError, match="key"):
        mteb.evaluate(CrossRankCrossEncoder(server.url), Task(), cache=None, co2_tracker=False)
