"""A decoder as a classifier with the labels "no" and "yes": what PyTorch runs, and what is exported.

The vocabulary's other rows, and the logits of all positions but the last, are left out: nobody needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contest.tokenizers import QWEN_NO, QWEN_YES


def load(checkpoint: Path, dtype: str, *, traced: bool = False) -> Any:
    """A module of input_ids and attention_mask, padded on the right, that returns (B, 2).

    Args:
        checkpoint: of the decoder.
        dtype: of its weights.
        traced: it is to be exported: it makes the causal mask itself, as transformers' way cannot be traced.
    """
    import torch
    from transformers import AutoModelForCausalLM

    class YesNo(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
            self.body = model.model
            self.rows = torch.nn.Parameter(model.lm_head.weight[[QWEN_NO, QWEN_YES]].detach().clone())

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            # The body is not told of the padding: what comes after a pair is not seen by it.
            mask = None
            if traced:
                length = input_ids.shape[1]
                mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
                mask = mask[None, None]
            hidden = self.body(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
            return self.head(hidden, attention_mask)

        def head(self, hidden: Any, attention_mask: Any) -> Any:
            last = attention_mask.sum(1) - 1
            return hidden[torch.arange(hidden.shape[0]), last] @ self.rows.T

    return YesNo().eval()
