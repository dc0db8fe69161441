import itertools
import pickle
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from crossrank import EngineError, InputError, NonFiniteLogitError, Reranker
from crossrank import reranker as reranker_module
from crossrank.engines import Engine
from crossrank.engines.fake import FakeEngine
from crossrank.pairs import PairEncoder
from crossrank.reranker import Document
from tests.checkpoints import write_bert, write_xlm_roberta


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Reranker:
    return Reranker(folder, batch_tokens=64)


def fake(engine: FakeEngine, folder: Path, **options: Any) -> Reranker:
    return Reranker.from_parts(PairEncoder(folder / "tokenizer.json", **options), engine)


DOCUMENTS = ["short", "a somewhat longer document", "中国的首都是北京。", "the longest document " * 9, ""]


def test_rank_orders_by_the_engines_logit(folder: Path) -> None:
    engine = FakeEngine()  # the shorter, the better
    ranking = fake(engine, folder).rank("q", ["aaaa bbbb cccc", "a", "aaaa bbbb"])
    assert isinstance(engine, Engine)
    assert [hit.index for hit in ranking] == [1, 2, 0]
    assert [hit.rank for hit in ranking] == [1, 2, 3]
    assert [hit.text for hit in ranking] == ["a", "aaaa bbbb", "aaaa bbbb cccc"]
    assert ranking.query == "q"


def test_packs_keep_the_budget_and_results_the_input_order(folder: Path) -> None:
    engine = FakeEngine(batch_tokens=40)
    reranker = fake(engine, folder, max_length=32)
    pairs = [("q", "x " * (i % 50)) for i in range(100)]
    logits = reranker.logits(pairs)
    assert len(engine.packs) > 1
    assert all(len(pack) == 1 or len(pack.token_ids) <= 40 for pack in engine.packs)
    alone = [reranker.logits([pair])[0] for pair in pairs]
    assert logits.tolist() == alone


def test_a_real_model_gives_a_pair_the_same_logit_in_any_company(tiny: Reranker) -> None:
    together = tiny.logits([("query", document) for document in DOCUMENTS])
    alone = [tiny.logits([("query", document)])[0] for document in DOCUMENTS]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert together.dtype == np.float32


def test_rank_score_and_logits_agree(tiny: Reranker) -> None:
    pairs = [("query", document) for document in DOCUMENTS]
    logits, scores = tiny.logits(pairs), tiny.score(pairs)
    assert scores.dtype == np.float32
    for hit in (hit for hit in tiny.rank("query", DOCUMENTS) if not hit.blank):
        assert hit.logit == logits[hit.index]
        assert hit.score == pytest.approx(scores[hit.index], abs=1e-7)


def test_documents_with_fields_come_back_whole_and_unchanged(tiny: Reranker) -> None:
    documents: list[Document] = [{"text": "one", "id": 7, "rank": "mine"}, "two"]
    ranking = tiny.rank("query", documents)
    fields = {hit.index: hit.fields for hit in ranking}
    assert fields == {0: {"id": 7, "rank": "mine"}, 1: {}}
    assert documents == [{"text": "one", "id": 7, "rank": "mine"}, "two"]


def test_a_hit_says_whether_it_was_cut(folder: Path) -> None:
    reranker = Reranker(folder, max_length=16)
    ranking = reranker.rank("query", ["a", "long " * 100])
    assert {hit.index: hit.truncated for hit in ranking} == {0: False, 1: True}
    assert reranker.max_length == 16
    assert ranking[0].text in ("a", "long " * 100)


def test_nothing_to_rank(tiny: Reranker) -> None:
    assert len(tiny.rank("query", [])) == 0
    assert tiny.score([]).shape == (0,)
    assert len(tiny.rank("", ["", "  "])) == 2


