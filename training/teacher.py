"""The starting bi-encoder, which is the teacher for the training groups and a baseline in the evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from training import jsonl

MAX_LENGTH = 160
"""Maximum tokens of a text for the teacher."""

BATCH_TOKENS = 4096

Vectors = npt.NDArray[np.float32]


class BiEncoder:
    """Embed texts as unit vectors, by mean pooling; e5 expects texts with its prefixes."""

    def __init__(
        self, folder: Path, dtype: torch.dtype = torch.float32, max_length: int = MAX_LENGTH
    ) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.no_padding()
        self._model: Any = AutoModel.from_pretrained(folder, dtype=dtype).eval()

    def embed(self, texts: list[str]) -> Vectors:
        """Embed texts that have their prefixes already: float32 (texts, hidden)."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors: Vectors = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        at = 0
        while at < len(order):
            end = at + 1
            while end < len(order) and len(ids[order[end]]) * (end + 1 - at) <= BATCH_TOKENS:
                end += 1
            part = order[at:end]
            vectors[part] = self._forward([ids[i] for i in part])
            at = end
        return vectors

    def _forward(self, batch: list[list[int]]) -> Vectors:
        longest = max(map(len, batch))
        ids = torch.tensor([b + [1] * (longest - len(b)) for b in batch])
        mask = torch.tensor([[1] * len(b) + [0] * (longest - len(b)) for b in batch])
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        unit: Vectors = torch.nn.functional.normalize(mean, dim=1).numpy()
        return unit


_worker: BiEncoder


def _start(folder: Path) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = BiEncoder(folder, torch.bfloat16)


def _embed(texts: list[str]) -> Vectors:
    return _worker.embed(texts)


class Library:
    """Vectors of many texts, computed by several single-threaded processes and kept in a file."""

    def __init__(self, folder: Path, file: Path, workers: int) -> None:
        self._file = file
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (folder,))
        self._place: dict[str, int] = {}
        self._vectors: Vectors = np.zeros((0, 0), np.float32)
        if file.exists():
            self._vectors = np.load(file).astype(np.float32)
            self._place = {text: i for i, text in enumerate(jsonl.read(file.with_suffix(".jsonl")))}

    def add(self, texts: Iterable[str]) -> None:
        """Embed the texts (with prefixes) that have no vector yet."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._place]
        if not missing:
            return
        found = list(self._pool.map(_embed, [missing[at : at + 128] for at in range(0, len(missing), 128)]))
        self._place |= {text: len(self._place) + i for i, text in enumerate(missing)}
        self._vectors = np.concatenate([self._vectors, *found] if len(self._vectors) else found)

    def save(self) -> None:
        """Save all vectors for the next run."""
        jsonl.write(self._file.with_suffix(".jsonl"), self._place)
        np.save(self._file, self._vectors.astype(np.float16))

    def vectors(self, prefix: str, texts: list[str]) -> Vectors:
        """The vectors of texts that were added: float32 (texts, hidden)."""
        return self._vectors[[self._place[f"{prefix}: {text}"] for text in texts]]
