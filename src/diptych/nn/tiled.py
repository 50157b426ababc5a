"""Which kernels give attention and its log-sum-exp without holding all scores, and how does a gradient go through both?

On a processor and on CUDA torch's own, which are FlashAttention-2 (Dao 2023) and its memory-efficient kin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Part = tuple[Float[Tensor, "b h q d"], Float[Tensor, "b h q"]]
"""What each query gathered from some keys, and the log-sum-exp of its scores with them."""


@dataclass(frozen=True, eq=False)
class Given:
    """What a part has besides its queries, keys and values."""

    bias: Float[Tensor, "#b #h q k"] | None
    """Added to the scores; None: nothing."""
    present: Bool[Tensor, "#b #h q"] | None
    """Which queries have a key; None: all."""
    causal: bool
    scale: float


@final
class Tiled(torch.autograd.Function):
    """The tiled kernels of torch that also give the log-sum-exp. Rows without a key are zero and -inf, whatever the
    kernel makes of them."""

    @classmethod
    def of(cls, query: Tensor, key: Tensor, value: Tensor, given: Given) -> Part:
        """Apply it."""
        part: Part = cls.apply(query, key, value, given)  # type: ignore[no-untyped-call]
        return part

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, given: Given) -> Part:
        ops = torch.ops.aten
        if query.device.type == "cpu":
            out, saved = ops._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, given.causal, attn_mask=given.bias, scale=given.scale
            )
            random: tuple[Tensor, ...] = ()
        else:
            out, saved, *random = ops._scaled_dot_product_efficient_attention(
                query, key, value, given.bias, True, 0.0, given.causal, scale=given.scale
            )
        lse = saved[..., : query.shape[2]]  # on CUDA its rows are padded
        if given.present is not None:
            out, lse = out.masked_fill(~given.present[..., None], 0.0), lse.masked_fill(~given.present, -torch.inf)
            # exp(-inf - 0) is the probability zero that the backward pass then finds again.
            saved[..., : query.shape[2]].masked_fill_(~given.present, 0.0)
        ctx.save_for_backward(query, key, value, given.bias, out, saved, *random)
        ctx.causal, ctx.scale = given.causal, given.scale
        ctx.set_materialize_grads(False)
        return out, lse.clone() if given.present is None else lse

    @staticmethod
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, bias, out, saved, *random = ctx.saved_tensors
        d = query.shape[-1]
        d_out = torch.zeros_like(out) if d_out is None else d_out.contiguous()
        if d_lse is not None:
            (query, key, value), out, d_out = with_lse_column((query, key, value), out, d_out, d_lse)
        ops, causal, scale = torch.ops.aten, ctx.causal, ctx.scale
        if query.device.type == "cpu":
            gradients = ops._scaled_dot_product_flash_attention_for_cpu_backward(
                d_out, query, key, value, out, saved, 0.0, causal, attn_mask=bias, scale=scale
            )
        else:
            wanted = [True, True, True, False]
            gradients = ops._scaled_dot_product_efficient_attention_backward(
                d_out, query, key, value, bias, out, saved, *random, 0.0, wanted, causal, scale=scale
            )
        return (*(gradient[..., :d] for gradient in gradients[:3]), None)


def with_lse_column(
    inputs: tuple[Tensor, Tensor, Tensor], out: Tensor, d_out: Tensor, d_lse: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """The arguments by which a kernel's backward pass also takes in the gradient of the log-sum-exp.

    Kernels give dS_ij = P_ij (dO_i . V_j - dO_i . O_i), and P_ij dlse_i is to be added. One more column, ones in V,
    zeros in O and dlse in dO, adds dlse_i to the first product and nothing to the second. The rest of the columns keeps
    the width a multiple of 8, as CUDA's kernels want it.
    """
    query, key, value = inputs
    width = 8 if query.device.type == "cuda" else 1
    query, key, out = (F.pad(x, (0, width)) for x in (query, key, out))
    value = F.pad(F.pad(value, (0, 1), value=1.0), (0, width - 1))
    d_out = F.pad(torch.cat((d_out, d_lse[..., None].to(d_out.dtype)), dim=-1), (0, width - 1))
    return (query, key, value), out, d_out
