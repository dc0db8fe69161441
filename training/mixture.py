"""Draw the groups of a training step from several piles, and add texts of other groups to each.

A pile is a kind of data: ``reading`` (encyclopaedia and medical questions), ``public`` (the sampled and
cleaned public data) and ``written`` (hard groups and keyword traps written for this training). Each step
takes a fixed share from each pile, and the piles have independent epochs.

The wrong texts of a written group were written for its query, so a model could recognise the right text by
its style, without the query. Therefore each group also gets right texts of other groups as wrong texts,
sometimes together with the wrong texts of those groups, so that style does not help, and sometimes junk.

    python -m training.mixture --work build/training     # gathers the written texts into one pile
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import jsonl
from training.written import apart_from, capital_groups, read_folder, trap_groups, written_groups

SHARES = {"reading": 0.1, "public": 0.35, "written": 0.55}
"""Share of each pile in a step."""

OWN = 5
"""Maximum number of a group's own texts in a step, not counting a second right text."""

STRANGERS = 7
"""Number of texts of other groups that are added; a swap may add two more."""

RIVALS = 5
"""Maximum number of these that are rivals found by mine.py."""

SWAP = 0.25
"""Probability that another group contributes two of its wrong texts together with its right one."""

LENGTHS = {
    "reading": ((128, 0.6), (256, 0.4)),
    "public": ((96, 0.7), (160, 0.2), (320, 0.1)),
    "written": ((384, 1.0),),
}
"""For each pile, lengths in tokens that pairs are truncated to, with their probabilities.

Short pairs are cheap, but the model must also see long ones.
"""

JUNK = 0.4
"""Probability that a group gets a junk text."""

JUNK_TEXTS = [" ", *(Path(__file__).parent / "junk.txt").read_text(encoding="utf-8").splitlines()]
"""Texts that answer no query. None of them is among the junk texts that judge.py measures with."""

MENU = ["Home", "News", "Contact", "Help", "Careers", "Login", "Cart", "首页", "产品", "论坛", "注册"]
"""Entries of a menu that answers no query."""


def junk(rng: random.Random) -> str:
    """A text that answers no query: boilerplate, symbols, a hash, a number, a menu or a link."""
    draw = rng.random()
    if draw < 0.6:
        return rng.choice(JUNK_TEXTS)
    if draw < 0.72:
        return "".join(rng.choices("0123456789abcdef", k=rng.choice([8, 16, 32, 40, 64])))
    if draw < 0.78:
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        return "".join(rng.choices(letters, k=rng.randint(12, 60))) + "=="
    if draw < 0.84:
        return f"https://example.com/{''.join(rng.choices('abcdefghijklmnop0123456789', k=10))}"
    if draw < 0.9:
        return rng.choice([" | ", " ", " > ", " · "]).join(rng.sample(MENU, rng.randint(2, 6)))
    if draw < 0.95:
        return rng.choice("-=*_.#~…。") * rng.randint(4, 40)
    return str(rng.choice([rng.randint(2, 99999), round(rng.uniform(0, 1000), 2), f"#{rng.randint(1, 999)}"]))


@dataclass(frozen=True)
class Drawn:
    """A group as used in a step. A text whose label is not ``sure`` is used only in the listwise loss."""

    query: str
    texts: list[str]
    targets: list[float]
    sure: list[bool]
    right: list[bool]
    max_tokens: int


class Pile:
    """Groups of one kind, in an order that depends only on the seed and the epoch."""

    def __init__(self, groups: Sequence[Any], seed: int) -> None:
        self.groups = list(groups)
        self._seed = seed
        self._epoch, self._order = -1, list(range(len(self.groups)))

    def at(self, place: int) -> Any:
        """The group at a position in the endless sequence of epochs."""
        epoch, at = divmod(place, len(self.groups))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self.groups)))
            random.Random(self._seed * 1000 + epoch).shuffle(self._order)
        return self.groups[self._order[at]]


