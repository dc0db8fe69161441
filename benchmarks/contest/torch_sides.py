"""The script that people start from: transformers on PyTorch."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Side, padded


class TransformersFp32(Side):
    dtype: ClassVar[str] = "float32"

    def load(self) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(self.threads)
        model = AutoModelForSequenceClassification.from_pretrained(
            self.checkpoint, dtype=getattr(torch, self.dtype)
        )
        self.model = model.eval()

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        import torch

        arrays = padded(batch, self.config["pad_token_id"])
        if self.config["type_vocab_size"] == 1:
            del arrays["token_type_ids"]
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(value) for name, value in arrays.items()}
            found: npt.NDArray[np.float32] = self.model(**inputs).logits[:, 0].float().numpy()
        return found


class TransformersBf16(TransformersFp32):
    dtype = "bfloat16"
