"""How does a memory of fixed size replace what it holds instead of only adding to it?

The delta rule writes for a key the difference between its value and what the memory would have answered (Schlag et al.
2021); a gate lets all of it fade (Gated DeltaNet, Yang et al. 2025). In training a chunk of steps becomes a few matrix
products by the WY form and the UT transform (Yang et al. 2024, section 3.2; Yang et al. 2025, section 3.3).
"""

from __future__ import annotations

import math
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
from diptych.nn.positions import Rotation
from diptych.nn.precision import wide, without_autocast
from diptych.nn.short_convolution import ShortConvolution

SHORTEST_CHUNK, LONGEST_CHUNK = 16, 64
"""Steps that become matrix products at once: on a processor about half as many as a head has dimensions, the fastest of
16, 32, 64 and 128 for heads of 32, 64 and 128; elsewhere the longest, as in the authors' kernels."""

SMALLEST_BLOCK = 16
"""Triangular matrices up to this size are inverted by substitution, larger ones by halves."""

FASTEST_FADING = -100.0
"""Logarithm of a decay below which float32 holds nothing but zero: a lower one would only blur the sums with others."""


@final
@dataclass(frozen=True, eq=False)
class _Steps:
    """q, k, v, beta and log alpha of the positions; beta and log alpha as columns."""

    query: Float[Tensor, "b t h d"]
    key: Float[Tensor, "b t g d"]
    value: Float[Tensor, "b t g e"]
    strength: Float[Tensor, "b t g 1"]
    log_decay: Float[Tensor, "b t g 1"]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over chunks
def gated_delta_rule(
    query: Float[Tensor, "b t h d"],
    key: Float[Tensor, "b t g d"],
    value: Float[Tensor, "b t g e"],
    passage: Passage,
    *,
    strength: Float[Tensor, "b t g"],
    log_decay: Float[Tensor, "b t g"],
    state: Float[Tensor, "b g d e"] | None = None,
) -> tuple[Float[Tensor, "b t h e"], Float[Tensor, "b g d e"]]:
    """o_t = S_t q_t with S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T; and S^T after the last one.

    beta is `strength`, in [0, 1]; alpha is exp(log_decay), in [0, 1]; keys are of length one (Yang et al. 2025,
    equation 10). `h` is a multiple of `g`, and the queries of a group read the same memory. `state` is the S^T that the
    first document began with; later ones begin from zero. Memory and decays are float32 at least. Raises ValueError
    where the passage is not causal.
    """
    if not passage.causal:
        raise ValueError(
            "the gated delta rule reads from left to right only; for an objective that reads in both directions set "
            "model.attention = ['linear'] or ['softmax']"
        )
    with without_autocast(query):
        wide = torch.promote_types(query.dtype, torch.float32)
        strength, log_decay = strength.to(wide)[..., None], log_decay.to(wide)[..., None].clamp_min(FASTEST_FADING)
        valid = passage.valid(strength[..., 0])
        if valid is not None:
            strength, log_decay = strength * valid[..., None, None], log_decay * valid[..., None, None]
        steps = _Steps(query.to(wide), key.to(wide), value.to(wide), strength, log_decay)
        return _next(steps, state) if query.shape[1] == 1 else _in_chunks(steps, passage, state)


