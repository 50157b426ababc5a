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
from diptych.nn.memory_heads import heads
from diptych.nn.memory_scan import scan
from diptych.nn.precision import wide, without_autocast
from diptych.nn.short_convolution import ShortConvolution


class Tokens(NamedTuple):
    """What each token tells the memory: query, key and value (b, h, t, d); its step size theta, eta and
    1 - alpha, (b, h, t)."""

    query: Tensor
    key: Tensor
    value: Tensor
    step: Tensor
    momentum: Tensor
    keep: Tensor

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
    b, h = tokens.query.shape[:2]
    query, key, value, step, momentum, keep = (x.flatten(0, 1) for x in tokens)
    layers, reference = ([x.flatten(0, 1) for x in part] for part in (weights.layers, weights.reference))
    out, layers = scan((query, key, value), (step, momentum, keep), layers, reference, length)
    after = tuple(x.unflatten(0, (b, h)) for x in layers)
    return out.unflatten(0, (b, h)), Weights(after, weights.reference, weights.n_read)


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

    def begin(self, x: Float[Tensor, "b ..."]) -> tuple[Weights, Float[Tensor, "b w c"]]:
        """M_0 and no momentum, for every row of x; and nothing before the convolution."""
        b, dtype = len(x), wide(x.dtype)
        reference = tuple(weight.to(dtype).expand(b, -1, -1, -1) for weight in self.initial)
        layers = tuple(torch.stack((m, torch.zeros_like(m)), dim=2) for m in reference)
        before = x.new_zeros(b, self.convolution.weight.shape[-1] - 1, self.input.out_features)
        return Weights(layers, reference, torch.zeros(b, dtype=torch.long, device=x.device)), before

    def project(self, x: Float[Tensor, "b t m"], before: Float[Tensor, "b w c"]) -> tuple[Tokens, Tensor]:
        """What each position tells the memory, and the inputs of the convolution that the next call needs before it."""
        dtype, w = wide(x.dtype), before.shape[1]
        mixed, before = self.input(x).to(dtype), before.to(dtype)
        query, key, value = heads(mixed, before, self.convolution.weight.to(dtype), self.n_heads)
        gates = self.gates(x).to(dtype).unflatten(-1, (3, self.n_heads)).permute(2, 0, 3, 1)
        step, momentum, forget = gates.contiguous().unbind(0)
        step, momentum, keep = self.max_step * torch.sigmoid(step), torch.sigmoid(momentum), torch.sigmoid(-forget)
        before = torch.cat((before, mixed[:, -w:]), dim=1)[:, -w:]
        return Tokens(query, key, value, step, momentum, keep), before

    def forward(
        self, x: Float[Tensor, "b t m"], weights: Weights, before: Tensor, begun: int = 0
    ) -> tuple[Float[Tensor, "b t w"], Weights, Tensor]:
        """What the memory answers to each position, all heads side by side, and what the call that continues needs: the
        memory, and the `before` of the convolution. `begun`: as for `read`."""
        tokens, before = self.project(x, before)
        with without_autocast(x):
            out, weights = read(weights, tokens, self.chunk_length, begun)
        return out.transpose(1, 2).flatten(2), weights, before
