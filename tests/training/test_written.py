import json
import random
from pathlib import Path

from written import capital_groups, trap_groups

TRAINING = Path(__file__).resolve().parents[2] / "training"


def test_groups_are_one_positive_and_other_texts() -> None:
    rng = random.Random(0)
    groups = [*trap_groups(TRAINING / "traps", rng), *capital_groups(TRAINING / "capitals.tsv", rng)]
    assert len(groups) == 600 * 2 + 50 * 2 * 3
    for group in groups:
        assert group["query"]
        assert len(group["texts"]) == 6
        assert group["texts"][0] not in group["texts"][1:]
        assert group["targets"] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert "中国的首都" not in json.dumps(groups, ensure_ascii=False)
