"""How is the loss over a vocabulary taken without holding all logits?

Logits exist only a chunk of positions at a time: the forward pass computes each chunk's loss and, in the same visit, its
gradients, so that the backward pass has nothing left to recompute. The gradient is softmax(logits) - onehot(target).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 4 * 1024 * 1024
"""Logits held at once: 16 MB in float32, which stays within the last-level cache of a desktop processor."""


def _chunk_rows(vocab_size: int) -> int:
    return max(64, CHUNK_ELEMENTS // vocab_size)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over positions of -log softmax(states @ weight.T)[target], and its two gradients."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        total = torch.zeros((), dtype=torch.float32 if dtype != torch.float64 else dtype, device=states.device)
        needs_states, needs_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(dtype)
        grad_states = torch.empty_like(states) if needs_states else None
        grad_weight = torch.zeros_like(weight, dtype=total.dtype) if needs_weight else None
        rows = _chunk_rows(weight.shape[0])
        for start in range(0, states.shape[0], rows):
            part, target = states[start : start + rows].to(dtype), targets[start : start + rows]
            logits = F.linear(part, matrix).to(total.dtype)
            log_partition = torch.logsumexp(logits, dim=-1)
            total += (log_partition - logits.gather(1, target[:, None])[:, 0]).sum()
            if not (needs_states or needs_weight):
                continue
            gradient = logits.sub_(log_partition[:, None]).exp_()
            gradient[torch.arange(len(target), device=target.device), target] -= 1.0
            gradient = gradient.to(dtype)
            if grad_states is not None:
                grad_states[start : start + rows] = gradient @ matrix
            if grad_weight is not None:
                grad_weight += gradient.T @ part
        ctx.save_for_backward(grad_states, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        grad_states, grad_weight = ctx.saved_tensors
        return (
            None if grad_states is None else grad_states * scale.to(grad_states.dtype),
            None if grad_weight is None else grad_weight * scale,
            None,
            None,
        )


def _matmul_dtype(states: Tensor) -> torch.dtype:
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def cross_entropy_sum(
    states: Float[Tensor, "n d"], weight: Float[Tensor, "v d"], targets: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Sum over the n positions of -log softmax(states @ weight.T)[target], in nats, never holding n x v logits."""
    dtype = _matmul_dtype(states)
    with torch.autocast(states.device.type, enabled=False):
        return _ChunkedCrossEntropy.apply(states, weight, targets, dtype)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def cross_entropy_each(
    states: Float[Tensor, "n d"], weight: Float[Tensor, "v d"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """-log softmax(states @ weight.T)[target] of each position in nats, without gradients, chunk by chunk."""
    dtype = _matmul_dtype(states)
    losses = []
    rows = _chunk_rows(weight.shape[0])
    matrix = weight.to(dtype)
    for start in range(0, states.shape[0], rows):
        logits = F.linear(states[start : start + rows].to(dtype), matrix)
        logits = logits.double() if dtype == torch.float64 else logits.float()
        losses.append(F.cross_entropy(logits, targets[start : start + rows], reduction="none"))
    return torch.cat(losses)
