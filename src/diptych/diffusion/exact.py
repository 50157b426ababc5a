"""Of which data is the best denoiser known exactly?

Of Gaussian data, of mixtures of Gaussians, and of a finite set of points: for each the mean of the clean data given the
noisy, the density of the noisy data, fresh examples, and the square error that no denoiser can go below. Solvers,
likelihoods and networks are measured against them. An example has at least one dimension; all is computed in float64,
whatever the precision of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import Denoiser
from diptych.diffusion.parameterization import column

_CHUNK = 1 << 23
"""Numbers that an intermediate result may hold: 64 MB."""

_RNG = Rng(0)


class Estimate(NamedTuple):
    """A mean and its standard error, zero where the value is exact; both (s)."""

    value: Tensor
    standard_error: Tensor


@runtime_checkable
class ExactData(Denoiser, Protocol):
    """Data of which everything is known. Calling it gives E[x_0 | x], (b, ...)."""

    def log_density(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln p(x) in nats of x = x_0 + sigma eps."""
        ...

    def draw(self, n: int, rng: Rng) -> Float[Tensor, "n ..."]:
        """`n` examples; the first ones do not depend on n."""
        ...

    def bayes_error(self, sigma: Float[Tensor, " s"], *, n: int = 4096, rng: Rng = _RNG) -> Estimate:
        """E |E[x_0 | x] - x_0|^2 at each noise level, summed over an example's numbers: the floor of every loss."""
        ...


