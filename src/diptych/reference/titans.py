"""How does a memory learn what it reads, token by token? Titans (Behrouz, Zhong and Mirrokni 2025, sections 3 and 4).

The recurrence of the long-term memory in the paper's symbols, one token after the other, and the three ways in which it
is put beside attention. Columns are positions. In PyTorch, so that tests can differentiate through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Memory = list[Tensor]
"""W_1, ..., W_L, each in R^{outputs x inputs}."""


@dataclass(frozen=True, eq=False)
class Projections:
    """W_Q, W_K and W_V in R^{H d x m}; their filters over the last positions, R^{H d x w}; and of every head a row of
    W_theta, W_eta, W_alpha in R^{H x m} with its bias."""

    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    F_Q: Tensor
    F_K: Tensor
    F_V: Tensor
    W_theta: Tensor
    b_theta: Tensor
    W_eta: Tensor
    b_eta: Tensor
    W_alpha: Tensor
    b_alpha: Tensor
    theta_max: float


@dataclass(frozen=True, eq=False)
class Attention:
    """W_q, W_k and W_v in R^{H d x m}, and the persistent positions P in R^{m x N_p}."""

    W_q: Tensor
    W_k: Tensor
    W_v: Tensor
    P: Tensor


@dataclass(frozen=True, eq=False)
class Titans:
    """What the variants share: the memory's projections and each head's M_0, attention, the scales of the two
    normalizations and W_o in R^{m x H d}."""

    memory: Projections
    M_0: Sequence[Memory]
    attention: Attention
    gamma_y: Tensor
    gamma_m: Tensor
    W_o: Tensor


def silu(x: Tensor) -> Tensor:
    """x sigma(x)."""
    return x * torch.sigmoid(x)


def memory(W: Memory, k: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """W k of a memory that is one matrix; k + W_L silu(... silu(W_1 k)) of a deeper one."""
    if len(W) == 1:
        return W[0] @ k
    x = W[0] @ k
    for W_l in W[1:]:
        x = W_l @ silu(x)
    return k + x


def surprise(W: Memory, k: Float[Tensor, " d"], v: Float[Tensor, " d"]) -> Memory:
    """Equation 12: the gradient of ||M(k) - v||^2 in every matrix of M; of one matrix it is 2 (W k - v) k^T."""
    if len(W) == 1:
        return [2 * torch.outer(W[0] @ k - v, k)]

    def loss(W: Memory) -> Tensor:
        return (memory(W, k) - v).square().sum()

    return list(torch.func.grad(loss)(W))


def neural_memory(
    Q: Float[Tensor, "d l"],
    K: Float[Tensor, "d l"],
    V: Float[Tensor, "d l"],
    theta: Float[Tensor, " l"],
    eta: Float[Tensor, " l"],
    alpha: Float[Tensor, " l"],
    M_0: Memory,
    b: int = 1,
) -> tuple[Float[Tensor, "d l"], list[Memory]]:
    """Equations 13 to 15: S_t = eta_t S_{t-1} - theta_t grad, M_t = (1 - alpha_t) M_{t-1} + S_t, y_t = M_t(q_t).

    The gradient is taken at the memory before the token's chunk of b tokens (section 3.2); b = 1: before the token.
    Returns Y and M_0, ..., M_l.
    """
    W, S = list(M_0), [torch.zeros_like(W_l) for W_l in M_0]
    Y, states, chunk = [], [W], W
    for t in range(Q.shape[1]):
        if t % b == 0:
            chunk = W
        G = surprise(chunk, K[:, t], V[:, t])
        S = [eta[t] * S_l - theta[t] * G_l for S_l, G_l in zip(S, G, strict=True)]
        W = [(1 - alpha[t]) * W_l + S_l for W_l, S_l in zip(W, S, strict=True)]
        Y.append(memory(W, Q[:, t]))
        states.append(W)
    return torch.stack(Y, dim=1), states


def short_convolution(X: Float[Tensor, "c l"], F: Float[Tensor, "c w"]) -> Float[Tensor, "c l"]:
    """y_t = sum over j < w of F_j x_{t-w+1+j}, row by row."""
    c, w = F.shape
    X = torch.cat((X.new_zeros(c, w - 1), X), dim=1)
    Y = [(F * X[:, t : t + w]).sum(1) for t in range(X.shape[1] - w + 1)]
    return torch.stack(Y, dim=1)


def unit(x: Float[Tensor, "d l"]) -> Float[Tensor, "d l"]:
    """Columns of length one."""
    return x / x.square().sum(0).sqrt()


def memory_layer(
    X: Float[Tensor, "m l"], W: Projections, M_0: Sequence[Memory], b: int = 1
) -> tuple[Float[Tensor, "hd l"], list[list[Memory]]]:
    """Section 4.4: what every head's memory answers to each position, stacked, and the states of every head."""
    H, pairs = len(M_0), ((W.W_Q, W.F_Q), (W.W_K, W.F_K), (W.W_V, W.F_V))
    Q, K, V = (silu(short_convolution(W_p @ X, F)) for W_p, F in pairs)
    theta = W.theta_max * torch.sigmoid(W.W_theta @ X + W.b_theta[:, None])
    eta = torch.sigmoid(W.W_eta @ X + W.b_eta[:, None])
    alpha = torch.sigmoid(W.W_alpha @ X + W.b_alpha[:, None])
    heads = [
        neural_memory(unit(q), unit(k), v, theta[i], eta[i], alpha[i], M_0[i], b)
        for i, (q, k, v) in enumerate(zip(Q.chunk(H), K.chunk(H), V.chunk(H), strict=True))
    ]
    return torch.cat([Y for Y, _ in heads]), [states for _, states in heads]


