"""How is text made of random tokens?

The backward process of uniform diffusion (Austin et al. 2021; Schiff et al. 2024): the gaps of a canvas begin as tokens
drawn evenly from the vocabulary, and in every step each of them is drawn anew from q(z_s | z_t, x), the unknown x
averaged over what the network believes of it. A token may change in any step; the last takes a clean one everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.text_diffusion_config import AlphaScheduleName
from diptych.core.types import Frame, TokenPredictor
from diptych.diffusion.discrete import build_alpha_schedule
from diptych.nn.masks import Full
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.masked_diffusion import CHUNK_ELEMENTS, allowed_logits, draw


def reverse_step(
    x_theta: Float[Tensor, "n v"], z: Int[Tensor, " n"], alpha_t: float, alpha_s: float
) -> Float[Tensor, "n v"]:
    """q(z_s = j | z_t = z) at times s < t, for each of n positions on its own; rows sum to 1.

    x_theta: the distribution of the clean token given the *other* positions. With z beside them the clean token is x
    with probability ~ x_theta(x) q(z | x), and the average over it of Bayes' rule q(z_t | z_s = j) q(z_s = j | x) /
    q(z_t | x) is

        ((alpha_t / alpha_s) [j = z] + (1 - alpha_t / alpha_s) / N) (alpha_s x_theta(j) + (1 - alpha_s) / N)

    over its sum, which is alpha_t x_theta(z) + (1 - alpha_t) / N.
    """
    n, stays = x_theta.shape[1], alpha_t / alpha_s
    believed = alpha_s * x_theta + (1.0 - alpha_s) / n
    step = believed * ((1.0 - stays) / n)
    step.scatter_add_(1, z[:, None], stays * believed.gather(1, z[:, None]))
    return step / (alpha_t * x_theta.gather(1, z[:, None]) + (1.0 - alpha_t) / n)


@final
@dataclass(frozen=True, kw_only=True)
class UniformDiffusionSampler:
    """Denoises in `steps` steps that are even in the time of `schedule`.

    temperature: divides the logits; 0 believes in the likeliest token alone, though what is drawn before the last step
    stays random. All positions of a step are drawn at once, as if independent, so that the error of the drawn
    distribution falls as 1 / steps. Given tokens stand on the canvas clean; a network that was trained with only the
    first token given holds them for ones that may be noise.
    """

    steps: int = 64
    temperature: float = 1.0
    schedule: AlphaScheduleName = "linear"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative")

    @torch.inference_mode()
    def sample(self, model: TokenPredictor, request: CanvasRequest, rng: Rng) -> Iterator[Frame]:
        """Yield a frame a step: `state` (b, n) is the canvas. What a gap holds before the last is noise in part."""
        device, schedule = model.unembedding.device, build_alpha_schedule(self.schedule)
        canvas, ids = request.tokens(device), request.ids(device)
        gaps, allowed = canvas == request.mask_id, request.allowed(model.vocab_size, device)
        start = (rng.fold("start").uniform("token", ids, canvas.shape[1]) * model.vocab_size).long()
        canvas = torch.where(gaps, start, canvas)
        alphas = schedule.alpha(torch.linspace(1.0, 0.0, self.steps + 1, dtype=torch.float64)).tolist()
        for step in range(self.steps):
            t = torch.full((len(ids),), 1.0 - step / self.steps, dtype=torch.float64, device=device)
            states = model.states(canvas, mask=Full(), time=t)[gaps]
            uniform = rng.fold("step", step).uniform("token", ids, canvas.shape[1])[gaps]
            size, drawn = max(1, CHUNK_ELEMENTS // model.vocab_size), []
            for part, z, numbers in zip(states.split(size), canvas[gaps].split(size), uniform.split(size), strict=True):
                x_theta = self._believed(allowed_logits(model, part, allowed).double())
                drawn.append(draw(reverse_step(x_theta, z, alphas[step], alphas[step + 1]).log(), 1.0, numbers))
            canvas = canvas.masked_scatter(gaps, torch.cat(drawn))
            yield Frame(step, self.steps, canvas)

    def _believed(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, "n v"]:
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
        return (logits / self.temperature).softmax(-1)
