"""How are a memory of what was read long ago and attention to what was read just now put together?

Titans (Behrouz, Zhong and Mirrokni 2025, section 4): memory as a context of attention (MAC), as a gate beside it (MAG)
and as a layer before it (MAL). All have learned positions that every token attends to, which the memory does not read.
Two things differ from the paper:

- What its MAC reads after a segment, from a memory that has taken in the whole segment, would tell a position of later
  ones. Here each position reads the memory as it stands after that position, and what was retrieved for a position is
  seen by no position before it.
- The gate, which the paper leaves open (sigma after both were normalized): each side gates the other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.linear import Linear
from diptych.nn.mixer import LayerState, Passage
from diptych.nn.neural_memory import NeuralMemory, Weights, recall
from diptych.nn.normalization import RMSNorm
from diptych.nn.positions import Rotation
from diptych.nn.precision import wide, without_autocast
from diptych.nn.window_attention import WindowAttention

State = tuple[Tensor, ...]


class Titans(nn.Module, ABC):
    """What the three have in common: parts, padding and the cache. It is a `Recurrence`."""

    def __init__(self, config: TransformerConfig, *, window: int) -> None:
        super().__init__()
        width = config.n_heads * config.head_width
        self.attention = WindowAttention(config, window=window, n_persistent=config.memory.n_persistent)
        self.memory = NeuralMemory(config)
        self.memory_norm = RMSNorm(width, eps=config.norm_eps)
        self.output = Linear(width, config.d_model, bias=config.bias)

    def start(self, generator: torch.Generator) -> None:
        """Draw the memory's starting weights."""
        self.memory.draw(generator)

    def forward(
        self,
        x: Float[Tensor, "b t m"],
        mask: Passage,
        rotation: Rotation | None = None,
        cache: LayerState | None = None,
    ) -> Float[Tensor, "b t m"]:
        """What each position makes of those up to it.

        Raises ValueError for a passage that is not causal or has several documents.
        """
        if not mask.causal:
            raise ValueError("a Titans memory reads from left to right; set model.attention = ['softmax']")
        if mask.documents is not None:
            raise ValueError("a Titans memory does not begin anew within a sequence; set data.document_mask = false")
        if cache is None:  # padding stands behind all that is read, and no state is kept that it could touch
            return self._mix(x, rotation, self._begin(x), 0)[0]
        fresh = cache.value is None
        state = self._begin(x) if cache.value is None else cache.value
        counts = [0] * len(x) if fresh or x.shape[1] == 1 else self._count(state).tolist()
        lengths = [x.shape[1]] * len(x) if mask.lengths is None else mask.lengths.tolist()
        if len(set(counts)) == 1 and set(lengths) == {x.shape[1]}:
            out, cache.value = self._mix(x, rotation, state, counts[0])
            return out
        out, cache.value = self._row_by_row(x, rotation, state, counts, lengths)
        return out

    def _row_by_row(
        self, x: Tensor, rotation: Rotation | None, state: State, counts: list[int], lengths: list[int]
    ) -> tuple[Tensor, State]:
        """Rows of different lengths, each read without its padding; at the padding the output is zero."""
        rows, states = [], []
        for i, (count, length) in enumerate(zip(counts, lengths, strict=True)):
            row, mine = x[i : i + 1, :length], tuple(part[i : i + 1] for part in state)
            if length:
                turned = None if rotation is None else _row(rotation, i, length)
                row, mine = self._mix(row, turned, mine, count)
            rows.append(F.pad(row, (0, 0, 0, x.shape[1] - length)))
            states.append(mine)
        return torch.cat(rows), tuple(torch.cat(parts) for parts in zip(*states, strict=True))

    @abstractmethod
    def _mix(self, x: Tensor, rotation: Rotation | None, state: State, begun: int) -> tuple[Tensor, State]:
        """The output and the next state; all rows have read `begun` tokens, unless x is a single one."""

    def _begin(self, x: Tensor) -> State:
        """The state before the first token: of the memory, of its convolution, and the window's keys and values."""
        return _pack(*self.memory.begin(x), *self.attention.begin(x))

    def _unpack(self, state: State) -> tuple[Weights, State]:
        depth = len(self.memory.initial)
        return Weights(state[:depth], state[depth : 2 * depth], state[2 * depth]), state[2 * depth + 1 :]

    def _count(self, state: State) -> Tensor:
        return state[2 * len(self.memory.initial)]


def _gate(a: Tensor, m: Tensor) -> Tensor:
    """Attention's heads and the memory's, normalized, each gating the other."""
    return a * torch.sigmoid(m) + m * torch.sigmoid(a)


def _pack(weights: Weights, *others: Tensor) -> State:
    return (*weights.layers, *weights.reference, weights.n_read, *others)


def _row(rotation: tuple[Tensor, Tensor], i: int, length: int) -> tuple[Tensor, Tensor]:
    cos, sin = (part[i : i + 1] if len(part) > 1 else part for part in rotation)
    return cos[:, :length], sin[:, :length]


def _part(rotation: tuple[Tensor, Tensor] | None, start: int, end: int) -> tuple[Tensor, Tensor] | None:
    return None if rotation is None else (rotation[0][:, start:end], rotation[1][:, start:end])


def _window(config: TransformerConfig) -> int:
    return config.window or config.segment.length


