"""How does a backward process step from noise to data?

Each solver is a generator named after its algorithm. It walks down `sigmas` in the frame x = x_0 + sigma eps, sees the
network only as a denoiser D(x, sigma) = E[x_0 | x], and yields (x, D) a step: where it has come to, and the clean image
that the step believed in. In this frame the probability-flow equation is dx / d sigma = (x - D) / sigma (Karras et al.
2022, equation 1), and over the time u = -ln sigma it is linear but for D,

    x(u + h) = e^-h x(u) + int_0^h e^(tau - h) D(u + tau) d tau,

so a solver differs from another only in how it guesses D within a step: the past values of D and a polynomial through
them, integrated exactly against the exponential (DPM-Solver++, Lu et al. 2022; UniPC, Zhao et al. 2023).

Coefficients are Python floats, so in double precision; x keeps its own. A last sigma of 0 is stepped to by x = D, as
this time has no end; the angle in which `abm_2` and `abm_3` step has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from diptych.core.types import Denoiser
from diptych.samplers.exponential import Past, extrapolate, midpoint, mix, straight

Noise = Callable[[int], Float[Tensor, "b ..."]]
"""Standard normal numbers like x for a step; each step is asked for once."""

Steps = Iterator[tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]]
"""(x, D) a step."""

LONG_STEP = math.e
"""A step that divides sigma by more than this is taken with second order: a parabola through past values of D, followed
so far beyond them, is worse than a line. Convergence is not concerned, for the steps of a finer grid are shorter."""

SolverName = Literal[
    "ancestral", "ddim", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc_2", "unipc_3", "abm_2", "abm_3"
]


def ancestral(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps:
    """DDPM (Ho et al. 2020, algorithm 2) with the posterior's variance: x_s is drawn from q(x_s | x_t, x_0 = D)."""
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, _level(x, sigma))
        keep = (after / sigma) ** 2
        x = mix(keep, x, (1.0 - keep, denoised)) if after else denoised
        if after:
            x = x.add_(noise(step), alpha=after * math.sqrt(1.0 - keep))
        yield x, denoised


