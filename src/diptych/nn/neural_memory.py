"""How does a network learn by heart what it reads, at test time?

Titans' long-term memory (Behrouz, Zhong and Mirrokni 2025, section 3): a small network M a head, whose weights move
with every token by a gradient step on ||M(k_t) - v_t||^2 (the surprise), with momentum and forgetting:

    S_t = eta_t S_{t-1} - theta_t grad ||M(k_t) - v_t||^2,    M_t = (1 - alpha_t) M_{t-1} + S_t,    y_t = M_t(q_t).

Within a chunk every gradient is taken at the memory as the chunk found it (section 3.2); momentum and forgetting stay
those of each token. Such a gradient is an outer product for every matrix of M, so the state at a chunk's end is a
weighted sum that takes one matrix product, and what M_t makes of q_t is, layer by layer, the chunk's first memory plus
linear attention within the chunk: no matrix is formed for a token, and token t reads M_t itself, for any depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.linear import Linear
from diptych.nn.mixer import Passage
from diptych.nn.precision import without_autocast
from diptych.nn.short_convolution import ShortConvolution

_TINY = 1e-18
"""Added to squared lengths, so that a vector of zeros stays one."""


class Tokens(NamedTuple):
    """What each token tells the memory: query, key and value (b, h, t, d); its step size theta, log eta and
    log(1 - alpha), (b, h, t)."""

    query: Tensor
    key: Tensor
    value: Tensor
    step: Tensor
    log_momentum: Tensor
    log_keep: Tensor

    def part(self, start: int, end: int) -> Tokens:
        """The tokens from `start` to before `end`."""
        return Tokens(*(x[:, :, start:end] for x in self))


class Weights(NamedTuple):
    """The memory between two tokens.

    For every layer, `layers` holds M and S stacked (b, h, 2, i, o), and `reference` (b, h, i, o) the M at which the
    gradients of the unfinished chunk are taken. `n_read` (b): tokens so far.
    """

    layers: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]
    n_read: Int[Tensor, " b"]


class Shares(NamedTuple):
    """How much of what came before is left within a chunk of c tokens.

    Of the chunk's first M and S, and of the updates -theta_s grad_s: M_t = `memory[t]` M + `momentum[t]` S
    + sum over s of `update[t, s]` u_s. `end` (2, 2) and `last` (2, c) are the same for M and S at the chunk's end.
    """

    memory: Float[Tensor, "... c"]
    momentum: Float[Tensor, "... c"]
    update: Float[Tensor, "... c c"]
    end: Float[Tensor, "... 2 2"]
    last: Float[Tensor, "... 2 c"]


def shares(log_momentum: Float[Tensor, "... c"], log_keep: Float[Tensor, "... c"]) -> Shares:
    """Products of eta and of 1 - alpha between any two tokens, as exponentials of differences; nothing is divided by
    what has underflowed."""
    kept, moved = log_keep.cumsum(-1), log_momentum.cumsum(-1)
    n = kept.shape[-1]
    later = torch.full((n, n), float("-inf"), dtype=kept.dtype, device=kept.device).triu(1)
    keep, momentum = ((x[..., :, None] - x[..., None, :] + later).exp() for x in (kept, moved))
    # S_r = moved[r] S + sum of momentum[r, s] u_s, and M_t = kept[t] M + sum over r <= t of keep[t, r] S_r.
    kept, moved, update = kept.exp(), moved.exp(), keep @ momentum
    carried = (keep @ moved[..., None])[..., 0]
    end = torch.stack((kept[..., -1], carried[..., -1], torch.zeros_like(kept[..., -1]), moved[..., -1]), dim=-1)
    last = torch.stack((update[..., -1, :], momentum[..., -1, :]), dim=-2)
    return Shares(kept, carried, update, end.unflatten(-1, (2, 2)), last)


def read(
    weights: Weights, tokens: Tokens, chunk_length: int, begun: int = 0
) -> tuple[Float[Tensor, "b h t d"], Weights]:
    """What M_t makes of every query, and the memory after the last token.

    Chunks end where the number of tokens read is a multiple of `chunk_length`. The memory has read `begun` tokens, in
    all rows alike; of a single token that need not be said, and rows may differ.
    """
    t = tokens.query.shape[2]
    first = min(t, -begun % chunk_length)
    whole = first + (t - first) // chunk_length * chunk_length
    out = []
    for start, end, length in ((0, first, first), (first, whole, chunk_length), (whole, t, t - whole)):
        if end > start:
            y, weights = _read_chunks(weights, tokens.part(start, end), length)
            weights = _settle(weights, end - start, chunk_length)
            out.append(y)
    return torch.cat(out, dim=2) if len(out) > 1 else out[0], weights


def _settle(weights: Weights, read: int, chunk_length: int) -> Weights:
    """Where a chunk has ended, the next one's gradients are taken at the present memory."""
    n_read = weights.n_read + read
    ended = (n_read % chunk_length == 0)[:, None, None, None]
    pairs = zip(weights.layers, weights.reference, strict=True)
    reference = tuple(torch.where(ended, layer[:, :, 0], old) for layer, old in pairs)
    return Weights(weights.layers, reference, n_read)


