"""How is a sequence drawn token by token?

The next-token policy until the end-of-sequence token (review equation 2; *Formal Algorithms*, algorithm 14): read the
prompts at once, then draw from P(. | all before) again and again, with a cache of keys and values. A row's draws are
keyed by its sample id and the step, so they do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import Frame, TokenPredictor
from diptych.nn.embedding import unembed
from diptych.nn.masks import Causal
from diptych.samplers import filters
from diptych.samplers.masked_diffusion import draw


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to continue. An empty prompt begins a document: it becomes the end-of-sequence token alone.

    `eos_id` ends a row, and so does each of the `stop_ids`; None where there is no such token. `sample_ids` number the
    rows for their random draws; None: 0, 1, 2, ...
    """

    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    eos_id: int | None
    stop_ids: tuple[int, ...] = ()
    sample_ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("there is no prompt to continue; give at least one (it may be empty)")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        if self.sample_ids is not None and len(self.sample_ids) != len(self.prompts):
            raise ValueError(f"{len(self.sample_ids)} sample ids do not fit {len(self.prompts)} prompts")
        if self.eos_id is None and not all(self.prompts):
            raise ValueError("the tokenizer has no token that begins a document, so a prompt must not be empty")

    @property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end a row, the end-of-sequence token first."""
        return self.stop_ids if self.eos_id is None else (self.eos_id, *self.stop_ids)


@final
@dataclass(frozen=True, kw_only=True)
class AutoregressiveSampler:
    """Draws from the filtered next-token distribution; temperature 0 takes the most likely token (greedy).

    Filters apply in the order repetition penalty, temperature, top-k, top-p, min-p. With `candidates` each frame also
    carries the most likely next tokens and their probabilities under the unfiltered distribution.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    candidates: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1")
        for name, value in (("top_p", self.top_p), ("min_p", self.min_p)):
            if value is not None and not 0.0 < value <= 1.0:
                raise ValueError(f"{name}={value} lies outside (0, 1]")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be positive")

    @torch.inference_mode()
    def sample(
        self, model: TokenPredictor, request: GenerationRequest, rng: Rng, *, cache: Any = None
    ) -> Iterator[Frame]:
        """Yield a frame a token until every row has ended or has `max_new_tokens`.

        `state` (b,) holds the tokens just drawn (the end-of-sequence token for rows that have ended). `info` holds
        `log_probability` (b,) of each under the unfiltered distribution and `finished` (b,), and where asked
        `candidates` (b, k) with `candidate_probabilities` (b, k). cache: one of a single row that holds the beginning
        of the prompt, at most all but its last token; what it holds is not read again.
        """
        device = model.unembedding.device
        ends = torch.tensor(request.ends, dtype=torch.long, device=device)
        filling = next((token for token in request.ends if token >= 0), 0)
        prompts = [list(p) or [filling] for p in request.prompts]
        sample_ids = torch.tensor(request.sample_ids or range(len(prompts)), device=device)
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        longest = max(map(len, prompts))
        if cache is None:
            cache = model.new_cache(len(prompts), longest + request.max_new_tokens)
        elif len(prompts) > 1 or cache.longest >= longest:
            raise ValueError(f"a cache of {cache.longest} tokens is no beginning of {len(prompts)} prompts")
        padded = torch.tensor([p + [filling] * (longest - len(p)) for p in prompts], device=device)
        padded = padded[:, cache.longest :]
        seen = _seen(prompts, model.vocab_size, device) if self.repetition_penalty != 1.0 else None
        logits = prefill(model, padded, lengths, cache)
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        for step in range(request.max_new_tokens):
            tokens, info = self._draw(logits, seen, rng.fold("token", step), sample_ids)
            tokens = torch.where(finished, filling, tokens)
            finished = finished | torch.isin(tokens, ends)
            if seen is not None:
                seen.scatter_(1, tokens[:, None], True)
            yield Frame(step, request.max_new_tokens, tokens, {**info, "finished": finished})
            if step + 1 == request.max_new_tokens or bool(finished.all()):
                return
            logits = model(tokens[:, None], mask=Causal(), cache=cache)[:, -1]

    def _draw(
        self, logits: Float[Tensor, "b v"], seen: Bool[Tensor, "b v"] | None, rng: Rng, sample_ids: Int[Tensor, " b"]
    ) -> tuple[Int[Tensor, " b"], dict[str, Tensor]]:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        log_p = logits.log_softmax(dim=-1)
        filtered = self._filter(logits, seen)
        if self.temperature == 0:
            tokens = filtered.argmax(dim=-1)
        else:  # the filters have divided by the temperature already
            tokens = draw(filtered, 1.0, rng.uniform("draw", sample_ids, 1)[:, 0])
        info = {"log_probability": log_p.gather(1, tokens[:, None])[:, 0]}
        if self.candidates:
            best = log_p.topk(min(self.candidates, log_p.shape[-1]), dim=-1)
            info |= {"candidates": best.indices, "candidate_probabilities": best.values.exp()}
        return tokens, info

    def _filter(self, logits: Float[Tensor, "b v"], seen: Bool[Tensor, "b v"] | None) -> Float[Tensor, "b v"]:
        if seen is not None:
            logits = filters.repetition_penalty(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            return logits
        logits = filters.temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = filters.top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = filters.top_p(logits, self.top_p)
        return logits if self.min_p is None else filters.min_p(logits, self.min_p)


def prefill(
    model: TokenPredictor, padded: Int[Tensor, "b t"], lengths: Int[Tensor, " b"], cache: Any
) -> Float[Tensor, "b v"]:
    """Read prompts padded on the right into the cache; the logits after each prompt's last token.

    Where the cache holds a beginning, `padded` is the rest, and `lengths` count all. Only the last positions are
    un-embedded.
    """
    held = getattr(cache, "longest", 0)
    cache.expect(lengths)
    states = model.states(padded, mask=Causal(), cache=cache)
    last = states[torch.arange(len(lengths), device=states.device), lengths - held - 1]
    return unembed(last, model.unembedding, model.output_bias)


def _seen(prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device) -> Bool[Tensor, "b v"]:
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
    for row, prompt in enumerate(prompts):
        seen[row, list(prompt)] = True
    return seen
