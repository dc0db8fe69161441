"""The small checkpoints of the tests have what transformers would write, and nothing else."""

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from tests.checkpoints import write_bert, write_xlm_roberta


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("write", [write_xlm_roberta, write_bert])
def test_no_tensor_is_missing_or_left_over(write: object, labels: int, tmp_path: Path) -> None:
    assert callable(write)
    folder = write(tmp_path / "m", labels=labels)
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == model.config.architectures[0]
    assert model.config.num_labels == labels
    assert not any(info.values())
