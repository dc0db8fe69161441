"""Step 2: training groups and evaluation sets from public data.

A training group is one question, one text that answers it, and texts that do not. Negatives are
the other sentences of the same paragraph, the sentences or paragraphs that BM25 finds for the
question (keyword traps made from the data itself), and one at random. A text that contains an
accepted answer of the question is never a negative.

Splits are by article title (XQuAD: the same articles in every language; MedQuAD: by focus), so
that an evaluation question's text was not seen in any language. Cranfield is only evaluated.

    python training/prepare.py --data ../shared/data --work build/training
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonl

from crossrank.keywords import KeywordIndex

XQUAD = ["ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh"]
NEGATIVES = 5
CANDIDATES = 20
EVAL_QUESTIONS = 60

# Up to a terminator; a full stop is one only before white space or the end.
_SENTENCE = re.compile(r"(?:[^。！？!?.।؟\n]|\.(?!\s|$))*(?:[。！？!?।؟\n]+|\.(?=\s|$)|$)")


@dataclass
class Question:
    text: str
    answers: list[str]
    paragraph: int
    start: int


@dataclass
class Collection:
    """One data set in one language: paragraphs, their sentences, and questions on them."""

    name: str
    paragraphs: list[str] = field(default_factory=list)
    sentences: list[list[str]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def held_out(title: str) -> bool:
    """Whether an article belongs to the evaluation: one in four, by the hash of its title."""
    return hashlib.sha256(title.encode()).digest()[0] % 4 == 0


def split_sentences(text: str) -> list[str]:
    """Sentences of a paragraph, in order; their concatenation is the paragraph.

    A full stop ends a sentence only before white space, and pieces shorter than 12 characters
    (initials, abbreviations) are joined to what follows.
    """
    sentences: list[str] = []
    pending = ""
    for piece in _SENTENCE.findall(text):
        pending += piece
        if len(pending.strip()) >= 12:
            sentences.append(pending)
            pending = ""
    if pending:
        sentences.append(pending)
    return sentences


def read_squad(path: Path, name: str) -> dict[bool, Collection]:
    """A SQuAD v1.1 file as {False: training part, True: held-out part}."""
    parts = {False: Collection(f"{name}"), True: Collection(f"{name}")}
    for article in json.loads(path.read_text())["data"]:
        part = parts[held_out(article.get("title") or article["paragraphs"][0]["context"][:40])]
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            # JSQuAD puts "title [SEP]" before the text.
            skip = context.find(" [SEP] ") + 7 if " [SEP] " in context else 0
            part.paragraphs.append(context[skip:])
            part.sentences.append(split_sentences(context[skip:]))
            for qa in paragraph["qas"]:
                if qa.get("is_impossible") or not qa["answers"]:
                    continue
                first = next((a for a in qa["answers"] if a["answer_start"] >= skip), None)
                if first is None:
                    continue
                answers = sorted({a["text"] for a in qa["answers"]})
                start = first["answer_start"] - skip
                part.questions.append(Question(qa["question"], answers, len(part.paragraphs) - 1, start))
    return parts


def answer_sentence(collection: Collection, question: Question) -> int:
    """Index (within its paragraph) of the sentence where the answer starts."""
    end = 0
    for i, sentence in enumerate(collection.sentences[question.paragraph]):
        end += len(sentence)
        if question.start < end:
            return i
    return len(collection.sentences[question.paragraph]) - 1


def answers_it(text: str, answers: Iterable[str]) -> bool:
    folded = text.casefold()
    return any(answer.casefold().strip() in folded for answer in answers)


def squad_groups(collection: Collection, rng: random.Random, paragraphs: float) -> Iterator[Any]:
    """Training groups of question -> sentence; a share ``paragraphs`` also -> paragraph."""
    flat = [(p, s) for p, ss in enumerate(collection.sentences) for s in range(len(ss))]
    texts = [collection.sentences[p][s].strip() for p, s in flat]
    index, paragraph_index = KeywordIndex(texts), KeywordIndex(collection.paragraphs)
    for question in collection.questions:
        p = question.paragraph
        positive = collection.sentences[p][answer_sentence(collection, question)].strip()
        near = [s.strip() for s in collection.sentences[p] if not answers_it(s, question.answers)]
        far = [texts[i] for i in index.order(question.text)[:12]]
        far = [t for t in far if not answers_it(t, question.answers) and t != positive]
        rng.shuffle(near)
        chosen = list(dict.fromkeys(near[:2] + far[:6]))
        rng.shuffle(chosen)
        chosen = [*chosen[: NEGATIVES - 1], rng.choice(texts)]
        chosen = [t for t in chosen if not answers_it(t, question.answers)]
        if len(chosen) >= 3:
            yield {"query": question.text, "positive": positive, "negatives": chosen}
        if rng.random() < paragraphs:
            found = [i for i in paragraph_index.order(question.text)[:10] if i != p]
            wrong = [collection.paragraphs[i] for i in found]
            wrong = [t for t in wrong if not answers_it(t, question.answers)][: NEGATIVES - 1]
            if len(wrong) >= 3:
                yield {"query": question.text, "positive": collection.paragraphs[p], "negatives": wrong}


def cross_lingual_groups(parts: dict[str, Collection], rng: random.Random, n: int) -> Iterator[Any]:
    """Question in one language of XQuAD, texts in another; its files are parallel."""
    names = sorted(parts)
    for _ in range(n):
        source, target = (parts[name] for name in rng.sample(names, 2))
        i = rng.randrange(len(source.questions))
        question, mirror = source.questions[i], target.questions[i]
        p = mirror.paragraph
        positive = target.sentences[p][answer_sentence(target, mirror)].strip()
        wrong = [s.strip() for s in target.sentences[p] if not answers_it(s, mirror.answers)]
        rng.shuffle(wrong)
        other = target.sentences[rng.randrange(len(target.sentences))]
        wrong = wrong[: NEGATIVES - 1] + [s.strip() for s in other if not answers_it(s, mirror.answers)]
        if len(wrong) >= 3:
            yield {"query": question.text, "positive": positive, "negatives": wrong[:NEGATIVES]}


def medquad_rows(path: Path) -> dict[bool, list[tuple[str, str]]]:
    """(question, answer) of MedQuAD, split by focus, one row for each distinct answer."""
    parts: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    seen: set[str] = set()
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            answer = " ".join(row["answer"].split())[:700]
            if len(answer) < 40 or answer in seen:
                continue
            seen.add(answer)
            parts[held_out(row["focus"].casefold())].append((row["question"], answer))
    return parts


def medquad_groups(rows: list[tuple[str, str]], rng: random.Random, n: int) -> Iterator[Any]:
    index = KeywordIndex([answer for _, answer in rows])
    for i in rng.sample(range(len(rows)), n):
        question, answer = rows[i]
        wrong = [j for j in index.order(question)[:12] if rows[j][0] != question]
        wrong = [*wrong[: NEGATIVES - 1], rng.randrange(len(rows))]
        negatives = [rows[j][1] for j in wrong if rows[j][0] != question]
        yield {"query": question, "positive": answer, "negatives": negatives}


def trap_groups(folder: Path, rng: random.Random, repeats: int) -> Iterator[Any]:
    """Hand-written keyword traps (training/traps/*.jsonl): both answers, all traps, each epoch."""
    items = [item for path in sorted(folder.glob("*.jsonl")) for item in jsonl.read(path)]
    for _ in range(repeats):
        for item in items:
            for answer in item["answers"]:
                negatives = rng.sample(item["traps"], min(4, len(item["traps"]))) + item["weak"][:1]
                yield {"query": item["query"], "positive": answer, "negatives": negatives}


CAPITAL = {
    "zh": {
        "queries": ["{country}的首都是哪里？", "{country}首都是哪座城市", "{country}的首都叫什么名字？"],
        "positives": [
            "{capital}是{country}的首都。",
            "{country}的中央政府设在{capital}。",
            "{capital}是{country}的政治和行政中心。",
            "{country}的议会和各部委都在{capital}办公。",
        ],
        "largest": ["{other}是{country}最大的城市。", "{other}是{country}人口最多的城市，但不是政府所在地。"],
        "elsewhere": ["{other}是{country}的一座著名城市。", "{other}是{country}的重要城市，经济发达。"],
        "traps": [
            "{country}的首都有许多博物馆值得参观。",
            "{capital}的机场离市中心有一段距离。",
            "飞往{country}首都的机票在旺季更贵。",
            "{country}的国旗和国歌有着悠久的历史。",
        ],
    },
    "en": {
        "queries": [
            "What is the capital of {country}?",
            "Which city is the capital of {country}?",
            "capital city of {country}",
        ],
        "positives": [
            "{capital} is the capital of {country}.",
            "The national government of {country} has its seat in {capital}.",
            "{capital} is the political and administrative centre of {country}.",
            "Parliament and the ministries of {country} work in {capital}.",
        ],
        "largest": [
            "{other} is the largest city of {country}.",
            "{other} has more people than any other city in {country}, but the government is elsewhere.",
        ],
        "elsewhere": ["{other} is a famous city in {country}.", "{other} is an important city of {country}."],
        "traps": [
            "The capital of {country} has many museums worth a visit.",
            "The airport of {capital} lies some way from the city centre.",
            "Flights to the capital of {country} cost more in summer.",
            "The flag and the anthem of {country} have a long history.",
        ],
    },
}


def capital_groups(path: Path, rng: random.Random) -> Iterator[Any]:
    """General facts in Chinese and English: the capitals of the countries in the file.

    China is not among them, so that the demo's question stays unseen.
    """
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    for row in rows:
        stranger = rng.choice([other for other in rows if other is not row])
        for language, at in (("zh", 0), ("en", 4)):
            texts = CAPITAL[language]
            country, capital, other = row[at : at + 3]
            names = {"country": country, "capital": capital, "other": other}
            about_other = texts["largest" if row[3] == "1" else "elsewhere"]
            strangers = {"country": stranger[at], "capital": stranger[at + 1]}
            for query, positive in zip(texts["queries"], rng.sample(texts["positives"], 3), strict=True):
                negatives = [rng.choice(about_other), *rng.sample(texts["traps"], 3)]
                filled = [text.format(**names) for text in negatives]
                filled.append(texts["positives"][0].format(**strangers))
                yield {
                    "query": query.format(**names),
                    "positive": positive.format(**names),
                    "negatives": filled,
                }


def eval_rows(collection: Collection, kind: str, rng: random.Random) -> Iterator[Any]:
    """Questions with their candidates: BM25's best and, where BM25 missed it, the right one."""
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
    """Cranfield queries with BM25's best 30 abstracts and the graded judgments (1 to 4 -> 1)."""
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
        # Judgments count the queries from 1 in file order; the <num> of the file skips.
        query = " ".join((tops[number].findtext("title") or "").split())
        found = index.order(query)[:30]
        labels = [int(ids[i] in relevant[number + 1]) for i in found]
        if any(labels):
            yield {"query": query, "documents": [texts[i] for i in found], "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    data: Path = arguments.data
    rng = random.Random(arguments.seed)

    collections: dict[str, dict[bool, Collection]] = {}
    for language in XQUAD:
        path = data / "xquad" / f"xquad.{language}.json"
        collections[f"xquad.{language}"] = read_squad(path, f"xquad.{language}")
    for name in ("cmrc2018/dev", "cmrc2018/trial", "drcd/dev", "drcd/test", "jsquad/valid", "jsquad/test"):
        collections[name.replace("/", ".")] = read_squad(data / f"{name}.json", name.replace("/", "."))

    groups: list[Any] = []
    for name, parts in collections.items():
        share = 0.10 if name.startswith("xquad") else 0.15
        found = list(squad_groups(parts[False], rng, share))
        rng.shuffle(found)
        # About 1,000 groups for each XQuAD language, 2,500 for each of the larger files.
        groups += found[: 1000 if name.startswith("xquad") else 2500]
    xquad = {name: parts[False] for name, parts in collections.items() if name.startswith("xquad")}
    groups += cross_lingual_groups(xquad, rng, 3000)
    medquad = medquad_rows(data / "medquad" / "medquad.jsonl.gz")
    groups += medquad_groups(medquad[False], rng, 1500)
    here = Path(__file__).parent
    groups += trap_groups(here / "traps", rng, 5)
    groups += capital_groups(here / "capitals.tsv", rng)
    rng.shuffle(groups)
    held = len(groups) // 40  # for calibration
    print("calibration groups", jsonl.write(arguments.work / "data" / "calibration.jsonl", groups[:held]))
    print("training groups", jsonl.write(arguments.work / "data" / "train.jsonl", groups[held:]))

    out = arguments.work / "data" / "eval"
    for name, parts in collections.items():
        if name in ("cmrc2018.trial", "drcd.test", "jsquad.test"):
            continue
        for kind in ("sentence", "paragraph"):
            n = jsonl.write(out / f"{name}.{kind}.jsonl", eval_rows(parts[True], kind, rng))
            print(name, kind, n)
    held_rows = medquad[True]
    med = Collection("medquad", [answer for _, answer in held_rows])
    med.questions = [Question(q, [], i, 0) for i, (q, _) in enumerate(held_rows)]
    print("medquad", jsonl.write(out / "medquad.jsonl", eval_rows(med, "paragraph", rng)))
    print("cranfield", jsonl.write(out / "cranfield.jsonl", cranfield_rows(data / "cranfield", rng)))
    chinese, english = collections["xquad.zh"][True], collections["xquad.en"][True]
    for a, b, name in ((chinese, english, "zh-en"), (english, chinese, "en-zh")):
        mixed = Collection(name, b.paragraphs, b.sentences)
        mixed.questions = [
            Question(x.text, y.answers, y.paragraph, y.start)
            for x, y in zip(a.questions, b.questions, strict=True)
        ]
        print(name, jsonl.write(out / f"xquad.{name}.sentence.jsonl", eval_rows(mixed, "sentence", rng)))


if __name__ == "__main__":
    main()
