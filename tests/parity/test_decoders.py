"""Random decoders: token ids and logits are those of the code that their authors publish, on each engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from crossrank.engines.native import NativeEngine
from crossrank.engines.torch import TorchEngine
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.templates import KNOWN, Known
from crossrank.packing import build_pack
from crossrank.pairs import EncodedPair, PairEncoder
from tests.checkpoints import CORPUS
from tests.decoders import TEXTS, write_decoder, write_sentence_transformer

FAMILIES = {known.family: known for known in KNOWN}

# A known family's name, its model_type, and what its config says that others do not.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Qwen3": ("Qwen3-Reranker-0.6B", "qwen3", {"tie_word_embeddings": True}),
    "Qwen3, untied, with a window": (
        "Qwen3-Reranker-8B",
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1, "attention_bias": True},
    ),
    "Qwen2": ("mxbai-rerank-base-v2", "qwen2", {"head_dim": None, "tie_word_embeddings": True}),
    "Gemma": ("bge-reranker-v2-gemma", "gemma", {"num_key_value_heads": 1, "attention_bias": True}),
    "Qwen3, one token": ("zerank-2", "qwen3", {}),
}


def reference_ids(
    folder: Path, known: Known, pairs: Iterable[tuple[str, str]], instruction: str | None = None
) -> list[list[int]]:
    """Each part tokenised by transformers' tokenizer, and the ids joined, as the authors' code does."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    told = known.prompt.instruction if instruction is None else instruction
    parts = known.prompt.parts if told or known.prompt.bare is None else known.prompt.bare

    def of(part: str, query: str, document: str) -> list[int]:
        texts = {"query": query, "document": document}
        texts |= {field: texts[field].strip() for field in known.prompt.stripped}
        text = part.replace("{instruction}", told or "")
        for field, value in texts.items():
            text = text.replace(f"{{{field}}}", value)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    return [[token for part in parts for token in of(part, *pair)] for pair in pairs]


