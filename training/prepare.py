"""Step 2: make training groups with the teacher's targets, and evaluation sets.

The teacher embeds each training text once (build/training/data/vectors.npy).

    python -m training.prepare --data ../shared/data --work build/training
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from training import evaluation_sets, jsonl, public
from training import groups as make
from training.sources import read_all, read_medquad, split_sentences
from training.teacher import Library

PARALLEL = {"sentence": 100, "paragraph": 150, "title": 12, "statement": 90}
"""Groups of each kind per language of XQuAD."""

OTHERS = {"sentence": 300, "paragraph": 300, "title": 30, "statement": 150}
"""Groups of each kind per other file."""

LANGUAGE_PAIRS = 60
"""Number of language pairs; a third of them are Chinese and English."""

CROSS = {"sentence": 10, "paragraph": 8}
"""Groups of each kind per language pair."""

ANSWERS = 4500
"""Number of MedQuAD answers to make groups from."""

MEDICAL = {"question": 1300, "statement": 1800}


def public_groups(data: Path, library: Library, held: bool, rng: random.Random) -> list[Any]:
    """Make groups of the sampled and cleaned public data, each with the folder that it comes from."""
    by_folder = {folder: public.examples(data, folder, held, rng) for folder in public.COUNTS}
    every = [example for examples in by_folder.values() for example in examples]
    library.add([f"passage: {e.text}" for e in every] + [f"query: {e.query}" for e in every])
    library.save()
    groups: list[Any] = []
    for folder, examples in by_folder.items():
        made = list(make.public_groups(examples, library, rng))
        print(folder, len(made), flush=True)
        groups += [group | {"folder": folder} for group in made]
    return groups


def training_groups(data: Path, library: Library, rng: random.Random) -> list[Any]:
    """Make groups of encyclopaedia and medical texts; an epoch has about 12 million tokens."""
    parts = {name: split[False] for name, split in read_all(data).items()}
    medical = rng.sample(read_medquad(data / "medquad" / "medquad.jsonl.gz")[False], ANSWERS)
    # Embed all texts in one call, so that the processes start only once.
    passages = [text for part in parts.values() for text in part.paragraphs]
    passages += [s.strip() for part in parts.values() for sentences in part.sentences for s in sentences]
    passages += [row.answer for row in medical]
    queries = [question.text for part in parts.values() for question in part.questions]
    library.add([f"passage: {text}" for text in passages] + [f"query: {text}" for text in queries])
    library.save()
    sentences = {name: make.sentence_pool(part, library) for name, part in parts.items()}
    paragraphs = {name: make.paragraph_pool(part, library) for name, part in parts.items()}
    answers = make.Pool.of([row.answer for row in medical], library)

    groups: list[Any] = []
    for name, part in parts.items():
        n = PARALLEL if name.startswith("xquad") else OTHERS
        groups += make.question_groups(part, part, "sentence", sentences[name], rng, n["sentence"])
        groups += make.question_groups(part, part, "paragraph", paragraphs[name], rng, n["paragraph"])
        groups += make.title_groups(part, paragraphs[name], rng, n["title"])
        stated = [(s.strip(), p) for p, ss in zip(part.paragraphs, part.sentences, strict=True) for s in ss]
        groups += make.statement_groups(stated, paragraphs[name], rng, n["statement"])
    languages = [name for name in parts if name.startswith("xquad")]
    pairs = [("xquad.zh", "xquad.en"), ("xquad.en", "xquad.zh")] * (LANGUAGE_PAIRS // 6)
    pairs += [(a, b) for a, b in (rng.sample(languages, 2) for _ in range(LANGUAGE_PAIRS - len(pairs)))]
    for a, b in pairs:
        groups += make.question_groups(parts[a], parts[b], "sentence", sentences[b], rng, CROSS["sentence"])
        groups += make.question_groups(
            parts[a], parts[b], "paragraph", paragraphs[b], rng, CROSS["paragraph"]
        )
    groups += make.medical_groups(medical, answers, rng, MEDICAL["question"])
    stated = [(s.strip(), row.answer) for row in medical for s in split_sentences(row.answer)[:-1]]
    groups += make.statement_groups(stated, answers, rng, MEDICAL["statement"])
    library.save()
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2, help="number of processes that embed texts")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    began = time.monotonic()
    folder = arguments.work / "data"
    evaluation_sets.write(arguments.data, folder / "eval", random.Random(arguments.seed))
    library = Library(arguments.work / "start" / "model", folder / "vectors.npy", arguments.workers)
    held = public_groups(arguments.data, library, True, rng)
    print("held-out public groups", jsonl.write(folder / "public-held.jsonl", held))
    found = public_groups(arguments.data, library, False, rng)
    rng.shuffle(found)
    print("public groups", jsonl.write(folder / "public.jsonl", found))
    groups = training_groups(arguments.data, library, rng)
    rng.shuffle(groups)
    # One query in forty is kept for calibration, with all its groups; training never sees it.
    queries = sorted({group["query"] for group in groups})
    kept = set(rng.sample(queries, len(queries) // 40))
    calibration = [g for g in groups if g["query"] in kept and g["positive"]]
    trained = [g for g in groups if g["query"] not in kept]
    print("calibration groups", jsonl.write(folder / "calibration.jsonl", calibration))
    print("encyclopaedia groups", jsonl.write(folder / "reading.jsonl", trained))
    print(f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
