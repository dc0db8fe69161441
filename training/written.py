"""Make training groups from texts written for training: hard groups, keyword traps and capitals."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from training import jsonl


def group(query: str, positive: str, negatives: list[str]) -> dict[str, Any]:
    """Make a group whose positive gets the whole target."""
    targets = [1.0] + [0.0] * len(negatives)
    return {"query": query, "texts": [positive, *negatives], "targets": targets, "positive": True}


def trap_groups(folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield keyword traps (training/traps/*.jsonl): a group for each answer, with up to four traps."""
    items = [item for path in sorted(folder.glob("*.jsonl")) for item in jsonl.read(path)]
    for item in items:
        for answer in item["answers"]:
            negatives = rng.sample(item["traps"], min(4, len(item["traps"]))) + item["weak"][:1]
            yield group(item["query"], answer, negatives)


RESEMBLES = 0.35
"""Two queries resemble each other if they share at least this part of their character 4-grams."""


def grams(text: str, size: int = 4) -> set[str]:
    """The character n-grams of a text, of letters and digits in lower case."""
    plain = "".join(character for character in text.lower() if character.isalnum())
    return {plain[i : i + size] for i in range(max(1, len(plain) - size + 1))}


def apart_from(groups: Iterable[Any], held_out: Iterable[Any]) -> Iterator[Any]:
    """Yield the groups whose query resembles no held-out query, so that training sees none of these."""
    kept = [grams(row["query"]) for row in held_out]
    for row in groups:
        own = grams(row["query"])
        if all(len(own & other) < RESEMBLES * len(own | other) for other in kept):
            yield row


def read_folder(folder: Path) -> list[Any]:
    """Read the rows of all JSON Lines files of a folder."""
    return [row for path in sorted(folder.glob("*.jsonl")) for row in jsonl.read(path)]


def written_groups(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield groups of one or two right texts and hard wrong ones (training/written/*.jsonl)."""
    for item in read_folder(folder):
        right, wrong = item["right"], item["wrong"]
        targets = [1 / len(right)] * len(right) + [0.0] * len(wrong)
        yield {
            "query": item["query"],
            "texts": [*right, *wrong],
            "targets": targets,
            "positive": True,
            "rights": len(right),
        }


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


def capital_groups(path: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield groups on the capitals of the countries in the file, in Chinese and English.

    China is not among them, so that the question of the demo stays unseen.
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
                yield group(query.format(**names), positive.format(**names), filled)