def ddim(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps:
    """DDIM (Song et al. 2021, equation 12, eta = 0), which in this frame is Euler's step of dx / d sigma: D is held."""
    del noise
    for sigma, after in pairwise(sigmas):
        denoised = denoise(x, _level(x, sigma))
        x = mix(after / sigma, x, (1.0 - after / sigma, denoised)) if after else denoised
        yield x, denoised


def heun(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Steps:
    """Heun's second-order step with churn (Karras et al. 2022, algorithm 2).

    s_churn: how much noise is added back, over all steps; of those with s_tmin <= sigma <= s_tmax alone. s_noise: its
    standard deviation. Two evaluations a step, but one for the step to 0.
    """
    gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2.0) - 1.0)
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        raised = sigma
        if gamma > 0.0 and s_tmin <= sigma <= s_tmax:
            raised = sigma * (1.0 + gamma)
            x = x.add(noise(step), alpha=s_noise * math.sqrt(raised**2 - sigma**2))
        denoised = denoise(x, _level(x, raised))
        if not after:
            yield denoised, denoised
            return
        ahead = mix(after / raised, x, (1.0 - after / raised, denoised))
        again = denoise(ahead, _level(x, after))
        # x + (after - raised) (d + d') / 2, where d = (x - D) / raised and d' = (ahead - D') / after
        half = 0.5 * (after - raised)
        x = mix(1.0 + half / raised, x, (-half / raised, denoised), (half / after, ahead), (-half / after, again))
        yield x, denoised


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2): D at the middle of a step, from this step's and the last one's."""
    del noise
    past = Past(2)
    for sigma, after in pairwise(sigmas):
        denoised = past.add(sigma, denoise(x, _level(x, sigma)))
        x = midpoint(x, past, after) if after else denoised
        yield x, denoised


def dpmpp_2m_sde(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps:
    """SDE-DPM-Solver++ 2M (Lu et al. 2022, appendix): `ancestral` with D at the middle of the step; weak order 2."""
    past = Past(2)
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = past.add(sigma, denoise(x, _level(x, sigma)))
        if after:
            fresh = -math.expm1(2.0 * math.log(after / sigma))
            x = midpoint(x, past, after, decay=2.0).add_(noise(step), alpha=after * math.sqrt(fresh))
        else:
            x = denoised
        yield x, denoised


def dpmpp_3m(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps:
    """DPM-Solver++ 3M (Lu et al. 2022, appendix) as derived: the parabola through the last three D, integrated exactly.

    Published code halves the weight of the second difference, which leaves order 2. The first step knows one D only:
    its error of h^2 would stay to the end, so it is taken again as soon as D at its end is known, at no evaluation
    more. (That D belongs to the first guess; it is wrong by h^2 where it counts h times, so third order is kept.)
    """
    del noise
    past, first = Past(3), x
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = past.add(sigma, denoise(x, _level(x, sigma)))
        if step == 1 and after:
            x = extrapolate(first, past, sigma, start=1)
        x = _predict(x, past, sigma, after) if after else denoised
        yield x, denoised


def unipc_2(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps:
    """UniPC of order 2, B_2(h) (Zhao et al. 2023, algorithms 5 and 6): a step predicts, and corrects the last one."""
    del noise
    return _unipc(denoise, x, sigmas, 2)


def unipc_3(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps:
    """UniPC of order 3, B_2(h): its predictor is `dpmpp_3m`, its corrector the cubic that D at the end allows."""
    del noise
    return _unipc(denoise, x, sigmas, 3)


def _unipc(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], order: int) -> Steps:
    """Each state is predicted from the past D, then taken again with D at the prediction; see `unipc_2`.

    The paper's B_2(h) shows only where one difference is known, which it weighs by half of the exponential's integral:
    the second-order predictor and the first step's corrector. All others are exact polynomials.
    """
    past, before = Past(order + 1), x
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = past.add(sigma, denoise(x, _level(x, sigma)))
        if not after:
            yield denoised, denoised
            return
        if step == 1:
            x = midpoint(before, past, sigma, start=1)
        elif step > 1:
            is_long = sigmas[step - 1] > LONG_STEP * sigma
            x = extrapolate(before, past.last(3) if is_long else past, sigma, start=1)
        before = x
        x = _predict(x, past.last(order), sigma, after)
        yield x, denoised


def abm_2(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, *, sigma_data: float = 0.5) -> Steps:
    """Adams-Bashforth-Moulton over the angle: a predictor by two values, a corrector by three; see `_adams`."""
    del noise
    return _adams(denoise, x, sigmas, 2, sigma_data)


def abm_3(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise, *, sigma_data: float = 0.5) -> Steps:
    """Adams-Bashforth-Moulton over the angle: a predictor by three values, a corrector by four; see `_adams`."""
    del noise
    return _adams(denoise, x, sigmas, 3, sigma_data)


def _adams(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], order: int, sigma_data: float) -> Steps:
    """Along the circle of TrigFlow (Lu and Song 2025, section 3.1): t = arctan(sigma / sigma_data), z = x cos t.

    dz / dt = z cot t - D / sin t is what a preconditioned network gives, of the data's size at every t, and zero on
    Gaussian data of mean zero and deviation `sigma_data`. So plain polynomials follow it, and t = 0 is a time like any.
    """
    past, before = Past(order + 1), x
    angles = [math.atan2(sigma, sigma_data) for sigma in sigmas]
    z = x * math.cos(angles[0])
    for step, (angle, after) in enumerate(pairwise(angles)):
        sine, cosine = math.sin(angle), math.cos(angle)
        denoised = denoise(z / cosine, _level(x, sigmas[step]))
        past.remember(angle, mix(cosine / sine, z, (-1.0 / sine, denoised)))
        before = z if step == 0 else straight(before, past, angle, start=1)
        z = straight(before, past.last(order), after)
        yield z / math.cos(after), denoised


def _predict(x: Tensor, known: Past, sigma: float, after: float) -> Tensor:
    """A step by all known values of D, but by two where it is long."""
    if len(known) == 2 or (len(known) > 2 and sigma > LONG_STEP * after):
        return midpoint(x, known, after)
    return extrapolate(x, known, after)


@runtime_checkable
class SolverFunction(Protocol):
    """What all solvers take."""

    def __call__(self, denoise: Denoiser, x: Tensor, sigmas: Sequence[float], noise: Noise) -> Steps: ...


@dataclass(frozen=True)
class Solver:
    """A solver and what is known of it: its order of convergence (weak order if it is stochastic), whether it draws
    noise in every step, how often it asks the denoiser in a step."""

    run: SolverFunction
    order: int
    is_stochastic: bool = False
    calls_a_step: int = 1

    def evaluations(self, steps: int, *, to_zero: bool = True) -> int:
        """Calls of the denoiser in so many steps, of which the last may go to sigma = 0 and then takes one."""
        return self.calls_a_step * steps - (self.calls_a_step - 1 if to_zero else 0)


SOLVERS: Mapping[SolverName, Solver] = {
    "ancestral": Solver(ancestral, 1, is_stochastic=True),
    "ddim": Solver(ddim, 1),
    "euler": Solver(ddim, 1),
    "heun": Solver(heun, 2, calls_a_step=2),
    "dpmpp_2m": Solver(dpmpp_2m, 2),
    "dpmpp_2m_sde": Solver(dpmpp_2m_sde, 2, is_stochastic=True),
    "dpmpp_3m": Solver(dpmpp_3m, 3),
    "unipc_2": Solver(unipc_2, 2),
    "unipc_3": Solver(unipc_3, 3),
    "abm_2": Solver(abm_2, 2),
    "abm_3": Solver(abm_3, 3),
}


def _level(x: Tensor, sigma: float) -> Float[Tensor, " b"]:
    return x.new_full((x.shape[0],), sigma)
