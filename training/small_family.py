"""Train a small model of another family in minutes, for what precisions cost on weights that are not random.

    python -m training.small_family modernbert --data ../shared/data --out build/training/small-modernbert
    python -m training.small_family held-out --data ../shared/data --out build/training/small-held-out.jsonl
    crossrank verify --model build/training/small-modernbert --pairs build/training/small-held-out.jsonl

It learns the order in which crossrank-mini ranks passages for questions of public data sets, and after each
of its layers the states that crossrank-mini has after twice as many: the order alone says too little for
layers that start at random. It starts with every second layer of crossrank-mini, as far as the shapes are the
same. The pieces and their embeddings are crossrank-mini's, and stay so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from benchmarks.contest.machine import processor
from benchmarks.contest.workloads import medquad, squad
from crossrank.engines._plain import PlainModel
from crossrank.loading import load_model
from crossrank.models.architecture import Source
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.families import describe
from crossrank.models.resolve import resolve
from crossrank.packing import build_pack
from crossrank.pairs import EncodedPair, PairEncoder
from crossrank.text.keywords import KeywordIndex

Array = npt.NDArray[np.float32]

FILES = (
    "xquad/xquad.*.json",
    "cmrc2018/dev.json",
    "drcd/*.json",
    "jsquad/*.json",
)
SIMILAR, OTHERS = 5, 2
"""Passages beside the right one: the likest by keywords, and any."""
QUESTIONS = 4
"""Of a step."""
HELD_OUT, CANDIDATES = 60, 10
"""Held-out questions of each collection, and passages of each question."""
REPORT = 25
"""Steps between two lines of progress."""
STEP, LONGEST = 16, 64
"""Pairs are cut to a multiple of STEP tokens, since few lengths are fast."""
SIZE = {"vocab_size": 140_000, "hidden_size": 384, "num_attention_heads": 12, "pad_token_id": 1}
CONFIGS: Mapping[str, dict[str, Any]] = {
    "modernbert": SIZE
    | {
        "architectures": ["ModernBertForSequenceClassification"],
        "num_hidden_layers": 6,
        "intermediate_size": 768,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "classifier_pooling": "mean",
        "max_position_embeddings": 8192,
    },
    "new": SIZE
    | {
        "architectures": ["NewForSequenceClassification"],
        "num_hidden_layers": 6,
        "intermediate_size": 1152,
        "hidden_act": "gelu",
        "max_position_embeddings": 8192,
        "rope_scaling": {"factor": 8.0, "type": "ntk"},
        "rope_theta": 20000,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-12,
    },
    "distilbert": {
        "architectures": ["DistilBertForSequenceClassification"],
        "vocab_size": SIZE["vocab_size"],
        "dim": 384,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 1536,
        "max_position_embeddings": 512,
        "activation": "gelu",
        "pad_token_id": 1,
    },
}


def groups(data: Path, dice: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Questions, each with passages among which is the right one; endlessly."""
    collections = []
    for pattern in FILES:
        for path in sorted(data.glob(pattern)):
            pairs = list(squad(path))
            passages = list(dict.fromkeys(passage for _, passage in pairs))
            collections.append((pairs, passages, KeywordIndex(passages)))
    while True:
        pairs, passages, index = dice.choice(collections)
        question, right = dice.choice(pairs)
        scores = index.scores(question)
        likest = sorted(range(len(passages)), key=lambda i: -scores[i])[: SIMILAR + 1]
        others = [passages[i] for i in likest if passages[i] != right][:SIMILAR]
        found = [right, *others, *dice.sample(passages, OTHERS)]
        dice.shuffle(found)
        yield question, found


