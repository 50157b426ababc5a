"""How does noise become an image? Review section 3: the forward and the backward process.

The image is destroyed by small steps of Gaussian noise (the forward process, from the non-equilibrium thermodynamics of
Sohl-Dickstein et al. 2015) and made again by steps that undo them (the backward process), as in *Denoising Diffusion
Probabilistic Models* (Ho et al. 2020), whose equations and algorithms are numbered here. One image at a time, a vector
in R^d. Steps count t = 1, ..., T as in the paper; a table has an entry for t = 0 as well, the clean image, at which
beta is 0 and alpha_bar is 1. Noise is an argument, so that every function is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

Table = Float64[np.ndarray, " T_1"]
"""T + 1 numbers, for t = 0, ..., T."""

NoisePredictor = Callable[[Float64[np.ndarray, " d"], int], Float64[np.ndarray, " d"]]
"""epsilon_theta(x_t, t): the noise that the network sees in x_t."""


def linear_beta(T: int, beta_1: float = 1e-4, beta_T: float = 0.02) -> Table:
    """beta_t from beta_1 to beta_T in even steps (Ho et al. 2020, section 4)."""
    return np.concatenate([[0.0], np.linspace(beta_1, beta_T, T)])


def cosine_beta(T: int, s: float = 0.008, largest: float = 0.999) -> Table:
    """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1} of alpha_bar_t = f(t) / f(0), f(t) = cos^2((t/T + s)/(1 + s) pi/2).

    No beta exceeds `largest`: the last would be 1 (Nichol and Dhariwal 2021, equation 17).
    """
    f = [math.cos((t / T + s) / (1.0 + s) * math.pi / 2.0) ** 2 for t in range(T + 1)]
    return np.array([0.0] + [min(1.0 - f[t] / f[t - 1], largest) for t in range(1, T + 1)])


def cumulative(beta: Table) -> Table:
    """alpha_bar_t = product over s = 1, ..., t of (1 - beta_s): how much of the signal's variance is left."""
    return np.cumprod(1.0 - beta)


def q_step(
    x: Float64[np.ndarray, " d"], t: int, epsilon: Float64[np.ndarray, " d"], beta: Table
) -> Float64[np.ndarray, " d"]:
    """Equation 2: x_t ~ q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I).

    Input: x = x_{t-1}; epsilon ~ N(0, I).
    """
    return np.asarray(math.sqrt(1.0 - beta[t]) * x + math.sqrt(beta[t]) * epsilon)


def q_sample(
    x_0: Float64[np.ndarray, " d"], t: int, epsilon: Float64[np.ndarray, " d"], beta: Table
) -> Float64[np.ndarray, " d"]:
    """Equation 4: x_t ~ q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I), t steps at once."""
    alpha_bar = cumulative(beta)
    return np.asarray(math.sqrt(alpha_bar[t]) * x_0 + math.sqrt(1.0 - alpha_bar[t]) * epsilon)


def forward_process(
    x_0: Float64[np.ndarray, " d"], epsilon: Float64[np.ndarray, "T d"], beta: Table
) -> Float64[np.ndarray, "T_1 d"]:
    """Section 3.1: the chain x_0, x_1, ..., x_T, each a little noisier than the last.

    Input: x_0 in R^d, an image; epsilon in R^{T x d}, the noise of every step.
    Output: the T + 1 images.
    """
    x = [x_0]
    for t in range(1, len(beta)):
        x.append(q_step(x[-1], t, epsilon[t - 1], beta))
    return np.stack(x)


def posterior(
    x_t: Float64[np.ndarray, " d"], x_0: Float64[np.ndarray, " d"], t: int, beta: Table
) -> tuple[Float64[np.ndarray, " d"], float]:
    """Equations 6 and 7: q(x_{t-1} | x_t, x_0) = N(mu_tilde, beta_tilde I), the step back if the image is known.

    Output: mu_tilde_t and beta_tilde_t.
    """
    alpha_bar = cumulative(beta)
    noise = 1.0 - alpha_bar[t]
    of_x_0 = math.sqrt(alpha_bar[t - 1]) * beta[t] / noise
    of_x_t = math.sqrt(1.0 - beta[t]) * (1.0 - alpha_bar[t - 1]) / noise
    return np.asarray(of_x_0 * x_0 + of_x_t * x_t), float((1.0 - alpha_bar[t - 1]) / noise * beta[t])


