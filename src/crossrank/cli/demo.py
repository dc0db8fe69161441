"""``crossrank demo``: keyword order next to CrossRank's, on queries that keywords get wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.table import Table

from crossrank import Reranker
from crossrank.cli import options as o
from crossrank.cli.writing import bar, console, printable, write_json
from crossrank.models.resolve import BUNDLED
from crossrank.ranking import Ranking
from crossrank.text.keywords import KeywordIndex

__all__ = ["EXAMPLES", "Comparison", "Control", "Example", "compare", "control"]


@dataclass(frozen=True, slots=True)
class Example:
    """A query, the document that answers it, and others that do not."""

    query: str
    answer: str
    others: tuple[str, ...]


# The bundled model was not trained on any of these texts.
EXAMPLES = (
    Example(
        "中国的首都是哪里？",
        "北京是中国的政治中心。",
        ("上海是中国最大的城市。", "首都机场位于北京市区东部。"),
    ),
    Example(
        "手机电池怎么保养才耐用？",
        "让电量保持在两成到八成之间，并避开高温，可以延缓老化。",
        (
            "这款手机的电池容量为五千毫安时。",
            "耐用的手机壳可以保护手机屏幕。",
            "汽车要定期去修理厂保养。",
        ),
    ),
    Example(
        "谁写了《哈姆雷特》？",
        "The tragedy was penned by William Shakespeare around the year 1600.",
        (
            "《哈姆雷特》多次被改编成电影。",
            "《哈姆雷特》的故事发生在丹麦。",
        ),
    ),
    Example(
        "Why is the sky blue?",
        "Air molecules scatter short wavelengths of sunlight far more than long ones.",
        (
            "The sky was blue and the sea was calm that day.",
            "Blue Sky is the name of a hotel near the beach.",
        ),
    ),
    Example(
        "How do I get my money back for a cancelled flight?",
        "Passengers whose trip is called off by the airline can claim a full refund online.",
        (
            "The flight was cancelled because of thick fog over the airport.",
            "How much money do pilots get for a long flight?",
            "He came back from his flight and counted his money.",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One query's documents in keyword order and in CrossRank's.

    Attributes:
        example: the query and its documents.
        documents: the documents, in input order.
        keyword_order: indices into ``documents``, best first by BM25.
        keyword_scores: BM25 scores, by index.
        ranking: CrossRank's order.
    """

    example: Example
    documents: tuple[str, ...]
    keyword_order: tuple[int, ...]
    keyword_scores: tuple[float, ...]
    ranking: Ranking

    def is_trap(self, index: int) -> bool:
        """True if a document shares keywords with the query but does not answer it."""
        return self.keyword_scores[index] > 0 and self.documents[index] != self.example.answer


def compare(reranker: Reranker, example: Example) -> Comparison:
    """Order an example's documents by keywords and by the reranker."""
    # The answer comes last in the input, so that the input order cannot put it first.
    documents = (*example.others, example.answer)
    index = KeywordIndex(documents)
    return Comparison(
        example,
        documents,
        tuple(index.order(example.query)),
        tuple(float(score) for score in index.scores(example.query)),
        reranker.rank(example.query, documents),
    )


@dataclass(frozen=True, slots=True)
class Control:
    """The result of ranking each example's documents for the queries of the other examples.

    A model that only recognises what an answer sounds like would still put the answers first.

    Attributes:
        rankings: number of rankings.
        answer_first: number of rankings in which the example's answer came first.
        score: mean score of the answers.
    """

    rankings: int
    answer_first: int
    score: float


def control(reranker: Reranker) -> Control:
    """Rank each example's documents for the queries of all other examples."""
    hits = []
    for example in EXAMPLES:
        documents = (*example.others, example.answer)
        for other in EXAMPLES:
            if other is not example:
                ranking = reranker.rank(other.query, documents)
                hits.append(next(hit for hit in ranking if hit.text == example.answer))
    first = sum(hit.rank == 1 for hit in hits)
    return Control(len(hits), first, sum(hit.score for hit in hits) / len(hits))


def demo(
    json: o.Json = False,
    model: o.Model = BUNDLED,
    offline: o.Offline = False,
) -> None:
    """Rerank a few Chinese and English examples, and compare with keyword order."""
    reranker = o.open_reranker(model, offline=offline)
    comparisons = [compare(reranker, example) for example in EXAMPLES]
    under_others = control(reranker)
    if json:
        examples = [_as_object(comparison) for comparison in comparisons]
        write_json({"model": model, "examples": examples, "control": asdict(under_others)}, indent=2)
        return
    out = console()
    engine = reranker.engine
    out.print(f"[bold]{model}[/bold] on {engine.device}, {engine.precision} ({engine.name} engine)\n")
    for comparison in comparisons:
        out.print(f"[bold]{printable(comparison.example.query)}[/bold]")
        out.print(_table(comparison), "")
    first = sum(c.ranking[0].text == c.example.answer for c in comparisons)
    by_keyword = sum(c.documents[c.keyword_order[0]] == c.example.answer for c in comparisons)
    out.print(f"The answer comes first in {by_keyword} of {len(comparisons)} queries by keywords, ", end="")
    out.print(f"in {first} by CrossRank.   [green]✓[/green] the answer   [red]✗[/red] a keyword trap")
    score = sum(_answer_score(comparison) for comparison in comparisons) / len(comparisons)
    out.print(
        f"The same texts under the other examples' queries: the answers score {under_others.score:.2f} "
        f"on average (here {score:.2f}), "
        f"and come first in {under_others.answer_first} of {under_others.rankings}."
    )


def _answer_score(comparison: Comparison) -> float:
    return next(hit.score for hit in comparison.ranking if hit.text == comparison.example.answer)


def _as_object(comparison: Comparison) -> dict[str, object]:
    answer = comparison.documents.index(comparison.example.answer)
    return {
        "query": comparison.example.query,
        "documents": list(comparison.documents),
        "answer": answer,
        "keyword_order": list(comparison.keyword_order),
        "keyword_scores": list(comparison.keyword_scores),
        "order": [hit.index for hit in comparison.ranking],
        "scores": [hit.score for hit in comparison.ranking],
    }


def _table(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("keywords (BM25)", ratio=1, overflow="fold")
    table.add_column("", justify="right", no_wrap=True, style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("CrossRank", ratio=1, overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place, (index, hit) in enumerate(
        zip(comparison.keyword_order, comparison.ranking, strict=True), start=1
    ):
        table.add_row(
            str(place),
            _mark(comparison, index),
            printable(comparison.documents[index]),
            f"{comparison.keyword_scores[index]:.2f}",
            _mark(comparison, hit.index),
            printable(hit.text),
            f"{hit.score:.4f}",
            f"[cyan]{bar(hit.score, 8)}[/cyan]",
        )
    return table


def _mark(comparison: Comparison, index: int) -> str:
    if comparison.documents[index] == comparison.example.answer:
        return "[green]✓[/green]"
    return "[red]✗[/red]" if comparison.is_trap(index) else ""
