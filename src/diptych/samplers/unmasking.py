"""Which of the masked positions are revealed together in a step?

Pure functions of what is known of a position before anything is drawn there. So with one position a step every one of
them draws from the network's own conditional distributions one after another; with several, those drawn together are
drawn as if they did not depend on each other, which `diptych.evaluation.parallel_decoding` prices.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.text_diffusion_config import AlphaScheduleName
from diptych.diffusion.discrete import build_alpha_schedule

UnmaskName = Literal["random", "confidence", "threshold", "entropy"]
"""Any positions, the surest, all that are sure enough, or as many as can depend on each other only so much."""


def set_sizes(gaps: int, steps: int | None, schedule: AlphaScheduleName) -> list[int]:
    """How many of `gaps` positions each step reveals: time runs evenly from 1 to 0, and alpha of all are revealed.

    From time t to s that is the share (alpha_s - alpha_t) / (1 - alpha_t) of those still masked, as under the reverse
    of the forward process (Sahoo et al. 2024), rounded so that each step reveals at least one. steps: None,
    or as many as gaps or more: one a step.
    """
    count = gaps if steps is None else min(steps, gaps)
    times = 1.0 - torch.arange(1, count + 1, dtype=torch.float64) / max(count, 1)
    sizes, revealed = [], 0
    for step, share in enumerate(build_alpha_schedule(schedule).alpha(times).tolist()):
        after = min(max(round(gaps * share), revealed + 1), gaps - (count - step - 1))
        sizes.append(after - revealed)
        revealed = after
    return sizes


def first_by(score: Float[Tensor, "b n"], left: Bool[Tensor, "b n"], count: Int[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """In each row, of the positions that are `left`, the `count` of the largest score; of equal ones the earlier."""
    order = score.masked_fill(~left, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return (order.argsort(dim=1) < count[:, None]) & left


def above(score: Float[Tensor, "b n"], left: Bool[Tensor, "b n"], threshold: float) -> Bool[Tensor, "b n"]:
    """All that are `left` with at least this score, and the best one in any case (Fast-dLLM, Wu et al. 2025)."""
    return (left & (score >= threshold)) | first_by(score, left, left.new_ones(len(left), dtype=torch.long))


def within_entropy(entropy: Float[Tensor, "b n"], left: Bool[Tensor, "b n"], bound: float) -> Bool[Tensor, "b n"]:
    """The most positions whose entropies without the largest add up to at most `bound`, and one in any case.

    What those drawn together lose, their conditional total correlation, is no more: their joint entropy is at least the
    largest of them (the EB sampler, Ben-Hamu et al. 2025). `entropy` in nats.
    """
    ordered, order = entropy.masked_fill(~left, torch.inf).sort(dim=1, stable=True)
    before = torch.cat((torch.zeros_like(ordered[:, :1]), ordered[:, :-1].cumsum(1)), dim=1)
    return (before <= bound).gather(1, order.argsort(dim=1)) & left