def test_top_n_and_threshold(tiny: Reranker) -> None:
    everything = tiny.rank("query", DOCUMENTS)
    assert list(tiny.rank("query", DOCUMENTS, top_n=2)) == list(everything[:2])
    bar = everything[1].score
    assert [hit.score >= bar for hit in tiny.rank("query", DOCUMENTS, threshold=bar)] == [True, True]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("one string", "documents is one document"),
        ({"text": "one mapping"}, "documents is one document"),
        (["fine", 3], "document 1 is a int without a text"),
        (["fine", {"title": "no text"}], "document 1 is a dict without a text"),
        ([{"text": None}], "document 0 is a dict"),
    ],
)
def test_documents_of_the_wrong_kind_are_named(tiny: Reranker, documents: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny.rank("query", documents)


def test_pairs_may_come_from_an_iterator(tiny: Reranker) -> None:
    queries, documents = ["a", "b"], ["c", "d"]
    expected = tiny.logits(list(zip(queries, documents, strict=True)))
    drawn: Any = zip(queries, documents, strict=True)
    np.testing.assert_array_equal(tiny.logits(drawn), expected)


def test_pairs_of_the_wrong_kind_are_named(tiny: Reranker) -> None:
    wrong: list[tuple[Any, str]] = [
        ([("a", "b"), ("a",)], "pair 1 is"),
        (["ab"], "pair 0 is 'ab'"),
        ([("a", None)], "the document of pair 0 is a NoneType"),
        ([(1, "b")], "the query of pair 0 is a int"),
        (None, "pairs is None; it must be a list"),
    ]
    for pairs, message in wrong:
        with pytest.raises(InputError, match=message):
            tiny.logits(pairs)
    with pytest.raises(InputError, match="query is a NoneType"):
        tiny.rank(None, ["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_tokens": 0}, "batch_tokens is 0; it must be an integer of 1 or more"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 5000}, "threads is 5000; it must be an integer from 1 to 4096"),
        ({"threads": "2"}, "threads is '2'"),
        ({"threads": 2.5}, "threads is 2.5"),
        ({"max_length": "64"}, "max_length is '64'"),
        ({"query_share": "half"}, "query_share is 'half'"),
        ({"device": None}, "device is None"),
        ({"max_length": 513}, "max_length is 513; tiny reads at most 512 tokens"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"precision": "fp64"}, "precision is 'fp64'"),
        ({"precision": "fp16", "device": "cpu"}, "which a CPU has no arithmetic for"),
        ({"source": "elsewhere"}, "source is 'elsewhere'"),
    ],
)
def test_options_out_of_range_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reranker(folder, **options)


def test_a_model_is_a_name_or_a_folder() -> None:
    with pytest.raises(InputError, match="model is 5; it must be a name or a folder"):
        Reranker(5)  # type: ignore[arg-type]


def test_the_window_is_512_or_the_models_own_where_that_is_smaller(tmp_path: Path) -> None:
    assert Reranker(write_bert(tmp_path / "a", positions=1024)).max_length == 512
    assert Reranker(write_bert(tmp_path / "b", positions=64)).max_length == 64
    assert Reranker(write_xlm_roberta(tmp_path / "c", positions=66)).max_length == 64


def test_the_largest_window_is_really_scored(tmp_path: Path) -> None:
    for folder in (write_xlm_roberta(tmp_path / "x", positions=66), write_bert(tmp_path / "b", positions=64)):
        reranker = Reranker(folder, max_length=64)
        assert np.isfinite(reranker.logits([("query", "word " * 500)])).all()


def test_a_nan_names_the_pair_of_the_callers_list(folder: Path) -> None:
    # Longest first in the pack, so its place there is not its place in the list.
    texts = ["aaaa " * 20, "a", "aaaa " * 30]
    lengths = [len(PairEncoder(folder / "tokenizer.json").encode("q", [t])[0].token_ids) for t in texts]
    engine = FakeEngine(lambda ids: float("nan") if len(ids) == lengths[1] else 1.0)
    reranker = fake(engine, folder)
    with pytest.raises(NonFiniteLogitError, match="pair 1 "):
        reranker.rank("q", texts)
    with pytest.raises(NonFiniteLogitError, match="pair 1 "):
        reranker.logits([("q", text) for text in texts])


def test_many_threads_share_a_reranker(tiny: Reranker) -> None:
    expected = tiny.rank("query", DOCUMENTS)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(5):
            found = tiny.rank("query", DOCUMENTS)
            if [hit.index for hit in found] != [hit.index for hit in expected]:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_score_pairs_says_all_of_a_pair(tmp_path: Path) -> None:
    reranker = Reranker(write_xlm_roberta(tmp_path / "m"), device="cpu", max_length=32)
    pairs = [("capital", "Paris"), ("capital", "long " * 100)]
    found = reranker.score_pairs(pairs)
    assert [pair.logit for pair in found] == reranker.logits(pairs).tolist()
    assert [pair.score for pair in found] == pytest.approx(reranker.score(pairs).tolist())
    assert [pair.truncated for pair in found] == [False, True]
    assert reranker.score_pairs([]) == []


