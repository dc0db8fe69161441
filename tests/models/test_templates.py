"""How a language model is asked: what its folder says, and which family it is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from crossrank.errors import CheckpointError, UnsupportedModelError
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.templates import KNOWN, may_rank
from tests.decoders import gemma_tokenizer, qwen_tokenizer, write_sentence_transformer

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 4,
    "intermediate_size": 8,
    "vocab_size": 1200,
}


def write(folder: Path, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder with a config and a tokenizer; its weights are not looked at."""
    config = {**(config or QWEN3), **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    text = gemma_tokenizer() if config["model_type"] == "gemma" else qwen_tokenizer()
    (folder / "tokenizer.json").write_text(text)
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    return folder


def family(folder: Path, name: str | None = None) -> str | None:
    asked = Checkpoint(folder, name=name).asked
    return asked.family if asked else None


def token(name: str) -> int:
    found = Tokenizer.from_str(qwen_tokenizer()).token_to_id(name)
    assert found is not None
    return int(found)


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("Qwen3-Reranker-0.6B", {}, "Qwen3-Reranker"),
        ("my-qwen3-reranker-4b-finetuned", {}, "Qwen3-Reranker"),
        ("mxbai-rerank-large-v2", {"model_type": "qwen2"}, "mxbai-rerank-v2"),
        ("bge-reranker-v2-gemma", {"model_type": "gemma"}, "bge-reranker-v2-gemma"),
        ("zerank-2-reranker", {}, "zerank-2"),
        ("zerank-1-small", {}, "zerank-1"),
    ],
)
def test_a_family_is_known_by_the_name_of_a_folder_or_what_its_user_calls_it(
    name: str, config: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    assert family(write(tmp_path / name, **config)) == expected
    other = write(tmp_path / "other", **config)
    assert family(other, name) == expected
    with pytest.raises(UnsupportedModelError, match="not known to be a reranker"):
        Checkpoint(other)


def test_a_family_is_known_by_what_a_folder_says(tmp_path: Path) -> None:
    config = write(tmp_path / "a", _name_or_path="Qwen/Qwen3-Reranker-0.6B")
    heading = write(tmp_path / "b")
    (heading / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Qwen3-Reranker-0.6B\n\nzerank-2\n")
    base = write(tmp_path / "c")
    (base / "README.md").write_text("---\nbase_model:\n- Qwen/Qwen3-Reranker-4B\n---\n\n# R3\n")
    one = write(tmp_path / "d")
    (one / "README.md").write_text("---\nbase_model: zeroentropy/zerank-2\nlicense: other\n---\n# Copy\n")
    cached = write(tmp_path / "models--Qwen--Qwen3-Reranker-8B" / "snapshots" / "0123")
    assert [family(folder) for folder in (config, heading, base, one, cached)] == [
        *("Qwen3-Reranker", "Qwen3-Reranker", "Qwen3-Reranker", "zerank-2", "Qwen3-Reranker")
    ]


def test_qwen3_reranker_is_known_by_its_table_of_words(tmp_path: Path) -> None:
    assert family(write(tmp_path / "x", vocab_size=151_669)) == "Qwen3-Reranker"
    for rows in (151_936, 1200):
        with pytest.raises(UnsupportedModelError, match="not known to be a reranker"):
            Checkpoint(write(tmp_path / "x", vocab_size=rows))
    with pytest.raises(UnsupportedModelError, match="not known to be a reranker"):
        Checkpoint(write(tmp_path / "Qwen3-Embedding-0.6B", vocab_size=151_669))
    embedding = write(tmp_path / "y", vocab_size=151_669)
    modules = [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "1_Pooling"}]
    (embedding / "modules.json").write_text(json.dumps(modules))
    (embedding / "1_Pooling").mkdir()
    (embedding / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    with pytest.raises(UnsupportedModelError, match="not known to be a reranker"):
        Checkpoint(embedding)


def test_a_model_that_nothing_is_known_of_is_told_what_would_help(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        Checkpoint(write(tmp_path / "chat"))
    message = str(raised.value)
    assert "LogitScore" in message
    assert all(known.family in message for known in KNOWN)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("x", {"architectures": ["JinaForRanking"]}, "all documents of a query at once"),
        ("jina-reranker-v3", {}, "all documents of a query at once"),
        ("LightOn-rerank-LW-4B", {}, "groups of four"),
        ("ctxl-rerank-v2-instruct-1b", {}, "the document before the query"),
        ("x", {"architectures": ["LayerWiseMiniCPMForCausalLM"], "model_type": "minicpm"}, "in the middle"),
        (
            "llama-nemotron-rerank-1b-v2",
            {"architectures": ["LlamaBidirectionalForSequenceClassification"], "model_type": "llama_bidirec"},
            "see those behind them",
        ),
        ("Qwen3-VL-Reranker-2B", {"architectures": ["X"], "model_type": "qwen3_vl"}, "images"),
        ("x", {"architectures": ["PhiForCausalLM"], "model_type": "phi"}, "this one's is phi"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(
    name: str, config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        Checkpoint(write(tmp_path / name, **config))


def test_a_language_model_that_no_description_says_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "Qwen3-Reranker-0.6B", rope_scaling={"type": "dynamic", "factor": 2.0})
    with pytest.raises(
        UnsupportedModelError, match="cannot be run: its rotary positions are scaled by dynamic"
    ):
        Checkpoint(folder)


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "Qwen3-Reranker-0.6B", quantization_config={"quant_method": "gptq"})
    with pytest.raises(UnsupportedModelError, match=r"quantized \(gptq\).*precision='int8'"):
        Checkpoint(folder)


def test_prepared_weights_are_those_of_the_tokens(tmp_path: Path) -> None:
    one, two, three = (saved(tmp_path / name, tokens=tokens) for name, tokens in ANSWERS.items())
    assert len({Checkpoint(folder).fingerprint() for folder in (one, two)}) == 2
    assert Checkpoint(one).fingerprint() == Checkpoint(three).fingerprint()


ANSWERS = {"one": ("yes", "no"), "two": ("Yes",), "three": ("yes", "no")}


def test_tokens_are_those_of_the_models_own_tokenizer(tmp_path: Path) -> None:
    asked = Checkpoint(write(tmp_path / "Qwen3-Reranker-0.6B")).asked
    assert asked is not None
    assert asked.tokens == (token("yes"), token("no"))
    assert asked.names == ("yes", "no")


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "Qwen3-Reranker-0.6B")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["certainly"] = vocabulary.pop("yes")
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="no token 'yes'"):
        Checkpoint(folder)


def test_a_classifier_has_the_prompt_and_no_tokens(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "Qwen3-Reranker-0.6B-seq-cls",
        architectures=["Qwen3ForSequenceClassification"],
        id2label={"0": "x"},
    )
    asked = Checkpoint(folder).asked
    assert asked is not None
    assert asked.prompt == KNOWN[0].prompt
    assert asked.tokens == ()
    # By the size of its table alone, a classifier of one's own may have any prompt.
    other = write(tmp_path / "own", vocab_size=151_669, architectures=["Qwen3ForSequenceClassification"])
    assert Checkpoint(other).asked is None


def test_what_the_list_of_models_shows(tmp_path: Path) -> None:
    assert may_rank(write(tmp_path / "Qwen3-Reranker-0.6B"), QWEN3)
    assert may_rank(saved(tmp_path / "saved"), QWEN3)
    assert not may_rank(write(tmp_path / "chat"), QWEN3)


# --- sentence-transformers' own form ---


def saved(folder: Path, **options: Any) -> Path:
    return write_sentence_transformer(write(folder), **options)


def test_what_sentence_transformers_saved_comes_first(tmp_path: Path) -> None:
    asked = Checkpoint(saved(tmp_path / "Qwen3-Reranker-0.6B", tokens=("Yes",))).asked
    assert asked is not None
    assert asked.family == "Qwen3-Reranker"
    assert asked.tokens == (token("Yes"),)
    assert asked.names == ("Yes",)
    assert asked.prompt.text("i").startswith("<|im_start|>system\nJudge the document.<|im_end|>")
    assert asked.prompt.instruction == "Find the answer"
    assert asked.prompt.max_length == 8192


ROLE = '{{ (messages | selectattr("role", "eq", "%s") | first).content }}'
QUERY, DOCUMENT, SYSTEM = (ROLE % role for role in ("query", "document", "system"))


def prompt_of(folder: Path, template: str, prompt: str | None = None) -> Any:
    asked = Checkpoint(saved(folder, template=template, prompt=prompt)).asked
    assert asked is not None
    return asked.prompt


def test_a_template_without_an_instruction(tmp_path: Path) -> None:
    prompt = prompt_of(tmp_path, f"q: {QUERY} d: {DOCUMENT}<|im_end|>")
    assert prompt.parts == ("q: {query} d: {document}<|im_end|>",)
    assert prompt.instruction is None


def test_a_template_whose_instruction_may_be_left_out(tmp_path: Path) -> None:
    optional = '{% if messages[0].role == "system" %}i: {{ messages[0].content }}\n{% endif %}'
    prompt = prompt_of(tmp_path / "a", f"{optional}q: {QUERY}\nd: {DOCUMENT}")
    assert prompt.instruction == ""
    assert prompt.text("") == "q: {query}\nd: {document}"
    assert prompt.text("x") == "i: x\nq: {query}\nd: {document}"
    told = prompt_of(tmp_path / "b", f"{optional}q: {QUERY}\nd: {DOCUMENT}", "Find it")
    assert told.instruction == "Find it"


@pytest.mark.parametrize(("limit", "window"), [(None, 8192), (300, 300), (10**30, 8192), (131_072, 8192)])
def test_the_window_that_was_saved_is_the_default(limit: int | None, window: int, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    settings = {} if limit is None else {"model_max_length": limit}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    asked = Checkpoint(folder).asked
    assert asked is not None
    assert asked.prompt.max_length == window


def test_a_template_that_strips_texts(tmp_path: Path) -> None:
    trimmed = DOCUMENT.replace(" }}", " | trim }}")
    prompt = prompt_of(tmp_path, f"q: {QUERY}\nd: {trimmed}")
    assert prompt.stripped == {"document"}


def test_a_template_in_the_tokenizers_settings(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    expected = Checkpoint(saved(tmp_path / "file")).asked
    settings: dict[str, Any] = {"chat_template": template, "eos_token": {"content": "<|im_end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Checkpoint(folder).asked == expected
    named = [{"name": "default", "template": "{{ messages }}"}, {"name": "score", "template": template}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    bert = json.loads((folder / "sentence_bert_config.json").read_text())
    bert["processing_kwargs"] = {"chat_template": {"chat_template": "score"}}
    (folder / "sentence_bert_config.json").write_text(json.dumps(bert))
    assert Checkpoint(folder).asked == expected


def test_options_and_structured_messages_reach_the_template(tmp_path: Path) -> None:
    text = ROLE.replace(".content", ".content[0].text")
    ending = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ eos_token }}"
    folder = saved(tmp_path, template=f"{text % 'query'}|{text % 'document'}{ending}")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    bert = json.loads((folder / "sentence_bert_config.json").read_text())
    bert["modality_config"]["message"]["format"] = "structured"
    bert["processing_kwargs"] = {"chat_template": {"add_generation_prompt": True, "restore_suffix": False}}
    (folder / "sentence_bert_config.json").write_text(json.dumps(bert))
    asked = Checkpoint(folder).asked
    assert asked is not None
    assert asked.prompt.text("") == "{query}|{document}<|im_start|>assistant\n<|im_end|>"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[0].content }}", "no chat template with the roles query and document"),
        (f"{QUERY} {QUERY} {DOCUMENT}", "once each"),
        (f"{QUERY} {DOCUMENT} {{{{ nothing.at.all }}}}", "does not read a query and a document"),
        (f"{QUERY} {DOCUMENT} {{{{ raise_exception('no') }}}}", "no"),
    ],
)
def test_templates_that_cannot_be_read(template: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        Checkpoint(saved(tmp_path / "x", template=template))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for file in ("sentence_bert_config.json", "config_sentence_transformers.json"):
        folder = saved(tmp_path / file)
        (folder / file).write_text("[")
        with pytest.raises(CheckpointError, match=file):
            Checkpoint(folder)
    folder = saved(tmp_path / "score")
    (folder / "1_LogitScore" / "config.json").write_text('{"true_token_id": "yes"}')
    with pytest.raises(CheckpointError, match="true_token_id is 'yes'"):
        Checkpoint(folder)


def test_without_jinja2_a_known_family_is_asked_as_its_authors_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2.sandbox", None)
    asked = Checkpoint(saved(tmp_path / "Qwen3-Reranker-0.6B")).asked
    assert asked is not None
    assert asked.prompt == KNOWN[0].prompt
    with pytest.raises(UnsupportedModelError, match="pip install jinja2"):
        Checkpoint(saved(tmp_path / "other"))
