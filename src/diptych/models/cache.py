"""How does generation avoid reading the past again?

A static key-value cache: buffers of full length, allocated once. A position's keys and values stand at its own index in
its row, so a causal mask by position also hides whatever stale entries lie beyond a row's length; prompts of different
lengths need no other care.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.nn.attention import KeysAndValues
from diptych.nn.masks import Lowered


@final
class KeyValueCache:
    """Keys and values of all layers for `batch_size` rows of at most `max_length` positions.

    `uniform` is the common length of all rows while they are equal: slices then replace gathers and masks.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch_size: int,
        max_length: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (config.n_layers, batch_size, config.kv_heads, max_length, config.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths: Int[Tensor, " b"] = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.uniform: int | None = 0
        self.longest = 0

    @property
    def max_length(self) -> int:
        """How many positions a row can hold."""
        return self.keys.shape[3]

    @property
    def offset(self) -> int | Int[Tensor, " b"]:
        """Position of the next token: one number while all rows are equally long, else one a row."""
        return self.lengths if self.uniform is None else self.uniform

    def end_after(self, count: int) -> int:
        """Where the longest row ends when `count` positions are added. Raises ValueError where that is too far."""
        end = self.longest + count
        if end > self.max_length:
            raise ValueError(f"the sequence grows to {end} tokens but its cache holds {self.max_length}")
        return end

    def layer(self, index: int) -> CachedLayer:
        """The part that layer `index` appends to."""
        return CachedLayer(self, index)

    def single_row(self) -> tuple[Float[Tensor, "l g n d"], Float[Tensor, "l g n d"], int] | None:
        """The buffers of the only row, and the position that comes next in it; None where there are several rows."""
        if self.uniform is None or self.keys.shape[1] != 1:
            return None
        return self.keys[:, 0], self.values[:, 0], self.uniform

    def advance(self, count: int) -> None:
        """Every row has grown by `count` positions."""
        self.lengths = self.lengths + count
        self.longest += count
        if self.uniform is not None:
            self.uniform += count

    def set_lengths(self, lengths: Int[Tensor, " b"]) -> None:
        """Cut each row to its own length, as after a prefill of prompts padded on the right."""
        self.lengths = lengths.to(self.lengths.device)
        longest, shortest = int(self.lengths.max()), int(self.lengths.min())
        self.longest = longest
        self.uniform = longest if longest == shortest else None

    def select(self, rows: Int[Tensor, " b"]) -> None:
        """Row i becomes a copy of row `rows[i]`; the number of rows may change."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]
        self.set_lengths(self.lengths[rows])


@final
class CachedLayer:
    """One layer's view of the cache."""

    def __init__(self, cache: KeyValueCache, index: int) -> None:
        self.cache = cache
        self.keys, self.values = cache.keys[index], cache.values[index]

    def append(self, key: Float[Tensor, "b g t d"], value: Float[Tensor, "b g t d"]) -> tuple[Tensor, Tensor]:
        """Store the positions that follow each row's length; return all up to the longest row's end."""
        cache, count = self.cache, key.shape[2]
        end = cache.longest + count
        if cache.uniform is not None:
            start = cache.uniform
            self.keys[:, :, start:end] = key
            self.values[:, :, start:end] = value
        else:
            row = torch.arange(key.shape[0], device=key.device)[:, None]
            column = cache.lengths[:, None] + torch.arange(count, device=key.device)
            self.keys[row, :, column] = key.transpose(1, 2)
            self.values[row, :, column] = value.transpose(1, 2)
        return self.keys[:, :, :end], self.values[:, :, :end]


@final
class EncoderDecoderCache:
    """What a decoder remembers: its `own` keys and values, and of each layer those of the source, which never grow.

    `context` holds a pair (b, g, s, d) a layer, `context_mask` which of them are no padding.
    """

    def __init__(self, own: KeyValueCache, context: list[KeysAndValues], context_mask: Lowered) -> None:
        self.own, self.context, self.context_mask = own, context, context_mask

    @property
    def longest(self) -> int:
        """Length of the longest target so far."""
        return self.own.longest

    def set_lengths(self, lengths: Int[Tensor, " b"]) -> None:
        """Cut each target to its own length, as after a prefill of prompts padded on the right."""
        self.own.set_lengths(lengths)

    def select(self, rows: Int[Tensor, " b"]) -> None:
        """Row i becomes a copy of row `rows[i]`, its source included; the number of rows may change."""
        self.own.select(rows)
        self.context = [(key[rows], value[rows]) for key, value in self.context]
        if self.context_mask.dense is not None:
            self.context_mask = Lowered(dense=self.context_mask.dense[rows])
