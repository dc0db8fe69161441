"""ONNX Runtime: int8 by dynamic quantisation, Optimum's settings for AVX-512 VNNI."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.contest import yes_no
from benchmarks.contest.base import Batch, Pair, Side, one_logit, replaced


class OnnxRuntimeInt8(Side):
    environment = "peers-optimum"
    converts = "onnx-int8"

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig

        with replaced(self.work / "onnx-fp32") as partial:
            if self.decodes:
                _export_decoder(self.checkpoint, partial)
            else:
                model = ORTModelForSequenceClassification.from_pretrained(self.checkpoint, export=True)
                model.save_pretrained(partial)
                del model
        quantizer = ORTQuantizer.from_pretrained(self.work / "onnx-fp32", file_name="model.onnx")
        with replaced(self.folder) as partial:
            quantizer.quantize(
                quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False),
                save_dir=partial,
            )
        shutil.rmtree(self.work / "onnx-fp32")

    def load(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        self.session = onnxruntime.InferenceSession(
            self.folder / "model_quantized.onnx", options, providers=["CPUExecutionProvider"]
        )
        self.names = {value.name for value in self.session.get_inputs()}

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        inputs = {name: value for name, value in self.padded(batch).items() if name in self.names}
        return one_logit(self.session.run(None, inputs)[0])


def _export_decoder(checkpoint: Path, folder: Path) -> None:
    import torch

    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        yes_no.load(checkpoint, "float32", traced=True),
        (torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long)),
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names},
        dynamo=False,
    )
    shutil.copyfile(checkpoint / "config.json", folder / "config.json")