def test_a_query_that_was_cut_is_called_the_query(tmp_path: Path) -> None:
    reranker = Reranker(write_xlm_roberta(tmp_path / "m"), device="cpu", max_length=32)
    query, documents = "long " * 100, ["Paris", "long " * 100]
    ranking = reranker.rank(query, documents)
    assert {hit.index: (hit.query_truncated, hit.truncated) for hit in ranking} == {
        0: (True, False),
        1: (True, True),
    }
    assert list(reranker.rank_many([("capital", documents), (query, documents)]))[1] == ranking
    found = reranker.score_pairs([(query, "Paris"), ("capital", "Paris")])
    assert [(pair.query_truncated, pair.truncated) for pair in found] == [(True, False), (False, False)]
    explained = reranker.explain(query, "Paris")
    assert (explained.query_truncated, explained.truncated, explained.read) == (True, False, 5)
    assert not reranker.explain("capital", "Paris").query_truncated


def test_many_queries_share_packs_and_come_back_in_order(folder: Path, tiny: Reranker) -> None:
    engine = FakeEngine(batch_tokens=200)
    reranker = fake(engine, folder)
    requests = [(f"q{n}", DOCUMENTS[: n % 6]) for n in range(300)]
    rankings = list(reranker.rank_many(requests, top_n=2))
    assert len(engine.packs) < 150
    assert [ranking.query for ranking in rankings] == [query for query, _ in requests]
    assert rankings == [fake(FakeEngine(), folder).rank(query, found, top_n=2) for query, found in requests]
    real = list(tiny.rank_many(requests[:40]))
    for ranking, (query, documents) in zip(real, requests, strict=False):
        alone = tiny.rank(query, documents)
        assert [hit.index for hit in ranking] == [hit.index for hit in alone]
        assert [hit.logit for hit in ranking] == pytest.approx([hit.logit for hit in alone], abs=1e-4)


@pytest.mark.parametrize("documents", [["a", "b"], []])
def test_many_queries_are_drawn_only_a_little_ahead(folder: Path, documents: list[str]) -> None:
    reranker = fake(FakeEngine(batch_tokens=64), folder)
    drawn: list[int] = []

    def endless() -> Iterator[tuple[str, Sequence[Document]]]:
        for number in itertools.count():
            drawn.append(threading.get_ident())
            yield f"q{number}", documents

    rankings = reranker.rank_many(endless())
    for taken in range(1, 5000):
        next(rankings)
        # Three windows, one of them in the engine, and a chunk: one window more for each call it takes.
        assert len(drawn) - taken < 2500
    rankings.close()  # type: ignore[attr-defined]
    assert set(drawn) == {threading.get_ident()}


def test_a_window_is_tokenised_at_once_and_of_long_texts_a_few(folder: Path) -> None:
    reranker = fake(FakeEngine(batch_tokens=1000), folder)
    join, chunks = reranker.encoder.join, list[int]()

    def counted(queries: Any, texts: Sequence[str], *cut: Any) -> Any:
        chunks.append(len(texts))
        return join(queries, texts, *cut)

    reranker.encoder.join = counted  # type: ignore[method-assign, assignment]
    requests = [("q", ["short"])] * 4000 + [("q", ["not so short " * 100])] * 800
    assert len(list(reranker.rank_many(requests))) == len(requests)
    assert chunks[0] == 256
    assert max(chunks) > 700  # eight packs of a thousand tokens
    assert chunks[-3:-1] == [256, 256]
    assert sum(chunks) == len(requests)


def test_the_engine_has_as_many_calls_as_it_takes(folder: Path) -> None:
    inside: set[int] = set()
    together = threading.Event()

    def logit(ids: npt.NDArray[np.int32]) -> float:
        inside.add(threading.get_ident())
        if len(inside) == 2:
            together.set()
        assert together.wait(timeout=20), "the first call was left alone"
        return -float(len(ids))

    reranker = fake(FakeEngine(logit, batch_tokens=8, calls=2), folder)
    requests = [(f"q{n}", [f"document {n}"]) for n in range(300)]
    assert [ranking.query for ranking in reranker.rank_many(requests)] == [query for query, _ in requests]


