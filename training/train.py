"""Step 5: fine-tune the starting model as a cross-encoder.

The main loss is a listwise cross-entropy with the targets of each group, which come from a known positive,
the teacher, or both. A second loss compares logits with the constant 0, which right texts must exceed and
wrong texts must not, so that scores of different queries are comparable. Weights and activations are bf16
with fp32 master copies and gradients; the head is fp32, because bf16 logits tie. Embeddings are frozen, and
there is no dropout. The learning rate warms up, stays constant, and falls linearly to zero over the last
part of the run. The run ends after ``--steps`` or after ``--minutes`` of wall-clock time since its first
start, whichever is first. Model and state are saved every few minutes, and the same command resumes; the
order of the data depends only on the seed.

Several single-threaded processes take the micro-batches of a step one by one, so that a process on a busy
core takes fewer.

    python -m training.train --work build/training --minutes 70 --processes 2

``--start`` takes any folder with a model of the same vocabulary, including the compressed one that ships,
and continues from it.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from crossrank.models.checkpoint import Checkpoint
from training.encoder import END, Match, logit_parts
from training.mixture import Drawn, Mixture, read_piles, read_rivals

NULL = 0.4
"""Weight of the loss that compares logits with the constant 0."""

QUERY_TOKENS = 64
"""Longer queries are truncated to this length."""

MATCH_FACTOR, MATCH_MEAN = 8.0, 0.3
"""The factor of a new ``Match``, and the mean of its cosines, which the classifier's bias takes out again.

The factor is not trained: training raises it, and then keyword traps, which repeat the query, rank too high.
"""

WARM_STEPS = 10
"""Steps over which the learning rate warms up."""

SAVE_EVERY = 300
"""Seconds between two saved states."""

MICRO_TOKENS = 3072
"""Maximum tokens of a micro-batch, unless a single group has more."""


class PairEncoder:
    """Encode pairs as `<s> query </s></s> document </s>`, truncated to the group's length."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))

    def __call__(self, drawn: Drawn) -> Group:
        encodings = self.tokenizer.encode_batch([drawn.query, *drawn.texts], add_special_tokens=False)
        head = [0, *encodings[0].ids[:QUERY_TOKENS], 2, 2]
        room = drawn.max_tokens - len(head) - 1
        pairs = [[*head, *encoding.ids[:room], 2] for encoding in encodings[1:]]
        right = torch.tensor(drawn.right)
        wrong = torch.tensor(drawn.sure) & ~right
        return Group(pairs, torch.tensor(drawn.targets), right, wrong)


@dataclass(frozen=True)
class Group:
    """The pairs of a query, with their targets, and masks of the right and the surely wrong ones."""

    pairs: list[list[int]]
    target: torch.Tensor
    right: torch.Tensor
    wrong: torch.Tensor

    @property
    def tokens(self) -> int:
        return sum(map(len, self.pairs))

    def loss(self, logits: torch.Tensor) -> torch.Tensor:
        """The loss for the group's logits, float32 (pairs,)."""
        order = -(self.target * torch.log_softmax(logits, 0)).sum()
        above = torch.nn.functional.softplus(-logits[self.right])
        below = torch.logsumexp(torch.cat([logits.new_zeros(1), logits[self.wrong]]), 0)
        return order + NULL * (below + (above.mean() if len(above) else 0.0))


def micro_batches(groups: list[Group]) -> list[list[Group]]:
    """Batch the groups by length; the largest groups come first."""
    batches: list[list[Group]] = [[]]
    room = MICRO_TOKENS
    for group in sorted(groups, key=lambda g: -g.tokens):
        if batches[-1] and group.tokens > room:
            batches.append([])
            room = MICRO_TOKENS
        batches[-1].append(group)
        room -= group.tokens
    return batches


def learning_rate(step: int, progress: float, decay: float, peak: float) -> float:
    """The learning rate at ``progress`` (0 to 1); it falls over the last ``decay`` (0 to 1) of the run."""
    return peak * min(1.0, (step + 1) / WARM_STEPS) * min(1.0, max(0.0, 1 - progress) / decay)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint, compressed or not, in fp32 under the names of transformers."""
    checkpoint = Checkpoint(folder)
    stored = checkpoint.tensors() if checkpoint.compressed else checkpoint.mapped()
    return {name: torch.from_numpy(np.array(value, np.float32)) for name, value in stored.items()}


def read_start(folder: Path, match: int | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and weights to start from, with a ``Match`` after the layer ``match`` if there is none."""
    config, weights = json.loads((folder / "config.json").read_text()), read_weights(folder)
    own = config.setdefault("crossrank", {})
    own.pop("compressed", None)  # what is saved is not
    if match and "match" not in own:
        own["match"] = {"layer": match, "separator": END}
        weights["match.query"] = torch.zeros(config["hidden_size"])
        weights["match.factor"] = torch.full((1,), MATCH_FACTOR)
        weights["classifier.bias"] = weights["classifier.bias"] - MATCH_FACTOR * MATCH_MEAN
    return config, weights


