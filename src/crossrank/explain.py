"""Why a document scores as it does: what each of its sentences says alone, and what it lacks without it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from crossrank.errors import InputError
from crossrank.inputs import check_integer
from crossrank.pairs import PairEncoder
from crossrank.ranking import Scored
from crossrank.text.sentences import Span, sentence_spans

__all__ = ["DEFAULT_SENTENCES", "ExplainedSentence", "Explanation", "ExplanationPlan", "plan_explanation"]

DEFAULT_SENTENCES = 100

MAX_CHARACTERS = 1 << 24
"""Characters of all texts of an explanation. A document that fills a window of 8,192 tokens and has 400
sentences takes about as many; one of 512 tokens with its 30 sentences a hundredth."""


@dataclass(frozen=True, slots=True)
class ExplainedSentence:
    """One sentence of an explained document.

    Attributes:
        start, end: its place: ``text`` is ``document[start:end]``, in characters (code points).
        text: itself.
        score, logit: of the query and this sentence alone.
        truncated: alone it is too long for the model's window.
        read: how many of its characters the model read as part of the document: all, unless the model's
            window ends in it (fewer) or before it (0).
        score_fall, logit_fall: how much lower the document's score and logit are without it; below
            0 where they are higher. None where the model read none of it, or where the document has no
            other sentence.
    """

    start: int
    end: int
    text: str
    score: float
    logit: float
    truncated: bool
    read: int
    score_fall: float | None
    logit_fall: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What carries the score of one document.

    Attributes:
        query, document: what was explained.
        score, logit: of the pair, as ``rank`` gives them.
        truncated: whether the document was cut to fit the model's window.
        read: how many characters of the document the model read, from its start, or from its window's.
        sentences: in the document's order; from its window on.
        sentences_left_out: how many more it has that were not looked at.
        query_truncated: whether the query was cut to fit the model's window.
        window: which characters of the document the score is of, where it was read in windows; else None.
    """

    query: str
    document: str
    score: float
    logit: float
    truncated: bool
    read: int
    sentences: tuple[ExplainedSentence, ...]
    sentences_left_out: int
    query_truncated: bool
    window: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Texts(Sequence[str]):
    """The texts of an explanation, each made when it is asked for: most are nearly the whole document."""

    document: str
    read: Span
    spans: tuple[Span, ...]
    is_window: bool
    is_only: bool

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index == 0:
            return self._window if self.is_window else self.document
        if index <= len(self.spans):
            start, end = self.spans[index - 1]
            return self.document[start:end]
        start, end = self.spans[index - 1 - len(self.spans)]
        return _without(self._window, Span(start - self.read.start, end - self.read.start))

    @property
    def _window(self) -> str:
        return self.document[self.read.start : self.read.end]

    def __len__(self) -> int:
        return 1 + len(self.spans) + self.without

    @property
    def without(self) -> int:
        """How many sentences were read, and are taken out; they come before those that were not.

        An only sentence is not: the document would be empty.
        """
        return 0 if self.is_only else bisect_left(self.spans, self.read.end, key=lambda span: span.start)

    @property
    def characters(self) -> int:
        """At most, of all texts."""
        alone = sum(end - start for start, end in self.spans)
        return len(self.document) + alone + self.without * (self.read.end - self.read.start)


@dataclass(frozen=True, slots=True)
class ExplanationPlan:
    """The query and the texts whose logits explain a document.

    Attributes:
        query, document, read, sentences_left_out, window: as ``Explanation`` has them.
        spans: of the sentences.
        texts: the document; each sentence alone; the document without each sentence that was read, unless
            it has no other.
    """

    query: str
    document: str
    read: int
    spans: tuple[Span, ...]
    sentences_left_out: int
    texts: Sequence[str]
    window: tuple[int, int] | None = None

    def explain(self, scored: Scored) -> Explanation:
        """What the scores of ``texts`` say."""
        scores, logits = scored.scores.tolist(), scored.logits.tolist()
        truncated = scored.truncated
        whole_score, whole_logit = scores[0], logits[0]
        count = len(self.spans)
        compared = len(logits) - 1 - count
        read_end = self.read + (self.window[0] if self.window else 0)
        sentences = []
        for i, (start, end) in enumerate(self.spans):
            alone, without = 1 + i, 1 + count + i
            read = max(0, min(end, read_end) - start)
            sentences.append(
                ExplainedSentence(
                    start=start,
                    end=end,
                    text=self.document[start:end],
                    score=scores[alone],
                    logit=logits[alone],
                    truncated=truncated[alone],
                    read=read,
                    # Sentences that were read come before those that were not: their pairs are all there.
                    score_fall=whole_score - scores[without] if i < compared else None,
                    logit_fall=whole_logit - logits[without] if i < compared else None,
                )
            )
        return Explanation(
            self.query,
            self.document,
            whole_score,
            whole_logit,
            truncated[0],
            self.read,
            tuple(sentences),
            self.sentences_left_out,
            scored.query_truncated[0],
            self.window,
        )


def plan_explanation(
    encoder: PairEncoder,
    query: str,
    document: str,
    *,
    instruction: str | None = None,
    max_sentences: int = DEFAULT_SENTENCES,
    window: tuple[int, int] | None = None,
) -> ExplanationPlan:
    """The texts to score for an explanation, of a document or of the characters of its window.

    A sentence is taken out of the text that the model reads: were it taken out of a longer document,
    text from beyond the window would move in, and the score would tell of that, too.

    Raises:
        InputError: ``max_sentences`` is no integer of 1 or more, ``window`` is not in the document, the
            texts have more than ``MAX_CHARACTERS``, or the model takes no instruction.
    """
    check_integer("max_sentences", max_sentences)
    start, end = (0, len(document)) if window is None else _checked(window, document)
    kept = encoder.kept(query, document[start:end], instruction=instruction)
    read = Span(start, end if kept is None else start + kept)
    found = list(sentence_spans(document))
    first = bisect_right(found, start, key=lambda span: span.end)
    spans = tuple(Span(max(start, span.start), span.end) for span in found[first : first + max_sentences])
    left_out = len(found) - len(spans)
    of_whole = found if window is None else [span for span in found if span.end > start and span.start < end]
    is_only = len(of_whole) == 1
    texts = _Texts(document, read, spans, is_window=window is not None, is_only=is_only)
    if texts.characters > MAX_CHARACTERS:
        raise InputError(
            f"an explanation of {len(spans)} sentences takes {texts.characters} characters, as the document "
            f"is read once without each, and at most {MAX_CHARACTERS} are read; lower max_sentences, or send "
            "a shorter document"
        )
    return ExplanationPlan(query, document, read.end - start, spans, left_out, texts, window)


def _checked(window: tuple[int, int], document: str) -> tuple[int, int]:
    start, end = window
    if not 0 <= start < end <= len(document):
        raise InputError(
            f"the window is {start} to {end}, and the document has {len(document)} characters; give the "
            "window of a hit of this document"
        )
    return start, end


def _without(text: str, span: Span) -> str:
    """A text without a sentence, and without the white space that set it apart."""
    return (text[: span.start] + text[span.end :].lstrip()).rstrip()