def test_rankings_of_a_slow_engine_come_soon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranker_module, "_WINDOW_SECONDS", 0.001)
    monkeypatch.setattr(reranker_module, "_CHUNK_PAIRS", 1)
    reranker = fake(FakeEngine(batch_tokens=100, seconds_per_token=0.0001), folder)
    drawn: list[int] = []

    def requests() -> Iterator[tuple[str, Sequence[Document]]]:
        for number in range(600):
            drawn.append(number)
            yield "q", [f"document {number}"]

    ahead = [len(drawn) - number for number, _ in enumerate(reranker.rank_many(requests()))]
    assert len(ahead) == 600
    assert max(ahead) < 80  # some packs; with eight at a time, more than 100


def test_what_is_wrong_with_one_of_many_queries_is_raised(folder: Path) -> None:
    reranker = fake(FakeEngine(), folder)
    wrong: list[tuple[Any, str]] = [
        ([("q", ["a"]), ("q", "not a list")], "request 1: documents is one document"),
        ([("q", ["a"]), ("q", ["b", None])], "request 1: document 1 is a NoneType"),
        ([("q", 5)], "request 0: documents is 5; it must be a list"),
        ([("q",)], r"request 0 is \('q',\); it must be \(query, documents\)"),
        (None, "requests is None"),
    ]
    for requests, message in wrong:
        with pytest.raises(InputError, match=message):
            list(reranker.rank_many(requests))
    with pytest.raises(InputError, match="top_n is -1"):
        list(reranker.rank_many([], top_n=-1))
    broken = fake(FakeEngine(lambda ids: float("nan")), folder)
    with pytest.raises(NonFiniteLogitError):
        list(broken.rank_many([("q", ["a"])]))


def test_a_pickle_loads_the_model_anew() -> None:
    with Reranker(max_length=100, threads=1, precision="fp32") as reranker:
        again = pickle.loads(pickle.dumps(reranker))
        assert again.max_length == 100
        assert again.engine.precision == "fp32"
        assert again.rank("tea", ["green tea", "a pot"]) == reranker.rank("tea", ["green tea", "a pot"])
        assert repr(reranker) == "<Reranker crossrank-mini: native, cpu, fp32, 100 tokens>"
    assert repr(reranker) == "<Reranker: closed>"
    with pytest.raises(EngineError, match="the reranker is closed"):
        reranker.rank("tea", ["green tea"])
    parts = Reranker.from_parts(again.encoder, again.engine)
    assert "from parts" in repr(parts)
    with pytest.raises(TypeError, match="from parts cannot be pickled"):
        pickle.dumps(parts)


def test_equal_texts_are_scored_once_and_keep_their_places(folder: Path) -> None:
    engine = FakeEngine()
    reranker = fake(engine, folder, max_length=64)
    documents = ["a", "long " * 100, "a", "a a", "long " * 100, "a"]
    ranking = reranker.rank("q", documents)
    assert sum(len(pack) for pack in engine.packs) == 3
    # Equal logits keep the input order.
    assert [(hit.index, hit.truncated) for hit in ranking] == [
        (0, False),
        (2, False),
        (5, False),
        (3, False),
        (1, True),
        (4, True),
    ]
    engine.packs.clear()
    many = list(reranker.rank_many([("q", documents), ("r", documents[:3]), ("s", [])]))
    assert sum(len(pack) for pack in engine.packs) == 3 + 2
    assert many[0] == ranking
    assert many[1].indices == [0, 2, 1]
    engine.packs.clear()
    pairs = [("q", "a"), ("r", "a"), ("q", "a"), ("q", "b b")]
    assert reranker.logits(pairs).tolist() == [reranker.logits([pair])[0] for pair in pairs]
    assert [len(pack) for pack in engine.packs] == [3, 1, 1, 1, 1]


def test_a_nan_names_the_first_of_equal_pairs(folder: Path) -> None:
    wrong = len(PairEncoder(folder / "tokenizer.json").encode("q", ["aaaa bbbb cccc"])[0].token_ids)
    engine = FakeEngine(lambda ids: float("nan") if len(ids) == wrong else 1.0)
    texts = ["a", "a", "aaaa bbbb cccc", "aaaa bbbb cccc"]
    with pytest.raises(NonFiniteLogitError, match="pair 2 "):
        fake(engine, folder).rank("q", texts)
    with pytest.raises(NonFiniteLogitError, match="pair 2 "):
        list(fake(engine, folder).rank_many([("q", ["a"]), ("q", texts)]))


