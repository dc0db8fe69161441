"""The script that people start from: transformers on PyTorch."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.contest import yes_no
from benchmarks.contest.base import Batch, Side, one_logit, padded


class TransformersFp32(Side):
    dtype: ClassVar[str] = "float32"

    def load(self) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(self.threads)
        if self.decodes:
            self.model = yes_no.load(self.checkpoint, self.dtype)
            return
        model = AutoModelForSequenceClassification.from_pretrained(
            self.checkpoint, dtype=getattr(torch, self.dtype)
        )
        self.model = model.eval()

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        import torch

        arrays = self.padded(batch)
        if self.config.get("type_vocab_size", 1) == 1:
            del arrays["token_type_ids"]
        with torch.inference_mode():
            output = self.model(**{name: torch.from_numpy(value) for name, value in arrays.items()})
            return one_logit((output if self.decodes else output.logits).float().numpy())


class TransformersBf16(TransformersFp32):
    dtype = "bfloat16"


class TransformersBf16Shared(TransformersBf16):
    """A query's keys and values are computed once, and each batch of its documents gets a copy."""

    prefix: bytes = b""

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        import copy

        import torch

        tails = [
            type(pair)("", "", pair.token_ids[pair.prefix :], pair.segment_ids[pair.prefix :])
            for pair in batch
        ]
        prefix = batch[0].token_ids[: batch[0].prefix]
        with torch.inference_mode():
            if prefix.tobytes() != self.prefix:
                self.cache = self.model.body(torch.from_numpy(prefix)[None], use_cache=True).past_key_values
                self.prefix = prefix.tobytes()
            cache = copy.deepcopy(self.cache)
            cache.batch_repeat_interleave(len(batch))
            arrays = {name: torch.from_numpy(value) for name, value in padded(tails, 0).items()}
            hidden = self.model.body(
                arrays["input_ids"], past_key_values=cache, use_cache=True
            ).last_hidden_state
            return one_logit(self.model.head(hidden, arrays["attention_mask"]).float().numpy())
