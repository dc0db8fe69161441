"""What goes into the scheduler and what comes back: the one internal call of every dialect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy.typing as npt

from crossrank.cascade import joined
from crossrank.errors import InputError
from crossrank.inputs import check_instruction, distinct
from crossrank.pairs import WHOLE_WINDOW, Cut
from crossrank.ranking import Scored

__all__ = ["LOWEST_PRIORITY", "Answer", "Work"]

LOWEST_PRIORITY = 999
"""Three digits: enough levels for anybody, and a number that fits into any log."""


@dataclass(frozen=True, slots=True)
class Work:
    """Texts to score, and how.

    Attributes:
        queries: one for all texts, or one for each.
        texts: in the client's order. They may be made when they are asked for.
        cut: what of them is cut.
        model: a served name; None: the first model.
        priority: 0 to 999, lower goes first.
        deadline: by the registry's clock, after which nobody waits for the answer; None: none.
        request_id: for logs.
        client: who asks. Clients take turns, and then the requests of each.
        instruction: what the model is told to look for; None: its default. It is ignored
            where the model takes none.
        ranking: the scores are only to put the texts of one query in order. Where the server has a first
            model, the model then scores only the best texts of it.

    Raises:
        InputError: there are other queries than said, one of the texts is no string, or the priority or a
            number of tokens is out of range.
    """

    queries: Sequence[str]
    texts: Sequence[str]
    cut: Cut = WHOLE_WINDOW
    model: str | None = None
    priority: int = 0
    deadline: float | None = None
    request_id: str = ""
    client: str = ""
    instruction: str | None = None
    ranking: bool = False

    def __post_init__(self) -> None:
        if len(self.queries) not in (1, len(self.texts)):
            raise InputError(f"{len(self.queries)} queries for {len(self.texts)} texts; give one, or as many")
        for name, texts in (("queries", self.queries), ("texts", self.texts)):
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    raise InputError(f"{name}.{index} is of type {type(text).__name__}; it must be a string")
        check_instruction(self.instruction)
        if not 0 <= self.priority <= LOWEST_PRIORITY:
            raise InputError(f"priority is {self.priority}; it must be 0 (first) to {LOWEST_PRIORITY}")
        if self.cut.max_windows is not None and self.cut.max_windows < 1:
            raise InputError(f"max_windows is {self.cut.max_windows}; it must be at least 1")
        for name in ("document", "query", "pair"):
            value = getattr(self.cut, name)
            if value is not None and value < 1:
                raise InputError(f"max_tokens_per_{name} is {value}; it must be at least 1")

    def part(self, first: int, end: int) -> tuple[Sequence[str], Sequence[str]]:
        """The queries and the texts from ``first`` up to ``end``; one query stays one."""
        return self.queries if len(self.queries) == 1 else self.queries[first:end], self.texts[first:end]

    def distinct(self) -> tuple[Work, Sequence[int], Sequence[int]]:
        """The work without pairs that it has several times; and as ``inputs.distinct``.

        Texts that are no list are taken as they are: they may be made only when they are asked for.
        """
        if isinstance(self.texts, list):
            queries = None if len(self.queries) == 1 else self.queries
            firsts, places = distinct(queries, self.texts)
            if len(firsts) < len(places):
                texts = [self.texts[i] for i in firsts]
                asked = self.queries if queries is None else [queries[i] for i in firsts]
                return replace(self, queries=asked, texts=texts), firsts, places
        each = range(len(self.texts))
        return self, each, each


class Answer(Scored):
    """The scores of one Work, in the client's order, and what they took.

    Attributes:
        model: the served name of the model that scored.
        tokens: of each pair as scored, special tokens included; of a document in windows, of all of them.
        cached: pairs that the score cache answered.
        instruction_ignored: the request has an instruction, and the model takes none.
        tokenization_s: seconds of tokenising, summed over the request's slices.
        queue_s: seconds in which the request had pairs waiting and none in the engine.
        inference_s: seconds in which the engine ran packs with pairs of this request.
        read_twice: tokens that the first model read of pairs that this one scored.
    """

    def __init__(
        self,
        model: str,
        logits: npt.ArrayLike,
        truncated: Sequence[bool],
        tokens: Sequence[int],
        *,
        query_truncated: Sequence[bool] | None = None,
        windows: Sequence[tuple[int, int] | None] = (),
        cached: int = 0,
        instruction_ignored: bool = False,
        tokenization_s: float = 0.0,
        queue_s: float = 0.0,
        inference_s: float = 0.0,
        models: Sequence[str] = (),
        model_of: Sequence[int] = (),
        read_twice: int = 0,
    ) -> None:
        super().__init__(
            logits, truncated, query_truncated, windows=windows, models=models, model_of=model_of
        )
        self.model = model
        self.tokens = tokens
        self.cached = cached
        self.instruction_ignored = instruction_ignored
        self.tokenization_s = tokenization_s
        self.queue_s = queue_s
        self.inference_s = inference_s
        self.read_twice = read_twice

    def joined(self, chosen: Sequence[int], second: Answer) -> Answer:
        """The answer of a first model, with that of a second one to some of the texts.

        Args:
            chosen: the places of these texts.
            second: the answer to them.
        """
        both = joined(self, chosen, second, (self.model, second.model))
        tokens = list(self.tokens)
        for place, i in enumerate(chosen):
            tokens[i] = second.tokens[place]
        return Answer(
            second.model,
            both.logits,
            both.truncated,
            tokens,
            query_truncated=both.query_truncated,
            windows=both.windows,
            cached=self.cached + second.cached,
            instruction_ignored=second.instruction_ignored,
            tokenization_s=self.tokenization_s + second.tokenization_s,
            queue_s=self.queue_s + second.queue_s,
            inference_s=self.inference_s + second.inference_s,
            models=both.models,
            model_of=both.model_of,
            read_twice=sum(self.tokens[i] for i in chosen),
        )
