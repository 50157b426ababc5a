"""How are many questions about one text read in one pass?

As branches of a tree: each counts its positions on from the text's end, and sees the text and its own earlier tokens,
never another branch (tree attention of Miao et al. 2024, SpecInfer, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.models.cache import KeyValueCache
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal, Sinks
from diptych.nn.patterns import Cuts

PASS = 512
"""Tokens of questions in one pass at most, so that the mask grows with the text alone."""


def passes(questions: Sequence[Sequence[int]], most: int = PASS) -> Iterator[list[Sequence[int]]]:
    """The questions in order, in groups of at most `most` tokens; a longer one alone."""
    group: list[Sequence[int]] = []
    for question in questions:
        if group and sum(map(len, group)) + len(question) > most:
            yield group
            group = []
        group.append(question)
    if group:
        yield group


def branch_states(
    model: LanguageModel, cache: KeyValueCache, questions: Sequence[Sequence[int]]
) -> Float[Tensor, "k d"]:
    """The states of each question's last token, as if it alone followed the only row of the cache.

    The cache needs room for all of them, and holds afterwards what it held before. Positions must be told by the tokens
    themselves (rotary or added to the embedding), and no layer may have a mask of its own: both would count the other
    branches as distance.
    """
    start = cache.longest
    lengths = [len(question) for question in questions]
    device = model.unembedding.device
    tokens = torch.tensor([[token for question in questions for token in question]], device=device)
    positions = torch.cat([torch.arange(start, start + length, device=device) for length in lengths])
    mask = Causal() & (Sinks(start) | Cuts((start, *lengths)))
    states = model.states(tokens, mask=mask, positions=positions[None], cache=cache)
    cache.set_lengths(torch.tensor([start]))
    return states[0, [end - 1 for end in accumulate(lengths)]]