@final
@dataclass(frozen=True, eq=False)
class GaussianData:
    """x_0 ~ N(mean, covariance).

    mean: (...); deviation: (...), the standard deviation of each number where they are independent; covariance: (d, d)
    of the flattened numbers otherwise. Raises ValueError unless exactly one of the two is given and is valid.
    """

    mean: Float[Tensor, "..."]
    deviation: Float[Tensor, "..."] | None = None
    covariance: Float[Tensor, "d d"] | None = None

    def __post_init__(self) -> None:
        if (self.deviation is None) == (self.covariance is None):
            raise ValueError("give GaussianData either the deviation or the covariance of its data")
        if self.deviation is not None and (self.deviation.shape != self.mean.shape or bool((self.deviation < 0).any())):
            raise ValueError("the deviation of GaussianData must have its mean's shape and not be negative")
        if self.covariance is not None and self.covariance.shape != (self.mean.numel(), self.mean.numel()):
            raise ValueError(
                f"the covariance of {self.mean.numel()} numbers must be a matrix of as many rows and columns"
            )

    def __call__(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """mean + C (C + sigma^2)^-1 (x - mean)."""
        shrunk = self._components(x) * self._variances / self._noisy(sigma)
        return self._placed(shrunk).to(x.dtype)

    def log_density(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln N(x; mean, C + sigma^2) in nats."""
        noisy = self._noisy(sigma)
        return -0.5 * (self._components(x).square() / noisy + (2.0 * math.pi * noisy).log()).sum(1)

    def draw(self, n: int, rng: Rng) -> Float[Tensor, "n ..."]:
        """`n` examples in float64; the first ones do not depend on n."""
        normal = rng.normal("data", torch.arange(n), self.mean.numel()).to(self.mean.device)
        return self._placed(normal * self._variances.sqrt())

    def bayes_error(self, sigma: Float[Tensor, " s"], *, n: int = 4096, rng: Rng = _RNG) -> Estimate:
        """The trace of C sigma^2 (C + sigma^2)^-1, exactly: `n` and `rng` play no part."""
        del n, rng
        value = (self._variances * sigma.double().square()[:, None] / self._noisy(sigma)).sum(1)
        return Estimate(value, torch.zeros_like(value))

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor | None]:
        """Variances along the principal axes, and those axes; None: the coordinates themselves."""
        if self.covariance is None:
            assert self.deviation is not None  # __post_init__ saw to it
            return self.deviation.double().flatten().square(), None
        values, axes = torch.linalg.eigh(self.covariance.double())
        if bool(values.min() < -1e-12 * values.abs().max()):
            raise ValueError("the covariance of GaussianData has a negative eigenvalue")
        return values.clamp(min=0.0), axes

    @property
    def _variances(self) -> Tensor:
        return self._spectrum[0]

    def _noisy(self, sigma: Tensor) -> Tensor:
        return self._variances + sigma.double().square()[:, None]

    def _components(self, x: Tensor) -> Tensor:
        away, axes = (x.double() - self.mean.double()).flatten(1), self._spectrum[1]
        return away if axes is None else away @ axes

    def _placed(self, components: Tensor) -> Tensor:
        axes = self._spectrum[1]
        away = components if axes is None else components @ axes.T
        return self.mean.double() + away.view(-1, *self.mean.shape)


@final
@dataclass(frozen=True, eq=False)
class MixtureData:
    """x_0 ~ sum_k weights[k] N(means[k], deviations[k]^2), independent numbers within a component.

    weights: (k), positive, brought to the sum one; means: (k, ...); deviations: (k), one a component, or (k, ...), one
    a number. Raises ValueError for shapes or signs that fit none of this.
    """

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k ..."]
    deviations: Float[Tensor, "k ..."]

    def __post_init__(self) -> None:
        k = self.means.shape[0]
        if self.weights.shape != (k,) or self.deviations.shape not in {(k,), self.means.shape}:
            raise ValueError(f"{k} means need {k} weights, and {k} deviations or one for each number of the means")
        if bool((self.weights <= 0).any()) or bool((self.deviations < 0).any()):
            raise ValueError("the weights of a mixture must be positive and its deviations not negative")

    def __call__(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """The components' own means given x, weighted by how probable each component is given x."""
        return _in_chunks(self._denoised, x, sigma, self.means.numel()).to(x.dtype)

    def log_density(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln sum_k weights[k] N(x; means[k], deviations[k]^2 + sigma^2) in nats."""
        return _in_chunks(lambda x, sigma: self._joint(x, sigma)[0].logsumexp(1), x, sigma, self.means.numel())

    def draw(self, n: int, rng: Rng) -> Float[Tensor, "n ..."]:
        """`n` examples in float64; the first ones do not depend on n."""
        ids, device = torch.arange(n), self.means.device
        edges = self._log_weights.exp().cumsum(0)[:-1].contiguous()
        chosen = torch.searchsorted(edges, rng.uniform("component", ids).to(device), right=True)
        normal = rng.normal("data", ids, *self.means.shape[1:]).to(device)
        deviations = self._flat_deviations.view(
            len(self.weights), *(self.deviations.shape[1:] or [1] * (normal.dim() - 1))
        )
        return self.means.double()[chosen] + deviations[chosen] * normal

    def bayes_error(self, sigma: Float[Tensor, " s"], *, n: int = 4096, rng: Rng = _RNG) -> Estimate:
        """A mean over `n` examples, the same at all noise levels, and its standard error."""
        return _monte_carlo_error(self, sigma, n, rng)

    @cached_property
    def _log_weights(self) -> Tensor:
        return (self.weights.double() / self.weights.double().sum()).log()

    @property
    def _flat_deviations(self) -> Tensor:
        return self.deviations.double().flatten(1) if self.deviations.dim() > 1 else self.deviations.double()[:, None]

    def _joint(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln p(component, x), (b, k); x - mean, (b, k, d); the noisy variances, (b, k, d) or (b, k, 1)."""
        away = x.flatten(1)[:, None] - self.means.double().flatten(1)
        noisy = self._flat_deviations.square() + sigma.square()[:, None, None]
        logarithm = (2.0 * math.pi * noisy).log().expand_as(away)
        return self._log_weights - 0.5 * (away.square() / noisy + logarithm).sum(2), away, noisy

    def _denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        joint, away, noisy = self._joint(x, sigma)
        inner = self.means.double().flatten(1) + away * (self._flat_deviations.square() / noisy)
        return (joint.softmax(1)[:, :, None] * inner).sum(1).view(x.shape)


@final
@dataclass(frozen=True, eq=False)
class EmpiricalData:
    """x_0 is one of `points` (n, ...), each as probable: what a network knows that learned its data by heart.

    Noise levels must be positive.
    """

    points: Float[Tensor, "n ..."]

    def __post_init__(self) -> None:
        if self.points.dim() < 2 or not len(self.points):
            raise ValueError("EmpiricalData needs points of shape (n, ...), at least one")

    def __call__(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """The points' mean, weighted by the softmax of -|x - point|^2 / (2 sigma^2)."""
        return _in_chunks(self._denoised, x, sigma, len(self.points)).to(x.dtype)

    def log_density(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """ln of the mean of N(x; point, sigma^2) in nats."""
        scores = _in_chunks(lambda x, sigma: self._scores(x, sigma).logsumexp(1), x, sigma, len(self.points))
        dims = self.points[0].numel()
        return scores - math.log(len(self.points)) - 0.5 * dims * (2.0 * math.pi * sigma.double().square()).log()

    def draw(self, n: int, rng: Rng) -> Float[Tensor, "n ..."]:
        """`n` examples in float64; the first ones do not depend on n."""
        chosen = (rng.uniform("component", torch.arange(n)) * len(self.points)).long()
        return self.points.double()[chosen.to(self.points.device)]

    def bayes_error(self, sigma: Float[Tensor, " s"], *, n: int = 4096, rng: Rng = _RNG) -> Estimate:
        """A mean over `n` examples, the same at all noise levels, and its standard error."""
        return _monte_carlo_error(self, sigma, n, rng)

    @cached_property
    def _centred(self) -> tuple[Tensor, Tensor]:
        """The points less their mean, (n, d), and that mean: smaller numbers lose fewer digits."""
        points = self.points.double().flatten(1)
        return points - points.mean(0), points.mean(0)

    def _scores(self, x: Tensor, sigma: Tensor) -> Tensor:
        """-|x - point|^2 / (2 sigma^2), (b, n)."""
        points, middle = self._centred
        x = x.flatten(1) - middle
        squares = x.square().sum(1, keepdim=True) - 2.0 * x @ points.T + points.square().sum(1)
        return -0.5 * squares / sigma.square()[:, None]

    def _denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        points, middle = self._centred
        return (self._scores(x, sigma).softmax(1) @ points + middle).view(x.shape)


def _in_chunks(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, numbers: int) -> Tensor:
    """`function` of x and sigma in float64, so many rows at a time that `numbers` a row fit into a chunk."""
    rows = max(1, _CHUNK // numbers)
    x, sigma = x.double(), sigma.double()
    pieces = [function(x[i : i + rows], sigma[i : i + rows]) for i in range(0, len(x), rows)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _monte_carlo_error(data: ExactData, sigma: Tensor, n: int, rng: Rng) -> Estimate:
    """The mean and standard error of |D - x_0|^2 over `n` examples and their noise, at each noise level."""
    x_0 = data.draw(n, rng)
    noise = rng.normal("noise", torch.arange(n), *x_0.shape[1:]).to(x_0.device)
    means, errors = [], []
    for level in sigma.double():
        levels = level.expand(n)
        squares = (data(x_0 + column(levels, x_0) * noise, levels) - x_0).flatten(1).square().sum(1)
        means.append(squares.mean())
        errors.append(squares.std() / math.sqrt(n))
    return Estimate(torch.stack(means), torch.stack(errors))
