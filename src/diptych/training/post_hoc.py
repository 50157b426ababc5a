"""Which weights would a moving average of another length have given?

Each snapshot of an average is an integral of the weights' path against a known profile. The profile that is wanted is
fitted by those of all snapshots, and the same mixture of the snapshots is the wanted average, nearly (Karras et al.
2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3.2 and algorithm 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.checkpoints.safetensors_file import StoredTensor, read_header, read_into
from diptych.checkpoints.weights import save_tensors
from diptych.training.ema import gamma_of

AVERAGES = "averages"
"""The folder of the snapshots in a run folder."""

MOST = 32
"""Snapshots kept in a run folder; above, every other one is dropped."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The average of one relative width after so many steps, by the parameters' names."""

    step: int
    length: float
    tensors: Mapping[str, StoredTensor]


def save_snapshot(averages: Mapping[str, Tensor], folder: Path, step: int) -> None:
    """Write `folder`/step-N.safetensors, in the precision of the parameters, of what `PowerAverages.state` gave. At
    most `MOST` files stay, the fewer the older: later profiles are wider. Raises OSError where the disk is full."""
    save_tensors(averages, folder / f"step-{step:08d}.safetensors")
    files = _files(folder)
    if len(files) > MOST:
        # Counted from the newest, so that it stays.
        for old in files[-2::-2]:
            old.unlink()


def read_snapshots(folder: Path) -> list[Snapshot]:
    """All snapshots of a run folder; their tensors are not read.

    Raises FileNotFoundError where there are none, ValueError for a damaged file.
    """
    files = _files(folder / AVERAGES)
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no snapshots of averages; set train.ema_lengths = [0.05, 0.1] in its recipe, then train "
            "anew"
        )
    return [snapshot for file in files for snapshot in _read(file)]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))


def _read(file: Path) -> list[Snapshot]:
    by_length: dict[str, dict[str, StoredTensor]] = {}
    for full, tensor in read_header(file).items():
        length, _, name = full.partition("/")
        by_length.setdefault(length, {})[name] = tensor
    try:
        step = int(file.stem.removeprefix("step-"))
        return [Snapshot(step=step, length=float(length), tensors=found) for length, found in by_length.items()]
    except ValueError:
        raise ValueError(f"{file} is no snapshot of averages; take it out of the folder") from None


def inner_products(
    steps: NDArray[np.float64], gammas: NDArray[np.float64], steps_2: NDArray[np.float64], gammas_2: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Integrals of p_i q_j over all time, (i, j), of the profiles p_i(s) = (gamma + 1) s^gamma / t^(gamma + 1) on
    [0, t] (algorithm 3)."""
    t, gamma, u, delta = steps[:, None], gammas[:, None], steps_2[None], gammas_2[None]
    least = np.minimum(t, u)
    # Both profiles at their common end, and the integral of the power of the sum of exponents before it.
    at_end = (gamma + 1.0) * (delta + 1.0) * (least / t) ** gamma * (least / u) ** delta / (t * u)
    return np.asarray(at_end * least / (gamma + delta + 1.0), np.float64)


def coefficients(snapshots: list[Snapshot], length: float, step: int) -> NDArray[np.float64]:
    """By how much each snapshot counts in the average of `length` after `step` steps: the least squares of algorithm 3,
    in float64."""
    steps = np.array([snapshot.step for snapshot in snapshots], np.float64)
    gammas = np.array([gamma_of(snapshot.length) for snapshot in snapshots])
    target = np.array([float(step)]), np.array([gamma_of(length)])
    # In units of the snapshots' own norms, or the early ones' sharp profiles would decide what is small.
    gram, right = inner_products(steps, gammas, steps, gammas), inner_products(steps, gammas, *target)
    norm = np.sqrt(np.diag(gram))
    solved = np.linalg.lstsq(gram / np.outer(norm, norm), right[:, 0] / norm, rcond=None)[0]
    return np.asarray(solved / norm, np.float64)


def reconstruct(folder: Path, length: float, step: int | None = None) -> dict[str, Tensor]:
    """The parameters' averages of relative width `length` after `step` steps (None: the newest snapshot's) from the
    snapshots of a run folder; float32, one snapshot's tensor read at a time.

    Raises FileNotFoundError where there are none; ValueError for a width or step out of range, or a damaged file.
    """
    snapshots = read_snapshots(folder)
    newest = snapshots[-1].step
    if step is not None and not 1 <= step <= newest:
        raise ValueError(f"there is no average after step {step}: the snapshots of {folder} end at step {newest}")
    sums: dict[str, Tensor] = {}
    for weight, snapshot in zip(coefficients(snapshots, length, step or newest), snapshots, strict=True):
        for name, stored in snapshot.tensors.items():
            value = torch.empty(stored.shape, dtype=torch.float64)
            read_into(stored, value)
            sums[name] = sums[name].add_(value, alpha=float(weight)) if name in sums else value.mul_(float(weight))
    return {name: value.float() for name, value in sums.items()}
