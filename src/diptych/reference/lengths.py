"""How often does a model see each distance between two tokens in training?

Review table 5, left, states how long the documents of corpora are; An et al. 2024 (*Why Does the Effective Context
Length of LLMs Fall Short?*, equations 1 and 2) draw from such lengths how often each relative position is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64


def relative_position_frequency(C: Sequence[int], L: int) -> Int64[np.ndarray, " L"]:
    """Table 5 left: f(i) = sum_{s in C} max(|s| - i, 0) for 0 <= i < L, where no |s| exceeds L.

    Input: C, the lengths |s| of the documents in tokens, each cut to its first L; L, the training context.
    Output: f(i), how many pairs of positions (m, n) of one document have m - n = i. f(0) counts every position with
    itself; documents that all fill the context give f(i) proportional to L - i.
    """
    f = np.zeros(L, dtype=np.int64)
    for i in range(L):
        f[i] = sum(max(min(s, L) - i, 0) for s in C)
    return f