LONG = " ".join([*(f"Sentence {i} is about nothing." for i in range(60)), "Zebras.", "The end comes here."])


def finds(folder: Path, word: str, **options: Any) -> tuple[Reranker, FakeEngine]:
    """A reranker whose logit is how often a pair has a word, and its engine."""
    encoder = PairEncoder(folder / "tokenizer.json", max_length=64, long="windows", **options)
    (wanted,) = encoder.ids([word])
    engine = FakeEngine(lambda ids: float(ids.tobytes().count(wanted.tobytes())))
    return Reranker.from_parts(encoder, engine), engine


def test_an_answer_is_found_wherever_it_stands_in_a_document(folder: Path) -> None:
    reranker, engine = finds(folder, "Zebras", max_windows=100)
    documents = [LONG.replace("Zebras.", ""), LONG, "short", "Zebras. " + LONG.replace("Zebras.", "")]
    ranking = reranker.rank("Where?", documents)
    assert [hit.index for hit in ranking] == [1, 3, 0, 2]
    by_index = {hit.index: hit for hit in ranking}
    window = by_index[1].window
    assert window is not None
    assert "Zebras" in LONG[slice(*window)]
    assert by_index[3].window is not None
    assert by_index[3].window[0] == 0
    assert by_index[2].window is None
    assert not any(hit.truncated for hit in ranking)
    assert sum(map(len, engine.packs)) > 20
    assert [reranker.rank("Where?", documents)] == list(reranker.rank_many([("Where?", documents)]))
    (pair,) = reranker.score_pairs([("Where?", LONG)])
    assert (pair.logit, pair.window, pair.truncated) == (1.0, window, False)
    assert reranker.logits([("Where?", LONG), ("Who?", "short")]).tolist() == [1.0, 0.0]


def test_equal_long_texts_are_read_once_and_both_have_the_window(folder: Path) -> None:
    reranker, engine = finds(folder, "Zebras", max_windows=100)
    first, second = reranker.rank("Where?", [LONG, LONG])
    assert first.window == second.window
    read = sum(map(len, engine.packs))
    reranker.rank("Where?", [LONG])
    assert sum(map(len, engine.packs)) == 2 * read


def test_of_a_document_with_too_many_windows_a_part_is_read_and_said_so(folder: Path) -> None:
    reranker, engine = finds(folder, "Zebras", max_windows=3)
    (hit,) = reranker.rank("Zebras", [LONG])
    assert (hit.logit, hit.truncated) == (2.0, True)  # once in the query
    assert hit.window is not None
    assert "Zebras" in LONG[slice(*hit.window)]
    assert sum(map(len, engine.packs)) == 3


def test_a_model_in_windows_gives_the_best_of_what_its_windows_have_alone(folder: Path) -> None:
    reranker = Reranker(folder, max_length=64, long="windows", max_windows=100, precision="fp32")
    (hit,) = reranker.rank("query", [LONG])
    (pairs,) = reranker.encoder.join_windows(reranker.encoder.query("query"), [LONG])
    alone = [
        (float(reranker.logits([("query", LONG[slice(*pair.window)])])[0]), pair.window)
        for pair in pairs
        if pair.window is not None
    ]
    logit, window = max(alone, key=lambda each: each[0])
    assert len(alone) == len(pairs) > 5
    assert hit.logit == pytest.approx(logit, abs=1e-4)
    assert hit.window == window


def test_both_of_two_models_read_long_documents_in_windows(folder: Path) -> None:
    small, _ = finds(folder, "Zebras", max_windows=100)
    encoder = PairEncoder(folder / "tokenizer.json", max_length=64, long="windows", max_windows=100)
    large = Reranker.from_parts(encoder, FakeEngine(), first=small, keep=1)  # the shortest window is best
    documents = [LONG.replace("Zebras.", ""), LONG, "short"]
    best, *others = large.rank("Where?", documents)
    (pairs,) = encoder.join_windows(encoder.query("Where?"), [LONG])
    assert (best.index, best.window) == (1, min(pairs, key=lambda pair: pair.tokens).window)
    by_index = {hit.index: hit for hit in small.rank("Where?", documents)}
    assert [hit.window for hit in others] == [by_index[hit.index].window for hit in others]
    assert others[0].window is not None
