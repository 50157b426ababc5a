"""How does attention become a recurrence whose cost a token never grows?

Kernel attention (Katharopoulos et al. 2020): where the weight of a key is phi(q) . phi(k) instead of exp(q . k), the
sum over all keys so far is a matrix that each new key is added to. In training the same sums are taken chunk by chunk
(Hua et al. 2022, section 3.2): O(n d^2) instead of O(n^2 d).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.chunks import chunk_length, cut, cuts, join
from diptych.nn.linear import Linear
from diptych.nn.mixer import LayerState, Passage
from diptych.nn.normalization import RMSNorm
from diptych.nn.positions import Rotation, rotate
from diptych.nn.precision import without_autocast

CHUNK = 64
"""Positions that meet in one square of scores; the fastest of 32, 64, 128 and 256 at heads of 64 dimensions."""

SMALLEST_SUM = 1e-30
"""A sum of weights below this is taken for this, so that a row without a single key yields zeros."""

KernelState = tuple[Float[Tensor, "b g d e"], Float[Tensor, "b g d"]]
"""sum_j phi(k_j) v_j^T and sum_j phi(k_j) over what was read, the paper's s and z (equations 18 and 19)."""


@final
@dataclass(frozen=True, eq=False)
class _Features:
    """phi(q), phi(k) and v as (b t h d) or in chunks; the numerator has its own, turned, where there is a rotation."""

    query: Tensor
    key: Tensor
    value: Tensor
    turned: tuple[Tensor, Tensor] | None

    @property
    def above(self) -> tuple[Tensor, Tensor]:
        """The features of the numerator."""
        return self.turned or (self.query, self.key)

    def cut(self, length: int) -> _Features:
        """The same in chunks."""
        g = self.key.shape[2]
        query, key, value = (cut(x, length, g) for x in (self.query, self.key, self.value))
        turned = self.turned and (cut(self.turned[0], length, g), cut(self.turned[1], length, g))
        return _Features(query, key, value, turned)


