"""How does attention reach beyond its segment at constant memory?

Transformer-XL (Dai et al. 2019): a segment of L positions also attends to the M positions before it, into which no
gradient flows (section 3.2), and scores know positions by their distance (section 3.3). O(n (L + M)) time and memory.
What a layer is given is there for all segments at once, so all of them are computed at once.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.linear import Linear
from diptych.nn.mixer import LayerState, Passage
from diptych.nn.normalization import RMSNorm
from diptych.nn.positions import Rotation, sinusoids


@final
class TransformerXL(nn.Module):
    """Position i of segment s = floor(i / L) attends to the positions j <= i with j >= s L - M.

    The score is ((q_i + u) . k_j + (q_i + v) . W_R r_(i-j)) / sqrt(d), r the sinusoids of the distance; W_R is
    `relative`, u `content_bias`, v `position_bias`. `input` stacks W_q, W_k and W_v in its rows. Query heads that share
    a key-value head share its W_R too. Distances replace rotations: one that is given is not used.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.kv_heads, config.head_width
        self.dropout = config.dropout
        self.length, self.memory_length = config.segment.length, config.segment.memory_length
        heads = self.n_heads + 2 * self.n_kv_heads
        self.input = Linear(config.d_model, heads * self.d_head, bias=config.bias or config.qkv_bias)
        self.relative = Linear(config.d_model, self.n_kv_heads * self.d_head, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(self.n_heads * self.d_head))
        self.position_bias = nn.Parameter(torch.zeros(self.n_heads * self.d_head))
        self.query_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else None
        self.output = Linear(self.n_heads * self.d_head, config.d_model, bias=config.bias)

    def start(self, generator: torch.Generator) -> None:
        """u and v as the authors draw them: normal, deviation 0.02."""
        with torch.no_grad():
            self.content_bias.normal_(0.0, 0.02, generator=generator)
            self.position_bias.normal_(0.0, 0.02, generator=generator)

    def forward(
        self,
        x: Float[Tensor, "b t m"],
        mask: Passage,
        rotation: Rotation | None = None,
        cache: LayerState | None = None,
    ) -> Float[Tensor, "b t m"]:
        """Raises ValueError for a passage that is not causal. Without a state, the passage begins at position 0."""
        del rotation
        if not mask.causal:
            raise ValueError(
                'attention "transformer_xl" reads from left to right only; set model.attention = ["softmax"] for a '
                "model that reads both ways"
            )
        if cache is None or cache.value is None:
            return self._from_start(x, mask, cache)
        pieces = [
            self._next(x[:, at : at + self.length], _part(mask, at, self.length), cache)
            for at in range(0, x.shape[1], self.length)
        ]
        return torch.cat(pieces, dim=1)

    def _from_start(self, x: Tensor, mask: Passage, cache: LayerState | None) -> Tensor:
        """All segments at once. The last is filled up with zeros, which only what fills it attends to."""
        b, t = x.shape[:2]
        size, m = min(self.length, t), self.memory_length
        segments = -(-t // size)
        query, key, value = self._project(x)
        keys, values = _segments(key, size), _segments(value, size)
        if segments > 1 and m > 0:
            # Keys and values of the memory learn the weights, but nothing of the inputs.
            past = self._project(x.detach())[1:] if torch.is_grad_enabled() else (key, value)
            before = [_windows_before(y, segments, size, m) for y in past]
            keys, values = torch.cat((before[0], keys), 2), torch.cat((before[1], values), 2)
        begins = torch.zeros(b, t, dtype=torch.long, device=x.device)
        if mask.documents is not None:
            begins = _begins(mask.documents, torch.arange(t, device=x.device), begins[:, 0], mask.documents[:, 0])
        place = torch.arange(segments * size, device=x.device).view(1, segments, size)
        places = place[..., -1:] + 1 - keys.shape[2] + torch.arange(keys.shape[2], device=x.device)
        first = begins[:1, :1, None] if mask.documents is None else _segments(begins, size)
        allowed = (places[:, :, None] <= place[..., None]) & (places[:, :, None] >= first[..., None])
        mixed = self._attend(_segments(query, size), keys, values, allowed)
        if cache is not None:
            nothing = torch.zeros(b, dtype=torch.long, device=x.device)
            cache.value = self._remember(key, value, mask, begins, (nothing, nothing))
        out: Tensor = self.output(mixed.flatten(1, 2)[:, :t])
        return out

    def _next(self, x: Tensor, mask: Passage, cache: LayerState) -> Tensor:
        """At most L positions after those that the state remembers."""
        assert cache.value is not None
        b, t = x.shape[:2]
        past_key, past_value, begin, document = cache.value
        query, key, value = self._project(x)
        # The first of L + M positions is too far from any query now.
        key, value = torch.cat((past_key[:, 1:], key), 1), torch.cat((past_value[:, 1:], value), 1)
        offset = torch.as_tensor(mask.offset, device=x.device).expand(b)[:, None]
        place = offset + torch.arange(t, device=x.device)
        places = place[:, -1:] + torch.arange(1 - key.shape[1], 1, device=x.device)
        begins = begin[:, None].expand(b, t)
        if mask.documents is not None:
            begins = _begins(mask.documents, place, begin, document)
        first = torch.maximum(place // self.length * self.length - self.memory_length, begins)
        allowed = (places[:, None] <= place[..., None]) & (places[:, None] >= first[..., None])
        mixed = self._attend(query[:, None], key[:, None], value[:, None], allowed[:, None])
        cache.value = self._remember(key, value, mask, begins, (begin, document))
        out: Tensor = self.output(mixed[:, 0])
        return out

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.input(x).unflatten(-1, (-1, self.d_head))
        query, key, value = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value

    def _attend(
        self,
        query: Float[Tensor, "b s q h d"],
        key: Float[Tensor, "b s k g d"],
        value: Float[Tensor, "b s k g d"],
        allowed: Bool[Tensor, "#b #s q k"],
    ) -> Float[Tensor, "b s q m"]:
        """The queries are the last of the keys' positions, in each of s segments."""
        b, s, q, h, d = query.shape
        k, g = key.shape[2:4]
        shared = query.unflatten(3, (g, h // g)).permute(3, 0, 1, 4, 2, 5)
        u, v = (y.to(query.dtype).view(g, 1, 1, h // g, 1, d) for y in (self.content_bias, self.position_bias))
        keys, values = (y.permute(3, 0, 1, 2, 4).reshape(g * b * s, k, d) for y in (key, value))
        scores = (shared + u).reshape(g * b * s, -1, d) @ keys.transpose(1, 2)
        scores = scores.view(g, b, s, -1, q, k) + self._by_distance(shared + v, k)
        scores = (scores if scores.dtype == torch.float64 else scores.float()) * d**-0.5
        weights = torch.softmax(scores.masked_fill(~allowed[:, :, None], -torch.inf), dim=-1).to(values.dtype)
        weights = F.dropout(weights, self.dropout, self.training)
        mixed = (weights.view(g * b * s, -1, k) @ values).view(g, b, s, h // g, q, d)
        return mixed.permute(1, 2, 4, 0, 3, 5).reshape(b, s, q, h * d)

    def _by_distance(self, asked: Float[Tensor, "g b s r q d"], k: int) -> Float[Tensor, "g b s r q k"]:
        """(q_i + v) . W_R r_(i-j) where j <= i; elsewhere the numbers mean nothing.

        Every query meets every distance; each row then moves by one more than the one above it, which is but another
        way to read the same numbers (appendix B).
        """
        g, b, s, r, q, d = asked.shape
        sines = _sinusoids(k + 1, self.relative.in_features, asked.device, self.relative.weight.dtype)
        rows, width = asked.reshape(g, -1, d), sines.shape[1]
        if b * s * r * q * (d + k) * width < k * d * (width + b * s * r * q):
            # For few queries it is cheaper to take them to the sinusoids than the sinusoids to them.
            scores = (rows @ self.relative.weight.view(g, d, width)) @ sines.T
        else:
            scores = rows @ self.relative(sines).view(k + 1, g, d).permute(1, 2, 0)
        return scores.view(g, b, s, r, q * (k + 1))[..., q:].view(g, b, s, r, q, k)

    def _remember(
        self, key: Tensor, value: Tensor, mask: Passage, begins: Tensor, since: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        """Keys and values of the last L + M positions, zeros where there were none; where the last one's document
        began, and its number, for which `since` stands in where the passage has no positions or no numbers."""
        begin, document = since
        t, kept = begins.shape[1], self.length + self.memory_length
        if mask.lengths is None:
            key, value = _last(key.detach(), kept), _last(value.detach(), kept)
            return (
                key,
                value,
                begins[:, -1].clone(),
                document if mask.documents is None else mask.documents[:, -1].clone(),
            )
        count = mask.lengths
        place = key.shape[1] - t + count[:, None] + torch.arange(-kept, 0, device=key.device)
        row, none = torch.arange(len(key), device=key.device), (place < 0)[..., None, None]
        key, value = (y.detach()[row[:, None], place.clamp(min=0)].masked_fill(none, 0.0) for y in (key, value))
        last = (count - 1).clamp(min=0)
        begin = torch.where(count > 0, begins[row, last], begin)
        if mask.documents is not None:
            document = torch.where(count > 0, mask.documents[row, last], document)
        return key, value, begin, document


def _last(y: Tensor, kept: int) -> Tensor:
    """The last `kept` of the positions (b, t, g, d), in memory of their own, zeros before the first."""
    t = y.shape[1]
    if t == kept:
        return y.contiguous()
    return y[:, t - kept :].clone() if t > kept else F.pad(y, (0, 0, 0, 0, kept - t, 0))


def _segments(y: Tensor, size: int) -> Tensor:
    """(b, t, ...) as (b, segments, size, ...), zeros at its end."""
    extra = -y.shape[1] % size
    y = F.pad(y, (0, 0) * (y.dim() - 2) + (0, extra)) if extra else y
    return y.view(len(y), -1, size, *y.shape[2:])


def _windows_before(y: Tensor, segments: int, size: int, m: int) -> Tensor:
    """The m positions before each segment, (b, segments, m, ...), zeros before the first."""
    windows = F.pad(y, (0, 0) * (y.dim() - 2) + (m, 0)).unfold(1, m, size)[:, :segments]
    moved: Tensor = windows.movedim(-1, 2)
    return moved


def _begins(
    documents: Int[Tensor, "b t"], place: Int[Tensor, "*b t"], begin: Int[Tensor, " b"], document: Int[Tensor, " b"]
) -> Int[Tensor, "b t"]:
    """Where each position's document began. Before the first position, document `document` began at `begin`."""
    before = torch.cat((document[:, None], documents[:, :-1]), 1)
    return torch.where(documents != before, place, begin[:, None]).cummax(1).values


def _part(mask: Passage, start: int, size: int) -> Passage:
    """`size` positions of a passage."""
    return replace(
        mask,
        documents=None if mask.documents is None else mask.documents[:, start : start + size],
        lengths=None if mask.lengths is None else (mask.lengths - start).clamp(0, size),
        offset=mask.offset + start,
    )


def _sinusoids(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "t d"]:
    """Of the distances length - 1, ..., 1, 0."""
    if torch.compiler.is_compiling():
        return _computed(length, width, device, dtype)
    return _kept(length, width, device, dtype)


def _computed(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    distance = torch.arange(length - 1, -1, -1, dtype=torch.float64, device=device)
    return sinusoids(distance, width).to(dtype)


@lru_cache(16)
def _kept(length: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is made in that mode could not be trained with later
        return _computed(length, width, device, dtype)
