import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification

from crossrank.engines.native import NativeEngine
from crossrank.models.checkpoint import Checkpoint
from crossrank.packing import Pack
from training import jsonl, mixture, train
from training.encoder import buckets, forward
from training.train import (
    MICRO_TOKENS,
    WARM_STEPS,
    Group,
    learning_rate,
    load,
    micro_batches,
    read_start,
    read_weights,
)

NONE = torch.zeros(6, dtype=torch.bool)
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "red", "green", "blue", "apple", "leaf", "sky"]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A tiny model and its tokenizer."""
    folder = tmp_path / "start" / "model"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=300,
        initializer_range=0.3,  # what bf16 can tell apart
        pad_token_id=1,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def colours(n: int) -> list[dict[str, Any]]:
    known = {"red": "apple", "green": "leaf", "blue": "sky"}
    return [
        {
            "query": q,
            "texts": [a, *(x for x in known.values() if x != a)],
            "targets": [1.0, 0.0, 0.0],
            "positive": True,
        }
        for q, a in list(known.items()) * n
    ]


def write_piles(work: Path, n: int, before: str = "") -> None:
    """Write the piles; ``before`` precedes each query."""
    groups = [group | {"query": before + group["query"]} for group in colours(n)]
    for name in mixture.SHARES:
        jsonl.write(work / "data" / f"{name}.jsonl", groups)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs training with options; this process's PyTorch has its threads back afterwards."""
    threads = torch.get_num_threads()

    def main(work: Path, *arguments: str) -> None:
        common = ["train.py", "--work", str(work), "--groups", "6", "--lr", "3e-3"]
        monkeypatch.setattr(sys, "argv", [*common, *arguments])
        train.main()

    yield main
    torch.set_num_threads(threads)


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    assert learning_rate(0, 0.0, 0.5, 1.0) == 1 / WARM_STEPS
    assert learning_rate(WARM_STEPS, 0.3, 0.5, 1.0) == 1.0
    assert learning_rate(WARM_STEPS, 0.75, 0.5, 1.0) == pytest.approx(0.5)
    # A stop of the process may take the clock past the end.
    assert learning_rate(WARM_STEPS, 1.1, 0.5, 1.0) == 0.0


def test_micro_batches_hold_every_group_once_within_their_budget() -> None:
    groups = [Group([[0] * n] * 6, torch.zeros(6), NONE, NONE) for n in (500, 200, 90, 40, 30, 30, 20)]
    batches = micro_batches(groups)
    assert sorted(g.tokens for batch in batches for g in batch) == sorted(g.tokens for g in groups)
    assert all(len(batch) == 1 or sum(g.tokens for g in batch) <= MICRO_TOKENS for batch in batches)
    assert [g.tokens for g in batches[0]] == [3000]


def test_padding_and_order_do_not_change_a_logit(start: Path) -> None:
    model = load(*read_start(start, 1)).float()
    pairs = [[0, 4, 2, 2, 7, 2], [0, 5, 2, 2, 8, 9, 9, 2], [0, 6, 2, 2, 9, 2]]
    together = forward(model, pairs)
    alone = torch.cat([forward(model, [pair]) for pair in pairs])
    torch.testing.assert_close(together, alone)


def test_the_encoder_is_that_of_transformers(start: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(start).eval()
    generator = torch.Generator().manual_seed(0)
    pairs = [torch.randint(0, len(WORDS), (n,), generator=generator).tolist() for n in (3, 40, 17, 260, 41)]
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([pair])).logits[:, 0] for pair in pairs])
        torch.testing.assert_close(forward(model, pairs), expected, atol=1e-4, rtol=1e-4)


