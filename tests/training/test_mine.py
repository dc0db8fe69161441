import random
from typing import Any

import numpy as np

from training.mine import CANDIDATES, mine


def piles() -> dict[str, list[Any]]:
    return {
        name: [
            {"query": f"{name} {i}", "texts": [f"{name} text {i}", f"wrong {i}"], "positive": True}
            for i in range(30)
        ]
        + [{"query": f"{name} unknown", "texts": [f"{name} never"], "positive": False}]
        for name in CANDIDATES
    }


def test_rivals_are_the_best_right_texts_of_other_groups() -> None:
    """The scorer likes high numbers: so the rivals are the highest of what each query was shown."""
    shown: dict[str, list[int]] = {}

    def score(pairs: list[tuple[str, str]]) -> Any:
        for query, text in pairs:
            shown.setdefault(query, []).append(int(text.split()[-1]))
        return np.array([float(text.split()[-1]) for _, text in pairs])

    rows = {row["query"]: row["rivals"] for row in mine(piles(), score, random.Random(1), kept=3)}
    assert len(rows) == 3 * 31
    for query, rivals in rows.items():
        numbers = [int(text.split()[-1]) for text in rivals]
        assert numbers == sorted(shown[query], reverse=True)[:3]
        own = query.replace(" ", " text ")
        assert own not in rivals
        assert all("wrong" not in text and "never" not in text for text in rivals)