def write_held_out(data: Path, out: Path) -> None:
    """Questions of collections that it does not learn from, with passages that keywords find: JSON Lines."""
    dice = random.Random(0)
    with out.open("w", encoding="utf-8") as file:
        for pairs in (
            list(medquad(data / "medquad" / "medquad.jsonl.gz")),
            list(squad(data / "cmrc2018" / "trial.json")),
        ):
            some = dice.sample(pairs, min(400, len(pairs)))
            passages = list(dict.fromkeys(passage for _, passage in some))
            index = KeywordIndex(passages)
            for question, right in some[:HELD_OUT]:
                scores = index.scores(question)
                best = sorted(range(len(passages)), key=lambda i: (passages[i] != right, -scores[i]))
                for i in best[:CANDIDATES]:
                    row = {"query": question, "document": passages[i], "label": int(passages[i] == right)}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def cut(pair: EncodedPair) -> EncodedPair:
    """A pair with its end, of a few lengths."""
    length = min(LONGEST, max(STEP, len(pair.token_ids) // STEP * STEP))
    if len(pair.token_ids) <= length:
        return pair
    keep = [*range(length - 1), len(pair.token_ids) - 1]
    segments = None if pair.segment_ids is None else pair.segment_ids[keep]
    return EncodedPair(pair.token_ids[keep], segments, truncated=True)


def start(config: dict[str, Any], given: Mapping[str, Array]) -> tuple[PlainModel, Mapping[str, Source]]:
    """A model with random weights, and of every second layer of another what has the same shape."""
    architecture, sources = describe(config, "config.json", [], labels=1)
    rng = np.random.default_rng(0)
    tensors: dict[str, Array] = {}
    for name, shape in architecture.shapes():
        if name not in sources:
            continue
        twice = re.sub(r"layer\.(\d+)", lambda found: f"layer.{2 * int(found[1])}", name)
        if twice in given and given[twice].shape == shape and not name.startswith("head."):
            tensors[name] = given[twice]
        elif len(shape) == 1:
            tensors[name] = (np.zeros if name.endswith("bias") else np.ones)(shape, np.float32)
            if architecture.norm_first:
                # The norm before a part scales its input as that after the teacher's part before it does.
                tensors[name] = given.get(_norm_before(name), tensors[name])
        else:
            scale = 0.02 if name.startswith("embedding.p") else 1 / np.sqrt(shape[-1])
            tensors[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    model = PlainModel(architecture, tensors, "cpu", torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("words"))
    return model, sources


def _norm_before(name: str) -> str:
    """The norm of crossrank-mini whose output a norm of a model with norms first stands for."""
    found = re.fullmatch(r"layer\.(\d+)\.(attention|output)_norm\.weight", name)
    if found is None:
        return ""
    layer = 2 * int(found[1])
    return (
        f"layer.{layer - 1}.output_norm.weight"
        if found[2] == "attention"
        else f"layer.{layer}.attention_norm.weight"
    )


def canonical(model: PlainModel) -> dict[str, Array]:
    """The tensors by their canonical names: products that the module joins are apart again."""
    tables = ("words", "positions", "segments")
    found: dict[str, Array] = {}
    for name, parameter in model.state_dict().items():
        stem, _, end = name.rpartition(".")
        at, _, part = stem.rpartition(".")
        value = parameter.numpy()
        if part == "qkv":
            names = ["query", "key", "value"]
        elif part == "widened":
            names = ["gate", "intermediate"] if model.architecture.gated else ["intermediate"]
        else:
            stem = f"embedding.{stem}" if stem in tables else stem
            stem = {"embedding_norm": "embedding.norm", "projection": "embedding.projection"}.get(stem, stem)
            found[f"{stem}.{end}"] = value
            continue
        for one, rows in zip(names, np.split(value, len(names)), strict=True):
            found[f"{at}.{one}.{end}"] = rows
    return found


def write(model: PlainModel, sources: Mapping[str, Source], config: dict[str, Any], folder: Path) -> None:
    """A checkpoint as transformers writes it, with the tokenizer of crossrank-mini."""
    tensors = canonical(model)
    parts: dict[str, dict[int, Array]] = {}
    for name, source in sources.items():
        parts.setdefault(source.name, {})[source.part] = tensors[name]
    stored = {name: np.concatenate([rows[i] for i in sorted(rows)]) for name, rows in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(resolve("crossrank-mini") / name, folder / name)


class States:
    """What layers of a model gave when it last ran: (tokens, hidden) each.

    Args:
        model: whose they are.
        layers: their numbers.
        plain: without the gain and the shift of the norm that ends a layer.
    """

    def __init__(self, model: PlainModel, layers: Iterable[int], *, plain: bool = False) -> None:
        self.last: dict[int, torch.Tensor] = {}
        self._plain = plain
        for number in layers:
            model.layer[number].register_forward_hook(partial(self._keep, number))

    def _keep(self, number: int, layer: Any, _: object, states: torch.Tensor) -> None:
        states = states.float()
        if self._plain:
            norm = layer.output_norm
            states = (states - norm.bias) / norm.weight
        self.last[number] = states


def lead(model: PlainModel, taught: States) -> list[RemovableHandle]:
    """Give each layer but the first the teacher's states in place of those of the layer before it.

    Then every layer learns by itself, from the first step on, whatever the others have learnt so far. Where
    norms come first, states may grow from layer to layer: the teacher's get the size of the model's own.
    """

    def replace(number: int, _layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        states = taught.last[2 * number - 1]
        if model.architecture.norm_first:
            states = states * given[0].detach().std()
        return (states, *given[1:])

    return [
        model.layer[number].register_forward_pre_hook(partial(replace, number))
        for number in range(1, len(model.layer))
    ]


def distance(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean squared difference, each dimension as a share of its own variance."""
    return ((states - wanted).square().mean(0) / wanted.var(0)).mean()


def train(model: PlainModel, mini: Checkpoint, encoder: PairEncoder, settings: argparse.Namespace) -> None:
    """Learn the order of crossrank-mini and its states, step by step."""
    stream = groups(settings.data, random.Random(0))
    teacher = PlainModel(
        mini.description.architecture, mini.description.pick(mini.tensors()), "cpu", torch.float32
    )
    # The last layer of either computes only what its head reads.
    layers = range(len(model.layer) - 1)
    learnt = States(model, layers)
    norm_first = model.architecture.norm_first
    taught = States(teacher, [2 * number + 1 for number in layers], plain=norm_first)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=0.01)
    warm = max(1, settings.steps // 10)
    # Elsewhere it is emulated, and slower than fp32.
    has_bf16 = any("bf16" in name.lower() for name in processor()[1])
    began, first = time.perf_counter(), 0.0
    led = lead(model, taught)
    for step in range(settings.steps):
        if step == int(settings.led * settings.steps):
            for handle in led:
                handle.remove()
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min(
                (step + 1) / warm, (settings.steps - step) / (settings.steps - warm)
            )
        texts = [(q, passage) for q, passages in itertools.islice(stream, QUESTIONS) for passage in passages]
        pairs = [cut(pair) for pair in encoder.encode([q for q, _ in texts], [text for _, text in texts])]
        # Pairs of one length run together.
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i].token_ids))
        back = torch.tensor(order).argsort()
        pack = build_pack([pairs[i] for i in order])
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16):
            with torch.no_grad():
                wanted = teacher(pack)[back].view(QUESTIONS, -1)
            logits = model(pack)[back].view(QUESTIONS, -1)
        own = {
            number: functional.layer_norm(states, states.shape[-1:]) if norm_first else states
            for number, states in learnt.last.items()
        }
        apart = torch.stack([distance(own[n], taught.last[2 * n + 1]) for n in layers]).sum()
        loss = functional.cross_entropy(logits, wanted.softmax(1)) + apart
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        first += float((logits.argmax(1) == wanted.argmax(1)).float().mean())
        if (step + 1) % REPORT == 0:
            spent = time.perf_counter() - began
            print(
                f"step {step + 1}: loss {loss.item():.3f}, of that states {apart.item():.3f}, "
                f"same first {first / REPORT:.2f}, {spent:.0f} s",
                flush=True,
            )
            first = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=[*CONFIGS, "held-out"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--led", type=float, default=0.6, help="share of steps with the teacher's states")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.what == "held-out":
        write_held_out(arguments.data, arguments.out)
        return
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = {"model_type": arguments.what, "id2label": {"0": "LABEL_0"}, **CONFIGS[arguments.what]}
    mini = Checkpoint(resolve("crossrank-mini"))
    model, sources = start(config, mini.description.pick(mini.tensors()))
    encoder = load_model("crossrank-mini", device="cpu", max_length=LONGEST).encoder
    train(model, mini, encoder, arguments)
    write(model, sources, config, arguments.out)
    print(f"{arguments.out} written")


if __name__ == "__main__":
    main()