def _read_chunks(weights: Weights, tokens: Tokens, length: int) -> tuple[Tensor, Weights]:
    """As `read`, for whole chunks of `length` tokens, of which the first takes its gradients at `weights.reference`."""
    b, h, t, _ = tokens.query.shape
    query, key, value, step, log_momentum, log_keep = (
        x.reshape(b * h, t // length, length, *x.shape[3:]) for x in tokens
    )
    share = shares(log_momentum, log_keep)
    step = 2 * step[..., None]
    chunks = Chunks(key, key * step, value * step, step, _weighted(key, share.last), share.last, share.end)
    found, reference = ([x.flatten(0, 1) for x in part] for part in (weights.layers, weights.reference))
    states, inputs, updates, layers = _learn(found, reference, chunks)
    out = _answer(query, states, inputs, updates, share).reshape(b, h, t, -1)
    return out, Weights(tuple(x.unflatten(0, (b, h)) for x in layers), weights.reference, weights.n_read)


Layers = list[Tensor]


class Chunks(NamedTuple):
    """What the loop over chunks needs, (rows, chunks, ...): keys; keys and values times 2 theta; 2 theta; the keys as
    `_weighted` by `last`; `last` and `end` of `Shares`."""

    key: Tensor
    scaled_key: Tensor
    scaled_value: Tensor
    step: Tensor
    weighted_key: Tensor
    last: Tensor
    end: Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over chunks
def _learn(layers: Layers, reference: Layers, chunks: Chunks) -> tuple[Layers, Layers, Layers, Layers]:
    """The loop over chunks. Of every layer: the state that each chunk found, the layer's inputs, the gradients of its
    outputs times -theta, and last the state after all chunks."""
    depth = len(layers)
    kept: list[tuple[Layers, Layers, Layers]] = []
    for chunk in map(Chunks._make, zip(*(x.unbind(1) for x in chunks), strict=True)):
        found = layers
        at = [layer[:, 0] for layer in found] if kept else reference
        if depth == 1:
            inputs = [chunk.key]
            update = [torch.baddbmm(chunk.scaled_value, chunk.scaled_key, at[0], alpha=-1)]
        else:
            inputs, update = _surprise(at, chunk.key, chunk.scaled_value - chunk.scaled_key, chunk.step)
        weighted = [chunk.weighted_key, *(_weighted(x, chunk.last) for x in inputs[1:])]
        layers = [_move(*part, chunk.end) for part in zip(found, weighted, update, strict=True)]
        kept.append((found, inputs, update))
    states, updates = ([torch.stack([c[part][i] for c in kept], dim=1) for i in range(depth)] for part in (0, 2))
    deeper = [torch.stack([c[1][i] for c in kept], dim=1) for i in range(1, depth)]
    return states, [chunks.key, *deeper], updates, layers


def _surprise(at: Layers, key: Tensor, missing: Tensor, step: Tensor) -> tuple[Layers, Layers]:
    """Of a deeper memory M(k) = k + MLP(k): the inputs of every layer, and -theta times the gradients of its outputs.
    `missing`: 2 theta (v - k); `step`: 2 theta."""
    inputs, slopes, x = [key], [], key
    for matrix in at[:-1]:
        before = x @ matrix
        gate = torch.sigmoid(before)
        x = before * gate
        slopes.append(gate + x * (1 - gate))
        inputs.append(x)
    update = missing - step * (x @ at[-1])
    updates = [update]
    for matrix, slope in zip(reversed(at[1:]), reversed(slopes), strict=True):
        update = (update @ matrix.mT) * slope
        updates.append(update)
    return inputs, updates[::-1]


def _weighted(x: Float[Tensor, "... c i"], last: Float[Tensor, "... 2 c"]) -> Float[Tensor, "... 2i c"]:
    """Each layer's inputs as columns, weighted by their share in M and in S at the chunk's end."""
    return (x.mT[..., None, :, :] * last[..., :, None, :]).flatten(-3, -2)


def _move(state: Tensor, weighted: Tensor, update: Tensor, end: Tensor) -> Tensor:
    """M and S of one layer at the chunk's end."""
    new = torch.bmm(weighted, update).view(len(state), 2, -1)
    return torch.baddbmm(new, end, state.reshape(len(state), 2, -1)).view(state.shape)


def _answer(query: Tensor, states: Layers, inputs: Layers, updates: Layers, share: Shares) -> Tensor:
    """What the memory after each token makes of that token's query, all chunks at once."""
    first, carried, x = share.memory[..., None], share.momentum[..., None], query
    for layer, (state, given, update) in enumerate(zip(states, inputs, updates, strict=True)):
        x = F.silu(x) if layer else x
        old = torch.cat((x * first, x * carried), dim=-1) @ state.flatten(-3, -2)
        x = old + ((x @ given.mT) * share.update) @ update
    return x if len(states) == 1 else query + x


def recall(memory: Sequence[Tensor], query: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
    """What one memory, a matrix (b, h, i, o) a layer, makes of queries."""
    x = query
    for layer, matrix in enumerate(memory):
        x = (F.silu(x) if layer else x) @ matrix
    return x if len(memory) == 1 else query + x


@final
class NeuralMemory(nn.Module):
    """The memory as a layer: queries, keys and values by projection, short convolution and SiLU, queries and keys of
    length one (section 4.4); theta, eta and alpha from the input through a sigmoid; M_0 is learned.

    Depth 1: M(k) = W k. Deeper: M(k) = k + W_L silu(... silu(W_1 k)). The memory and its gates are computed in float32
    at least.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        memory, self.n_heads, self.d_head = config.memory, config.n_heads, config.head_width
        self.chunk_length, self.max_step = memory.chunk_length, memory.max_step
        width = self.n_heads * self.d_head
        self.input = Linear(config.d_model, 3 * width, bias=config.bias or config.qkv_bias)
        self.convolution = ShortConvolution(3 * width)
        self.gates = Linear(config.d_model, 3 * self.n_heads, bias=True)
        inner = [memory.expansion * self.d_head] * (memory.depth - 1)
        sizes = [self.d_head, *inner, self.d_head]
        self.initial = nn.ParameterList(nn.Parameter(torch.zeros(self.n_heads, i, o)) for i, o in pairwise(sizes))

    def draw(self, generator: torch.Generator) -> None:
        """Draw the filters and the first memory: zero if it is a matrix, else normal, of deviation 1 / sqrt(inputs).

        At the start eta is near 0.1, alpha near 0.01, and the steps of a chunk's tokens together amount to one that
        brings a single key to its value.
        """
        self.convolution.start(generator)
        with torch.no_grad():
            for weight in self.initial:
                std = 0.0 if len(self.initial) == 1 else weight.shape[1] ** -0.5
                weight.normal_(0.0, std, generator=generator)
            step, momentum, forget = self.gates.bias.view(3, self.n_heads)
            share = 1 / (2 * self.max_step * self.chunk_length + 1)
            step.fill_(math.log(share / (1 - share)))
            momentum.fill_(-2.0)
            forget.fill_(-4.5)

    def begin(self, x: Float[Tensor, "b t m"]) -> tuple[Weights, Float[Tensor, "b w c"]]:
        """M_0 and no momentum, for every row of x; and nothing before the convolution."""
        b, dtype = len(x), wide(x.dtype)
        reference = tuple(weight.to(dtype).expand(b, -1, -1, -1) for weight in self.initial)
        layers = tuple(torch.stack((m, torch.zeros_like(m)), dim=2) for m in reference)
        before = x.new_zeros(b, self.convolution.weight.shape[-1] - 1, self.input.out_features)
        return Weights(layers, reference, torch.zeros(b, dtype=torch.long, device=x.device)), before

    def project(self, x: Float[Tensor, "b t m"], before: Float[Tensor, "b w c"]) -> tuple[Tokens, Tensor]:
        """What each position tells the memory, and the inputs of the convolution that the next call needs before it."""
        mixed, before = self.convolution(self.input(x), Passage(), before)
        dtype = wide(x.dtype)
        both, value = F.silu(mixed.to(dtype)).unflatten(-1, (3, self.n_heads, self.d_head)).split((2, 1), dim=2)
        query, key = (both * torch.rsqrt(both.square().sum(-1, keepdim=True) + _TINY)).unbind(2)
        step, momentum, forget = self.gates(x).to(dtype).unflatten(-1, (3, self.n_heads)).permute(2, 0, 3, 1)
        tokens = Tokens(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value[:, :, 0].transpose(1, 2),
            self.max_step * torch.sigmoid(step),
            F.logsigmoid(momentum),
            F.logsigmoid(-forget),
        )
        return tokens, before

    def forward(
        self, x: Float[Tensor, "b t m"], weights: Weights, before: Tensor, begun: int = 0
    ) -> tuple[Float[Tensor, "b t w"], Weights, Tensor]:
        """What the memory answers to each position, all heads side by side, and what the call that continues needs: the
        memory, and the `before` of the convolution. `begun`: as for `read`."""
        tokens, before = self.project(x, before)
        with without_autocast(x):
            out, weights = read(weights, tokens, self.chunk_length, begun)
        return out.transpose(1, 2).flatten(2), weights, before


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of a memory beside activations of this one."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