def load(
    values: dict[str, Any], weights: dict[str, torch.Tensor], freeze: int = 0, device: str = "cpu"
) -> Any:
    """Make the model for training: the encoder in bf16, pooler, classifier and match in fp32.

    Embeddings and the lowest ``freeze`` layers are frozen.
    """
    config = AutoConfig.for_model(**values)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model: Any = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    model.load_state_dict({k: v for k, v in weights.items() if not k.startswith("match.")})
    model.to(torch.bfloat16)
    match = values["crossrank"].get("match")
    if match:
        model.match = Match(match["layer"], config.hidden_size)
        model.match.load_state_dict({k: weights[f"match.{k}"] for k in ("query", "factor")})
        model.match.factor.requires_grad_(False)
    pooler = model.bert.pooler
    pooler.forward = lambda _: None  # encoder.py applies it, in fp32
    for part, name in ((pooler.dense, "bert.pooler.dense"), (model.classifier, "classifier")):
        part.float()
        part.load_state_dict({k: weights[f"{name}.{k}"] for k in ("weight", "bias")})
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[:freeze].requires_grad_(False)
    return model.to(device).train()


def trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


class Share:
    """The memory that the processes of a run share: weights, gradients of each process, and counters."""

    def __init__(self, model: Any, processes: int) -> None:
        context = mp.get_context("spawn")
        named = trained(model)
        self.weights = {name: p.detach().cpu().clone().share_memory_() for name, p in named}
        size = sum(p.numel() for _, p in named)
        self.gradients = [torch.zeros(size).share_memory_() for _ in range(processes)]
        # For each process: loss, groups whose best text is right, groups, tokens.
        self.sums = torch.zeros(processes, 4, dtype=torch.float64).share_memory_()
        self.turn = context.Value("q", 0)
        self.step = context.Value("q", 0)
        self.gate = context.Barrier(processes)

    def bind(self, model: Any) -> None:
        """Let the model use the shared weights; for a GPU, copy them."""
        for name, p in trained(model):
            if p.device.type == "cpu":
                p.data = self.weights[name]
            else:
                p.data.copy_(self.weights[name])

    def take(self) -> int:
        """Claim the next micro-batch of the step; returns its number."""
        with self.turn.get_lock():
            self.turn.value += 1
            return int(self.turn.value) - 1


class Data:
    """The groups of each step."""

    def __init__(self, work: Path, start: Path, size: int, seed: int) -> None:
        self._mixture = Mixture(read_piles(work, seed), size, seed, read_rivals(work))
        self._encode = PairEncoder(start / "tokenizer.json")

    def step(self, number: int) -> list[Group]:
        return [self._encode(drawn) for drawn in self._mixture.step(number)]


def run_step(model: Any, data: Data, share: Share, number: int) -> None:
    """Run forward and backward passes for the micro-batches that this process claims."""
    groups = data.step(share.step.value)
    share.bind(model)
    batches = micro_batches(groups)
    gradient, sums = share.gradients[number], share.sums[number]
    gradient.zero_()
    sums.zero_()
    while (turn := share.take()) < len(batches):
        part = batches[turn]
        head, match = logit_parts(model, [pair for group in part for pair in group.pairs])
        # The head also learns to do without the match, or it would leave unrelated texts to the match alone.
        ways = [head] if match is None else [head + match, head + model.match.factor * MATCH_MEAN]
        sizes = [len(group.pairs) for group in part]
        lists = [list(zip(torch.split(way, sizes), part, strict=True)) for way in ways]
        loss = torch.stack([group.loss(x) for each in lists for x, group in each]).sum() / len(ways)
        (loss / len(groups)).backward()
        sums[0] += loss.item()
        sums[1] += sum(int(x.argmax() == group.target.argmax()) for x, group in lists[0])
        sums[2] += len(part)
        sums[3] += sum(group.tokens for group in part)
        at = 0
        for _, p in trained(model):
            if p.grad is not None:
                gradient[at : at + p.numel()] += p.grad.view(-1).float().cpu()
                p.grad = None
            at += p.numel()


def run_helper(number: int, share: Share, make: Callable[[], tuple[Any, Data]]) -> None:
    """The main function of a further process: run steps until there are no more."""
    threading.Thread(target=_end_with, args=(mp.parent_process(),), daemon=True).start()
    torch.set_num_threads(1)
    model, data = make()
    share.bind(model)
    while True:
        share.gate.wait()
        if share.step.value < 0:
            return
        run_step(model, data, share, number)
        share.gate.wait()


