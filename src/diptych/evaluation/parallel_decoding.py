"""What does it cost to reveal several tokens in a step?

Tokens that are drawn together are drawn from the product of their distributions given what is `seen`. What that loses
is the conditional total correlation of the set S,

    TC = sum over i in S of H(x_i | seen) - H(x_S | seen) = KL(p(x_S | seen) || product of p(x_i | seen)).

Let q be what the sampler draws when its network knows p exactly. Where the seen tokens decide which come next, as
under all rules but `random`, each text x is reached by one path, along which p(x) is the product of p(x_S | seen) and
q(x) that of the p(x_i | seen); so

    KL(p || q) = sum over steps of E_p[TC],

the seen tokens being those of a text drawn from p. In random order this holds of text and order together, and the text
alone loses at most that. Prices in this direction are exact below; that of a network's own drawn texts, KL(q || p), is
estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, product

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import TokenPredictor
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler, allowed_logits


def total_correlation(p: Float[Tensor, "..."]) -> float:
    """sum of H(x_i) - H(x) in nats, of a table of probabilities with one dimension a token."""
    return sum(_entropy(_marginal(p, (i,))) for i in range(p.dim())) - _entropy(p)


def mean_entropies(p: Float[Tensor, "..."]) -> list[float]:
    """Entropy of r of the n tokens, the mean over all choices of them, for r = 0 to n: n + 1 numbers in nats.

    A random order needs no more: after r tokens the next one's mean entropy is the (r + 1)th less the rth number.
    """
    n = p.dim()
    every = [[_entropy(_marginal(p, some)) for some in combinations(range(n), r)] for r in range(n + 1)]
    return [math.fsum(some) / len(some) for some in every]


def exact_price(p: Float[Tensor, "..."], sampler: MaskedDiffusionSampler) -> list[float]:
    """E_p[TC] of each step in nats, of a sampler whose network knows p; their sum is KL(p || q), see above.

    p: probabilities of all fillings of n gaps, of shape (v, ..., v). Time and memory grow as v^n, under `random` as
    2^n v^n. Raises ValueError for a table that is none of probabilities, and for a sampler that changes the
    distributions by a temperature, or goes by blocks, which are to be priced one by one.
    """
    if p.dim() < 1 or bool((p < 0).any()) or not math.isclose(float(p.sum()), 1.0, abs_tol=1e-9):
        raise ValueError("a price needs a table of probabilities that add up to 1, with one dimension a gap")
    if sampler.temperature != 1.0 or sampler.block_length is not None:
        raise ValueError("an exact price needs temperature 1 and no block_length")
    p, sizes, prices = p.double(), sampler.sizes(p.dim()), list[float]()
    if sampler.unmask != "random":
        _add_prices(p, sampler, sizes, prices, 0)
        return prices
    h, seen = mean_entropies(p), 0
    for size in sizes:
        prices.append(size * (h[seen + 1] - h[seen]) - (h[seen + size] - h[seen]))
        seen += size
    return prices


def _add_prices(
    joint: Float[Tensor, "..."], sampler: MaskedDiffusionSampler, sizes: list[int], prices: list[float], step: int
) -> None:
    """Add P(seen) TC of this step and of all after it. joint: P(seen, what is left), one dimension a gap left."""
    weight, n = float(joint.sum()), joint.dim()
    if weight == 0.0:
        return
    if step == len(prices):
        prices.append(0.0)
    p = joint / weight
    score = sampler.score(torch.stack([_marginal(p, (i,)).log() for i in range(n)]))
    every = torch.ones(1, n, dtype=torch.bool)
    chosen = sampler.choose(score[None], every, torch.tensor([sizes[step]]))[0].tolist()
    together = tuple(i for i in range(n) if chosen[i])
    prices[step] += weight * total_correlation(_marginal(p, together))
    if len(together) < n:
        for tokens in product(range(joint.shape[0]), repeat=len(together)):
            drawn = iter(tokens)
            rest = joint[tuple(next(drawn) if chosen[i] else slice(None) for i in range(n))]
            _add_prices(rest, sampler, sizes, prices, step + 1)


def _marginal(p: Float[Tensor, "..."], kept: tuple[int, ...]) -> Float[Tensor, "..."]:
    others = [i for i in range(p.dim()) if i not in kept]
    return p.sum(others) if others else p


def _entropy(p: Float[Tensor, "..."]) -> float:
    return float(torch.special.entr(p).sum())


@dataclass(frozen=True, kw_only=True)
class ParallelPrice:
    """By how much drawn texts are less probable than parallel drawing holds them to be."""

    nats: float
    """Mean over the texts of ln q - ln p: q the product of what the sampler drew from, p that of the network's
    distributions when it sees each of these tokens before the next."""
    standard_error: float
    """Of that mean, by the spread between texts."""
    n_texts: int
    n_tokens: int
    """Drawn in all texts."""
    steps: int
    """Until all texts were finished."""


@torch.inference_mode()
def estimate_price(
    model: TokenPredictor, sampler: MaskedDiffusionSampler, request: CanvasRequest, rng: Rng
) -> ParallelPrice:
    """KL(q || p) in nats a text, estimated without bias from the texts that the sampler draws from q.

    The tokens of each step are scored again by the same network one at a time, from left to right, which is p; a
    network whose conditional distributions are no one joint distribution's has another p for another order. One
    evaluation for each token beyond the first of a step. Raises ValueError for fewer than two texts, and for a sampler
    that changes the distributions by a temperature.
    """
    if len(request.canvas) < 2 or sampler.temperature != 1.0:
        raise ValueError("a price is estimated from at least two texts drawn at temperature 1")
    device = model.unembedding.device
    canvas, allowed = request.tokens(device), request.allowed(model.vocab_size, device)
    price = torch.zeros(len(canvas), dtype=torch.float64, device=device)
    n_tokens = steps = 0
    for frame in sampler.sample(model, request, rng):
        revealed = frame.info["revealed"]
        n_tokens, steps = n_tokens + int(revealed.sum()), steps + 1
        place = revealed.cumsum(1) * revealed
        # The first of a step sees the same either way.
        price += torch.where(place > 1, frame.info["probability"].log(), 0.0).sum(1)
        for k in range(2, int(place.max()) + 1):
            now = place == k
            rows = now.any(1)
            before = torch.where((place > 0) & (place < k), frame.state, canvas)[rows]
            states = model.states(before, mask=sampler.mask)[now[rows]]
            log_p = allowed_logits(model, states, allowed).double().log_softmax(-1)
            price[rows] -= log_p.gather(1, frame.state[now][:, None])[:, 0]
        canvas = frame.state
    return ParallelPrice(
        nats=float(price.mean()),
        standard_error=float(price.std()) / math.sqrt(len(price)),
        n_texts=len(price),
        n_tokens=n_tokens,
        steps=steps,
    )
