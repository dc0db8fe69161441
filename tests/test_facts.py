from pathlib import Path

import pytest

from crossrank._facts import model_facts
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, resolve
from tests.checkpoints import write_bert, write_xlm_roberta


def test_the_bundled_model() -> None:
    facts = model_facts(Checkpoint(resolve(BUNDLED), name=BUNDLED))
    assert (facts.name, facts.family, facts.engine) == (BUNDLED, "BERT", "native")
    assert facts.sizes["layers"] == 12
    assert facts.template == "<s> query </s></s> document </s>"
    assert facts.head == "first token, linear 384 -> 384, tanh, linear 384 -> 1"
    assert facts.licence == "apache-2.0"
    assert facts.parameters > 70e6


def test_two_labels_and_a_model_that_says_nothing(tmp_path: Path) -> None:
    facts = model_facts(Checkpoint(write_bert(tmp_path / "two", labels=2)))
    assert "2 labels: the logit is the second's minus the first's" in facts.label_rule
    assert facts.template == "[CLS] query [SEP] document [SEP]"
    assert facts.licence is None


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\ntags: [x]\n---\n# M\n", "mit"),
        ("# M\n\nlicense: mit\n", None),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_a_licence_is_that_of_the_front_matter(tmp_path: Path, text: str, licence: str | None) -> None:
    folder = write_xlm_roberta(tmp_path / "m", positions=130)
    (folder / "README.md").write_text(text)
    facts = model_facts(Checkpoint(folder))
    assert facts.licence == licence
    assert (facts.max_tokens, facts.default_max_length) == (128, 128)
