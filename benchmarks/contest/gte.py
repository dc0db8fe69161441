"""gte's "New" models in PyTorch: their own code is on the hub alone, and does not run on transformers 5.

Names and order of operations are those of the repository Alibaba-NLP/new-impl. It is what ONNX Runtime's and
OpenVINO's files of these models are exported from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load(checkpoint: Path) -> Any:
    """A module of input_ids and attention_mask, padded on the right, that returns (B, 1)."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    config = json.loads((checkpoint / "config.json").read_text())
    size = config["hidden_size"] // config["num_attention_heads"]
    factor = config["rope_scaling"]["factor"]

    class New(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stored = load_file(checkpoint / "model.safetensors")
            # Parameters' names have no dots.
            self.names = {name: name.replace(".", "-") for name in stored}
            for name, value in stored.items():
                self.register_parameter(self.names[name], torch.nn.Parameter(value, requires_grad=False))
            base = config["rope_theta"] * factor
            frequencies = 1 / (base ** (torch.arange(0, size, 2) / size) * factor ** (2 / size))
            self.frequencies = torch.nn.Buffer(frequencies, persistent=False)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            length = input_ids.shape[1]
            angles = torch.arange(length)[:, None] * self.frequencies
            cosine, sine = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
            mask = (1.0 - attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min
            x = self.get("new.embeddings.word_embeddings.weight")[input_ids]
            x = x + self.get("new.embeddings.token_type_embeddings.weight")[0]
            x = self.norm("new.embeddings.LayerNorm", x)
            for layer in range(config["num_hidden_layers"]):
                at = f"new.encoder.layer.{layer}."
                qkv = self.linear(f"{at}attention.qkv_proj", x).unflatten(-1, (3, -1, size)).transpose(1, 3)
                q, k, v = (part.squeeze(2) for part in qkv.split(1, 2))
                q, k = (part * cosine + self.turn(part) * sine for part in (q, k))
                mixed = functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
                x = self.norm(f"{at}attn_ln", x + self.linear(f"{at}attention.o_proj", mixed))
                up, gate = self.linear(f"{at}mlp.up_gate_proj", x).chunk(2, -1)
                down = self.linear(f"{at}mlp.down_proj", functional.gelu(gate) * up)
                x = self.norm(f"{at}mlp_ln", x + down)
            return self.linear("classifier", self.linear("new.pooler.dense", x[:, 0]).tanh())

        def get(self, name: str) -> Any:
            return getattr(self, self.names[name]) if name in self.names else None

        def linear(self, name: str, x: Any) -> Any:
            return functional.linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

        def norm(self, name: str, x: Any) -> Any:
            weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
            return functional.layer_norm(x, weight.shape, weight, bias, config["layer_norm_eps"])

        def turn(self, x: Any) -> Any:
            first, second = x.chunk(2, -1)
            return torch.cat([-second, first], -1)

    return New().eval()
