"""What a step of training sees: groups of several piles, each with texts of other groups beside its own.

A pile is a kind of data: ``reading`` (encyclopaedia and medical questions), ``public`` (the cut and
cleaned data) and ``written`` (hard groups and keyword traps that were written for it). Each step takes
a fixed share of each, and every pile has epochs of its own.

The written wrong texts of a group were written for its query, so "sounds like the right kind of text"
could tell right from wrong without the query. Therefore every group also gets right texts of other
groups as wrong ones, sometimes together with their own wrong texts (whose order among themselves must
then tell nothing), and now and then junk.

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

SHARES = {"reading": 0.15, "public": 0.4, "written": 0.45}
OWN = 6
"""A group's own texts in a step, at most."""
STRANGERS = 5
"""Right texts of other groups beside them."""
RIVALS = 3
"""How many of these are rivals that mine.py found, where it found some."""
SWAP = 0.25
"""How often another group comes whole: its right text and two of its wrong ones."""
LENGTHS = {
    "reading": ((128, 0.6), (256, 0.4)),
    "public": ((96, 0.7), (160, 0.2), (320, 0.1)),
    "written": ((384, 1.0),),
}
"""Tokens that a group's pairs are cut to, and how often: short pairs are cheap, long ones must be met."""
JUNK = 0.3
"""How often one of the texts is junk."""
JUNK_TEXTS = [
    "", ".", "…", "-", "---", "***", "0", "N/A", "null", "undefined", "OK", "|---|---|---|", "| | | |",
    "=====================", "404", "<div></div>", "{}", "[]", "1234567890", "?", "！", "。。。", "· · ·",
    "Loading...", "Page 3 of 12", "Home > Products > All", "Click here", "Read more", "Back to top",
    "Accept all cookies", "We use cookies to improve your experience.", "All rights reserved.",
    "© 2024 Example Inc.", "Terms of Service | Privacy Policy",
    "Log in to see more", "Subscribe to our newsletter",
    "No description available.", "This page was intentionally left blank.", "Lorem ipsum dolor sit amet.",
    "版权所有 侵权必究", "点击查看更多", "上一页 下一页", "暂无数据", "加载中", "首页 > 产品 > 全部",
    "关于我们 | 联系我们 | 加入我们", "登录后查看全部内容", "京ICP备00000000号",
    "分享到：微信 微博 QQ空间", "展开全文",
    "本文转载自网络，版权归原作者所有。", "相关推荐", "请输入搜索内容", "该页面不存在或已被删除",
    "続きを読む", "お問い合わせ",
]  # fmt: skip


def junk(rng: random.Random) -> str:
    """A text that answers nothing: boilerplate, signs, a hash, base64, a bare link."""
    draw = rng.random()
    if draw < 0.7:
        return rng.choice(JUNK_TEXTS)
    if draw < 0.85:
        return "".join(rng.choices("0123456789abcdef", k=rng.choice([8, 16, 32, 40, 64])))
    if draw < 0.93:
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        return "".join(rng.choices(letters, k=rng.randint(12, 60))) + "=="
    return f"https://example.com/{''.join(rng.choices('abcdefghijklmnop0123456789', k=10))}"


@dataclass(frozen=True)
class Drawn:
    """A group as a step sees it. A text whose label is not ``sure`` counts only where texts are compared."""

    query: str
    texts: list[str]
    targets: list[float]
    sure: list[bool]
    right: list[bool]
    max_tokens: int


class Pile:
    """Groups of one kind, in an order that depends on the seed and the epoch only."""

    def __init__(self, groups: Sequence[Any], seed: int) -> None:
        self.groups = list(groups)
        self._seed = seed
        self._epoch, self._order = -1, list(range(len(self.groups)))

    def at(self, place: int) -> Any:
        """The group at a place in the endless row of epochs."""
        epoch, at = divmod(place, len(self.groups))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self.groups)))
            random.Random(self._seed * 1000 + epoch).shuffle(self._order)
        return self.groups[self._order[at]]


def gather_written(here: Path, work: Path, seed: int) -> int:
    """Write the pile of written groups (twice), keyword traps and capitals; returns how many there are."""
    rng = random.Random(seed)
    groups = 2 * list(apart_from(written_groups(here / "written"), read_folder(here / "held_out")))
    groups += rng.sample(list(trap_groups(here / "traps", rng)), 300)
    groups += rng.sample(list(capital_groups(here / "capitals.tsv", rng)), 150)
    return jsonl.write(work / "data" / "written.jsonl", groups)


def right_text(group: Any) -> str | None:
    """The text that answers a group's query, where one is known."""
    return group["texts"][0] if group["positive"] else None


def read_rivals(work: Path) -> dict[str, list[str]]:
    """The rivals of each query, if mine.py has found any."""
    path = work / "data" / "rivals.jsonl"
    return {row["query"]: row["rivals"] for row in jsonl.read(path)} if path.exists() else {}


def read_piles(work: Path, seed: int) -> dict[str, Pile]:
    """Every pile that SHARES names."""
    return {name: Pile(jsonl.read(work / "data" / f"{name}.jsonl"), seed) for name in SHARES}


class Mixture:
    """Draws the groups of a step."""

    def __init__(
        self, piles: dict[str, Pile], size: int, seed: int, rivals: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._piles, self._seed, self._rivals = piles, seed, rivals or {}
        self._sizes = {name: max(1, round(size * share)) for name, share in SHARES.items()}

    def step(self, number: int) -> list[Drawn]:
        """The groups of a step; the same for the same number."""
        rng = random.Random(f"{self._seed}.{number}")
        return [
            self._draw(name, self._piles[name].at(number * count + i), rng)
            for name, count in self._sizes.items()
            for i in range(count)
        ]

    def _draw(self, name: str, group: Any, rng: random.Random) -> Drawn:
        """A group's own texts, thinned out, with strangers and junk."""
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
            # Of the same kind half of the time: style must tell nothing.
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
