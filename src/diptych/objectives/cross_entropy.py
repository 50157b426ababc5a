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


def slice_loss(
    logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"], smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target] of each row (n), and its gradient softmax(logits) - onehot(target).

    smoothing: share of the target's probability that is spread evenly over all v tokens (Szegedy et al. 2016, section
    7). Exponentials and sums are taken in float32 at least; the gradient comes back in the precision of the logits.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_partition = torch.logsumexp(wide, dim=-1, keepdim=True)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    of_target = wide.gather(1, targets[:, None])
    wanted = is_target.to(wide.dtype)
    if smoothing:
        of_target = (1 - smoothing) * of_target + smoothing * wide.mean(-1, keepdim=True)
        wanted = (1 - smoothing) * wanted + smoothing / logits.shape[1]
    return (log_partition - of_target)[:, 0], (torch.exp(wide - log_partition) - wanted).to(logits.dtype)


SliceLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over positions of -scale log softmax(states @ weight.T + bias)[target], and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        how: tuple[Tensor, Tensor | None, torch.dtype, SliceLoss, float],
    ) -> Tensor:
        targets, scale, dtype, slice_loss, smoothing = how
        total = torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=states.device)
        matrix = weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        grad_states = torch.empty_like(states)
        # The gradient of a matrix that does not learn would be a third of the work, for nothing.
        grad_weight = torch.zeros_like(weight, dtype=total.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=total.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        rows = _chunk_rows(weight.shape[0])
        for start in range(0, states.shape[0], rows):
            part = states[start : start + rows].to(dtype)
            logits = F.linear(part, matrix, offset)
            each, gradient = slice_loss(logits, targets[start : start + rows], smoothing)
            of_states = gradient @ matrix
            if scale is not None:
                # Rows of the gradient are scaled where they are short: before or after they meet the vocabulary.
                factor = scale[start : start + rows].to(total.dtype)
                each, of_states, part = each * factor, of_states * factor[:, None], (part * factor[:, None]).to(dtype)
            total += each.sum()
            grad_states[start : start + rows] = of_states
            if grad_weight is not None:
                grad_weight += gradient.T @ part
            if grad_bias is not None:
                of_bias = gradient if scale is None else gradient * factor[:, None]
                grad_bias += of_bias.sum(0, dtype=total.dtype)
        ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = upstream
        grad_states, grad_weight, grad_bias = ctx.saved_tensors
        of_weight = None if grad_weight is None else grad_weight * factor
        of_bias = None if grad_bias is None else grad_bias * factor
        return grad_states * factor.to(grad_states.dtype), of_weight, of_bias, None


def cross_entropy_sum(
    states: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    slice_loss: SliceLoss = slice_loss,
    *,
    bias: Float[Tensor, " v"] | None = None,
    scale: Float[Tensor, " n"] | None = None,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum over the n positions of -log softmax(states @ weight.T + bias)[target] in nats, each times its `scale` where
    given, never holding n x v logits.

    A bias of -inf excludes a token. `slice_loss` may be the compiled form of this module's. Without gradients, as in
    scoring, nothing is smoothed.
    """
    if not torch.is_grad_enabled():
        each = cross_entropy_each(states, weight, targets, bias)
        return each.sum() if scale is None else (each * scale).sum()
    dtype = matmul_dtype(states)
    with torch.autocast(states.device.type, enabled=False):
        how = (targets, scale, dtype, slice_loss, smoothing)
        return _ChunkedCrossEntropy.apply(states, weight, bias, how)  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def cross_entropy_each(
    states: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    bias: Float[Tensor, " v"] | None = None,
) -> Float[Tensor, " n"]:
    """-log softmax(states @ weight.T + bias)[target] of each position in nats, without gradients, chunk by chunk."""
    dtype = matmul_dtype(states)
    losses = []
    rows = _chunk_rows(weight.shape[0])
    matrix = weight.to(dtype)
    offset = None if bias is None else bias.to(dtype)
    for start in range(0, states.shape[0], rows):
        logits = F.linear(states[start : start + rows].to(dtype), matrix, offset)
        logits = logits.double() if dtype == torch.float64 else logits.float()
        losses.append(F.cross_entropy(logits, targets[start : start + rows], reduction="none"))
    return torch.cat(losses) if losses else torch.zeros(0, dtype=torch.float32, device=states.device)
