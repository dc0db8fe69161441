"""fastembed and its relative fastretrieval: ONNX Runtime without PyTorch, from text.

Both fetch models from the hub; here they read the folder that "ONNX Runtime int8 dynamic" made, which is
quantised as the files that they fetch are.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Pair, Side, replaced
from benchmarks.contest.onnx_sides import OnnxRuntimeInt8
from benchmarks.contest.tokenizers import QWEN_INSTRUCTION

NAME = "contest/model"
FILE = "model_quantized.onnx"


class FastembedInt8(Side):
    environment = "peers-fastembed"
    converts = "fastembed-int8"

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        made = sorted((self.work / OnnxRuntimeInt8.converts).glob("*.onnx*"))
        if not made:
            raise RuntimeError("there is no ONNX file of this model: ONNX Runtime int8 dynamic makes it")
        with replaced(self.folder) as partial:
            for file in made:
                (partial / file.name).hardlink_to(file)
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(self.checkpoint / name, partial / name)
            (partial / "special_tokens_map.json").write_text("{}")

    def load(self) -> None:
        from fastembed.common.model_description import ModelSource
        from fastembed.rerank.cross_encoder import TextCrossEncoder

        TextCrossEncoder.add_custom_model(NAME, ModelSource(hf=NAME), FILE)
        self.model: Any = TextCrossEncoder(
            NAME, threads=self.threads, cuda=False, specific_model_path=str(self.folder)
        )

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        self.model.model.tokenizer.enable_truncation(self.max_length)
        pairs = [(pair.query, pair.document) for pair in batch]
        return np.array(list(self.model.rerank_pairs(pairs, batch_size=len(batch))), np.float32)


class FastretrievalInt8(FastembedInt8):
    """Its code for Qwen3-Reranker runs one pair at a time, and returns probabilities."""

    def load(self) -> None:
        from fastretrieval import TextCrossEncoder
        from fastretrieval.common.model_description import BaseModelDescription, ModelSource
        from fastretrieval.rerank.cross_encoder import qwen3_cross_encoder

        description = BaseModelDescription(NAME, ModelSource(hf=NAME), FILE)
        if self.decodes:
            qwen3_cross_encoder.supported_qwen3_reranker_models.append(description)
        else:
            TextCrossEncoder.add_custom_model(description)
        self.model = TextCrossEncoder(
            NAME, threads=self.threads, cuda=False, specific_model_path=str(self.folder)
        )

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        if not self.decodes:
            return super().logits(batch)
        pairs = [(pair.query, pair.document) for pair in batch]
        found = self.model.rerank_pairs(pairs, batch_size=len(batch), instruction=QWEN_INSTRUCTION)
        chances = np.array(list(found), np.float64)
        with np.errstate(divide="ignore"):
            return (np.log(chances) - np.log1p(-chances)).astype(np.float32)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        return (1,) if self.decodes else super().batch_sizes
