"""Which whole sequence is most likely?

Beam search (Graves 2012, section 4): keep the `beams` likeliest beginnings, extend each by every token, keep the
likeliest again. Finished sequences are compared by log-probability / penalty of their length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diptych.core.types import TokenPredictor
from diptych.nn.masks import Causal
from diptych.samplers.autoregressive import prefill

LengthPenalty = Callable[[int], float]
"""By what the log-probability of a sequence of so many tokens is divided."""


def power_of_length(alpha: float) -> LengthPenalty:
    """length^alpha, as the transformers library has it."""
    return lambda length: float(length**alpha)


def wu_penalty(alpha: float) -> LengthPenalty:
    """((5 + length) / 6)^alpha (Wu et al. 2016, equation 14); Vaswani et al. 2017 translate with alpha = 0.6."""
    return lambda length: float(((5 + length) / 6) ** alpha)


@dataclass(frozen=True)
class Hypothesis:
    """A continuation, its end-of-sequence token included where it has one, and its summed log-probability in nats."""

    ids: tuple[int, ...]
    log_probability: float
    score: float


@dataclass
class _Search:
    """One prompt's beams: the unfinished beginnings with their log-probabilities, likeliest first, and the ends."""

    live: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    finished: list[Hypothesis] = field(default_factory=list)


def beam_search(
    model: TokenPredictor,
    prompt: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    eos_id: int,
    length_penalty: LengthPenalty | None = None,
) -> list[Hypothesis]:
    """The `beams` best continuations of one prompt, best first: `beam_searches` of one."""
    (found,) = beam_searches(
        model,
        [prompt],
        beams=beams,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        length_penalty=length_penalty,
    )
    return found


@torch.inference_mode()
def beam_searches(
    model: TokenPredictor,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    max_new_tokens: int,
    eos_id: int,
    length_penalty: LengthPenalty | None = None,
    never: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """The `beams` best continuations of each prompt, best first; length_penalty None: the length itself.

    never: tokens that no continuation may hold.

    A search ends when no unfinished beginning, at its present length, can score above the worst of `beams` finished
    ones. Raises ValueError for fewer than one beam.
    """
    if beams < 1:
        raise ValueError(f"beams={beams} must be at least 1")
    penalty = length_penalty or power_of_length(1.0)
    device = model.unembedding.device
    texts = [list(prompt) or [eos_id] for prompt in prompts]
    lengths = torch.tensor([len(text) for text in texts], device=device)
    longest = max(map(len, texts))
    padded = torch.tensor([text + [eos_id] * (longest - len(text)) for text in texts], device=device)
    cache = model.new_cache(len(texts), longest + max_new_tokens)
    logits = prefill(model, padded, lengths, cache)
    searches = [_Search() for _ in texts]
    active = searches
    for step in range(1, max_new_tokens + 1):
        last = step == max_new_tokens
        rows, kept, first = [], [], 0
        for search, candidates in zip(active, _candidates(logits, active, beams, never), strict=True):
            parents = _extend(search, candidates, penalty(step), beams=beams, eos_id=eos_id, last=last)
            if not last and not _settled(search, beams, penalty(step)):
                kept.append(search)
                rows += [first + parent for parent in parents]
            first += logits.shape[0] // len(active)
        active = kept
        if not active:
            break
        cache.select(torch.tensor(rows, device=device))
        tokens = torch.tensor([[sequence[-1]] for search in active for sequence, _ in search.live], device=device)
        logits = model(tokens, mask=Causal(), cache=cache)[:, -1]
    return [search.finished for search in searches]


def _candidates(
    logits: Tensor, active: Sequence[_Search], beams: int, never: Sequence[int]
) -> list[list[tuple[float, int, int]]]:
    """Of each search the 2 `beams` likeliest extensions: log-probability, row within the search, token.

    All searches have equally many live rows: as many as there are beams, or as a small vocabulary allows.
    """
    scores = torch.tensor([[score] for search in active for _, score in search.live], device=logits.device)
    log_p = logits.float().log_softmax(-1)
    log_p[:, list(never)] = float("-inf")
    log_p = (log_p + scores).view(len(active), -1)
    best = log_p.topk(min(2 * beams, log_p.shape[1]))
    width = logits.shape[1]
    return [
        [(score, *divmod(index, width)) for score, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _extend(
    search: _Search,
    candidates: Sequence[tuple[float, int, int]],
    divisor: float,
    *,
    beams: int,
    eos_id: int,
    last: bool,
) -> list[int]:
    """Move a search on by a token; returns the row that each new beginning grew from."""
    rows: list[int] = []
    grown: list[tuple[tuple[int, ...], float]] = []
    for rank, (score, row, token) in enumerate(candidates):
        sequence = (*search.live[row][0], token)
        if token == eos_id or last:
            # An end that is not among the likeliest beginnings would win by its shortness alone.
            if rank < beams:
                search.finished.append(Hypothesis(sequence, score, score / divisor))
        elif len(grown) < beams:
            rows.append(row)
            grown.append((sequence, score))
    search.live = grown
    search.finished = sorted(search.finished, key=lambda h: -h.score)[:beams]
    return rows


def _settled(search: _Search, beams: int, divisor: float) -> bool:
    """Whether no unfinished beginning can still enter the best."""
    finished = search.finished
    return len(finished) == beams and finished[-1].score >= search.live[0][1] / divisor
