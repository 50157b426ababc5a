"""How much does a training step compute for each target that it learns from?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from diptych.core.config import RunConfig, TransformerConfig
from diptych.models.cost import training_flops_per_token


def row_targets(run: RunConfig, config: TransformerConfig) -> int:
    """Targets in a row of training: tokens that have one before them, or the patches of an image."""
    return run.data.sequence_length if config.patches is None else math.prod(config.patches.grid)


def positions_read(run: RunConfig, config: TransformerConfig) -> int:
    """Positions that the network reads of a row of L targets: the tokens before them (L), the whole row (L + 1), or, in
    block diffusion, the noisy targets and the whole clean row (2 L + 1); of an image its L patches."""
    length = row_targets(run, config)
    if run.objective in ("autoregressive", "gaussian"):
        return length
    return length + 1 if run.text_diffusion.block_length is None else 2 * length + 1


def predicted_share(run: RunConfig) -> float:
    """Of how many of its targets a training step takes logits, on average: of all, or of those that masked diffusion
    hides."""
    if run.objective != "masked_diffusion":
        return 1.0
    diffusion = run.text_diffusion
    if diffusion.estimator == "count":  # from 1 to n of n, evenly
        n = min(diffusion.block_length or run.data.sequence_length, run.data.sequence_length)
        return (n + 1) / (2 * n)
    return {"linear": 1 / 2, "cosine": 2 / math.pi, "square": 1 / 3}[diffusion.schedule]  # the mean of 1 - alpha(t)


def flops_per_target(
    run: RunConfig,
    config: TransformerConfig,
    per_position: Callable[[int, float], float] | None = None,
    *,
    counted: float = 1.0,
) -> float:
    """FLOPs of a training step for each target: those of every position read, the un-embedding of those alone whose
    logits are taken. What a mask hides of the attention scores is counted, as is the custom.

    per_position: FLOPs of a position, given how many are read and the share of them whose logits are taken; None: those
    of a network whose every weight learns (`training_flops_per_token`). counted: the share of the targets that count.
    """
    positions, targets = positions_read(run, config), row_targets(run, config)
    each = partial(_whole, config) if per_position is None else per_position
    return each(positions, counted * predicted_share(run) * targets / positions) * positions / targets


def _whole(config: TransformerConfig, positions: int, predicted: float) -> float:
    unpredicted = (1.0 - predicted) * config.vocab_size * config.d_model
    return training_flops_per_token(config, positions) - 6.0 * unpredicted