@final
class TitansGate(Titans):
    """Memory as a gate (section 4.2, equations 26 to 28): attention in a window beside the memory, gated."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, window=_window(config))
        self.attention_norm = RMSNorm(config.n_heads * config.head_width, eps=config.norm_eps)

    def _mix(self, x: Tensor, rotation: Rotation | None, state: State, begun: int) -> tuple[Tensor, State]:
        weights, (tail, *before) = self._unpack(state)
        attended, before = self.attention(x, rotation, before, weights.n_read)
        recalled, weights, tail = self.memory(x, weights, tail, begun)
        gated = _gate(self.attention_norm(attended), self.memory_norm(recalled.to(attended.dtype)))
        return self.output(gated), _pack(weights, tail, *before)


@final
class TitansLayer(Titans):
    """Memory as a layer (section 4.3, equations 29 to 31): attention in a window to what the memory retrieved."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, window=_window(config))
        self.retrieved = Linear(config.n_heads * config.head_width, config.d_model, bias=config.bias)

    def _mix(self, x: Tensor, rotation: Rotation | None, state: State, begun: int) -> tuple[Tensor, State]:
        weights, (tail, *before) = self._unpack(state)
        count = weights.n_read
        recalled, weights, tail = self.memory(x, weights, tail, begun)
        h = self.retrieved(self.memory_norm(recalled.to(x.dtype)))
        attended, before = self.attention(h, rotation, before, count)
        return self.output(attended), _pack(weights, tail, *before)


@final
class TitansContext(Titans):
    """Memory as a context (section 4.1, equations 21 to 25), segment by segment.

    h = M(q), M as the segment found it; y = attention to [persistent | h | segment]; the memory learns from y; the
    output is y gated with what the memory makes of it. Attention's keys and values of the segment so far, those of h
    and of x stacked, take the place of a window's.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, window=config.segment.length)
        width = config.n_heads * config.head_width
        self.attention_norm = RMSNorm(width, eps=config.norm_eps)
        self.period = math.lcm(config.segment.length, config.memory.chunk_length)
        self.query = Linear(config.d_model, width, bias=config.bias or config.qkv_bias)
        self.retrieved = Linear(width, config.d_model, bias=config.bias)
        self.attended = Linear(width, config.d_model, bias=config.bias)

    def _begin(self, x: Tensor) -> State:
        state = super()._begin(x)
        weights, (tail, *before) = self._unpack(state)
        return _pack(weights, tail, *(torch.cat((part, part), dim=1) for part in before), *weights.reference)

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]  # nor the loop over segments
    def _mix(self, x: Tensor, rotation: Rotation | None, state: State, begun: int) -> tuple[Tensor, State]:
        length, t = self.attention.window, x.shape[1]
        query, out, start = self._queries(x), [], 0
        while start < t:
            end = min(t, start + length - (begun + start) % length)
            turned = _part(rotation, start, end)
            y, state = self._segment(
                x[:, start:end], query[:, :, start:end], turned, state, (begun + start) % self.period
            )
            out.append(y)
            start = end
        return torch.cat(out, dim=1), state

    def _queries(self, x: Tensor) -> Tensor:
        query = F.silu(self.query(x)).unflatten(-1, (self.memory.n_heads, -1)).transpose(1, 2)
        return F.normalize(query.to(wide(x.dtype)), dim=-1)

    def _segment(
        self, x: Tensor, query: Tensor, rotation: Rotation | None, state: State, begun: int
    ) -> tuple[Tensor, State]:
        """Positions of one segment; all rows have read `begun` tokens, unless x is a single one."""
        weights, (tail, key, value, *found) = self._unpack(state)
        with without_autocast(x):
            h = recall(found, query).transpose(1, 2).flatten(2)
        heads = self.attention.project(x, rotation)
        retrieved = self.attention.context(self.retrieved(h.to(x.dtype)), rotation)
        new = torch.cat((retrieved[0], heads.key), dim=1), torch.cat((retrieved[1], heads.value), dim=1)
        key, value, visible = self._extend((key, value), new, weights.n_read, begun)
        attended = self.attention.attend(heads.query, _side_by_side(key), _side_by_side(value), visible)
        attended = self.attention_norm(attended.transpose(1, 2).flatten(2))
        recalled, weights, tail = self.memory(self.attended(attended), weights, tail, begun)
        ended = (weights.n_read % self.attention.window == 0)[:, None, None, None]
        found = [torch.where(ended, layer[:, :, 0], old) for layer, old in zip(weights.layers, found, strict=True)]
        room = (0, 0, 0, self.attention.window - key.shape[2])
        gated = _gate(attended, self.memory_norm(recalled.to(attended.dtype)))
        return self.output(gated), _pack(weights, tail, F.pad(key, room), F.pad(value, room), *found)

    def _extend(
        self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], n_read: Tensor, begun: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The segment's keys and values with the new ones, and which of them each new position may attend to."""
        length, t = self.attention.window, new[0].shape[2]
        column = torch.arange(length, device=n_read.device)
        if t == 1:  # rows may stand at different places
            at = (n_read % length)[:, None]
            here, visible = (column == at)[:, None, :, None], (column <= at)[:, None]
            key, value = (torch.where(here, n, o.to(n.dtype)) for o, n in zip(old, new, strict=True))
        else:
            start = begun % length
            visible = (column[: start + t] <= column[start : start + t, None])[None]
            key, value = (torch.cat((o[:, :, :start].to(n.dtype), n), dim=2) for o, n in zip(old, new, strict=True))
        return key, value, torch.cat((visible, visible), dim=-1)


def _side_by_side(x: Float[Tensor, "b g2 n d"]) -> Float[Tensor, "b g n2 d"]:
    """Of every head, what stands for h and then what stands for the segment."""
    b, g2, n, d = x.shape
    return x.view(b, 2, g2 // 2, n, d).transpose(1, 2).reshape(b, g2 // 2, 2 * n, d)
