import json
import random
from pathlib import Path

import pytest

from training.check_written import faults, signs
from training.written import apart_from, capital_groups, read_folder, trap_groups, written_groups

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


def test_a_group_that_resembles_a_held_out_one_is_left_out() -> None:
    held = [{"query": "How many bones does an adult human have?"}]
    rows = [
        {"query": "how many bones does an adult human have"},
        {"query": "how many teeth does a shark have"},
        {"query": "日本的货币"},
    ]
    assert list(apart_from(rows, held)) == rows[1:]


def test_written_groups_are_well_formed_and_their_right_texts_come_first() -> None:
    folder = Path(__file__).parents[2] / "training" / "written"
    rows = read_folder(folder)
    assert len(rows) >= 4000
    assert not [fault for row in rows for fault in faults(row)]
    assert len({row["query"] for row in rows}) == len(rows)
    group = next(written_groups(folder))
    assert group["texts"][: group["rights"]] == rows[0]["right"]
    assert sum(group["targets"]) == pytest.approx(1.0)


def test_no_sign_gives_the_right_texts_away() -> None:
    rows = read_folder(Path(__file__).parents[2] / "training" / "written")
    assert all(0.4 < share < 0.6 for share in signs(rows).values())
