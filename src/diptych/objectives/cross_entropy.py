"""How is the loss over a vocabulary taken without holding all logits?

Logits exist only for a chunk of positions at a time: the forward pass takes the loss of each chunk and, in the same
visit, its gradients, so that the backward pass has nothing left to recompute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diptych.nn.precision import matmul_dtype

CHUNK_ELEMENTS = 8 * 1024 * 1024
"""Logits held at once: 16 MB in bfloat16, which stays within the last-level cache of a desktop processor."""


def _chunk_rows(vocab_size: int) -> int:
    return max(64, CHUNK_ELEMENTS // vocab_size)


def slice_loss(logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Sum of -log softmax(logits)[target] over the rows, and its gradient softmax(logits) - onehot(target).

    Exponentials and sums are taken in float32 at least; the gradient comes back in the precision of the logits.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_partition = torch.logsumexp(wide, dim=-1, keepdim=True)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    total = (log_partition - wide.gather(1, targets[:, None])).sum()
    return total, (torch.exp(wide - log_partition) - is_target.to(wide.dtype)).to(logits.dtype)


SliceLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over positions of -log softmax(states @ weight.T)[target], and its two gradients."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, how: tuple[torch.dtype, SliceLoss]
    ) -> Tensor:
        dtype, slice_loss = how
        total = torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=states.device)
        matrix = weight.to(dtype)
        grad_states = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight, dtype=total.dtype)
        rows = _chunk_rows(weight.shape[0])
        for start in range(0, states.shape[0], rows):
            part = states[start : start + rows].to(dtype)
            part_total, gradient = slice_loss(F.linear(part, matrix), targets[start : start + rows])
            total += part_total
            grad_states[start : start + rows] = gradient @ matrix
            grad_weight += gradient.T @ part
        ctx.save_for_backward(grad_states, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        grad_states, grad_weight = ctx.saved_tensors
        return grad_states * scale.to(grad_states.dtype), grad_weight * scale, None, None


def cross_entropy_sum(
    states: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    slice_loss: SliceLoss = slice_loss,
) -> Float[Tensor, ""]:
    """Sum over the n positions of -log softmax(states @ weight.T)[target], in nats, never holding n x v logits.

    `slice_loss` may be the compiled form of this module's.
    """
    if not torch.is_grad_enabled():
        return cross_entropy_each(states, weight, targets).sum()
    dtype = matmul_dtype(states)
    with torch.autocast(states.device.type, enabled=False):
        return _ChunkedCrossEntropy.apply(states, weight, targets, (dtype, slice_loss))  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def cross_entropy_each(
    states: Float[Tensor, "n d"], weight: Float[Tensor, "v d"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """-log softmax(states @ weight.T)[target] of each position in nats, without gradients, chunk by chunk."""
    dtype = matmul_dtype(states)
    losses = []
    rows = _chunk_rows(weight.shape[0])
    matrix = weight.to(dtype)
    for start in range(0, states.shape[0], rows):
        logits = F.linear(states[start : start + rows].to(dtype), matrix)
        logits = logits.double() if dtype == torch.float64 else logits.float()
        losses.append(F.cross_entropy(logits, targets[start : start + rows], reduction="none"))
    return torch.cat(losses)
