"""ONNX Runtime: int8 by dynamic quantisation, Optimum's settings for AVX-512 VNNI."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.contest import exports
from benchmarks.contest.base import Batch, Pair, Side, one_logit, replaced


class OnnxRuntimeInt8(Side):
    environment = "peers-optimum"
    converts = "onnx-int8"

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
        from optimum.onnxruntime.configuration import AutoQuantizationConfig

        with replaced(self.work / "onnx-fp32") as partial:
            if plain := exports.module(self):
                exports.to_onnx(plain, partial / "model.onnx")
                shutil.copyfile(self.checkpoint / "config.json", partial / "config.json")
            else:
                model = ORTModelForSequenceClassification.from_pretrained(self.checkpoint, export=True)
                model.save_pretrained(partial)
                del model
        del plain
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