def persistent_attention(
    X: Float[Tensor, "m l_x"], Z: Float[Tensor, "m l_z"], W: Attention, Mask: Bool[Tensor, "l_z l_x"], H: int
) -> Float[Tensor, "hd l_x"]:
    """Every position of X attends to all persistent positions and to those of Z that Mask shows it; heads stacked."""
    Z = torch.cat((W.P, Z), dim=1)
    Mask = torch.cat((Mask.new_ones(W.P.shape[1], X.shape[1]), Mask))
    heads = []
    for W_q, W_k, W_v in zip(W.W_q.chunk(H), W.W_k.chunk(H), W.W_v.chunk(H), strict=True):
        S = (W_k @ Z).T @ (W_q @ X) / len(W_q) ** 0.5
        heads.append(W_v @ Z @ torch.softmax(S.masked_fill(~Mask, float("-inf")), dim=0))
    return torch.cat(heads)


def window(l: int, w: int) -> Bool[Tensor, "l_z l_x"]:
    """Each position sees itself and the w - 1 before it."""
    causal = torch.ones(l, l, dtype=torch.bool).triu()
    return causal & ~causal.triu(w)


def rms(x: Float[Tensor, "d l"], gamma: Float[Tensor, " d"], eps: float = 1e-5) -> Float[Tensor, "d l"]:
    """Columns of mean square one, scaled by gamma."""
    return gamma[:, None] * x / (x.square().mean(0) + eps).sqrt()


def gate(Y: Float[Tensor, "d l"], R: Float[Tensor, "d l"], W: Titans) -> Float[Tensor, "m l"]:
    """Attention's output and the memory's, normalized, each gating the other (our reading of equation 28)."""
    Y, R = rms(Y, W.gamma_y), rms(R, W.gamma_m)
    return W.W_o @ (Y * torch.sigmoid(R) + R * torch.sigmoid(Y))


def memory_as_gate(X: Float[Tensor, "m l"], W: Titans, w: int, b: int = 1) -> Float[Tensor, "m l"]:
    """MAG, equations 26 to 28: attention in a window of w beside the memory."""
    Y = persistent_attention(X, X, W.attention, window(X.shape[1], w), len(W.M_0))
    return gate(Y, memory_layer(X, W.memory, W.M_0, b)[0], W)


def memory_as_layer(X: Float[Tensor, "m l"], W: Titans, W_r: Float[Tensor, "m hd"], w: int, b: int = 1) -> Tensor:
    """MAL, equations 29 to 31: attention in a window of w to what the memory retrieved and W_r brought to width m."""
    R = W_r @ rms(memory_layer(X, W.memory, W.M_0, b)[0], W.gamma_m)
    return W.W_o @ persistent_attention(R, R, W.attention, window(X.shape[1], w), len(W.M_0))


def memory_as_context(
    X: Float[Tensor, "m l"],
    W: Titans,
    W_Q: Float[Tensor, "hd m"],
    W_r: Float[Tensor, "m hd"],
    W_y: Float[Tensor, "m hd"],
    L: int,
    b: int = 1,
) -> Float[Tensor, "m l"]:
    """MAC, equations 21 to 25, by segments of L: h = M(q) of the memory before the segment; y attends to
    [persistent | h | segment]; the memory reads y, and what it then makes of each position gates y.

    In each segment the memory reads all y so far anew, which is slow and leaves nothing to carry over.
    """
    H, read = len(W.M_0), X[:, :0]
    out: list[Tensor] = []
    for S in X.split(L, dim=1):
        states = memory_layer(read, W.memory, W.M_0, b)[1] if out else [[M_0] for M_0 in W.M_0]
        q = [unit(q_i) for q_i in silu(W_Q @ S).chunk(H)]
        h = torch.cat([torch.stack([memory(s[-1], x) for x in q_i.T], dim=1) for s, q_i in zip(states, q, strict=True)])
        Mask = window(S.shape[1], L)
        y = persistent_attention(S, torch.cat((W_r @ h, S), dim=1), W.attention, torch.cat((Mask, Mask)), H)
        read = torch.cat((read, W_y @ rms(y, W.gamma_y)), dim=1)
        r = memory_layer(read, W.memory, W.M_0, b)[0][:, -S.shape[1] :]
        out.append(gate(y, r, W))
    return torch.cat(out, dim=1)
