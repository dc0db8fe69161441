"""What a side of the contest is: something that scores batches of pairs.

This module and all that a worker imports run in the peers' environments, where CrossRank is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

THREADS = 2


@dataclass(frozen=True)
class Pair:
    """One pair as text and as the model reads it.

    Attributes:
        token_ids: int64 (T,), special tokens and the prompt included.
        segment_ids: int64 (T,).
        prefix: tokens before the document, the same for all documents of a query; 0: not a decoder's.
    """

    query: str
    document: str
    token_ids: npt.NDArray[np.int64]
    segment_ids: npt.NDArray[np.int64]
    prefix: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)


Batch = Sequence[Pair]


class Side:
    """One engine, used as its documentation advises.

    Args:
        checkpoint: an ordinary fp32 checkpoint.
        work: where conversions of this checkpoint are kept.
        threads: cores to use.
        max_length: tokens of a pair at most, for sides that tokenise by themselves.
    """

    environment: ClassVar[str] = "peers"
    """The virtual environment it runs in: .venv-<environment>."""
    converts: ClassVar[str] = ""
    """The folder in ``work`` that ``convert`` fills; "": nothing to convert."""
    needs: ClassVar[type[Side] | None] = None
    """The side whose conversion this one starts from."""

    flight: ClassVar[int] = 1
    """Batches that it works on at once."""

    def __init__(self, checkpoint: Path, work: Path, threads: int, max_length: int) -> None:
        self.checkpoint = checkpoint
        self.work = work
        self.threads = threads
        self.max_length = max_length
        self.config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())

    @property
    def folder(self) -> Path:
        """Where its conversion lies."""
        return self.work / self.converts

    def convert(self, calibration: Sequence[Pair]) -> None:
        """Make what ``load`` needs, once, into ``folder``; ``calibration``: pairs that no workload has."""

    def load(self) -> None:
        """Get ready to score."""
        raise NotImplementedError

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """One logit for each pair of a batch: float32 (B,)."""
        raise NotImplementedError

    def begin_many(self) -> None:
        """Single pairs are done, many batches come: for sides that run them another way."""

    def run(self, batches: Sequence[Batch]) -> list[npt.NDArray[np.float32]]:
        """The logits of several batches; sides that keep ``flight`` of them going override it."""
        return [self.logits(batch) for batch in batches]

    @property
    def decodes(self) -> bool:
        """Whether the model is a decoder, whose logit is that of "yes" minus that of "no"."""
        return str(self.config["architectures"][0]).endswith("ForCausalLM")

    def padded(self, batch: Batch) -> dict[str, npt.NDArray[np.int64]]:
        """A batch as rectangles. Any token may follow a decoder's pair: none sees what comes after it."""
        return padded(batch, self.config.get("pad_token_id", 0))

    def plan(self, pairs: Sequence[Pair], size: int) -> list[list[int]]:
        """Batches of at most ``size`` pairs of like length, longest first, as indices.

        A batch of a decoder's pairs is of one query, as in a request.
        """
        return [group[i : i + size] for group in by_prefix(pairs) for i in range(0, len(group), size)]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """What is tried for each workload; the fastest is used."""
        return (1, 4, 16, 64)


def by_prefix(pairs: Sequence[Pair]) -> list[list[int]]:
    """Pairs with the same prefix, longest first, as indices."""
    groups: dict[bytes, list[int]] = {}
    for i in sorted(range(len(pairs)), key=lambda i: -len(pairs[i])):
        groups.setdefault(pairs[i].token_ids[: pairs[i].prefix].tobytes(), []).append(i)
    return list(groups.values())


def one_logit(output: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """A logit of each pair, of one label or of two: (B, 1) or (B, 2)."""
    values = output.astype(np.float32)
    found: npt.NDArray[np.float32] = values[:, 1] - values[:, 0] if values.shape[1] == 2 else values[:, 0]
    return found


def padded(batch: Batch, padding: int) -> dict[str, npt.NDArray[np.int64]]:
    """A batch as rectangles of its longest pair: input_ids, attention_mask, token_type_ids, int64 (B, T)."""
    shape = (len(batch), max(len(pair) for pair in batch))
    ids = np.full(shape, padding, np.int64)
    mask, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, pair in enumerate(batch):
        ids[row, : len(pair)] = pair.token_ids
        mask[row, : len(pair)] = 1
        segments[row, : len(pair)] = pair.segment_ids
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name only when it is whole."""
    import shutil

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