def p_mean(
    x_t: Float64[np.ndarray, " d"], t: int, epsilon_theta: NoisePredictor, beta: Table
) -> Float64[np.ndarray, " d"]:
    """Equation 11: mu_theta(x_t, t), the posterior's mean at the clean image that the predicted noise leaves."""
    alpha_bar = cumulative(beta)
    share = beta[t] / math.sqrt(1.0 - alpha_bar[t])
    return np.asarray((x_t - share * epsilon_theta(x_t, t)) / math.sqrt(1.0 - beta[t]))


def training_loss(
    x_0: Float64[np.ndarray, " d"],
    t: int,
    epsilon: Float64[np.ndarray, " d"],
    epsilon_theta: NoisePredictor,
    beta: Table,
) -> float:
    """Section 3.1: the loss of one training step (algorithm 1; equation 14), |epsilon - epsilon_theta(x_t, t)|^2.

    Input: x_0, an image; t, drawn evenly from 1, ..., T; epsilon ~ N(0, I). A gradient step on it teaches the network.
    """
    x_t = q_sample(x_0, t, epsilon, beta)
    return float(((epsilon - epsilon_theta(x_t, t)) ** 2).sum())


def sampling(
    x_T: Float64[np.ndarray, " d"], z: Float64[np.ndarray, "T d"], epsilon_theta: NoisePredictor, beta: Table
) -> Float64[np.ndarray, "T_1 d"]:
    """Section 3.2: the backward process (algorithm 2), x_{t-1} = mu_theta(x_t, t) + sigma_t z from t = T to 1.

    Input: x_T ~ N(0, I); z, whose row t - 1 is the noise of step t; that of t = 1 is not used.
    Output: x_0, ..., x_T, the image first. sigma_t^2 = beta_tilde_t, of the paper's two the one that is right where the
    data is one point.
    """
    x = [x_T]
    for t in range(len(beta) - 1, 0, -1):
        _, variance = posterior(x[-1], x[-1], t, beta)
        mean = p_mean(x[-1], t, epsilon_theta, beta)
        x.append(mean + math.sqrt(variance) * z[t - 1] if t > 1 else mean)
    return np.stack(x[::-1])


def gaussian_kl(m_1: Float64[np.ndarray, " d"], v_1: float, m_2: Float64[np.ndarray, " d"], v_2: float) -> float:
    """KL(N(m_1, v_1 I) || N(m_2, v_2 I)) in nats."""
    return float(0.5 * (len(m_1) * (v_1 / v_2 - 1.0 - math.log(v_1 / v_2)) + ((m_1 - m_2) ** 2).sum() / v_2))


def bound_terms(
    x_0: Float64[np.ndarray, " d"], epsilon: Float64[np.ndarray, "T d"], epsilon_theta: NoisePredictor, beta: Table
) -> Table:
    """Equation 5: L_0, L_1, ..., L_T in nats at one draw of noise; their sum's mean bounds -log p(x_0) from above.

    L_T = KL(q(x_T | x_0) || N(0, I)); L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)), the variances of
    both beta_tilde_t; L_0 = -log N(x_0; mu_theta(x_1, 1), beta_1 I), the density of an image of real numbers.
    Input: epsilon, whose row t - 1 is the noise of x_t.
    """
    T, d = len(beta) - 1, len(x_0)
    L = np.zeros(T + 1)
    left = float(cumulative(beta)[T])
    L[T] = gaussian_kl(math.sqrt(left) * x_0, 1.0 - left, np.zeros(d), 1.0)
    for t in range(T, 0, -1):
        x_t = q_sample(x_0, t, epsilon[t - 1], beta)
        mean = p_mean(x_t, t, epsilon_theta, beta)
        if t > 1:
            mu_tilde, beta_tilde = posterior(x_t, x_0, t, beta)
            L[t - 1] = gaussian_kl(mu_tilde, beta_tilde, mean, beta_tilde)
        else:
            L[0] = 0.5 * (d * math.log(2.0 * math.pi * beta[1]) + ((x_0 - mean) ** 2).sum() / beta[1])
    return L
