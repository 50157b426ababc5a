"""What will a measurement take: how many tokens, how long, how much memory?

All of it is about right, no more: how many contexts a length needs is known only after it was asked about, a machine
does other things too, and kernels take memory of their own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import torch

from diptych.core.config import TransformerConfig
from diptych.evaluation.context.local import read, way_of
from diptych.evaluation.context.tree import PASS
from diptych.models.cost import cost_of
from diptych.models.language_model import LanguageModel

CONTEXTS: Final = 32
"""Contexts of a length until it is decided, where the accuracy is not close to the threshold."""

SHORT, LONG = 16, 1024
"""Tokens of the two texts that are read to find the speed."""

TIMINGS: Final = 3
"""Of each, the fastest of which counts."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked where no length fails early. lengths: tokens of a context. contexts: of each length. questions:
    about each context, of `question_tokens` tokens together."""

    lengths: tuple[int, ...]
    questions: int
    question_tokens: int
    contexts: int = CONTEXTS

    @property
    def tokens(self) -> int:
        """Tokens that are read forward, a context once for all its questions."""
        return self.contexts * sum(length + self.question_tokens for length in self.lengths)

    @property
    def requests(self) -> int:
        """Questions in all, each of which is a request to a server."""
        return self.contexts * len(self.lengths) * self.questions

    @property
    def tokens_sent(self) -> int:
        """Tokens of prompts, a context before each of its questions anew."""
        return self.contexts * sum(self.questions * length + self.question_tokens for length in self.lengths)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """About what a measurement takes. tokens: read forward. memory: bytes of weights, cache and activations at the
    longest length."""

    tokens: int
    seconds: float
    memory: int


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of one pass, however short, and of each operation in it."""

    a_pass: float
    an_operation: float


def estimate(model: LanguageModel, work: Workload) -> Estimate:
    """What a workload takes. Reads two short texts to find the speed."""
    speed, asked = measured_speed(model), work.question_tokens
    passes = work.questions if way_of(model.config) == "fork" else -(-asked // PASS)
    once = [seconds(model.config, speed, length, passes, asked) for length in work.lengths]
    return Estimate(
        tokens=work.tokens,
        seconds=work.contexts * sum(once),
        memory=memory(model, max(work.lengths, default=0), min(asked, PASS)),
    )


def seconds(config: TransformerConfig, speed: Speed, length: int, passes: int, question_tokens: int) -> float:
    """Of one context of so many tokens, and its questions in so many passes: tokens at its end."""
    operations = length * flops_per_token(config, length) + question_tokens * flops_per_token(config, length)
    return (1 + passes) * speed.a_pass + operations * speed.an_operation


def flops_per_token(config: TransformerConfig, length: int) -> int:
    """Of reading a text of so many tokens without un-embedding it."""
    return cost_of(config, length, 4).forward_flops_per_token - 2 * config.vocab_size * config.d_model


def measured_speed(model: LanguageModel) -> Speed:
    """From two texts: a_pass + operations x an_operation goes through the times of both."""
    longest = LONG if model.config.position in ("rope", "alibi", "none") else min(LONG, model.config.max_length)
    times, operations = [], []
    for length in (min(SHORT, longest), longest):
        times.append(_fastest(model, length))
        operations.append(length * flops_per_token(model.config, length))
    more = operations[1] - operations[0]
    an_operation = max(0.0, times[1] - times[0]) / more if more else 0.0
    return Speed(a_pass=max(0.0, times[0] - operations[0] * an_operation), an_operation=an_operation)


@torch.inference_mode()
def _fastest(model: LanguageModel, length: int) -> float:
    device = model.unembedding.device
    found = []
    for _ in range(1 + TIMINGS):  # the first pass may compile
        start = time.perf_counter()
        read(model, [0] * length, length)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def memory(model: LanguageModel, length: int, room: int) -> int:
    """Bytes of the weights, of a cache of `length` + `room` tokens, and of what lies between in a pass of `length`."""
    config, size = model.config, model.unembedding.element_size()
    cost = cost_of(config, length + room, size)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    cache = cost.cache_bytes_per_token * (length + room) + cost.cache_bytes_fixed
    return weights + cache + length * size * _widest(config)


def _widest(config: TransformerConfig) -> int:
    """Numbers a token that are alive at once in a block: the stream, what is normalized, and a sublayer's own."""
    feed_forward = (4 if config.feed_forward == "swiglu" else 2) * config.inner_width
    # Queries, keys and values; what rotating the first two takes besides, or what was mixed.
    both = config.n_heads + config.kv_heads
    besides = 4 * both if config.position == "rope" else config.n_heads
    attention = (both + config.kv_heads + besides) * config.head_width
    return 2 * config.d_model + max(feed_forward, attention)
