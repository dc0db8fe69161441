"""Find passages in a folder that answer a question: retrieval-augmented generation without any service.

    python examples/rag.py "In what country can most of the Amazon rainforest be found?"
    python examples/rag.py "成吉思汗的妻子被谁抢走了？"
    python examples/rag.py "..." --folder my/notes --model BAAI/bge-reranker-v2-m3

Install it from a clone with pip install '.[rag]'.

Keyword search (BM25) and vector search (FAISS) each retrieve candidates, the two lists are fused, and
CrossRank reranks the result. The output shows the best passages before and after reranking, and the passages
for the language model.

A vector is the sum of the bundled model's word vectors, weighted by inverse document frequency. This needs
no download, and finds passages in other languages than the question's. A real embedding model finds more;
put yours in place of ``WordVectors``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from crossrank import CrossRankError, InputError, Reranker
from crossrank.client import Client
from crossrank.text.keywords import KeywordIndex
from crossrank.text.sentences import sentence_spans

BUNDLED = "crossrank-mini"
"""The model inside the package."""

QUESTION = "In what country can most of the Amazon rainforest be found?"

CANDIDATES = 20
"""Number of passages that CrossRank reranks."""

PASSAGE_CHARACTERS = 300
"""Maximum length of a passage, unless a single sentence is longer: sentences are never split."""


@dataclass(frozen=True)
class Passage:
    """Consecutive sentences of a file under one heading; ``source`` is FILE:LINE."""

    source: str
    heading: str
    body: str

    @property
    def text(self) -> str:
        return f"{self.heading}\n{self.body}" if self.heading else self.body


def read_folder(folder: Path) -> list[Passage]:
    """Read the passages of all Markdown and text files in a folder and its subfolders."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".md", ".txt") and path.is_file())
    found: list[Passage] = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
        found += split(text, str(path.relative_to(folder)))
    if not found:
        raise InputError(f"{folder} has no Markdown or text files to read")
    return found


def split(text: str, source: str) -> Iterator[Passage]:
    """Split a text into passages of up to PASSAGE_CHARACTERS characters, each under one heading."""
    heading, start, end = "", 0, 0  # of the current passage, which is empty if start equals end

    def passage() -> Passage:
        line = text.count("\n", 0, start) + 1
        return Passage(f"{source}:{line}", heading, text[start:end])

    for span in sentence_spans(text):
        is_heading = text.startswith("#", span.start)
        if start < end and (is_heading or span.end - start > PASSAGE_CHARACTERS):
            yield passage()
            start = end
        if is_heading:
            heading = text[span.start : span.end].lstrip("#").strip()
        else:
            start, end = (start if start < end else span.start), span.end
    if start < end:
        yield passage()


class WordVectors:
    """Embed texts as sums of the bundled model's word vectors, weighted by inverse document frequency."""

    def __init__(self, texts: Sequence[str]) -> None:
        checkpoint = Reranker(BUNDLED).checkpoint
        assert checkpoint is not None
        self._tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
        self._words = checkpoint.tensors()["bert.embeddings.word_embeddings.weight"]  # (vocabulary, 384)
        counts = np.ones(len(self._words))
        for ids in self._ids(texts):
            counts[list(set(ids))] += 1
        self._weights = np.log(1 + len(texts) / counts)
        self._mean = np.zeros(self._words.shape[1])  # subtracted, since it does not distinguish texts
        self._mean = self(texts).mean(axis=0)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embed texts as unit vectors, float32 (texts, 384)."""
        vectors = _normalized(np.array([self._weights[ids] @ self._words[ids] for ids in self._ids(texts)]))
        return _normalized(vectors - self._mean).astype(np.float32)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


def _normalized(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


class FirstStage:
    """Search passages by keywords and vectors, and fuse the two lists."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._keywords = KeywordIndex(texts)
        self._embed = WordVectors(texts)
        vectors = self._embed(texts)
        self._vectors = faiss.IndexFlatIP(vectors.shape[1])
        self._vectors.add(vectors)

    def search(self, question: str, count: int = CANDIDATES) -> list[int]:
        """The indices of the best passages, best first."""
        scores = self._keywords.scores(question)
        by_keywords = [i for i in self._keywords.order(question)[:count] if scores[i] > 0]
        _, by_vectors = self._vectors.search(self._embed([question]), min(count, self._vectors.ntotal))
        return fuse([by_keywords, by_vectors[0].tolist()])[:count]


def fuse(lists: Iterable[Sequence[int]]) -> list[int]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): sum 1 / (60 + rank) per list."""
    scores: dict[int, float] = {}
    for ranked in lists:
        for rank, index in enumerate(ranked, start=1):
            scores[index] = scores.get(index, 0.0) + 1 / (60 + rank)
    return sorted(scores, key=lambda index: -scores[index])


def show(question: str, before: Sequence[Passage], after: Sequence[tuple[float, Passage]]) -> None:
    """Print the best passages before and after reranking, and the passages for the language model."""
    print(f"{question}\n\nbefore: keywords and vectors, {len(before)} candidates")
    for rank, passage in enumerate(before[: len(after)], start=1):
        print(f"{rank}  {_line(passage)}")
    print("\nafter: CrossRank")
    for rank, (score, passage) in enumerate(after, start=1):
        print(f"{rank}  {score:.3f}  (was {before.index(passage) + 1})  {_line(passage)}")
    print("\nfor the language model")
    for rank, (_, passage) in enumerate(after, start=1):
        print(f"\n[{rank}] {passage.source}\n{passage.text}")


def _line(passage: Passage) -> str:
    text = " ".join(passage.text.split())
    return f"{passage.source}  {text[:70]}{'…' if len(text) > 70 else ''}"


def arguments(description: str) -> argparse.Namespace:
    """Parse the arguments that all RAG examples share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(__file__).parent / "documents",
        help="folder with Markdown and text files",
    )
    parser.add_argument("--model", default=BUNDLED, help="a model's name or folder, or a server's URL")
    parser.add_argument("--top", type=int, default=3, help="number of passages for the language model")
    options = parser.parse_args()
    if not options.question.strip():
        raise InputError("the question is empty")
    return options


def main() -> None:
    options = arguments(__doc__.splitlines()[0])
    passages = read_folder(options.folder)
    texts = [passage.text for passage in passages]
    candidates = FirstStage(texts).search(options.question)
    before = [passages[index] for index in candidates]
    is_server = options.model.startswith(("http://", "https://"))
    with Client(options.model) if is_server else Reranker(options.model) as ranker:
        ranking = ranker.rank(options.question, [passage.text for passage in before], top_n=options.top)
    show(options.question, before, [(hit.score, before[hit.index]) for hit in ranking])


def run(main: Callable[[], None]) -> None:
    """Run an example, and report a CrossRank error in one line."""
    try:
        main()
    except Exception as error:
        cause = error if isinstance(error, CrossRankError) else error.__cause__  # Haystack wraps it
        if not isinstance(cause, CrossRankError):
            raise
        print(f"error: {cause}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run(main)
