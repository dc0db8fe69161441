"""What kind of model a folder has: an encoder with a head, a language model, or one that cannot be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossrank.errors import UnsupportedModelError
from crossrank.models.decoders import DECODERS
from crossrank.models.families import FAMILIES, Module
from crossrank.models.templates import KNOWN, Asked, find_asked, refusal

__all__ = ["find_kind"]


def find_kind(
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    head: Sequence[Module],
    modules: Sequence[Module],
    classifier_rows: Callable[[], int],
) -> Asked | None:
    """How a model is asked, or None if it is an encoder with a head.

    Args:
        folder: the model's.
        name: which its user gave.
        config: the object in config.json.
        head: the modules that are its head; empty if it is a classifier.
        modules: all of its modules after the transformer.
        classifier_rows: rows of its classifier; 0 if there is none.

    Raises:
        UnsupportedModelError: it is neither.
    """
    classes: list[str] = config.get("architectures") or []
    kind = config.get("model_type")
    is_classifier = not classes or any(each.endswith("ForSequenceClassification") for each in classes)
    is_decoder = kind in DECODERS
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict) and kind in FAMILIES:
        how = quantized.get("quant_method", "in some way")
        raise UnsupportedModelError(
            f"{folder} has weights that were quantized ({how}), which CrossRank does not read: use "
            "the model that they were made from; precision='int8' quantizes it here"
        )
    is_language_model = any(each.endswith(("ForCausalLM", "ForConditionalGeneration")) for each in classes)
    # Only then its README.md is read, too: the encoders that most people load have nothing to fear from it.
    if is_decoder or not is_classifier or kind not in FAMILIES:
        reason = refusal(folder, name, config)
        if reason:
            raise UnsupportedModelError(f"{folder} cannot be run: {reason}")
    # sentence-transformers saves a backbone whose head is a chain of modules without either class.
    if is_decoder and (is_classifier or is_language_model or head):
        classifier = bool(head or (is_classifier if classes else classifier_rows()))
        asked = find_asked(folder, name, config, modules, classifier=classifier)
        if asked is None and not classifier:
            raise UnsupportedModelError(_without_prompt(folder, classes))
        return asked
    if head or is_classifier:
        return None
    # Jina's first rerankers name another class, and have the classifier all the same.
    own = config.get("auto_map")
    if isinstance(own, dict) and "AutoModelForSequenceClassification" in own and classifier_rows():
        return None
    if is_language_model:
        raise UnsupportedModelError(
            f"{folder} is not a cross-encoder: its config.json names {', '.join(classes)}, "
            "a language model ranks by its answer to a prompt, and CrossRank runs those whose model_type "
            f"is {', '.join(DECODERS)}; this one's is {kind}"
        )
    raise UnsupportedModelError(
        f"{folder} is not a cross-encoder: its config.json names {', '.join(classes)}, "
        "and a cross-encoder's name ends in ForSequenceClassification (an embedding model cannot rerank "
        "pairs)"
    )


def _without_prompt(folder: Path, classes: list[str]) -> str:
    """The message for a language model that nothing is known of."""
    families = ", ".join(known.family for known in KNOWN)
    return (
        f"{folder} is not known to be a reranker: its config.json names {', '.join(classes)}, and "
        "a language model ranks by its answer to a prompt, which neither its files nor its name tell; "
        "save it as a CrossEncoder of sentence-transformers 5.4 or newer (a LogitScore module, and a "
        "chat template with the roles query and document), or, if it was made from one of "
        f"{families}, let its folder's name contain that name"
    )
