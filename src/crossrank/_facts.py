"""What can be said about a model before it is loaded: for ``crossrank models show``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crossrank.engines._memory import free_memory, memory_of_weights
from crossrank.engines.choose import choose_engine
from crossrank.errors import CheckpointError, CrossRankError
from crossrank.loading import DEFAULT_MAX_LENGTH
from crossrank.models.architecture import Alibi, Architecture, Dense, Function, Learned
from crossrank.models.checkpoint import Checkpoint
from crossrank.models.families import UndescribedError
from crossrank.pairs import PairEncoder

__all__ = ["ModelFacts", "model_facts"]

_LICENCE = re.compile(rb"^licen[sc]e:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model in words and numbers.

    Attributes:
        name: the model's.
        folder: where it is.
        family: "ModernBERT", or what its config calls itself.
        parameters: the number of weights.
        sizes: layers, hidden, heads, intermediate, vocabulary; empty if no ``Architecture`` says it.
        encoder: norms, positions, attention and feed-forward part, in a few words.
        max_tokens: of a pair.
        default_max_length: what is used unless ``max_length`` is given.
        template: a pair, with its special tokens, or the prompt.
        prompt: of which family it is; None: the model has none.
        instruction: the default one; None: the model takes none.
        answer: the tokens whose logits count; empty if the model has a classifier.
        head: from the encoder's result to the logit.
        label_rule: what the logit is.
        licence: as the folder says it; None if it does not.
        engine, device, precision: what would run it here; None if nothing can.
        reason: why.
        memory: bytes for its weights there; None if nothing can run it.
        free: bytes of memory that are free here; None if the system does not say.
    """

    name: str
    folder: str
    family: str
    parameters: int
    sizes: dict[str, int]
    encoder: str
    max_tokens: int
    default_max_length: int
    template: str
    prompt: str | None
    instruction: str | None
    answer: list[str]
    head: str
    label_rule: str
    licence: str | None
    engine: str | None
    device: str | None
    precision: str | None
    reason: str
    memory: int | None
    free: int | None


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """Read what a model's folder says, and choose an engine for it. Nothing is loaded.

    Raises:
        CheckpointError: the folder is damaged.
    """
    max_tokens = checkpoint.max_length
    prompt = checkpoint.prompt
    default = prompt.max_length if prompt else DEFAULT_MAX_LENGTH
    encoder = PairEncoder(
        checkpoint.tokenizer_path, max_length=default, vocabulary=checkpoint.vocabulary, prompt=prompt
    )
    try:
        architecture: Architecture | None = checkpoint.description.architecture
    except UndescribedError:
        architecture = None
    engine = device = precision = None
    try:
        choice = choose_engine(checkpoint=checkpoint)
        engine, device, precision, reason = choice.engine, choice.device, choice.precision, choice.reason
    except CheckpointError:
        raise
    except CrossRankError as error:
        reason = str(error)
    kind = str(checkpoint.config.get("model_type"))
    return ModelFacts(
        checkpoint.name,
        str(checkpoint.folder.absolute()),
        architecture.family if architecture else f"{kind} (run by transformers)",
        checkpoint.parameters(),
        _sizes(architecture) if architecture else {},
        _encoder(architecture) if architecture else "",
        max_tokens,
        min(default, max_tokens),
        encoder.template,
        checkpoint.asked.family if checkpoint.asked else None,
        encoder.instruction,
        list(checkpoint.asked.names) if checkpoint.asked else [],
        _head(architecture) if architecture else "",
        _label_rule(checkpoint),
        _licence(checkpoint),
        engine,
        device,
        precision,
        reason,
        memory_of_weights(checkpoint, engine, precision) if engine and precision else None,
        free_memory(),
    )


def _sizes(architecture: Architecture) -> dict[str, int]:
    names = ["layers", "hidden", "heads", "intermediate", "vocabulary"]
    if architecture.key_value_heads != architecture.heads:
        names.insert(3, "key_value_heads")
    if architecture.head_size * architecture.heads != architecture.hidden:
        names.insert(3, "head_size")
    return {name: int(getattr(architecture, name)) for name in names}


def _encoder(architecture: Architecture) -> str:
    positions = "rotary positions"
    if isinstance(architecture.positions, Learned):
        positions = "learned positions"
    elif isinstance(architecture.positions, Alibi):
        positions = "ALiBi"
    windows = [window for window in architecture.windows if window is not None]
    attention = "causal attention" if architecture.causal else "full attention"
    if windows:
        within = "causal attention" if architecture.causal else "attention"
        attention = f"{within} within {windows[0]} tokens in {len(windows)} of {architecture.layers} layers"
    gated = "gated " if architecture.gated else ""
    norm = "RMSNorm" if architecture.norm == "rms" else "norm"
    norm += " before each block" if architecture.norm_first else " after each block"
    return f"{positions}, {attention}, {gated}{architecture.activation}, {norm}"


def _head(architecture: Architecture) -> str:
    pooled = {"first": "first token", "mean": "mean of all tokens", "last": "last token"}
    steps = [pooled[architecture.pooling]]
    for step in architecture.head:
        if isinstance(step, Dense):
            steps.append(f"linear {step.inputs} -> {step.outputs}")
        else:
            steps.append(step.name if isinstance(step, Function) else "LayerNorm")
    return ", ".join(steps)


def _label_rule(checkpoint: Checkpoint) -> str:
    if checkpoint.asked and checkpoint.asked.tokens:
        first, *second = map(repr, checkpoint.asked.names)
        if second:
            return f"the logit of {first} minus that of {second[0]} (log-odds); the score is its sigmoid"
        return f"the logit of {first}; the score is its sigmoid"
    if checkpoint.labels == 2:
        return "2 labels: the logit is the second's minus the first's (log-odds); the score is its sigmoid"
    return "1 label: its logit; the score is the sigmoid"


def _licence(checkpoint: Checkpoint) -> str | None:
    """The licence in the front matter of README.md, as on the hub."""
    try:
        text = (checkpoint.folder / "README.md").read_bytes()[: 1 << 16]
    except OSError:
        return None
    start, _, rest = text.partition(b"---")
    found = None if start.strip() else _LICENCE.search(rest.partition(b"\n---")[0])
    return found[1].decode("ascii", "replace") if found else None
