"""CTranslate2: its encoder in int8, and the head, which it has not, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Pair, Side, replaced


class CTranslate2Int8(Side):
    # Its converter reads configurations as older releases of transformers wrote them.
    environment = "peers-optimum"
    converts = "ctranslate2-int8"

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        from ctranslate2.converters import TransformersConverter

        with replaced(self.folder) as partial:
            TransformersConverter(str(self.checkpoint)).convert(
                str(partial / "model"), quantization="int8", force=True
            )

    def load(self) -> None:
        import ctranslate2
        from safetensors import safe_open

        self.encoder = ctranslate2.Encoder(
            str(self.folder / "model"), compute_type="int8", inter_threads=1, intra_threads=self.threads
        )
        # A BERT encoder has its pooler; RoBERTa's stands in the classification head.
        self.pooled = self.config["model_type"] == "bert"
        last = "classifier" if self.pooled else "classifier.out_proj"
        with safe_open(self.checkpoint / "model.safetensors", "numpy") as file:
            self.weight, self.bias = file.get_tensor(f"{last}.weight"), file.get_tensor(f"{last}.bias")
            if not self.pooled:
                self.dense = file.get_tensor("classifier.dense.weight").T.copy()
                self.dense_bias = file.get_tensor("classifier.dense.bias")

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        two_kinds = self.config["type_vocab_size"] > 1
        output = self.encoder.forward_batch(
            [pair.token_ids.tolist() for pair in batch],
            token_type_ids=[pair.segment_ids.tolist() for pair in batch] if two_kinds else None,
        )
        if self.pooled:
            pooled = np.asarray(output.pooler_output)
        else:
            first = np.asarray(output.last_hidden_state)[:, 0]
            pooled = np.tanh(first @ self.dense + self.dense_bias)
        found: npt.NDArray[np.float32] = (pooled @ self.weight.T + self.bias)[:, 0]
        return found
