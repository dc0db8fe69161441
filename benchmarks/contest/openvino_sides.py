"""OpenVINO: bf16, int8 weights with dynamic quantisation, static int8 by NNCF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from benchmarks.contest import exports
from benchmarks.contest.base import Batch, Pair, Side, one_logit, replaced


class OpenVinoBf16(Side):
    environment = "peers-optimum"
    converts = "openvino-fp32"
    options: ClassVar[dict[str, Any]] = {"INFERENCE_PRECISION_HINT": "bf16"}

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        if plain := exports.module(self):
            import openvino

            with replaced(self.folder) as partial:
                path = partial / "openvino_model.xml"
                openvino.save_model(exports.to_openvino(plain), path, compress_to_fp16=False)
            return
        from optimum.intel import OVModelForSequenceClassification

        model = OVModelForSequenceClassification.from_pretrained(
            self.checkpoint, export=True, compile=False, load_in_8bit=False
        )
        with replaced(self.folder) as partial:
            model.save_pretrained(partial)

    flight = 2

    def load(self) -> None:
        self._compile("LATENCY")

    def begin_many(self) -> None:
        import openvino

        # With a decoder, the other hint makes OpenVINO die of a division by zero.
        if not self.decodes:
            del self.model  # two of them would take twice the memory
            self._compile("THROUGHPUT")
        self.queue = openvino.AsyncInferQueue(self.model)
        self.queue.set_callback(self._keep)

    def _compile(self, hint: str) -> None:
        import openvino

        options = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": hint} | self.options
        self.model = openvino.Core().compile_model(self.folder / "openvino_model.xml", "CPU", options)
        self.names = {name for port in self.model.inputs for name in port.get_names()}

    def _inputs(self, batch: Batch) -> dict[str, npt.NDArray[np.int64]]:
        return {name: value for name, value in self.padded(batch).items() if name in self.names}

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        return one_logit(self.model(self._inputs(batch))[0])

    def run(self, batches: Sequence[Batch]) -> list[npt.NDArray[np.float32]]:
        self.found: dict[int, npt.NDArray[np.float32]] = {}
        for place, batch in enumerate(batches):
            self.queue.start_async(self._inputs(batch), place)
        self.queue.wait_all()
        return [self.found[place] for place in range(len(batches))]

    def _keep(self, request: Any, place: int) -> None:
        self.found[place] = one_logit(request.get_output_tensor(0).data)


class OpenVinoDynamic(OpenVinoBf16):
    """int8 weights by NNCF; activations are quantised while it runs."""

    converts = "openvino-int8-weights"
    needs = OpenVinoBf16
    options: ClassVar[dict[str, Any]] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32}

    def convert(self, calibration: Sequence[Pair]) -> None:  # noqa: ARG002
        import nncf
        import openvino

        model = openvino.Core().read_model(self.work / OpenVinoBf16.converts / "openvino_model.xml")
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        with replaced(self.folder) as partial:
            openvino.save_model(model, partial / "openvino_model.xml", compress_to_fp16=False)


class OpenVinoStatic(OpenVinoBf16):
    """Weights and activations int8, by NNCF's post-training quantisation for transformers."""

    converts = "openvino-int8-static"
    needs = OpenVinoBf16
    options: ClassVar[dict[str, Any]] = {}

    def convert(self, calibration: Sequence[Pair]) -> None:
        import nncf
        import openvino

        model = openvino.Core().read_model(self.work / OpenVinoBf16.converts / "openvino_model.xml")
        names = {port.get_any_name() for port in model.inputs}
        samples = [self.padded([pair]) for pair in calibration]
        dataset = nncf.Dataset(
            samples, lambda arrays: {name: value for name, value in arrays.items() if name in names}
        )
        model = nncf.quantize(
            model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration)
        )
        with replaced(self.folder) as partial:
            openvino.save_model(model, partial / "openvino_model.xml", compress_to_fp16=False)
