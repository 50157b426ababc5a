"""How does noise become a text? The forward and the backward process of review section 3, with tokens for pixels.

The text is destroyed by hiding one token after another behind a mask (the forward process) and made again by revealing
them (the backward process), as in *Simple and Effective Masked Diffusion Language Models* (Sahoo et al. 2024, MDLM),
whose symbols these are: alpha_t, which falls from 1 at t = 0 to 0 at t = 1, is the share of tokens still visible at
time t, m the mask token. One text at a time, x[1 : L]. Random numbers are arguments, so that every function is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int

Text = Int[np.ndarray, " L"]

Alpha = Callable[[float], float]
"""alpha_t of a time t."""

XPredictor = Callable[[Text], Float64[np.ndarray, "L N"]]
"""x_theta(z_t): at each position a distribution over the N tokens, none of it on the mask."""


def linear_alpha(t: float) -> float:
    """alpha_t = 1 - t, MDLM's log-linear schedule."""
    return 1.0 - t


def hide(z_s: Text, s: float, t: float, u: Float64[np.ndarray, " L"], m: int, alpha: Alpha) -> Text:
    """z_t ~ q(z_t | z_s), s < t: a visible token stays with probability alpha_t / alpha_s, and a mask is one for ever.

    Input: u, a number in (0, 1) for each position. With s = 0 and z_0 = x this is q(z_t | x).
    """
    z_t = z_s.copy()
    for i in range(len(z_s)):
        if u[i] >= alpha(t) / alpha(s):
            z_t[i] = m
    return z_t


def reveal(
    z_t: Text, s: float, t: float, u: Float64[np.ndarray, "2 L"], x_theta: XPredictor, m: int, alpha: Alpha
) -> Text:
    """z_s ~ p_theta(z_s | z_t), s < t: a mask is lifted with probability (alpha_s - alpha_t) / (1 - alpha_t), and the
    token behind it drawn from x_theta; a visible token stays (equation 7, carry-over unmasking).

    Input: u, of each position a number in (0, 1) that decides whether, and one that decides which token.
    """
    z_s = z_t.copy()
    p = x_theta(z_t)
    for i in range(len(z_t)):
        if z_t[i] == m and u[0, i] < (alpha(s) - alpha(t)) / (1.0 - alpha(t)):
            v = 0
            below = p[i, 0]
            while below <= u[1, i]:
                v += 1
                below += p[i, v]
            z_s[i] = v
    return z_s


def mdlm_loss(
    x: Text,
    t: float,
    u: Float64[np.ndarray, " L"],
    x_theta: XPredictor,
    m: int,
    alpha: Alpha,
    alpha_prime: Alpha,
) -> float:
    """The loss of one training step: -alpha'_t / (1 - alpha_t) sum over masked i of -log x_theta(z_t)[i, x[i]].

    Input: t, drawn evenly from (0, 1); u, as in `hide`. Its mean bounds -log p(x) from above (equation 11).
    """
    z_t = hide(x, 0.0, t, u, m, alpha)
    p = x_theta(z_t)
    loss = 0.0
    for i in range(len(x)):
        if z_t[i] == m:
            loss -= math.log(p[i, x[i]])
    return -alpha_prime(t) / (1.0 - alpha(t)) * loss


def ancestral_sampling(
    z_1: Text, u: Float64[np.ndarray, "T 2 L"], x_theta: XPredictor, m: int, alpha: Alpha
) -> Int[np.ndarray, "T_1 L"]:
    """The backward process in T even steps, from z_1, masked wherever a token is wanted, to z_0.

    Input: u, whose entry k - 1 is the randomness of the step from t = k / T to s = (k - 1) / T.
    Output: z_0, z_{1/T}, ..., z_1, the text first.
    """
    T = len(u)
    z = [z_1]
    for k in range(T, 0, -1):
        z.append(reveal(z[-1], (k - 1) / T, k / T, u[k - 1], x_theta, m, alpha))
    return np.stack(z[::-1])
