"""Step 3: fine-tune the start as a cross-encoder.

Listwise cross-entropy over one positive and its negatives. Weights and activations in bf16 with
fp32 master copies, the head in fp32 (bf16 logits tie), embeddings frozen, no dropout. The
learning rate warms up, stays, and falls to zero over the last ``--decay`` steps, so a run can be
shortened or lengthened (``--steps``) until its decay begins. The state is saved every 50 steps
and the same command resumes; the order of the data depends on the seed only.

    python training/train.py --work build/training --steps 1000
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import jsonl
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

MAX_TOKENS = 128
QUERY_TOKENS = 48


class PairEncoder:
    """Token ids of `<s> query </s></s> document </s>`, cut to MAX_TOKENS."""

    def __init__(self, path: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(path))

    def __call__(self, query: str, documents: list[str]) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch([query, *documents], add_special_tokens=False)
        head = [0, *encodings[0].ids[:QUERY_TOKENS], 2, 2]
        room = MAX_TOKENS - len(head) - 1
        return [[*head, *encoding.ids[:room], 2] for encoding in encodings[1:]]


def forward(model: Any, pairs: list[list[int]], size: int) -> torch.Tensor:
    """Logits of pairs, float32 (pairs,): sorted by length, ``size`` pairs at a time."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]))
    logits: list[torch.Tensor] = []
    for at in range(0, len(order), size):
        batch = [pairs[i] for i in order[at : at + size]]
        longest = max(map(len, batch))
        ids = torch.tensor([p + [1] * (longest - len(p)) for p in batch])
        mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in batch])
        hidden = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0].float()
        pooled = torch.tanh(model.bert.pooler.dense(hidden))
        logits.append(model.classifier(pooled)[:, 0])
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(logits)[back]


def learning_rate(step: int, steps: int, decay: int, peak: float) -> float:
    warm = min(1.0, (step + 1) / 50)
    fall = min(1.0, max(0, steps - step) / decay)
    return peak * warm * fall


def load(folder: Path) -> Any:
    """The model as it is trained: encoder in bf16 with a pooler and classifier in fp32."""
    config = AutoConfig.from_pretrained(folder)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, dtype=torch.bfloat16, attn_implementation="eager"
    )
    pooler = model.bert.pooler
    pooler.forward = lambda _: None  # applied by forward() above, in fp32
    pooler.dense.float()
    model.classifier.float()
    model.bert.embeddings.requires_grad_(False)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/training"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--decay", type=int, default=250)
    parser.add_argument("--groups", type=int, default=24, help="questions a step")
    parser.add_argument("--micro", type=int, default=24, help="pairs a forward pass")
    parser.add_argument("--lr", type=float, default=8e-5)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    start, out = arguments.work / "start" / "model", arguments.work / "model"
    out.mkdir(parents=True, exist_ok=True)
    state_path = out / "state.pt"

    torch.manual_seed(arguments.seed)
    model = load(start).train()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    masters = [p.detach().float().clone().requires_grad_() for _, p in named]
    decayed = [m for (_, p), m in zip(named, masters, strict=True) if p.ndim == 2]
    plain = [m for (_, p), m in zip(named, masters, strict=True) if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=arguments.lr,
        betas=(0.9, 0.98),
    )
    step = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        step = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for master, saved, (_, p) in zip(masters, state["masters"], named, strict=True):
                master.copy_(saved)
                p.copy_(saved)
        print(f"resumed at step {step}", flush=True)

    encode = PairEncoder(start / "tokenizer.json")
    groups = jsonl.read(arguments.work / "data" / "train.jsonl")
    log = (out / "log.jsonl").open("a")
    began, losses, right, tokens = time.monotonic(), [], [], 0

    def save() -> None:
        state = {"step": step, "optimizer": optimizer.state_dict(), "masters": [m.detach() for m in masters]}
        torch.save(state, state_path.with_suffix(".tmp"))
        state_path.with_suffix(".tmp").replace(state_path)

    while step < arguments.steps:
        # Epoch e is a shuffle seeded with (seed, e): resuming continues in the same order.
        epoch, at = divmod(step * arguments.groups, len(groups))
        order = list(range(len(groups)))
        random.Random(arguments.seed * 1000 + epoch).shuffle(order)
        chosen = [groups[i] for i in order[at : at + arguments.groups]]
        pairs: list[list[int]] = []
        sizes: list[int] = []
        for group in chosen:
            encoded = encode(group["query"], [group["positive"], *group["negatives"]])
            pairs += encoded
            sizes.append(len(encoded))
        logits = forward(model, pairs, arguments.micro)
        # The positive is first in each group.
        parts = torch.split(logits, sizes)
        loss = torch.stack([-torch.log_softmax(part, 0)[0] for part in parts]).mean()
        loss.backward()
        for (_, p), master in zip(named, masters, strict=True):
            master.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        rate = learning_rate(step, arguments.steps, arguments.decay, arguments.lr)
        for param_group in optimizer.param_groups:
            param_group["lr"] = rate
        optimizer.step()
        with torch.no_grad():
            for (_, p), master in zip(named, masters, strict=True):
                p.copy_(master)
        step += 1
        losses.append(loss.item())
        right += [int(part.argmax() == 0) for part in parts]
        tokens += sum(map(len, pairs))
        if step % 10 == 0:
            seconds = time.monotonic() - began
            row = {"step": step, "loss": round(sum(losses) / len(losses), 4)}
            row |= {"top1": round(sum(right) / len(right), 4), "lr": round(rate, 7)}
            row |= {"tokens_per_s": round(tokens / seconds)}
            print(json.dumps(row), file=log, flush=True)
            began, losses, right, tokens = time.monotonic(), [], [], 0
        if step % 50 == 0:
            save()
    save()

    trained = AutoModelForSequenceClassification.from_pretrained(start)
    weights = trained.state_dict()
    weights |= {name: master.detach() for (name, _), master in zip(named, masters, strict=True)}
    trained.load_state_dict(weights)
    trained.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((start / name).read_bytes())
    print(f"{out}: trained {step} steps")


if __name__ == "__main__":
    main()
