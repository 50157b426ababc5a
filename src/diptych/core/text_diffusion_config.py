"""What can be chosen of the diffusion of text, and what are the defaults?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

AlphaScheduleName = Literal["linear", "cosine", "square"]
EstimatorName = Literal["count", "time"]


@dataclass(frozen=True, kw_only=True)
class TextDiffusionConfig:
    """How tokens are destroyed, under the objectives `masked_diffusion` and `uniform_diffusion`."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    schedule: AlphaScheduleName = "linear"
    """Share alpha(t) of tokens that are left at time t: 1 - t (LLaDA; MDLM's log-linear), 1 - cos(pi (1 - t) / 2), or
    1 - t^2. The bound does not depend on it, its variance does."""
    estimator: EstimatorName = "count"
    """How masked diffusion draws what it hides: a number of tokens, evenly from 1 to all (LLaDA), or a time, at which
    each token is hidden on its own (MDLM). Both have the same mean."""
    block_length: int | None = None
    """Masked diffusion by blocks of so many tokens, each given the blocks before it (Arriola et al. 2025); 1 is
    autoregression; None: the whole sequence is one block."""

    mask_token: str | None = None
    """Special token of the tokenizer that hides others, where a checkpoint's tokenizer has none for that: one that its
    texts never use, such as `<filename>`; None: `<|mask|>`, `[MASK]` or `<mask>`."""

    def __post_init__(self) -> None:
        if self.block_length is not None and self.block_length < 1:
            raise ValueError(f"text_diffusion.block_length={self.block_length} must be at least 1")
