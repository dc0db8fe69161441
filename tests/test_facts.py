from pathlib import Path

import pytest

from crossrank._facts import model_facts
from crossrank.engines import _memory, load_engine
from crossrank.engines._memory import memory_of_weights
from crossrank.errors import OutOfMemoryError
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.resolve import BUNDLED, resolve
from tests.checkpoints import write_bert, write_xlm_roberta
from tests.decoders import write_decoder


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


def test_a_language_model_has_a_prompt(tmp_path: Path) -> None:
    facts = model_facts(Checkpoint(write_decoder(tmp_path / "Qwen3-Reranker-0.6B", "qwen3")))
    assert (facts.family, facts.prompt, facts.answer) == ("Qwen3", "Qwen3-Reranker", ["yes", "no"])
    assert facts.instruction == "Given a web search query, retrieve relevant passages that answer the query"
    assert facts.template.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert facts.head == "last token, linear 64 -> 1"
    assert facts.label_rule.startswith("the logit of 'yes' minus that of 'no'")
    assert (facts.sizes["head_size"], facts.sizes["key_value_heads"]) == (32, 2)
    assert "causal attention" in facts.encoder
    assert "RMSNorm" in facts.encoder
    assert (facts.max_tokens, facts.default_max_length) == (1024, 1024)
    assert facts.engine == "native"


def test_memory_is_that_of_the_weights_in_the_precision(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write_bert(tmp_path / "m"))
    words = checkpoint.shapes["bert.embeddings.word_embeddings.weight"]
    whole = memory_of_weights(checkpoint, "torch", "fp32")
    assert whole == pytest.approx(4 * checkpoint.parameters(), rel=0.01)
    native = memory_of_weights(checkpoint, "native", "int8")
    assert native == pytest.approx(checkpoint.parameters() - words[0] * words[1], rel=0.01)
    facts = model_facts(checkpoint)
    assert facts.memory == memory_of_weights(checkpoint, str(facts.engine), str(facts.precision))


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(write_bert(tmp_path / "m"))
    monkeypatch.setattr(_memory, "free_memory", lambda: 1000)
    with pytest.raises(OutOfMemoryError, match=r"m needs 0\.0 GB for its weights in fp32.*precision='int8'"):
        load_engine(checkpoint, device="cpu", precision="fp32")


def test_memory_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, meminfo = tmp_path / "group", tmp_path / "meminfo"
    group.mkdir()
    monkeypatch.setattr(_memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(_memory, "_GROUP", group)
    assert _memory.free_memory() is None
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:     50 kB\n")
    assert _memory.free_memory() == 50 * 1024
    for name, text in (("max", "30000"), ("current", "20000"), ("stat", "anon 15000\nfile 5000\n")):
        (group / f"memory.{name}").write_text(text)
    assert _memory.free_memory() == 15_000
    (group / "memory.max").write_text("max\n")
    assert _memory.free_memory() == 50 * 1024


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
