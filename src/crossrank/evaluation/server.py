"""Find out how a rerank server computes its scores, from what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crossrank.client.dialects import DialectClient
from crossrank.errors import InputError, ServiceError
from crossrank.evaluation.diagnose import (
    EXACT,
    RIGHT,
    Kind,
    judge_neighbours,
    judge_numbers,
    judge_order,
    judge_scores,
    judge_ties,
    read_scores,
)
from crossrank.evaluation.findings import Finding, Level
from crossrank.evaluation.golden import published_scores
from crossrank.evaluation.misread import Misreader
from crossrank.evaluation.truncation import judge_cut, judge_query_end, read_cut, read_window
from crossrank.evaluation.verify import sample_questions
from crossrank.reranker import Reranker

__all__ = ["Case", "Reference", "ServerReport", "check_server", "local_reference", "published_reference"]

_Floats = npt.NDArray[np.float64]

_QUESTIONS = 8
"""Of the sample's questions, how many are asked: in several languages, with 12 documents each."""

_QUERY = "At which temperature does water boil at sea level?"
_ANSWER = "At sea level water boils at 100 degrees Celsius."
_OTHER_QUERY = "Who painted the ceiling of the Sistine Chapel?"
_FILLER = (
    "The garden behind the old library was laid out by a society of teachers. "
    "Its paths are covered with gravel that is renewed every spring. "
    "Visitors like to sit on the long benches and read their newspapers. "
    "Two gardeners look after the hedges and the beds of tulips. "
    "On market days children play around the small pavilion. "
)
_FILLER_TOKENS = 70
"""Tokens of ``_FILLER``, about; a tokenizer may need some more or fewer."""

_PREAMBLE = (
    "I have been reading about the history of many sciences in a book that a friend of mine gave me for my "
    "birthday, and on the train this morning I came to a chapter in which several questions were put to the "
    "reader without an answer. Some of them I could answer at once, others I had to look up in the library, "
    "and a few of them were so odd that I wrote them down in order to ask somebody who knows more about such "
    "things than I do. The last one of them was this, and I would be glad about any help with it. "
)
_PREAMBLE_TOKENS = 120

_SIMILAR = 32
"""Similar documents in one request; text-embeddings-inference takes no more by default."""

_SHORT_TOKENS, _LONG_TOKENS = 1400, 9500
"""Tokens of a document that is beyond most servers' windows, and of one that is beyond nearly all."""

_NEAR = 0.02
"""The median difference of logits up to which pairs are certainly read as here."""

_WINDOWS = (128, 256, 512, 1024)
"""Windows at which the model here cuts a long document for comparison."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and the logits that are expected of its documents.

    Attributes:
        query, documents: the request.
        logits: for each way to read the pairs, their logits.
    """

    query: str
    documents: tuple[str, ...]
    logits: Mapping[str, _Floats]


