"""How does the learning rate move over a run?"""

from __future__ import annotations

import math

from diptych.core.config import OptimConfig


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`.

    Linear warm-up, then half a cosine to the final share (Loshchilov and Hutter 2017), or constant until a linear
    decay in the last `decay_fraction` of the steps (warm-up-stable-decay, Hu et al. 2024), or constant; or Vaswani et
    al. 2017, equation 3, which warms up to its peak at step `warmup_steps` and falls as the inverse root of the step.
    """
    if config.schedule == "inverse_sqrt":
        number, warmup = step + 1, max(1, config.warmup_steps)
        return min(number / warmup, math.sqrt(warmup / number))
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    low = config.final_lr_fraction
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
            return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        case "wsd":
            decay_steps = max(1, round(steps * config.decay_fraction))
            remaining = max(0, steps - step) / decay_steps
            return low + (1 - low) * min(1.0, remaining)