def _end_with(parent: Any) -> None:
    """End this process when its parent was killed, which leaves it waiting for the next step."""
    parent.join()
    os._exit(1)


@dataclass(frozen=True)
class Maker:
    """Makes the model and the data of a process."""

    start: Path
    work: Path
    size: int
    seed: int
    freeze: int
    device: str
    match: int | None

    def __call__(self) -> tuple[Any, Data]:
        data = Data(self.work, self.start, self.size, self.seed)
        return load(*read_start(self.start, self.match), self.freeze, self.device), data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--start", type=Path, help="folder of the starting model (default: that of step 1)")
    parser.add_argument("--out", type=Path, help="output folder (default: model in --work)")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="maximum wall-clock time")
    parser.add_argument(
        "--decay", type=float, default=0.7, help="share of the run over which the learning rate falls"
    )
    parser.add_argument("--groups", type=int, default=24, help="groups per step")
    parser.add_argument("--lr", type=float, default=7e-5)
    parser.add_argument("--freeze", type=int, default=0, help="number of lowest layers to freeze")
    parser.add_argument(
        "--match", type=int, help="add a match of tokens after this layer, if the starting model has none"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--processes", type=int, default=1, help="number of single-threaded processes; 1 for a GPU"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    start = arguments.start or arguments.work / "start" / "model"
    out = arguments.out or arguments.work / "model"
    out.mkdir(parents=True, exist_ok=True)
    state_path = out / "state.pt"

    make = Maker(
        start,
        arguments.work,
        arguments.groups,
        arguments.seed,
        arguments.freeze,
        arguments.device,
        arguments.match,
    )
    model, data = make()
    config, first = read_start(start, arguments.match)
    share = Share(model, arguments.processes)
    share.bind(model)
    masters = {name: first[name].clone() for name, _ in trained(model)}
    decayed = [m for m in masters.values() if m.ndim == 2]
    plain = [m for m in masters.values() if m.ndim != 2]
    parts = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [part for part in parts if part["params"]], lr=arguments.lr, betas=(0.9, 0.98)
    )
    step, started = 0, time.time()
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        step, started = state["step"], state["started"]
        optimizer.load_state_dict(state["optimizer"])
        for name, master in masters.items():
            master.copy_(state["masters"][name])
            share.weights[name].copy_(master)
        print(f"resumed at step {step}", flush=True)
    helpers = [
        mp.get_context("spawn").Process(target=run_helper, args=(number, share, make), daemon=True)
        for number in range(1, arguments.processes)
    ]
    for helper in helpers:
        helper.start()

    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((start / name).read_bytes())

    def save() -> None:
        state = {"step": step, "started": started, "optimizer": optimizer.state_dict()}
        torch.save(state | {"masters": masters}, state_path.with_suffix(".tmp"))
        state_path.with_suffix(".tmp").replace(state_path)
        save_file(first | masters, out / "model.tmp", {"format": "pt"})
        (out / "model.tmp").replace(out / "model.safetensors")

    def progress() -> float:
        """How much of the run is done, 0 to 1."""
        minutes: float = (time.time() - started) / 60
        return float(max(step / arguments.steps, minutes / arguments.minutes))

    began = saved_at = time.monotonic()
    sums = torch.zeros(4, dtype=torch.float64)
    while progress() < 1:
        share.step.value, share.turn.value = step, 0
        share.gate.wait()
        run_step(model, data, share, 0)
        share.gate.wait()
        gradient = torch.stack(share.gradients).sum(0)
        at = 0
        for master in masters.values():
            master.grad = gradient[at : at + master.numel()].view_as(master)
            at += master.numel()
        torch.nn.utils.clip_grad_norm_(masters.values(), 1.0)
        rate = learning_rate(step, progress(), arguments.decay, arguments.lr)
        for param_group in optimizer.param_groups:
            param_group["lr"] = rate
        optimizer.step()
        for name, master in masters.items():
            share.weights[name].copy_(master)
        step += 1
        sums += share.sums.sum(0)
        if step % 10 == 0:
            seconds = time.monotonic() - began
            loss, right, groups, tokens = sums.tolist()
            row = {"step": step, "loss": round(loss / groups, 4), "top1": round(right / groups, 4)}
            row |= {"lr": round(rate, 7), "tokens_per_s": round(tokens / seconds)}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            began, sums = time.monotonic(), sums * 0
        if time.monotonic() - saved_at > SAVE_EVERY:
            save()
            saved_at = time.monotonic()
    share.step.value = -1
    share.gate.wait()
    for helper in helpers:
        helper.join()
    save()
    print(f"{out}: trained {step} steps")


if __name__ == "__main__":
    main()