def _next(x: _Steps, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """One step of the recurrence."""
    key, value, strength = (part[:, 0, :, None] for part in (x.key, x.value, x.strength))
    if state is None:
        state = key.mT * (strength * value)
    else:
        state = state * x.log_decay[:, 0, :, None].exp()
        state = state + key.mT * (strength * (value - key @ state))
    out = x.query[:, 0].unflatten(1, (key.shape[1], -1)) @ state
    return out.flatten(1, 2)[:, None], state


def _in_chunks(x: _Steps, passage: Passage, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The WY form with decays (Yang et al. 2025, section 3.3): gamma is `faded`, gamma_i / gamma_j is `ratio`.

    A ratio is the exponential of a difference of two logarithms of the same chunk, so that no product that has
    underflowed is divided by.
    """
    t, g = x.key.shape[1:3]
    length = chunk_length(_longest_chunk(x.key), t)
    apart = cuts(passage.documents, length, causal=True, like=x.key)
    parts = (cut(part, length, g) for part in (x.query, x.key, x.value, x.strength, x.log_decay))
    query, key, value, strength, log_decay = parts
    so_far = apart.together @ log_decay
    ratio = (so_far - so_far.mT).masked_fill(apart.together == 0, -torch.inf).exp()
    faded = so_far.exp() if apart.continues is None else so_far.exp() * apart.continues
    inverse = _Inverse.apply(key @ key.mT * ratio * strength) * strength.mT  # type: ignore[no-untyped-call]
    start = key.new_zeros(*key.shape[1:3], key.shape[-1], value.shape[-1]) if state is None else state
    kept = key * ratio[..., -1, :, None]
    before, written, last = _scan(inverse @ (key * faded), inverse @ value, kept, faded[..., -1, 0], start)
    heads = query.shape[-2] // length
    within = (query @ key.mT).unflatten(-2, (heads, length)) * ratio[..., None, :, :]
    out = (query * faded.repeat(1, 1, 1, heads, 1)) @ before + within.flatten(-3, -2) @ written
    return join(out, length, t), last


def _longest_chunk(key: Tensor) -> int:
    if key.device.type != "cpu":
        return LONGEST_CHUNK
    half: int = 1 << (max(key.shape[-1] // 2, 1).bit_length() - 1)
    return max(SHORTEST_CHUNK, min(half, LONGEST_CHUNK))


class _Inverse(torch.autograd.Function):
    """(I + L)^-1, where L is what stands below the diagonal: the UT transform (Yang et al. 2024, equation 10)."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        inverse = _invert(matrix)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        transposed = ctx.saved_tensors[0].mT
        gradient: Tensor = -(transposed @ upstream[0] @ transposed).tril(-1)
        return gradient


def _invert(matrix: Float[Tensor, "... c c"]) -> Float[Tensor, "... c c"]:
    """By halves: [[A, 0], [B, D]]^-1 = [[A^-1, 0], [-D^-1 B A^-1, D^-1]], as stable as substitution.

    (The shorter (I - L)(I + L^2)(I + L^4)... is not: the powers of L grow beyond measure where keys are alike.)
    """
    size = matrix.shape[-1]
    if size <= SMALLEST_BLOCK:
        unit = torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
        solution: Tensor = torch.linalg.solve_triangular(matrix, unit, upper=False, unitriangular=True)
        return solution
    half = size // 2
    first, second = _invert(torch.stack((matrix[..., :half, :half], matrix[..., half:, half:])))
    out = torch.zeros_like(matrix)
    out[..., :half, :half], out[..., half:, half:] = first, second
    out[..., half:, :half] = -(second @ matrix[..., half:, :half] @ first)
    return out


def _scan(
    reads: Float[Tensor, "n b g c d"],
    values: Float[Tensor, "n b g c e"],
    keys: Float[Tensor, "n b g c d"],
    decay: Float[Tensor, "n b g"],
    start: Float[Tensor, "b g d e"],
) -> tuple[Float[Tensor, "n b g d e"], Float[Tensor, "n b g c e"], Float[Tensor, "b g d e"]]:
    """S_0 = start, N_i = values_i - reads_i S_i, S_{i+1} = decay_i S_i + keys_i^T N_i: all S but the last; N; the last
    S."""
    shape = start.shape
    flat = (x.flatten(1, 2) for x in (reads, values, keys, decay))
    states, written = _Scan.apply(*flat, start.flatten(0, 1))  # type: ignore[no-untyped-call]
    states = states.unflatten(1, shape[:2])
    return states[:-1], written.view_as(values), states[-1]


class _Scan(torch.autograd.Function):
    """The loop of `_scan`, in place, with rows and heads as one dimension."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        reads, values, keys, decay, start = given
        factors = decay[..., None, None]
        states = start.new_empty(len(reads) + 1, *start.shape)
        written = torch.empty_like(values)
        states[0] = start
        for i in range(len(reads)):
            torch.baddbmm(values[i], reads[i], states[i], alpha=-1, out=written[i])
            torch.mul(states[i], factors[i], out=states[i + 1])
            states[i + 1].baddbmm_(keys[i].mT, written[i])
        ctx.save_for_backward(reads, keys, factors, states, written)
        return states, written

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        reads, keys, factors, states, written = ctx.saved_tensors
        of_states, of_written = upstream[0].clone(), upstream[1].clone()
        for i in range(len(reads) - 1, -1, -1):
            of_written[i].baddbmm_(keys[i], of_states[i + 1])
            of_states[i].addcmul_(of_states[i + 1], factors[i])
            of_states[i].baddbmm_(reads[i].mT, of_written[i], alpha=-1)
        after = of_states[1:]
        of_decay = (after * states[:-1]).sum((-2, -1))
        return -(of_written @ states[:-1].mT), of_written, written @ after.mT, of_decay, of_states[0]


@final
class GatedDeltaAttention(nn.Module):
    """The token mixer of Gated DeltaNet (Yang et al. 2025, section 3.4), with a memory a key-value head.

    `input` stacks in its rows queries, keys, values and the output's gate, `rates` beta and the decay; queries, keys
    and values pass a short convolution. alpha = exp(-exp(A_log) softplus(rate + dt_bias)), as in Mamba-2 (Dao and Gu
    2024). Where a token stands is told by the order of reading: rotations are not used.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.kv_heads, config.head_width
        mixed = (self.n_heads + 2 * self.n_kv_heads) * self.d_head
        self.widths = [mixed, self.n_heads * self.d_head]
        self.input = Linear(config.d_model, sum(self.widths), bias=config.bias or config.qkv_bias)
        self.rates = Linear(config.d_model, 2 * self.n_kv_heads, bias=False)
        self.convolution = ShortConvolution(mixed)
        self.A_log = nn.Parameter(torch.zeros(self.n_kv_heads))
        self.dt_bias = nn.Parameter(torch.zeros(self.n_kv_heads))
        self.norm = RMSNorm(self.d_head, eps=config.norm_eps)
        self.output = Linear(self.n_heads * self.d_head, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Float[Tensor, "b t m"],
        mask: Passage,
        rotation: Rotation | None = None,
        cache: LayerState | None = None,
    ) -> Float[Tensor, "b t m"]:
        del rotation
        state, inputs = (None, None) if cache is None or cache.value is None else cache.value
        mixed, gate = self.input(x).split(self.widths, dim=-1)
        mixed, inputs = self.convolution(mixed, mask, inputs)
        heads = F.silu(mixed).unflatten(-1, (-1, self.d_head))
        query, key, value = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=2)
        strength, log_decay = self._rates(x)
        read = _unit(query), _unit(key), value
        out, state = gated_delta_rule(*read, mask, strength=strength, log_decay=log_decay, state=state)
        if cache is not None:
            cache.value = (state, inputs)
        out = self.norm(out) * F.silu(gate.unflatten(-1, (-1, self.d_head)))
        projected: Tensor = self.output(out.flatten(2).to(gate.dtype))
        return projected

    def _rates(self, x: Tensor) -> tuple[Float[Tensor, "b t g"], Float[Tensor, "b t g"]]:
        """beta and the logarithm of alpha, float32 at least."""
        rates = self.rates(x)
        strength, step = rates.to(wide(rates.dtype)).chunk(2, dim=-1)
        return strength.sigmoid(), -self.A_log.to(step.dtype).exp() * F.softplus(step + self.dt_bias.to(step.dtype))

    def start(self, generator: torch.Generator) -> None:
        """A uniform in [1, 16], the softplus of dt_bias between 0.001 and 0.1, its logarithm uniform, as in Mamba-2."""
        self.convolution.start(generator)
        with torch.no_grad():
            self.A_log.uniform_(1.0, 16.0, generator=generator).log_()
            step = self.dt_bias.uniform_(math.log(0.001), math.log(0.1), generator=generator).exp_()
            step.add_(torch.log(-torch.expm1(-step)))


def _unit(x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Vectors of length one; of zero where they are zero."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
