"""Which whole sequence is most likely?

Beam search (Graves 2012, section 4): keep the `beams` likeliest beginnings, extend each by every token, keep the
likeliest again. Finished sequences are compared by log-probability / length^length_penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diptych.core.types import TokenPredictor
from diptych.nn.masks import Causal
from diptych.samplers.autoregressive import prefill


@dataclass(frozen=True)
class Hypothesis:
    """A continuation, its end-of-sequence token included where it has one, and its summed log-probability in nats."""

    ids: tuple[int, ...]
    log_probability: float
    score: float


@torch.inference_mode()
def beam_search(
    model: TokenPredictor,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    eos_id: int,
    length_penalty: float = 1.0,
) -> list[Hypothesis]:
    """The `beams` best continuations of one prompt, best first.

    The search ends when no unfinished beginning, at its present length, can score above the worst of `beams` finished
    ones. Raises ValueError for fewer than one beam.
    """
    if beams < 1:
        raise ValueError(f"beams={beams} must be at least 1")
    device = model.unembedding.device
    ids = torch.tensor([list(prompt) or [eos_id]], device=device)
    cache = model.new_cache(1, ids.shape[1] + max_new_tokens)
    logits = prefill(model, ids, torch.tensor([ids.shape[1]], device=device), cache)
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[Hypothesis] = []
    for step in range(1, max_new_tokens + 1):
        log_p = logits.float().log_softmax(-1) + torch.tensor([[score] for _, score in live], device=device)
        best = log_p.flatten().topk(min(2 * beams, log_p.numel()))
        rows: list[int] = []
        grown: list[tuple[tuple[int, ...], float]] = []
        for rank, (score, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            row, token = divmod(index, log_p.shape[1])
            sequence = (*live[row][0], token)
            if token == eos_id or step == max_new_tokens:
                # An end that is not among the likeliest beginnings would win by its shortness alone.
                if rank < beams:
                    finished.append(Hypothesis(sequence, score, score / step**length_penalty))
            elif len(grown) < beams:
                rows.append(row)
                grown.append((sequence, score))
        live = grown
        finished = sorted(finished, key=lambda h: -h.score)[:beams]
        if step == max_new_tokens or _settled(finished, beams, live[0][1] / step**length_penalty):
            break
        cache.select(torch.tensor(rows, device=device))
        tokens = torch.tensor([[sequence[-1]] for sequence, _ in live], device=device)
        logits = model(tokens, mask=Causal(), cache=cache)[:, -1]
    return finished


def _settled(finished: list[Hypothesis], beams: int, reachable: float) -> bool:
    """Whether no unfinished beginning can still enter the best."""
    return len(finished) == beams and finished[-1].score >= reachable
