"""How does generation avoid reading the past again?

Every layer remembers what its kind needs, and no more. One that attends to the whole past has a part of a static
buffer of keys and values, allocated once, where a position stands at its own index in its row, so a causal mask by
position also hides whatever stale entries lie beyond a row's length. One whose mask reaches back a bounded way keeps
that much, the new over the old. A recurrence keeps its state.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.models.layers import reach
from diptych.nn.attention import KeysAndValues, LayerCache
from diptych.nn.lowering import Lowered
from diptych.nn.mixer import LayerState
from diptych.nn.near_far import reach_of_scheme
from diptych.nn.reach import Reach


@final
class KeyValueCache:
    """What all layers remember of `batch_size` rows of at most `max_length` positions.

    `uniform` is the common length of all rows while they are equal: slices then replace gathers and masks. `expected`
    are the rows' lengths in the passage that is read now, where they differ.
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
        self.max_length = max_length
        self.lengths: Int[Tensor, " b"] = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.uniform: int | None = 0
        self.longest = 0
        self.expected: Int[Tensor, " b"] | None = None
        row = (batch_size, config.kv_heads, config.head_width)
        self.bounded: dict[int, BoundedLayer] = {}
        self.states: dict[int, LayerState] = {}
        for layer in range(config.n_layers):
            if config.attention_of(layer) != "softmax":
                self.states[layer] = LayerState()
            elif (back := _reach(config, layer)) is not None and back.first + back.recent < max_length:
                self.bounded[layer] = BoundedLayer(self, row, back, device, dtype)
        whole = [i for i in range(config.n_layers) if i not in self.bounded and i not in self.states]
        self.place = {layer: index for index, layer in enumerate(whole)}
        shape = (len(whole), *row[:2], max_length if whole else 0, row[2])
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    @property
    def offset(self) -> int | Int[Tensor, " b"]:
        """Position of the next token: one number while all rows are equally long, else one a row."""
        return self.lengths if self.uniform is None else self.uniform

    @property
    def is_whole(self) -> bool:
        """Whether every layer keeps all that it has read, so that a row can be cut to any length."""
        return not self.bounded and not self.states

    @property
    def n_bytes(self) -> int:
        """Memory of what is kept."""
        return self.keys.nbytes + self.values.nbytes + sum(layer.n_bytes for layer in self._small())

    def _small(self) -> list[BoundedLayer | LayerState]:
        return [*self.bounded.values(), *self.states.values()]

    def end_after(self, count: int) -> int:
        """Where the longest row ends when `count` positions are added. Raises ValueError where that is too far."""
        end = self.longest + count
        if end > self.max_length:
            raise ValueError(f"the sequence grows to {end} tokens but its cache holds {self.max_length}")
        return end

    def layer(self, index: int) -> LayerCache | LayerState:
        """The part that layer `index` appends to."""
        if index in self.place:
            return CachedLayer(self, self.place[index])
        return self.bounded[index] if index in self.bounded else self.states[index]

    def key_positions(self, index: int, count: int) -> Int[Tensor, "b n"] | None:
        """Where the keys stand that attention layer `index` returns for `count` new positions, -1 for none; None: at 0,
        1, ..."""
        return self.bounded[index].positions_with(count) if index in self.bounded else None

    def single_row(self) -> tuple[Float[Tensor, "l g n d"], Float[Tensor, "l g n d"], int] | None:
        """The buffers of the only row, and the position that comes next in it; None where there are several rows, or
        layers that do not keep all."""
        if self.uniform is None or self.keys.shape[1] != 1 or not self.is_whole:
            return None
        return self.keys[:, 0], self.values[:, 0], self.uniform

    def expect(self, lengths: Int[Tensor, " b"]) -> None:
        """The rows of the passage that is read next are padded on the right: with it each ends at its own length."""
        lengths = lengths.to(self.lengths.device)
        self.expected = None if bool((lengths == lengths[0]).all()) else lengths - self.lengths

    def advance(self, count: int) -> None:
        """Every row has grown by `count` positions, or by what was expected of it."""
        if self.expected is not None:
            grown, self.expected = self.lengths + self.expected, None
            self._set(grown)
            return
        self.lengths = self.lengths + count
        self.longest += count
        if self.uniform is not None:
            self.uniform += count

    def set_lengths(self, lengths: Int[Tensor, " b"]) -> None:
        """Forget what lies beyond each row's length. Raises ValueError where a layer does not keep all."""
        lengths = lengths.to(self.lengths.device)
        if not self.is_whole and bool((lengths != self.lengths).any()):
            raise ValueError("a layer has forgotten parts of what it read, so a row cannot be cut; read it again")
        self._set(lengths)

    def _set(self, lengths: Int[Tensor, " b"]) -> None:
        self.lengths = lengths
        longest, shortest = int(lengths.max()), int(lengths.min())
        self.longest = longest
        self.uniform = longest if longest == shortest else None

    def select(self, rows: Int[Tensor, " b"]) -> None:
        """Row i becomes a copy of row `rows[i]`; the number of rows may change."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]
        for layer in self._small():
            layer.select(rows)
        self._set(self.lengths[rows])


def _reach(config: TransformerConfig, layer: int) -> Reach | None:
    """What of the past a layer may look at, by its mask and by the scheme of positions; None: all of it."""
    found = [reach(config, layer), reach_of_scheme(config.position_scheme)]
    return min((back for back in found if back is not None), key=lambda back: back.first + back.recent, default=None)


@final
class CachedLayer:
    """A layer that attends to the whole past: its view of the buffers."""

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
class BoundedLayer:
    """A layer that looks back a bounded way: keys and values of the first positions and of the last ones, these as a
    ring in which the new overwrites the old.

    One slot more than that takes what is not kept. `positions` (b, slots) says where each slot's key stands, -1:
    nowhere.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        row: tuple[int, int, int],
        back: Reach,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.cache, self.first, self.recent = cache, back.first, max(1, back.recent)
        slots = self.first + self.recent + 1
        self.keys = torch.zeros(row[0], row[1], slots, row[2], device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.positions = torch.full((row[0], slots), -1, device=device)

    @property
    def n_bytes(self) -> int:
        """Memory of what is kept."""
        return self.keys.nbytes + self.values.nbytes + self.positions.nbytes

    def positions_with(self, count: int) -> Int[Tensor, "b n"] | None:
        """Where the keys stand that `append` returns for `count` new positions; None: at 0, 1, ..."""
        if self.cache.longest == 0:
            return None
        return torch.cat((self.positions[:, :-1], self._new(count)), dim=1)

    def append(self, key: Float[Tensor, "b g t d"], value: Float[Tensor, "b g t d"]) -> tuple[Tensor, Tensor]:
        """Keep what may be looked at later; return what was kept before, and the new positions."""
        if self.cache.longest == 0:
            whole = key, value
        else:
            whole = torch.cat((self.keys[:, :, :-1], key), dim=2), torch.cat((self.values[:, :, :-1], value), dim=2)
        new = self._new(key.shape[2])
        grown = self.cache.expected
        ends = (new[:, -1:] + 1) if grown is None else (self.cache.lengths + grown)[:, None]
        kept = (new < ends) & ((new < self.first) | (new >= ends - self.recent))
        slot = torch.where(new < self.first, new, self.first + new % self.recent)
        slot = torch.where(kept, slot, self.keys.shape[2] - 1)
        self.positions.scatter_(1, slot, torch.where(kept, new, -1))
        place = slot[:, None, :, None].expand(-1, *key.shape[1:2], -1, key.shape[3])
        self.keys.scatter_(2, place, key)
        self.values.scatter_(2, place, value)
        return whole

    def _new(self, count: int) -> Int[Tensor, "b t"]:
        return self.cache.lengths[:, None] + torch.arange(count, device=self.positions.device)

    def select(self, rows: Int[Tensor, " b"]) -> None:
        """Row i becomes a copy of row `rows[i]`."""
        self.keys, self.values, self.positions = self.keys[rows], self.values[rows], self.positions[rows]


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

    def expect(self, lengths: Int[Tensor, " b"]) -> None:
        """The targets that are read next are padded on the right: with them each ends at its own length."""
        self.own.expect(lengths)

    def select(self, rows: Int[Tensor, " b"]) -> None:
        """Row i becomes a copy of row `rows[i]`, its source included; the number of rows may change."""
        self.own.select(rows)
        self.context = [(key[rows], value[rows]) for key, value in self.context]
        if self.context_mask.dense is not None:
            self.context_mask = Lowered(dense=self.context_mask.dense[rows])
