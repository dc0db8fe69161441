"""Models that an ``Architecture`` cannot say, on the torch engine."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from crossrank.engines._transformers import MAX_PADDING, MIN_BATCH_TOKENS, tight_batches
from crossrank.engines.torch import TorchEngine
from crossrank.models.checkpoint import Checkpoint
from crossrank.packing import build_pack
from crossrank.pairs import PairEncoder
from tests.checkpoints import write_xlm_roberta


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xlm_roberta(tmp_path_factory.mktemp("model") / "tiny")


@given(st.lists(st.integers(1, 2000), max_size=80))
def test_batches_hold_every_pair_once_and_little_padding(lengths: list[int]) -> None:
    array = np.asarray(lengths, np.int32)
    batches = tight_batches(array)
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    for batch in batches:
        padded = int(array[batch].max()) * len(batch)
        waste = padded - int(array[batch].sum())
        # A batch may start small and wasteful, but not grow so.
        small = int(array[batch].max()) * (len(batch) - 1) < MIN_BATCH_TOKENS
        assert waste <= MAX_PADDING * padded or small


def test_equal_lengths_are_one_batch_without_padding() -> None:
    assert [len(batch) for batch in tight_batches(np.full(500, 128, np.int32))] == [500]


@given(st.lists(st.integers(1, 30), max_size=80))
def test_batches_without_padding_hold_pairs_of_one_length(lengths: list[int]) -> None:
    array = np.asarray(lengths, np.int32)
    batches = tight_batches(array, padded=False)
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    assert [len(set(array[batch])) for batch in batches] == [1] * len(set(lengths))


def write_decoder(folder: Path, tmp_path: Path, padding: int | None) -> Path:
    """A small random decoder with the tokenizer of another model."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=padding,
    )
    config.num_labels = 1
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    return tmp_path


def test_a_decoder_without_a_padding_token(folder: Path, tmp_path: Path) -> None:
    decoder = write_decoder(folder, tmp_path, None)
    documents = ["a b c d", "b", "the capital of China", "c", "b a", "城市 of c"]
    pairs = PairEncoder(folder / "tokenizer.json").encode("a", documents)
    engine = TorchEngine(Checkpoint(decoder))
    together = engine.logits(build_pack(pairs))
    alone = [engine.logits(build_pack([pair]))[0] for pair in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together.std() > 1e-4
    model = transformers.AutoModelForSequenceClassification.from_pretrained(decoder)
    with torch.inference_mode():
        own = [float(model(torch.from_numpy(pair.token_ids).long()[None]).logits[0, 0]) for pair in pairs]
    np.testing.assert_allclose(together, own, atol=1e-5)