def feature_map(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """phi(x) = elu(x) + 1, which is positive (Katharopoulos et al. 2020, equation 7)."""
    return F.elu(x) + 1.0


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over chunks
def kernel_attention(
    query: Float[Tensor, "b t h d"],
    key: Float[Tensor, "b t g d"],
    value: Float[Tensor, "b t g e"],
    passage: Passage,
    *,
    rotation: Rotation | None = None,
    state: KernelState | None = None,
) -> tuple[Float[Tensor, "b t h e"], KernelState | None]:
    """out_t = phi(q_t)^T sum_j phi(k_j) v_j^T / (phi(q_t) . sum_j phi(k_j)), and the sums after the last position.

    j runs over the positions up to t, or over all where the passage is not causal (equations 9 and 6), always within
    the document of t and never over padding; `h` is a multiple of `g`. A rotation turns the features in the numerator
    and leaves the denominator positive (Su et al. 2021, equation 19). `state` is what the first document began with.
    Sums are float32 at least. Without causality there is no state: given one, ValueError.
    """
    if not passage.causal and state is not None:
        raise ValueError("attention in both directions reads the whole at once; leave the cache out")
    with without_autocast(query):
        wide = torch.promote_types(query.dtype, torch.float32)
        query, key, value = feature_map(query.to(wide)), feature_map(key.to(wide)), value.to(wide)
        valid = passage.valid(key[:, :, 0])
        if valid is not None:
            key = key * valid[:, :, None, None]
        turned = None if rotation is None else (rotate(query, rotation), rotate(key, rotation))
        features = _Features(query, key, value, turned)
        if passage.causal and query.shape[1] == 1:
            return _next(features, state)
        if not passage.causal and passage.documents is None:
            return _over_all(features), None
        return _in_chunks(features, passage, state)


def _next(x: _Features, state: KernelState | None) -> tuple[Tensor, KernelState]:
    """One position: the paper's equations 18 to 20."""
    above_query, above_key = x.above
    sums, total = above_key[:, 0, :, :, None] * x.value[:, 0, :, None, :], x.key[:, 0]
    if state is not None:
        sums, total = state[0] + sums, state[1] + total
    rows, above_rows = (query[:, 0].unflatten(1, (x.key.shape[2], -1)) for query in (x.query, above_query))
    out = above_rows @ sums / (rows @ total[..., None]).clamp_min(SMALLEST_SUM)
    return out.flatten(1, 2)[:, None], (sums, total)


def _over_all(x: _Features) -> Tensor:
    """One document in both directions: equation 6, whose two sums are the same for every position."""
    above_query, above_key = x.above
    rows, above_rows = (query.unflatten(2, (x.key.shape[2], -1)) for query in (x.query, above_query))
    sums = torch.einsum("btgd,btge->bgde", above_key, x.value)
    weight = torch.einsum("btgrd,bgd->btgr", rows, x.key.sum(1)).clamp_min(SMALLEST_SUM)
    return (torch.einsum("btgrd,bgde->btgre", above_rows, sums) / weight[..., None]).flatten(2, 3)


def _in_chunks(x: _Features, passage: Passage, state: KernelState | None) -> tuple[Tensor, KernelState | None]:
    t = x.query.shape[1]
    length = chunk_length(CHUNK, t)
    apart = cuts(passage.documents, length, causal=passage.causal, like=x.key)
    x = x.cut(length)
    weights = _within(x.query, x.key, apart.together)
    weight = weights.sum(-1, keepdim=True)
    numerator = (weights if x.turned is None else _within(*x.turned, apart.together)) @ x.value
    from_before, weight_before, last = _beyond(x, apart.lasts, apart.continues, apart.goes_on, state)
    numerator, weight = numerator + from_before, weight + weight_before
    if not passage.causal:
        mirrored = apart.continues, apart.lasts, apart.goes_on
        from_after, weight_after, _ = _beyond(x, *mirrored, None, backwards=True)
        numerator, weight = numerator + from_after, weight + weight_after
    out = join(numerator / weight.clamp_min(SMALLEST_SUM), length, t)
    return out, last if passage.causal else None


def _within(query: Tensor, key: Tensor, together: Tensor) -> Float[Tensor, "n b g r c"]:
    """Weights between the positions of a chunk, zero where one may not read the other."""
    heads = (query @ key.mT).unflatten(-2, (-1, key.shape[-2]))
    weights: Tensor = (heads * together[..., None, :, :]).flatten(-3, -2)
    return weights


def _beyond(
    x: _Features,
    writes: Tensor | None,
    reads: Tensor | None,
    goes_on: Tensor | None,
    first: KernelState | None,
    *,
    backwards: bool = False,
) -> tuple[Tensor, Tensor, KernelState]:
    """What the chunks before (after, if `backwards`) add to numerator and denominator, and the sums over all chunks.

    writes, reads: which positions of a chunk belong to the document that the other chunks know of; None: all.
    """
    (above_query, above_key), key, query = x.above, x.key, x.query
    if writes is not None and reads is not None:
        reads = reads.repeat(1, 1, 1, query.shape[3] // key.shape[3], 1)
        key, above_key = key * writes, above_key * writes
        query, above_query = query * reads, above_query * reads
    sums, last_sums = _carry(above_key.mT @ x.value, goes_on, first and first[0], backwards)
    total, last_total = _carry(key.sum(-2), goes_on, first and first[1], backwards)
    return above_query @ sums, query @ total[..., None], (last_sums, last_total)


def _carry(
    added: Float[Tensor, "n b ..."], goes_on: Float[Tensor, "n b"] | None, first: Tensor | None, backwards: bool
) -> tuple[Float[Tensor, "n b ..."], Float[Tensor, "b ..."]]:
    """before[0] = first, before[i + 1] = goes_on[i] before[i] + added[i]: all but the last, and the last.

    backwards: over the chunks from the last to the first.
    """
    if backwards:
        assert goes_on is not None
        before, last = _carry(added.flip(0), goes_on.flip(0), first, False)
        return before.flip(0), last
    start = torch.zeros_like(added[0]) if first is None else first
    before = _Carry.apply(added, goes_on, start)  # type: ignore[no-untyped-call]
    return before[:-1], before[-1]


class _Carry(torch.autograd.Function):
    """The loop of `_carry`, in place."""

    @staticmethod
    def forward(ctx: Any, added: Tensor, goes_on: Tensor | None, first: Tensor) -> Tensor:
        before = torch.empty(len(added) + 1, *added.shape[1:], dtype=added.dtype, device=added.device)
        before[0] = first
        factors = _factors(goes_on, added)
        for i, part in enumerate(added):
            torch.addcmul(part, before[i], factors[i], out=before[i + 1])
        ctx.save_for_backward(goes_on)
        return before

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (goes_on,) = ctx.saved_tensors
        gradient = upstream[0].clone()
        factors = _factors(goes_on, gradient[1:])
        for i in range(len(gradient) - 2, -1, -1):
            gradient[i].addcmul_(gradient[i + 1], factors[i])
        return gradient[1:], None, gradient[0]


def _factors(goes_on: Tensor | None, like: Tensor) -> Tensor:
    """One factor a chunk and row, to be spread over a state."""
    shape = (*like.shape[:2], *[1] * (like.dim() - 2))
    return like.new_ones(()).expand(shape) if goes_on is None else goes_on.view(shape)


@final
class LinearAttention(nn.Module):
    """Kernel attention in the place of softmax attention, with the same parameters: `MultiHeadAttention`.

    Between calls it remembers two sums a key-value head, (b, g, d, d) and (b, g, d), however long the text.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.kv_heads, config.head_width
        heads = self.n_heads + 2 * self.n_kv_heads
        self.input = Linear(config.d_model, heads * self.d_head, bias=config.bias or config.qkv_bias)
        self.query_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else None
        self.output = Linear(self.n_heads * self.d_head, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Float[Tensor, "b t m"],
        mask: Passage,
        rotation: Rotation | None = None,
        cache: LayerState | None = None,
    ) -> Float[Tensor, "b t m"]:
        heads = self.input(x).unflatten(-1, (-1, self.d_head))
        query, key, value = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        state = None if cache is None or cache.value is None else (cache.value[0], cache.value[1])
        mixed, last = kernel_attention(query, key, value, mask, rotation=rotation, state=state)
        if cache is not None:
            cache.value = last
        out: Tensor = self.output(mixed.flatten(2).to(heads.dtype))
        return out

    def start(self, generator: torch.Generator) -> None:
        """Nothing starts otherwise than matrices, biases and scales do."""
