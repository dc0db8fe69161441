"""sentence-transformers' CrossEncoder, from text, with its three backends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.contest.base import Batch, Pair, Side, replaced


class CrossEncoderTorch(Side):
    backend: ClassVar[str] = "torch"
    model_kwargs: ClassVar[dict[str, Any]] = {}

    def load(self) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(self.threads)
        self.model = CrossEncoder(
            str(self.folder if self.converts else self.checkpoint),
            device="cpu",
            max_length=self.max_length,
            backend=self.backend,
            model_kwargs=dict(self.model_kwargs),
        )
        self.activation = torch.nn.Identity()

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        self.model.max_length = self.max_length
        found: npt.NDArray[np.float32] = self.model.predict(
            [(pair.query, pair.document) for pair in batch],
            batch_size=len(batch),
            activation_fn=self.activation,
            show_progress_bar=False,
        )
        return found


class CrossEncoderOnnx(CrossEncoderTorch):
    environment = "peers-optimum"
    converts = "sentence-transformers-onnx"
    backend = "onnx"
    model_kwargs: ClassVar[dict[str, Any]] = {"file_name": "onnx/model_qint8_avx512_vnni.onnx"}

    def load(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self.model_kwargs = {**type(self).model_kwargs, "session_options": options}  # type: ignore[misc]
        super().load()

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        from sentence_transformers import CrossEncoder
        from sentence_transformers.backend import export_dynamic_quantized_onnx_model

        model = CrossEncoder(str(self.checkpoint), device="cpu", backend="onnx")
        with replaced(self.folder) as partial:
            model.config.save_pretrained(partial)
            model.tokenizer.save_pretrained(partial)
            export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(partial))


class CrossEncoderOpenVino(CrossEncoderTorch):
    environment = "peers-optimum"
    converts = "sentence-transformers-openvino"
    backend = "openvino"
    model_kwargs: ClassVar[dict[str, Any]] = {"file_name": "openvino/openvino_model_qint8_quantized.xml"}

    def load(self) -> None:
        options = self.folder / "openvino-options.json"
        options.write_text(json.dumps({"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY"}))
        self.model_kwargs = {**type(self).model_kwargs, "ov_config": str(options)}  # type: ignore[misc]
        super().load()

    def convert(self, calibration: Sequence[Pair]) -> None:
        from optimum.intel import OVQuantizationConfig
        from sentence_transformers import CrossEncoder
        from sentence_transformers.backend import export_static_quantized_openvino_model

        model = CrossEncoder(str(self.checkpoint), device="cpu", backend="openvino")
        with replaced(self.folder) as partial:
            texts = partial / "calibration"
            texts.mkdir()
            rows = [json.dumps({"text": f"{pair.query} {pair.document}"}) for pair in calibration]
            (texts / "train.jsonl").write_text("\n".join(rows) + "\n")
            model.config.save_pretrained(partial)
            model.tokenizer.save_pretrained(partial)
            export_static_quantized_openvino_model(
                model,
                OVQuantizationConfig(num_samples=len(calibration)),
                str(partial),
                dataset_name=str(texts),
                dataset_config_name="default",
                dataset_split="train",
                column_name="text",
            )
