"""Evaluation sets from the held-out articles, and from Cranfield, which is never used for training."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossrank.text.keywords import KeywordIndex
from training import jsonl
from training.sources import Collection, Question, answer_sentence, read_all, read_medquad

CANDIDATES = 20
EVAL_QUESTIONS = 60


def eval_rows(collection: Collection, kind: str, rng: random.Random) -> Iterator[Any]:
    """Yield questions with their candidates: BM25's best, and the right text even if BM25 missed it."""
    if kind == "sentence":
        flat = [(p, s) for p, ss in enumerate(collection.sentences) for s in range(len(ss))]
        texts = [collection.sentences[p][s].strip() for p, s in flat]
        place = {key: i for i, key in enumerate(flat)}
    else:
        texts = collection.paragraphs
    index = KeywordIndex(texts)
    sample = rng.sample(collection.questions, min(EVAL_QUESTIONS, len(collection.questions)))
    for question in sample:
        if kind == "sentence":
            right = place[question.paragraph, answer_sentence(collection, question)]
        else:
            right = question.paragraph
        found = index.order(question.text)[:CANDIDATES]
        if right not in found:
            found = [*found[:-1], right]
        documents = [texts[i] for i in found]
        yield {"query": question.text, "documents": documents, "labels": [int(i == right) for i in found]}


def cranfield_rows(folder: Path, rng: random.Random) -> Iterator[Any]:
    """Yield Cranfield queries with BM25's best 30 abstracts; grades from 1 to 4 become the label 1."""
    text = (folder / "cran.all.1400.xml").read_text(errors="replace")
    docs = ET.fromstring(f"<all>{text}</all>")
    ids = [(doc.findtext("docno") or "").strip() for doc in docs.iter("doc")]
    texts = [" ".join((doc.findtext("text") or "").split()) for doc in docs.iter("doc")]
    relevant: defaultdict[int, set[str]] = defaultdict(set)
    for line in (folder / "cranqrel.trec.txt").read_text().splitlines():
        query, _, doc, grade = line.split()
        if int(grade) > 0:
            relevant[int(query)].add(doc)
    index = KeywordIndex(texts)
    tops = list(ET.parse(folder / "cran.qry.xml").getroot().iter("top"))
    for number in sorted(rng.sample(range(len(tops)), EVAL_QUESTIONS)):
        # The judgments number the queries from 1 in file order; the numbers in <num> have gaps.
        query = " ".join((tops[number].findtext("title") or "").split())
        found = index.order(query)[:30]
        labels = [int(ids[i] in relevant[number + 1]) for i in found]
        if any(labels):
            yield {"query": query, "documents": [texts[i] for i in found], "labels": labels}


def write(data: Path, out: Path, rng: random.Random) -> None:
    """Write each set to a file in ``out``."""
    collections = {name: parts[True] for name, parts in read_all(data).items()}
    for name, collection in collections.items():
        if name in ("cmrc2018.trial", "drcd.test", "jsquad.test"):
            continue
        for kind in ("sentence", "paragraph"):
            n = jsonl.write(out / f"{name}.{kind}.jsonl", eval_rows(collection, kind, rng))
            print(name, kind, n)
    rows = read_medquad(data / "medquad" / "medquad.jsonl.gz")[True]
    medical = Collection("medquad", [row.answer for row in rows])
    medical.questions = [Question(row.question, [], i, 0) for i, row in enumerate(rows)]
    print("medquad", jsonl.write(out / "medquad.jsonl", eval_rows(medical, "paragraph", rng)))
    print("cranfield", jsonl.write(out / "cranfield.jsonl", cranfield_rows(data / "cranfield", rng)))
    chinese, english = collections["xquad.zh"], collections["xquad.en"]
    for a, b, name in ((chinese, english, "zh-en"), (english, chinese, "en-zh")):
        mixed = Collection(name, b.paragraphs, b.sentences)
        mixed.questions = [
            Question(x.text, y.answers, y.paragraph, y.start)
            for x, y in zip(a.questions, b.questions, strict=True)
        ]
        print(name, jsonl.write(out / f"xquad.{name}.sentence.jsonl", eval_rows(mixed, "sentence", rng)))
