"""How does attention see a window, and learned positions besides, at a cost linear in the length?

Queries go by blocks; a block needs only its own keys and those of the window before it. The persistent positions of
Titans (Behrouz et al. 2025, section 3.3, equation 26) stand in front of them, seen by all and rotated by nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.attention import attention
from diptych.nn.linear import Linear, linear
from diptych.nn.lowering import Lowered
from diptych.nn.normalization import RMSNorm
from diptych.nn.positions import Rotation, rotate


class Heads(NamedTuple):
    """Queries (b, h, t, d), keys and values (b, g, t, d)."""

    query: Tensor
    key: Tensor
    value: Tensor


@final
class WindowAttention(nn.Module):
    """Attention of each position to the last `window` positions, itself included, and to `n_persistent` learned ones.

    The mixed heads come out side by side; they are not projected back.
    """

    def __init__(self, config: TransformerConfig, *, window: int, n_persistent: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.kv_heads, config.head_width
        self.window, self.dropout = window, config.dropout
        heads = self.n_heads + 2 * self.n_kv_heads
        self.input = Linear(config.d_model, heads * self.d_head, bias=config.bias or config.qkv_bias)
        self.query_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.persistent = nn.Parameter(torch.zeros(n_persistent, config.d_model)) if n_persistent else None

    def project(self, x: Float[Tensor, "b t m"], rotation: Rotation | None) -> Heads:
        """Queries, keys and values."""
        heads = self.input(x).unflatten(-1, (-1, self.d_head))
        query, key, value = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=2)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return Heads(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))

    def context(self, x: Float[Tensor, "b t m"], rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """Keys and values (b, g, t, d) alone."""
        rows, bias = self.n_heads * self.d_head, self.input.bias
        pair = linear(x, self.input.weight[rows:], None if bias is None else bias[rows:])
        key, value = pair.unflatten(-1, (-1, self.d_head)).chunk(2, dim=2)
        key = self.key_norm(key)
        key = key if rotation is None else rotate(key, rotation)
        return key.transpose(1, 2), value.transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, visible: Bool[Tensor, "#b q k"]) -> Tensor:
        """Softmax attention to the persistent positions and to the visible ones of the keys, (b, h, q, d)."""
        if self.persistent is not None:
            first, second = (x.expand(len(key), -1, -1, -1) for x in self.context(self.persistent[None], None))
            key, value = torch.cat((first.to(key.dtype), key), dim=2), torch.cat((second.to(value.dtype), value), dim=2)
            visible = F.pad(visible, (len(self.persistent), 0), value=True)
        dropout = self.dropout if self.training else 0.0
        return attention(query, key, value, Lowered(dense=visible[:, None]), dropout=dropout)

    def begin(self, x: Float[Tensor, "b t m"]) -> tuple[Tensor, Tensor]:
        """The keys and values before the first position of each row: none, held as zeros."""
        shape = (len(x), self.n_kv_heads, self.window, self.d_head)
        return x.new_zeros(shape), x.new_zeros(shape)

    def forward(
        self,
        x: Float[Tensor, "b t m"],
        rotation: Rotation | None,
        before: Sequence[Tensor],
        count: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b t w"], tuple[Tensor, Tensor]]:
        """What each position sees, and the last `window` keys and values, which the call that continues needs.

        `before` holds those of the positions before, of which the last `count` exist.
        """
        heads = self.project(x, rotation)
        key = torch.cat((before[0].to(heads.key.dtype), heads.key), dim=2)
        value = torch.cat((before[1].to(heads.value.dtype), heads.value), dim=2)
        out = self._in_blocks(heads.query, key, value, count)
        return out.transpose(1, 2).flatten(2), (key[:, :, x.shape[1] :], value[:, :, x.shape[1] :])

    def _in_blocks(self, query: Tensor, key: Tensor, value: Tensor, count: Tensor) -> Tensor:
        b, _, t, _ = query.shape
        size = min(self.window, t)
        n = -(-t // size)
        query, key, value = (F.pad(x, (0, 0, 0, n * size - t)) for x in (query, key, value))
        blocks = query.unflatten(2, (n, size)).transpose(1, 2).flatten(0, 1)
        keys, values = (
            x.unfold(2, self.window + size, size).permute(0, 2, 1, 4, 3).flatten(0, 1) for x in (key, value)
        )
        row = torch.arange(size, device=query.device)[:, None]
        column = torch.arange(self.window + size, device=query.device)
        band = (column > row) & (column <= row + self.window)
        there = column + size * torch.arange(n, device=query.device)[:, None] >= self.window - count[:, None, None]
        visible = (band & there[:, :, None]).flatten(0, 1)
        out = self.attend(blocks, keys, values, visible).unflatten(0, (b, n))
        mixed: Tensor = out.transpose(1, 2).flatten(2, 3)[:, :, :t]
        return mixed