def gather_written(here: Path, work: Path, seed: int) -> int:
    """Write the pile of written groups (each twice), keyword traps and capitals; returns its size."""
    rng = random.Random(seed)
    groups = 2 * list(apart_from(written_groups(here / "written"), read_folder(here / "held_out")))
    groups += rng.sample(list(trap_groups(here / "traps", rng)), 300)
    groups += rng.sample(list(capital_groups(here / "capitals.tsv", rng)), 150)
    return jsonl.write(work / "data" / "written.jsonl", groups)


def right_text(group: Any) -> str | None:
    """The text that answers a group's query, or None if it is unknown."""
    return group["texts"][0] if group["positive"] else None


def read_rivals(work: Path) -> dict[str, list[str]]:
    """Read the rivals of each query, if mine.py has been run."""
    path = work / "data" / "rivals.jsonl"
    return {row["query"]: row["rivals"] for row in jsonl.read(path)} if path.exists() else {}


def read_piles(work: Path, seed: int) -> dict[str, Pile]:
    """Read all piles of SHARES."""
    return {name: Pile(jsonl.read(work / "data" / f"{name}.jsonl"), seed) for name in SHARES}


class Mixture:
    """The groups of each step."""

    def __init__(
        self, piles: dict[str, Pile], size: int, seed: int, rivals: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._piles, self._seed, self._rivals = piles, seed, rivals or {}
        self._sizes = {name: max(1, round(size * share)) for name, share in SHARES.items()}

    def step(self, number: int) -> list[Drawn]:
        """Draw the groups of a step; the same number always gives the same groups."""
        rng = random.Random(f"{self._seed}.{number}")
        return [
            self._draw(name, self._piles[name].at(number * count + i), rng)
            for name, count in self._sizes.items()
            for i in range(count)
        ]

    def _draw(self, name: str, group: Any, rng: random.Random) -> Drawn:
        """Draw some of a group's own texts, and add texts of other groups and junk."""
        sure = group.get("sure", [True] * len(group["texts"]))
        first = [0] if group["positive"] else []
        rights = group.get("rights", len(first))
        places = list(range(rights))[:2] + rng.sample(
            range(rights, len(sure)), min(len(sure) - rights, OWN - 1)
        )
        total = sum(group["targets"][i] for i in places)
        texts = [group["texts"][i] for i in places]
        targets = [group["targets"][i] / total for i in places]
        known = [sure[i] and bool(rights) for i in places]
        right = [i < rights for i in places]
        known_rivals = self._rivals.get(group["query"], [])
        strangers = rng.sample(list(known_rivals), min(RIVALS, len(known_rivals)))
        while len(strangers) < STRANGERS:
            # Most come from the same pile, so that the style of a text does not give it away.
            other = self._stranger(name if rng.random() < 0.6 else rng.choice(list(self._piles)), rng)
            if not other["positive"] or other["query"] == group["query"]:
                continue
            if rng.random() < SWAP:
                wrong = other["texts"][max(1, other.get("rights", 1)) :]
                strangers += [other["texts"][0], *rng.sample(wrong, min(2, len(wrong)))]
            else:
                strangers.append(other["texts"][0])
        if rng.random() < JUNK:
            strangers[-1] = junk(rng)
        strangers = [text for text in dict.fromkeys(strangers) if text not in group["texts"]]
        n = len(strangers)
        lengths, weights = zip(*LENGTHS[name], strict=True)
        return Drawn(
            group["query"],
            texts + strangers,
            targets + [0.0] * n,
            known + [True] * n,
            right + [False] * n,
            rng.choices(lengths, weights)[0],
        )

    def _stranger(self, name: str, rng: random.Random) -> Any:
        return rng.choice(self._piles[name].groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    print("written groups", gather_written(Path(__file__).parent, arguments.work, arguments.seed))


if __name__ == "__main__":
    main()
