"""Attention masks: review section 2.2 and its figure 2.

Mask[t_z, t_x] says whether the query at t_x may attend to the key at t_z, as in *Formal Algorithms*, algorithm 4. Each
is its definition, pair by pair; masks of the same length join by `&` and `|`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from diptych.reference.attention import causal_mask

Mask = Bool[np.ndarray, "l l"]


def mask_of(l: int, may: Callable[[int, int], bool]) -> Mask:
    """The mask of a rule on the places of key and query, may(t_z, t_x)."""
    return np.array([[may(t_z, t_x) for t_x in range(l)] for t_z in range(l)])


def bidirectional_mask(l: int) -> Mask:
    """All see all: encoders (*Formal Algorithms*, algorithm 9), and denoisers."""
    return np.ones((l, l), dtype=bool)


def prefix_mask(l: int, p: int) -> Mask:
    """The first p see one another, the rest is causal."""
    return mask_of(l, lambda t_z, t_x: t_z <= t_x or t_z < p)


def document_mask(lengths: list[int]) -> Mask:
    """Documents packed into one sequence do not see each other."""
    d = np.repeat(np.arange(len(lengths)), lengths)
    return mask_of(len(d), lambda t_z, t_x: d[t_z] == d[t_x])


def window_mask(l: int, w: int) -> Mask:
    """Nobody sees what lies w or more before it (Beltagy et al. 2020)."""
    return mask_of(l, lambda t_z, t_x: t_x - t_z < w)


def sink_mask(l: int, s: int) -> Mask:
    """The first s are seen by all (Xiao et al. 2024)."""
    return np.repeat(np.arange(l)[:, None] < s, l, axis=1)


def global_mask(l: int, g: int) -> Mask:
    """The first g see all and are seen by all (Beltagy et al. 2020)."""
    return mask_of(l, lambda t_z, t_x: t_z < g or t_x < g)


def strided_mask(l: int, s: int) -> Mask:
    """One sees what lies whole strides away (Child et al. 2019)."""
    return mask_of(l, lambda t_z, t_x: (t_x - t_z) % s == 0)


def block_causal_mask(l: int, b: int) -> Mask:
    """Blocks see themselves and those before them (Arriola et al. 2025)."""
    return mask_of(l, lambda t_z, t_x: t_z // b <= t_x // b)


def figure_2(l: int) -> dict[str, Mask]:
    """Figure 2: masks side by side."""
    causal = causal_mask(l, l)
    return {
        "bidirectional": bidirectional_mask(l),
        "causal": causal,
        "prefix": prefix_mask(l, l // 3),
        "documents": causal & document_mask([l // 3, l - l // 3]),
        "window": causal & window_mask(l, l // 4),
        "window and sinks": causal & (window_mask(l, l // 4) | sink_mask(l, 2)),
        "window and global": window_mask(l, l // 4) & window_mask(l, l // 4).T | global_mask(l, 2),
        "strided": causal & (window_mask(l, l // 4) | strided_mask(l, l // 4)),
        "block diffusion": block_causal_mask(l, l // 4),
    }
