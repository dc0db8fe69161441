"""Heads that are chains of sentence-transformers' modules."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from crossrank.models.architecture import (
    Activation,
    Architecture,
    Dense,
    Function,
    HeadNorm,
    HeadStep,
    Pooling,
)
from crossrank.models.reader import Config, Module, Reader, UndescribedError

__all__ = ["with_modules"]

_POOLINGS: Mapping[str, Pooling] = {"cls": "first", "mean": "mean", "lasttoken": "last"}

_MODULE_FUNCTIONS: Mapping[str, Activation | None] = {
    "Identity": None,
    "Tanh": "tanh",
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
}


def with_modules(reader: Reader, architecture: Architecture, modules: Sequence[Module]) -> Architecture:
    """A backbone whose head is a chain of sentence-transformers' modules."""
    for name in [name for name in reader.sources if name.startswith("head.")]:
        del reader.sources[name]
    pooling: Pooling = "first"
    steps: list[HeadStep] = []
    size = architecture.hidden
    for module in modules:
        config = Config(module.config, f"{module.path}/config.json")
        if module.kind == "Pooling":
            pooling = _module_pooling(config)
        elif module.kind == "Dense":
            if config.flag("use_residual", default=False):
                raise UndescribedError(f"its module {module.path} has a residual connection")
            outputs = config.integer("out_features")
            bias = config.flag("bias", default=True)
            reader.name(f"head.{len(steps)}", f"{module.path}/linear", bias=bias)
            steps.append(Dense(size, outputs))
            size = outputs
            function = config.text("activation_function", "torch.nn.modules.activation.Tanh").rpartition(".")[
                2
            ]
            if function not in _MODULE_FUNCTIONS:
                raise UndescribedError(f"its module {module.path} has the activation {function}")
            found = _MODULE_FUNCTIONS[function]
            if found:
                steps.append(Function(found))
        elif module.kind == "LayerNorm":
            reader.name(f"head.{len(steps)}", f"{module.path}/norm")
            steps.append(HeadNorm(size, 1e-5))
        elif module.kind != "Dropout":
            raise UndescribedError(f"its modules.json has the module {module.kind}")
    if not steps or not isinstance(steps[-1], Dense) or size != 1:
        raise UndescribedError("the last module in its modules.json is not a Dense with one output")
    return replace(architecture, pooling=pooling, head=tuple(steps), labels=1)


def _module_pooling(config: Config) -> Pooling:
    """What a Pooling module keeps; older ones have a bool for each mode."""
    mode = config.values.get("pooling_mode")
    if mode is None:
        active = [
            name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for name, value in config.values.items()
            if name.startswith("pooling_mode_") and value is True
        ]
        mode = active[0] if len(active) == 1 else active
    found = _POOLINGS.get(mode) if isinstance(mode, str) else None
    if found is None:
        raise UndescribedError(f"its pooling is {reprlib.repr(mode)}")
    return found