@dataclass(frozen=True, slots=True)
class Reference:
    """What a server's scores are compared with.

    Attributes:
        name: as in "this machine's model in fp32".
        cases: requests.
        misreader: the model here; None: there are published scores alone.
        max_length: tokens that the model can read; None: it is not known.
    """

    name: str
    cases: tuple[Case, ...]
    misreader: Misreader | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What was found out about a server.

    Attributes:
        dialect: in which it was asked.
        reference: what it was compared with.
        findings: one for each thing that was looked at.
    """

    dialect: str
    reference: str
    findings: tuple[Finding, ...]

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.level is not Level.ERROR for finding in self.findings)


def local_reference(reranker: Reranker) -> Reference:
    """The model as it is loaded here."""
    misreader = Misreader(reranker)
    step = max(1, len(sample_questions()) // _QUESTIONS)
    cases = tuple(
        Case(
            question.query,
            question.documents,
            {RIGHT: misreader.right(question.query, question.documents)},
        )
        for question in sample_questions()[::step][:_QUESTIONS]
    )
    checkpoint = reranker.checkpoint
    length = checkpoint.max_length if checkpoint else reranker.max_length
    return Reference(f"this machine's model in {reranker.engine.precision}", cases, misreader, length)


def published_reference(model: str) -> Reference:
    """The scores that were published for a model.

    Raises:
        InputError: none are known.
    """
    cases: dict[str, tuple[list[str], dict[str, list[float]]]] = {}
    ways = {RIGHT: True, "the template is missing": False}
    for how, template in ways.items():
        for published in published_scores(model, template=template):
            low, high = published.bounds()
            exact = np.asarray(published.scores, np.float64)
            logits = exact if published.kind == "logit" else (low + high) / 2
            for (query, document), logit in zip(published.pairs, logits.tolist(), strict=True):
                documents, own = cases.setdefault(query, ([], {}))
                if document not in documents:
                    documents.append(document)
                own.setdefault(how, []).append(logit)
    found = [
        Case(query, tuple(documents), {how: np.asarray(own) for how, own in logits.items()})
        for query, (documents, logits) in cases.items()
        if all(len(own) == len(documents) for own in logits.values())
    ]
    return Reference("the published scores", tuple(found))


def check_server(client: DialectClient, reference: Reference) -> ServerReport:
    """Ask a server, and say what its scores are and what is wrong with them.

    Args:
        client: of the server; its dialect is known.
        reference: what to compare with.

    Raises:
        ServiceError: it does not answer, or is busy.
    """
    return _Check(client, reference).run()


class _Check:
    """One server's examination."""

    def __init__(self, client: DialectClient, reference: Reference) -> None:
        self._client = client
        self._reference = reference
        self._scores: list[float] = []
        self._answers: list[tuple[Sequence[float], Sequence[int]]] = []
        self._kind: Kind = "unknown"
        self._largest = 0.0

    def run(self) -> ServerReport:
        findings = [self._compare()]
        findings += self._try("Ties", self._ties)
        if self._kind == "softmax":
            found = "not looked at, as it takes requests of one document, and a softmax of one is 1"
            findings.append(Finding("Padding, query, truncation", Level.WARNING, found))
        else:
            findings += self._try("Padding", self._neighbours)
            findings += self._try("Query", self._query_end)
            findings += self._try("Truncation", self._truncation)
        numbers = [judge_numbers(self._scores)]
        if self._client.dialect.ordered:
            numbers.append(judge_order(self._answers))
        return ServerReport(
            self._client.dialect.name, self._reference.name, (findings[0], *numbers, *findings[1:])
        )

    def _ask(self, query: str, documents: Sequence[str], *, truncate: bool = False) -> _Floats:
        answered = self._client.ask(query, documents, truncate=truncate)
        self._scores += answered.scores
        self._answers.append((answered.scores, answered.order))
        return np.asarray(answered.scores, np.float64)

    def _try(self, subject: str, look: Callable[[], Finding]) -> list[Finding]:
        """A finding; an error of the server is one too, unless it no longer answers at all."""
        try:
            return [look()]
        except (InputError, ServiceError) as error:
            if isinstance(error, ServiceError) and type(error) is not ServiceError:
                raise
            return [Finding(subject, Level.ERROR, f"the server answered an ordinary request with: {error}")]

    def _compare(self) -> Finding:
        observed: dict[str, list[tuple[_Floats, _Floats]]] = {RIGHT: []}
        answered = [self._ask(case.query, case.documents) for case in self._reference.cases]
        for case, scores in zip(self._reference.cases, answered, strict=True):
            for how, logits in case.logits.items():
                observed.setdefault(how, []).append((scores, logits))
        reading = read_scores(observed)
        misreader = self._reference.misreader
        if misreader is not None and not reading.typical <= _NEAR:
            for case, scores in zip(self._reference.cases, answered, strict=True):
                for how, logits in misreader.misread(case.query, case.documents).items():
                    observed.setdefault(how, []).append((scores, logits))
            reading = read_scores(observed)
        self._kind = reading.kind
        self._largest = reading.largest if np.isfinite(reading.largest) else 0.0
        return judge_scores(reading, self._reference.name)

    def _neighbours(self) -> Finding:
        case = max(self._reference.cases, key=lambda case: len(case.documents))
        documents = case.documents[:6]
        beside_long = self._ask(case.query, [*documents, _FILLER * 4])[: len(documents)]
        beside_short = self._ask(case.query, documents)
        alone = np.concatenate([self._ask(case.query, [document]) for document in documents])
        return judge_neighbours(alone.tolist(), beside_short.tolist(), beside_long.tolist(), self._kind)

    def _ties(self) -> Finding:
        texts = [f"{_ANSWER} This was measured {number} times." for number in range(2, _SIMILAR + 2)]
        return judge_ties(self._ask(_QUERY, texts).tolist())

    def _query_end(self) -> Finding:
        first, second = (
            float(self._ask(_PREAMBLE + query, [_ANSWER])[0]) for query in (_QUERY, _OTHER_QUERY)
        )
        return judge_query_end(first, second, self._kind, _PREAMBLE_TOKENS + 10)

    def _truncation(self) -> Finding:
        limit = self._reference.max_length
        finding, cut = self._truncation_at(_SHORT_TOKENS)
        if cut == "nothing" and (limit is None or limit > _SHORT_TOKENS):
            finding, _ = self._truncation_at(_LONG_TOKENS if limit is None else limit * 6 // 5)
        return finding

    def _truncation_at(self, tokens: int) -> tuple[Finding, str]:
        filler = _FILLER * (tokens // _FILLER_TOKENS + 1)
        texts = (filler, f"{_ANSWER} {filler}", f"{filler}{_ANSWER}")
        forbidden, asked = "", ""
        try:
            observed = [self._ask(_QUERY, [text])[0] for text in texts]
        except (InputError, ServiceError) as error:
            if isinstance(error, ServiceError) and type(error) is not ServiceError:
                raise
            forbidden = str(error)
            words = self._client.dialect.truncate
            try:
                observed = [self._ask(_QUERY, [text], truncate=True)[0] for text in texts] if words else []
            except (InputError, ServiceError):
                observed = []
            if not observed:
                return judge_cut("nothing", [], tokens, forbidden=forbidden), "error"
            asked = " ".join(f"{name}: {str(value).lower()}" for name, value in words.items())
        other = [self._ask(_OTHER_QUERY, [text], truncate=bool(asked))[0] for text in texts[1:]]
        plain, front, back = map(float, observed)
        cut = read_cut(plain, front, back, (float(other[0]), float(other[1])), self._kind)
        ways: list[tuple[str, int]] = []
        misreader = self._reference.misreader
        compared = misreader is not None and cut != "nothing" and self._kind in EXACT
        if misreader is not None and compared:
            whole = misreader.tokens(_QUERY, texts[1])
            limit = min(whole, self._reference.max_length or whole)
            least = misreader.min_window
            windows = sorted({*(window for window in _WINDOWS if least <= window < limit), limit})
            tolerance = 3 * self._largest + 0.02
            ways = read_window(observed, misreader.cut(_QUERY, texts, windows), self._kind, tolerance)
            if not ways:
                expected = misreader.miscut(_QUERY, texts, windows)
                ways = read_window(observed, expected, self._kind, tolerance)
        finding = judge_cut(
            cut, ways, tokens, forbidden=forbidden, asked=asked, compared=compared and cut == "end"
        )
        return finding, cut
