"""Where does randomness come from?

From a key, never from a global state: the same (seed, purpose, sample id) gives the same noise whatever else is
in the batch, on whichever rank, before or after a resume.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key of numbers and words; the same in every process, unlike Python's `hash`."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of 64-bit words; torch's own shift of int64 keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014), in wrapping int64 arithmetic."""
    x = (x ^ _shift_right(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift_right(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift_right(x, 31)


_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, SplitMix64's increment, as int64


@dataclass(frozen=True)
class Rng:
    """Random numbers keyed by (seed, purpose, sample id): a counter-based generator with no state."""

    seed: int

    def fold(self, *key: int | str) -> Rng:
        """An independent generator for a sub-task, such as a training step."""
        return Rng(derive_seed(self.seed, *key))

    def generator(self, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A torch generator for uses that are not per sample (initial weights, permutations)."""
        return torch.Generator(device=device).manual_seed(derive_seed(self.seed, purpose))

    def uniform(self, purpose: str, sample_ids: Int[Tensor, " b"], *shape: int) -> Float[Tensor, "b ..."]:
        """Uniform numbers in the open interval (0, 1), float64, of shape (b, *shape), a stream a sample id."""
        counter = torch.arange(math.prod(shape), device=sample_ids.device, dtype=torch.int64)
        key = _mix(sample_ids.to(torch.int64) * _GOLDEN + derive_seed(self.seed, purpose))
        bits = _mix(_mix(key[:, None] + (counter[None, :] + 1) * _GOLDEN))
        numbers = (_shift_right(bits, 11).to(torch.float64) + 0.5) * 2.0**-53
        return numbers.reshape(sample_ids.shape[0], *shape)

    def normal(self, purpose: str, sample_ids: Int[Tensor, " b"], *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal numbers, float64, of shape (b, *shape), by inversion of the distribution function."""
        numbers: Tensor = torch.special.ndtri(self.uniform(purpose, sample_ids, *shape))
        return numbers
