"""The families of models: how each config is read, and which tensor is which.

A reader turns a config into an ``Architecture`` and names the checkpoint's tensor for each canonical one.
Names and formulas are facts of the families' published code: transformers' for BERT, RoBERTa, XLM-RoBERTa,
CamemBERT, DistilBERT, ELECTRA, ModernBERT, Qwen2, Qwen3, Llama, Mistral and Gemma, sentence-transformers'
for chains of modules, and the code in the repositories Alibaba-NLP/new-impl,
jinaai/jina-bert-implementation and jinaai/xlm-roberta-flash-implementation for gte's and Jina's models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossrank.errors import CheckpointError
from crossrank.models import decoders, encoders
from crossrank.models.architecture import Architecture
from crossrank.models.modules import with_modules
from crossrank.models.reader import Config, Module, Reader, Sources, UndescribedError

__all__ = ["FAMILIES", "Family", "Module", "UndescribedError", "describe", "todays_name"]


@dataclass(frozen=True, slots=True)
class Family:
    """How a model_type is read.

    Attributes:
        read: its reader.
        prefix: with which the names of the encoder's tensors begin in a cross-encoder.
        without: how these names begin where a checkpoint lacks the prefix.
    """

    read: Callable[[Reader], Architecture]
    prefix: str
    without: re.Pattern[str]


_BERT_PARTS = re.compile(r"(embeddings|encoder|pooler|emb_ln)\.")
_DECODER_PARTS = re.compile(r"(embed_tokens|layers|norm)\.")

FAMILIES: Mapping[str, Family] = {
    "bert": Family(encoders.bert, "bert.", _BERT_PARTS),
    **dict.fromkeys(
        ("roberta", "xlm-roberta", "camembert"), Family(encoders.roberta, "roberta.", _BERT_PARTS)
    ),
    "electra": Family(encoders.electra, "electra.", re.compile(r"(embeddings|embeddings_project|encoder)\.")),
    "distilbert": Family(encoders.distilbert, "distilbert.", re.compile(r"(embeddings|transformer)\.")),
    "modernbert": Family(encoders.modernbert, "model.", re.compile(r"(embeddings|layers|final_norm)\.")),
    "new": Family(encoders.new, "new.", _BERT_PARTS),
    "qwen2": Family(decoders.qwen2, "model.", _DECODER_PARTS),
    "qwen3": Family(decoders.qwen3, "model.", _DECODER_PARTS),
    "llama": Family(decoders.llama, "model.", _DECODER_PARTS),
    "mistral": Family(decoders.mistral, "model.", _DECODER_PARTS),
    "gemma": Family(decoders.gemma, "model.", _DECODER_PARTS),
}

_OLD_NORM = re.compile(r"(LayerNorm\.)(gamma|beta)$")


def todays_name(model_type: str | None, name: str) -> str:
    """The name that the family's code uses today for a tensor of a checkpoint."""
    name = _OLD_NORM.sub(lambda found: found[1] + {"gamma": "weight", "beta": "bias"}[found[2]], name)
    family = FAMILIES.get(model_type or "")
    return family.prefix + name if family and family.without.match(name) else name


def describe(
    values: Mapping[str, Any],
    where: str,
    names: Collection[str],
    labels: int,
    modules: Sequence[Module] = (),
    tokens: tuple[int, ...] = (),
) -> tuple[Architecture, Sources]:
    """Read a config into an architecture, and name the checkpoint's tensor for each canonical one.

    Args:
        values: the object in config.json.
        where: the file, for messages.
        names: of the checkpoint's tensors, by ``todays_name``; empty if they are not known.
        labels: of the classifier: 1 or 2.
        modules: that follow the transformer, if its head is a chain of them.
        tokens: whose rows of the output embedding are the head of a language model.

    Raises:
        CheckpointError: a field is missing, or of the wrong type.
        UndescribedError: the model does something that an architecture cannot say.
    """
    reader = Reader(Config(values, where), names, labels, tokens)
    kind = reader.config.text("model_type", "")
    family = FAMILIES.get(kind)
    if family is None:
        raise UndescribedError(f"its model_type is {kind or 'missing'}")
    architecture = replace(family.read(reader), labels=labels)
    if not 1e-30 <= architecture.epsilon < 1:
        raise CheckpointError(
            f"{where}: layer_norm_eps (or norm_eps, rms_norm_eps) is {architecture.epsilon:g}; "
            "it must be a small positive number, such as 1e-5"
        )
    if modules:
        architecture = with_modules(reader, architecture, modules)
    return architecture, reader.sources
