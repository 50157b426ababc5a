"""How likely does a network here find each answer to questions about a context?

The context is read once into a cache of just the size that is needed, and every question is a branch from it: all in
one pass where positions allow it, else one after the other from a copy of what changes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.evaluation.context.tree import branch_states, passes
from diptych.evaluation.context.types import Answers, Context, Probe
from diptych.models.cache import KeyValueCache
from diptych.models.language_model import LanguageModel
from diptych.models.layers import kinds_of_layers, mask_of
from diptych.nn.embedding import unembed
from diptych.nn.masks import Causal
from diptych.nn.positions import check_reach

Way = Literal["tree", "fork"]
"""All questions in one pass, or each from a copy of the cache."""


def way_of(config: TransformerConfig) -> Way:
    """How questions branch from a context.

    Distances that are counted in the row (ALiBi, a layer's own mask) would see the other branches of a tree, a
    recurrence reads what it is given in order, and a cache that forgets (StreamingLLM) holds what one branch sees. A
    cache with room for all branches would be that of a longer text where frequencies go by it.
    """
    own = any(
        config.attention_of(layer) != "softmax" or mask_of(config, layer) is not None
        for layer in range(kinds_of_layers(config))
    )
    forgets = config.position_scheme is not None and config.position_scheme.kind == "streaming"
    by_length = config.rope_scaling is not None and config.rope_scaling.kind == "dynamic"
    return "fork" if own or config.position == "alibi" or forgets or by_length else "tree"


def fork(cache: KeyValueCache) -> KeyValueCache:
    """A cache that goes on from the same text, while the original stays as it is.

    Buffers that hold the whole past are shared, as what either writes beyond its length the other never looks at; so
    only one at a time may go on. What is overwritten (windows, states) is copied.
    """
    shared = {id(buffer): buffer for buffer in (cache.keys, cache.values)}
    return copy.deepcopy(cache, shared)


@final
class LocalScorer:
    """A `Scorer`: log-probabilities of the candidates' first tokens under a network in memory.

    reuse: whether a context is read once for all its questions; else once for each. Where frequencies go by the text's
    length, it is that of the context with its longest question, for all of them.
    """

    def __init__(self, model: LanguageModel, *, reuse: bool = True) -> None:
        self.model, self.reuse = model, reuse
        self.way = way_of(model.config)

    @torch.inference_mode()
    def ask(self, context: Context) -> Answers:
        """Ask all probes of a context, each as if it alone followed the context.

        Raises ValueError where the text is longer than the network's table of positions, for a probe without a
        question, or where scores are no numbers.
        """
        questions = [probe.question_ids for probe in context.probes]
        if not all(questions):
            raise ValueError("a probe needs a question of at least one token")
        asked, longest = sum(map(len, questions)), max(map(len, questions), default=0)
        check_reach(self.model.config, len(context.ids) + longest)
        if self.reuse:
            scores = self._branched(context, questions)
        else:
            scores = [self._alone(context, probe, len(context.ids) + longest) for probe in context.probes]
        if not all(torch.isfinite(of).all() for of in scores):
            raise ValueError(
                "the model's scores are no finite numbers; its weights are damaged or its dtype too narrow"
            )
        told = tuple(tuple(of.tolist()) for of in scores)
        return Answers(
            scores=told,
            right=rights(told, context.probes),
            tokens=asked + len(context.ids) * (1 if self.reuse else len(questions)),
        )

    def _branched(self, context: Context, questions: Sequence[Sequence[int]]) -> list[Float[Tensor, " m"]]:
        groups = [*passes(questions)] if self.way == "tree" else [[question] for question in questions]
        room = max((sum(map(len, group)) for group in groups), default=0)
        cache = read(self.model, context.ids, len(context.ids) + room)
        scores: list[Tensor] = []
        for group in groups:
            if self.way == "tree":
                states = branch_states(self.model, cache, group)
            else:
                tokens = torch.tensor([group[0]], device=self.model.unembedding.device)
                states = self.model.states(tokens, mask=Causal(), cache=fork(cache))[:, -1]
            probes = context.probes[len(scores) : len(scores) + len(group)]
            scores += candidate_scores(self.model, states, probes)
        return scores

    def _alone(self, context: Context, probe: Probe, length: int) -> Float[Tensor, " m"]:
        tokens = torch.tensor([[*context.ids, *probe.question_ids]], device=self.model.unembedding.device)
        states = self.model.states(tokens, mask=Causal(), cache=self.model.new_cache(1, length))[:, -1]
        return candidate_scores(self.model, states, [probe])[0]


def read(model: LanguageModel, ids: Sequence[int], max_length: int) -> KeyValueCache:
    """A cache with room for `max_length` tokens that holds these."""
    cache = model.new_cache(1, max_length)
    model.states(torch.tensor([ids], device=model.unembedding.device), mask=Causal(), cache=cache)
    return cache


def candidate_scores(
    model: LanguageModel, states: Float[Tensor, "k d"], probes: Sequence[Probe]
) -> list[Float[Tensor, " m"]]:
    """Log-probabilities, over the whole vocabulary, of each probe's candidates after its state.

    In float32 at least: logits that are rounded to bfloat16 tie too often to be ranked, so those of the candidates are
    computed again.
    """
    wide = torch.promote_types(states.dtype, torch.float32)
    total = unembed(states, model.unembedding, model.output_bias).to(wide).logsumexp(dim=-1)
    scores = []
    for state, norm, probe in zip(states, total, probes, strict=True):
        ids = torch.tensor(probe.candidate_ids, device=states.device)
        bias = None if model.output_bias is None else model.output_bias[ids].to(wide)
        scores.append(unembed(state[None].to(wide), model.unembedding[ids].to(wide), bias)[0] - norm)
    return scores


def rights(scores: Sequence[Sequence[float]], probes: Sequence[Probe]) -> tuple[bool, ...]:
    """Whether each probe's right candidate has the highest score: known, and shared by no other."""
    return tuple(_is_best(of, probe.answer) for of, probe in zip(scores, probes, strict=True))


def _is_best(scores: Sequence[float], answer: int) -> bool:
    others = [score for index, score in enumerate(scores) if index != answer]
    return scores[answer] > max(others, default=float("-inf"))
