"""What is found out about servers over real HTTP: right ones, CrossRank's own, and wrong ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossrank import Reranker
from crossrank.client.dialects import DIALECTS, DialectClient
from crossrank.errors import InputError, ServiceError, UnavailableError
from crossrank.evaluation.findings import Finding, Level
from crossrank.evaluation.server import Reference, ServerReport, check_server, local_reference
from crossrank.pairs import Cut, EncodedPair
from tests.evaluation.wrong_servers import WINDOW, Floats, Wrong, app, serve, sigmoid
from tests.server.process import Server, serving


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(device="cpu", precision="int8", threads=2)


@pytest.fixture(scope="module")
def reference(reranker: Reranker) -> Reference:
    whole = local_reference(reranker)
    assert len(whole.cases) == 8
    return dataclasses.replace(whole, cases=whole.cases[:3])  # enough to tell, and quicker


def examine(wrong: Wrong, reference: Reference, **options: Any) -> ServerReport:
    with (
        serve(app(wrong, **options)) as url,
        DialectClient(url, timeout=300, model="crossrank-mini") as client,
    ):
        client.find()
        return check_server(client, reference)


def errors(report: ServerReport) -> dict[str, str]:
    return {finding.subject: finding.found for finding in report.findings if finding.level is Level.ERROR}


def of(report: ServerReport, subject: str) -> Finding:
    return next(finding for finding in report.findings if finding.subject == subject)


@pytest.mark.parametrize(
    ("activate", "what"), [(sigmoid, "sigmoids of the logits;"), (lambda logits: logits, "raw logits;")]
)
def test_a_right_server_passes(
    reranker: Reranker, reference: Reference, activate: Callable[[Floats], Floats], what: str
) -> None:
    report = examine(Wrong(reranker, activate=activate), reference)
    assert report.right
    assert [finding.level for finding in report.findings] == [Level.OK] * 7
    assert of(report, "Scores").found.startswith(what)
    assert of(report, "Scores").found.endswith("as in fp32")
    assert of(report, "Truncation").found.endswith(f"is cut at its end at {WINDOW} tokens")


@pytest.mark.parametrize(
    ("activate", "subject", "level", "words"),
    [
        (lambda x: sigmoid(sigmoid(x)), "Scores", Level.ERROR, "the sigmoid of the sigmoid"),
        (lambda x: np.exp(x) / np.exp(x).sum(), "Scores", Level.WARNING, "a softmax over the documents"),
        (lambda x: sigmoid(x / 5), "Scores", Level.WARNING, "the sigmoid of 0.2 * logit"),
        (lambda x: -x, "Scores", Level.ERROR, "the order is the reverse"),
        (lambda x: np.sin(40 * x), "Scores", Level.ERROR, "the order differs"),
        (
            lambda x: np.float64(1) * sigmoid(x + 1).astype(np.float16),
            "Ties",
            Level.ERROR,
            "share their scores",
        ),
        (lambda x: np.where(x > 2, np.nan, x), "Numbers", Level.ERROR, "scores are NaN"),
    ],
    ids=["twice", "softmax", "line", "reversed", "noise", "saturated", "nan"],
)
def test_wrong_numbers_are_named(
    reranker: Reranker,
    reference: Reference,
    activate: Callable[[Floats], Floats],
    subject: str,
    level: Level,
    words: str,
) -> None:
    report = examine(Wrong(reranker, activate=activate), reference)
    found = of(report, subject)
    assert found.level is level
    assert words in found.found
    assert set(errors(report)) == ({subject} if level is Level.ERROR else set())


def test_rounded_scores_say_how(reranker: Reranker, reference: Reference) -> None:
    report = examine(Wrong(reranker, activate=lambda x: sigmoid(x + 1).astype(np.float16)), reference)
    assert "at 0.99" in of(report, "Ties").found
    assert "numbers of fp16" in of(report, "Ties").found


def _without_template(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    encoder = reranker.encoder
    asked = encoder.query(query).token_ids
    return [
        EncodedPair(np.concatenate((asked, encoder.query(text).token_ids))[:WINDOW], None, False)
        for text in texts
    ]


def _swapped(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    return [reranker.encoder.encode(text, [query])[0] for text in texts]


def _without_query(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    return reranker.encoder.encode("", texts)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (_without_template, "the template is missing"),
        (_swapped, "the document stands where the query should"),
        (_without_query, "the query is lost"),
    ],
)
def test_pairs_that_are_read_wrongly_are_named(
    reranker: Reranker, reference: Reference, read: Any, words: str
) -> None:
    found = errors(examine(Wrong(reranker, read=read), reference))
    assert found["Scores"].startswith(words)
    assert ("Query" in found) == (read is _without_query)


def _whole(reranker: Reranker, query: str, text: str) -> EncodedPair:
    """A pair that is not cut; the query's tokens, and the document's, are those of pairs that are."""
    encoder = reranker.encoder
    (short,) = encoder.encode(query, ["quartz"])
    part = len(encoder.query("quartz").token_ids)
    # crossrank-mini's template ends in one token.
    ids = encoder.query(text).token_ids
    whole = np.concatenate((short.token_ids[: -part - 1], ids, short.token_ids[-1:])).astype(np.int32)
    return EncodedPair(whole, None, False)


def _start_of_pair_cut(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    pairs = [_whole(reranker, query, text) for text in texts]
    return [EncodedPair(pair.token_ids[-WINDOW:], None, True) for pair in pairs]


def _end_of_pair_cut(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    pairs = [_whole(reranker, query, text) for text in texts]
    return [EncodedPair(pair.token_ids[:WINDOW], None, True) for pair in pairs]


def _start_of_document_cut(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    return reranker.encoder.encode(query, texts, Cut("left"))


def _few_tokens_of_query(reranker: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
    return reranker.encoder.encode(query, texts, Cut(query=64))


@pytest.mark.parametrize(
    ("read", "subject", "words"),
    [
        (_start_of_pair_cut, "Truncation", "the query is cut"),
        (_end_of_pair_cut, "Truncation", "what the template has behind the document is cut"),
        (_start_of_document_cut, "Truncation", "is cut at its start"),
        (_few_tokens_of_query, "Query", "the query is cut"),
    ],
)
def test_what_is_cut_wrongly_is_named(
    reranker: Reranker, reference: Reference, read: Any, subject: str, words: str
) -> None:
    found = errors(examine(Wrong(reranker, read=read), reference))
    assert list(found) == [subject]
    assert words in found[subject]


def test_a_long_document_that_is_an_error(reranker: Reranker, reference: Reference) -> None:
    report = examine(Wrong(reranker, limit=WINDOW), reference)
    found = of(report, "Truncation")
    assert (report.right, found.level) == (True, Level.WARNING)
    assert "is an error unless a request says truncate: true" in found.found
    report = examine(Wrong(reranker, limit=WINDOW, forever=True), reference)
    assert "is cut nowhere and is an error: pair 0 has" in errors(report)["Truncation"]


def test_padding_that_shifts_scores(reranker: Reranker, reference: Reference) -> None:
    assert "padding changes scores" in errors(examine(Wrong(reranker, shift=0.01), reference))["Padding"]


def test_answers_in_another_order_than_their_scores(reranker: Reranker, reference: Reference) -> None:
    found = errors(examine(Wrong(reranker, reverse=True), reference))
    assert list(found) == ["Order"]
    assert "are not in the order of their own scores" in found["Order"]


def test_an_error_to_an_ordinary_request_is_a_finding(reranker: Reranker, reference: Reference) -> None:
    # It takes fewer documents than the others of its kind.
    def read(model: Reranker, query: str, texts: Sequence[str]) -> list[EncodedPair]:
        if len(texts) > 16:
            raise ValueError("batch size 32 > maximum allowed 16")
        return model.encoder.encode(query, texts)

    found = errors(examine(Wrong(reranker, read=read), reference))
    assert found == {
        "Ties": "the server answered an ordinary request with: batch size 32 > maximum allowed 16"
    }


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_the_dialect_is_found(reranker: Reranker, dialect: Any) -> None:
    made = app(Wrong(reranker), only=f"/{dialect.path}")
    with serve(made) as url, DialectClient(url, timeout=300, model="x") as client:
        # On /rerank the first of the two is found; the other one is asked for.
        client.find([dialect.name] if dialect.name == "rerank" else [])
        assert client.dialect == dialect
        answered = client.ask("capital of France", ["Lyon", "Paris is the capital of France."])
        expected = reranker.logits(
            [("capital of France", "Lyon"), ("capital of France", "Paris is the capital of France.")]
        )
        assert answered.scores == pytest.approx(sigmoid(expected.astype(np.float64)).tolist(), rel=1e-5)
        assert answered.order == ((1, 0) if dialect.ordered else (0, 1))


def test_a_server_without_a_rerank_api(reranker: Reranker) -> None:
    with serve(app(Wrong(reranker), only="/elsewhere")) as url, DialectClient(url) as client:
        with pytest.raises(ServiceError, match=r"speaks no rerank API .* POST /api/rerank"):
            client.find()
        with pytest.raises(InputError, match="dialect is 'x'; it must be one of tei, rerank"):
            client.find(["x"])
    with DialectClient(url, retries=0) as client, pytest.raises(UnavailableError):
        client.find()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--model", "mini=crossrank-mini", "--threads", "2", "--precision", "int8", "--device", "cpu"]
    with serving(tmp_path_factory.mktemp("own"), *options) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("name", ["tei", "rerank", "v1", "v2", "score"])
def test_crossranks_own_server_passes_in_every_dialect(
    own: Server, reference: Reference, name: str, tmp_path: Path
) -> None:
    with DialectClient(own.url, timeout=300, model="someone/crossrank-mini") as client:
        client.find([name])
        report = check_server(client, reference)
    assert errors(report) == {}
    assert report.dialect == name
    assert of(report, "Scores").found.startswith("sigmoids of the logits;")
    assert of(report, "Ties").level is Level.OK
    assert of(report, "Truncation").level is Level.OK
