"""A small byte-level tokenizer and a prompt, such as a language model has, for tests without such a model."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from crossrank.models.templates import Prompt
from crossrank.pairs import PairEncoder
from tests.checkpoints import CORPUS

__all__ = ["INSTRUCTION", "PROMPT", "prompted_encoder"]

INSTRUCTION = "Find the answer"

PROMPT = Prompt(
    (
        "<|start|>Judge the document.\n",
        "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
        "<|end|>\nyes or no?\n",
    ),
    instruction=INSTRUCTION,
    max_length=256,
)


@cache
def _tokenizer() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


def prompted_encoder(prompt: Prompt | None = PROMPT, **options: Any) -> PairEncoder:
    """An encoder with the prompt; ``options`` are those of ``PairEncoder``."""
    return PairEncoder(Tokenizer.from_str(_tokenizer()), prompt=prompt, **{"max_length": 256, **options})
