"""Which next tokens may be drawn, and how likely?

Pure functions from logits (b, v) to logits (b, v); what may not be drawn becomes -inf. One token at least remains.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Logits = Float[Tensor, "b v"]


def temperature(logits: Logits, value: float) -> Logits:
    """Divide by the temperature: below 1 sharper, above 1 flatter."""
    return logits / value


def top_k(logits: Logits, k: int) -> Logits:
    """Keep the k most likely tokens (Fan et al. 2018), and all that are as likely as the last of them."""
    if k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def top_p(logits: Logits, p: float) -> Logits:
    """Keep the smallest set of most likely tokens whose probability reaches p (nucleus, Holtzman et al. 2020)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    drop = (before >= p).scatter(-1, order, before >= p)
    return logits.masked_fill(_except_best(drop, order), float("-inf"))


def _except_best(drop: Bool[Tensor, "b v"], order: Tensor) -> Bool[Tensor, "b v"]:
    return drop.scatter(-1, order[..., :1], False)


def min_p(logits: Logits, p: float) -> Logits:
    """Keep tokens at least p times as likely as the most likely one (Nguyen et al. 2024)."""
    log_p = logits.log_softmax(dim=-1)
    best = log_p.max(dim=-1, keepdim=True).values
    return logits.masked_fill(log_p.exp() < p * best.exp(), float("-inf"))


def repetition_penalty(logits: Logits, seen: Bool[Tensor, "b v"], penalty: float) -> Logits:
    """Divide positive and multiply negative logits of `seen` tokens by the penalty (CTRL, Keskar et al. 2019)."""
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)
