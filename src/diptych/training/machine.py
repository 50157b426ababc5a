"""How fast could this machine go?

The yardstick of model FLOPs utilization (Chowdhery et al. 2022, appendix B): the machine's own measured peak of matrix
multiplication.
"""

from __future__ import annotations

import time
from functools import cache

import torch


@cache
def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = 0, repeats: int = 5) -> float:
    """Best rate of a square matrix product on `device` in FLOP/s, over `repeats` tries."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first try also chooses and packs
        _wait(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