def test_a_match_is_that_of_crossranks_engines(start: Path, tmp_path: Path) -> None:
    config, weights = read_start(start, 1)
    weights = {name: value.bfloat16().float() for name, value in weights.items()}  # as training has them
    generator = torch.Generator().manual_seed(0)
    weights["match.query"] = torch.randn(weights["match.query"].shape, generator=generator)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((start / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "model.safetensors")
    pairs = [[0, *pair, 2] for pair in ([5, 6, 7, 2, 2, 8, 6, 9], [5, 2, 2, 6], [5, 6, 2, 2], [2, 2, 6], [5])]
    pack = Pack(np.concatenate(pairs).astype(np.int32), np.cumsum([0, *map(len, pairs)]).astype(np.int32))
    expected = NativeEngine(Checkpoint(tmp_path), precision="fp32").logits(pack)
    assert np.ptp(expected[:2]) > 0.1
    model = load(config, weights).float()
    with torch.inference_mode():
        torch.testing.assert_close(forward(model, pairs), torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_a_match_is_learnt(start: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    write_piles(tmp_path, 4, before="sky ")  # one token alone has all the weight
    run(tmp_path, "--start", str(start), "--steps", "2", "--match", "1")
    first, after = read_start(start, 1)[1], read_weights(tmp_path / "model")
    assert not torch.equal(first["match.query"], after["match.query"])
    assert torch.equal(first["match.factor"], after["match.factor"])
    # What is saved has a match, and needs no option.
    assert read_start(tmp_path / "model", None)[0]["crossrank"] == {"match": {"layer": 1, "separator": 2}}
    assert read_start(tmp_path / "model", None)[1].keys() == after.keys()


def test_buckets_hold_every_pair_once_and_waste_little() -> None:
    lengths = [500, 490, 300, 120, 118, 60, 59, 58, 9, 8]
    found = buckets(lengths)
    assert sorted(i for bucket in found for i in bucket) == list(range(len(lengths)))
    assert [lengths[bucket[0]] for bucket in found] == [500, 300, 118, 9]


def test_it_learns_in_two_processes_and_goes_on_where_it_was(
    start: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    before = load_file(start / "model.safetensors")
    write_piles(tmp_path, 40)
    run(tmp_path, "--steps", "20", "--processes", "2")
    run(tmp_path, "--steps", "40")
    rows = jsonl.read(tmp_path / "model" / "log.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert rows[0]["loss"] > 1 > rows[-1]["loss"]
    assert rows[-1]["top1"] == 1
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    # Embeddings are frozen, to the bit; all else has moved.
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".embeddings." not in name}


def test_processes_change_only_the_order_of_sums(
    start: Path, tmp_path: Path, run: Callable[..., None]
) -> None:
    found = []
    for processes in ("1", "2"):
        work = tmp_path / processes
        write_piles(work, 4)
        run(work, "--start", str(start), "--steps", "3", "--processes", processes)
        found.append(load_file(work / "model" / "model.safetensors"))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=1e-4, rtol=1e-3)


def test_frozen_layers_stay_as_they_are(start: Path, tmp_path: Path, run: Callable[..., None]) -> None:
    write_piles(tmp_path, 4)
    run(tmp_path, "--start", str(start), "--steps", "2", "--freeze", "1")
    before, after = read_weights(start), read_weights(tmp_path / "model")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not {name for name in moved if ".layer.0." in name or ".embeddings." in name}
    assert {name for name in moved if ".layer.1." in name}


def test_a_compressed_model_is_a_start_too(start: Path, tmp_path: Path) -> None:
    table = "bert.embeddings.word_embeddings.weight"
    compressed = tmp_path / "compressed"
    compressed.mkdir()
    weights = read_weights(start)
    value = weights.pop(table)
    blocks = torch.full((value.shape[0], 1), 0.01, dtype=torch.float16)
    nibbles = torch.full((value.shape[0], value.shape[1] // 2), 0x9F, dtype=torch.uint8)
    save_file(
        weights | {f"{table}.int4": nibbles, f"{table}.scale": blocks}, compressed / "model.safetensors"
    )
    config = json.loads((start / "config.json").read_text()) | {"crossrank": {"compressed": 1}}
    (compressed / "config.json").write_text(json.dumps(config))
    restored = read_weights(compressed)
    assert restored.keys() == weights.keys() | {table}
    # Low nibbles are the first half of a block: 0xF is 7 steps up, 0x9 one.
    torch.testing.assert_close(restored[table][0], torch.tensor([0.07] * 16 + [0.01] * 16), atol=1e-4, rtol=0)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="it looks for processes in /proc")
def test_no_process_outlives_a_run_that_is_killed(start: Path, tmp_path: Path) -> None:
    write_piles(tmp_path, 4)
    command = [sys.executable, "-m", "training.train", "--work", str(tmp_path), "--start", str(start)]
    with subprocess.Popen([*command, "--processes", "2", "--steps", "1000000", "--groups", "6"]) as run:
        until(lambda: (tmp_path / "model" / "log.jsonl").exists())
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        helpers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        run.kill()
    assert len(helpers) == 1
    until(lambda: not Path(f"/proc/{helpers[0]}").exists())


def until(is_so: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