@torch.inference_mode()
def reference_logits(folder: Path, known: Known, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """What transformers' language model says at the last token: one token's logit, or a difference of two."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = tokenizer.convert_tokens_to_ids(list(known.answers))
    found = []
    for each in ids:
        logits = model(torch.tensor([each])).logits[0, -1].double()
        found.append(float(logits[answers[0]] - (logits[answers[1]] if len(answers) == 2 else 0)))
    return np.array(found)


PAIRS = (
    ("capital of China", CORPUS[0]),
    ("中国的首都是哪里？", CORPUS[7]),
    ("", "a"),
    ("pandas", ""),
    (CORPUS[3], " ".join(CORPUS[:6])),
    ("  how much? ", "\nThe price rose by 12.5%.\n"),
)


def check(folder: Path, pairs: Sequence[EncodedPair], expected: npt.NDArray[np.float64]) -> None:
    """Both engines give these logits in fp32, and the native one with and without prefixes."""
    checkpoint = Checkpoint(folder)
    assert np.ptp(expected) > 0.5, "the pairs' scores are too alike to show anything"
    pack = build_pack(pairs)
    assert pack.prefix_of is not None
    native = NativeEngine(checkpoint, precision="fp32", threads=2)
    for found in (TorchEngine(checkpoint).logits(pack), native.logits(pack.whole()), native.logits(pack)):
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


# Who takes an instruction, and who is Qwen3-Reranker, by their names.
INSTRUCTED = [name for name, (known, *_) in CASES.items() if not known.startswith("bge-reranker-v2-gemma")]
QWEN3_RERANKERS = [name for name, (known, *_) in CASES.items() if known.startswith("Qwen3-Reranker")]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Known]:
    name, kind, changes = CASES[request.param]
    folder = write_decoder(tmp_path_factory.mktemp("decoder") / name, kind, **changes)
    asked = Checkpoint(folder).asked
    assert asked is not None
    return folder, FAMILIES[asked.family]


def encoder(folder: Path, max_length: int = 1024, **options: Any) -> PairEncoder:
    checkpoint = Checkpoint(folder)
    return PairEncoder(
        checkpoint.tokenizer_path,
        max_length=max_length,
        vocabulary=checkpoint.vocabulary,
        prompt=checkpoint.prompt,
        **options,
    )


def test_logits_are_those_of_the_language_model(case: tuple[Path, Known]) -> None:
    folder, known = case
    pairs = encoder(folder).encode([query for query, _ in PAIRS], [text for _, text in PAIRS])
    ids = reference_ids(folder, known, PAIRS)
    assert [pair.token_ids.tolist() for pair in pairs] == ids
    check(folder, pairs, reference_logits(folder, known, ids))


def test_ids_are_those_of_the_whole_prompt(case: tuple[Path, Known]) -> None:
    check_ids(*case, None)


@pytest.mark.parametrize("case", INSTRUCTED, indirect=True)
@pytest.mark.parametrize("instruction", ["Find the answer", " \n"])
def test_ids_are_those_of_the_whole_prompt_with_an_instruction(
    case: tuple[Path, Known], instruction: str
) -> None:
    check_ids(*case, instruction)


def check_ids(folder: Path, known: Known, instruction: str | None) -> None:
    pairs = [(query, document) for query in TEXTS for document in TEXTS]
    queries, texts = [query for query, _ in pairs], [text for _, text in pairs]
    found = encoder(folder).encode(queries, texts, instruction=instruction)
    expected = reference_ids(folder, known, pairs, instruction)
    wrong = [pair for pair, a, b in zip(pairs, found, expected, strict=True) if a.token_ids.tolist() != b]
    assert not wrong


@pytest.mark.parametrize("case", QWEN3_RERANKERS, indirect=True)
@pytest.mark.parametrize("window", [128, 129, 160, 1024])
def test_a_long_pair_of_qwen3_reranker_is_cut_as_its_code_does(case: tuple[Path, Known], window: int) -> None:
    folder, known = case
    assert known.family == "Qwen3-Reranker"
    documents = [" ".join(CORPUS * copies) for copies in (1, 2, 3)] + ["短" * 2000, "\n" * 3000]
    prefix, body, suffix = known.prompt.parts
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    ends = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prefix, suffix)]
    asked = body.replace("{instruction}", known.prompt.instruction or "").replace("{query}", "capital")
    cut = tokenizer(
        [asked.replace("{document}", document) for document in documents],
        truncation="longest_first",
        max_length=window - sum(map(len, ends)),
    )["input_ids"]
    pairs = encoder(folder, window).encode("capital", documents)
    assert [pair.token_ids.tolist() for pair in pairs] == [ends[0] + ids + ends[1] for ids in cut]
    assert [pair.truncated for pair in pairs] == [len(pair.token_ids) == window for pair in pairs]


SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "Llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama 3.1": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
    "Mistral": ("mistral", {"sliding_window": 30}),
}


@pytest.mark.parametrize("name", SAVED)
def test_models_that_sentence_transformers_saved(name: str, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    kind, changes = SAVED[name]
    folder = write_sentence_transformer(write_decoder(tmp_path, kind, **changes))
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    queries, texts = [query for query, _ in PAIRS], [text for _, text in PAIRS]
    pairs = encoder(folder).encode(queries, texts)
    assert [pair.token_ids.tolist() for pair in pairs] == st_ids(model, PAIRS)
    check(folder, pairs, model.predict(list(PAIRS)).astype(np.float64))


def st_ids(model: Any, pairs: Sequence[tuple[str, str]], prompt: str | None = None) -> list[list[int]]:
    """Token ids as sentence-transformers builds them, one pair at a time, so that there is no padding."""
    found = []
    for pair in pairs:
        features = model.preprocess([pair], prompt=prompt)
        found.append(features["input_ids"][0].tolist())
    return found


@pytest.mark.parametrize("saved", [None, "Find a page"])
@pytest.mark.parametrize("given", [None, "Find code that does it"])
def test_instructions_of_models_that_sentence_transformers_saved(
    saved: str | None, given: str | None, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    folder = write_sentence_transformer(write_decoder(tmp_path, "qwen3"), prompt=saved)
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    pairs = [(query, document) for query in TEXTS[::3] for document in TEXTS]
    own = encoder(folder)
    assert own.instruction == (saved or "Find the answer")
    found = own.encode([query for query, _ in pairs], [text for _, text in pairs], instruction=given)
    assert [pair.token_ids.tolist() for pair in found] == st_ids(model, pairs, given or saved)


@pytest.mark.parametrize("window", [64, 65, 200])
def test_long_pairs_are_cut_as_sentence_transformers_does(window: int, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = write_sentence_transformer(write_decoder(tmp_path, "qwen3"))
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True, max_length=window)
    pairs = [("capital", document) for document in (" ".join(CORPUS), "短" * 500, CORPUS[0])]
    found = encoder(folder, window).encode("capital", [document for _, document in pairs])
    assert [pair.token_ids.tolist() for pair in found] == st_ids(model, pairs)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("labels", [1, 2])
def test_copies_with_a_classifier(kind: str, labels: int, tmp_path: Path) -> None:
    """Qwen3-Reranker and others as sequence classifiers, which need the same prompt."""
    changes: dict[str, Any] = {"head_dim": None} if kind == "qwen2" else {}
    name = {"qwen2": "mxbai-rerank-base-v2-seq", "qwen3": "Qwen3-Reranker-0.6B-seq-cls"}.get(kind, "plain")
    folder = write_decoder(tmp_path / name, kind, labels=labels, **changes)
    if kind == "llama":
        write_sentence_transformer(folder)
        (folder / "modules.json").unlink()
    asked = Checkpoint(folder).asked
    assert asked is not None
    assert asked.tokens == ()
    pairs = encoder(folder).encode([query for query, _ in PAIRS], [text for _, text in PAIRS])
    if kind != "llama":
        known = FAMILIES[asked.family]
        assert [pair.token_ids.tolist() for pair in pairs] == reference_ids(folder, known, PAIRS)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = [model.eval()(torch.tensor(pair.token_ids[None])).logits[0].double() for pair in pairs]
    expected = [float(each[1] - each[0] if labels == 2 else each[0]) for each in logits]
    check(folder, pairs, np.array(expected))
