"""An estimate's tokens are counted, its memory is that of the buffers and tensors alive, its times go through two
points."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diptych.core.config import TransformerConfig
from diptych.evaluation.context import cost
from diptych.evaluation.context.cost import (
    CONTEXTS,
    Speed,
    Workload,
    estimate,
    flops_per_token,
    measured_speed,
    memory,
    seconds,
)
from diptych.evaluation.context.local import LocalScorer, read
from diptych.evaluation.context.types import Context, Probe
from diptych.models.language_model import LanguageModel

BASE = TransformerConfig(
    vocab_size=300, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, max_length=512, tied_embedding=False
)


class Alive(TorchDispatchMode):
    """The most bytes of tensors that were made and alive at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.known | given:
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def freed(self, number: int, n_bytes: int) -> None:
        self.known.discard(number)
        self.now -= n_bytes


def make(**changes: Any) -> LanguageModel:
    model = LanguageModel(dataclasses.replace(BASE, **changes)).requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(number))
    return model


def test_tokens_are_those_that_a_scorer_reads() -> None:
    probe = Probe(question="", question_ids=(1, 2, 3), candidates=("", ""), candidate_ids=(4, 5), answer=0)
    model, lengths = make(), (20, 40)
    contexts = [Context(ids=(1,) * length, text="", probes=(probe,) * 5) for length in lengths]
    read_tokens, sent_tokens = (
        sum(LocalScorer(model, reuse=reuse).ask(context).tokens for context in contexts) for reuse in (True, False)
    )
    work = Workload(lengths=lengths, questions=5, question_tokens=15)
    found = estimate(model, work)
    assert found.tokens == CONTEXTS * read_tokens == work.tokens
    assert dataclasses.replace(work, contexts=3).tokens == 3 * read_tokens
    assert (work.requests, work.tokens_sent) == (CONTEXTS * 2 * 5, CONTEXTS * sent_tokens)
    assert found.seconds > 0 and found.memory == memory(model, 40, 15)


@pytest.mark.parametrize(
    "changes",
    [{}, {"window": 50}, {"mask": ("window(40)", "full")}, {"attention": ("linear", "softmax")}],
    ids=["full", "window", "windows and full", "linear and full"],
)
@torch.inference_mode()
def test_weights_and_cache_are_counted_to_the_byte(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(**changes)
    monkeypatch.setattr(cost, "_widest", lambda config: 0)
    cache = read(model, [0] * 300, 320)
    # A ring keeps one more slot for what it drops, and the places of its keys.
    slack = sum(layer.positions.nbytes + 2 * layer.keys[:, :, :1].nbytes for layer in cache.bounded.values())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert memory(model, 300, 20) == weights + cache.n_bytes - slack


@pytest.mark.parametrize("feed_forward", ["swiglu", "gelu"])
@pytest.mark.parametrize("widths", [{"d_ff": 64}, {"d_ff": 400}])
def test_activations_are_about_those_alive(feed_forward: str, widths: dict[str, int]) -> None:
    model = make(feed_forward=feed_forward, **widths)
    length = 1000
    weights = sum(parameter.nbytes for parameter in model.parameters())
    with torch.no_grad(), Alive() as alive:
        kept = read(model, [0] * length, length)
    assert memory(model, length, 0) - weights == pytest.approx(alive.most, rel=0.25)
    assert alive.most > 1.5 * kept.n_bytes


def test_times_go_through_both_measured_points(monkeypatch: pytest.MonkeyPatch) -> None:
    model, known = make(), {cost.SHORT: 0.5, cost.LONG: 2.0}
    monkeypatch.setattr(cost, "_fastest", lambda model, length: known[length])
    speed = measured_speed(model)
    for length, took in known.items():
        assert speed.a_pass + speed.an_operation * length * flops_per_token(BASE, length) == pytest.approx(took)
    # Reading twice as much takes more than twice as long, by the attention to what is farther.
    once, twice = (seconds(BASE, Speed(a_pass=0.0, an_operation=1.0), length, 0, 0) for length in (1000, 2000))
    assert twice - 2 * once == 4 * BASE.n_layers * BASE.n_heads * BASE.head_width * 2000 * 1000
    matrices = sum(parameter.numel() for parameter in model.blocks.parameters() if parameter.dim() == 2)
    assert flops_per_token(BASE, 0) == 2 * matrices
    monkeypatch.setattr(cost, "_fastest", lambda model, length: 2.0 - known[length])  # noise
    assert measured_speed(model).an_operation == 0.0


def test_questions_cost_a_pass_each_where_they_are_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measured_speed", lambda model: Speed(a_pass=1.0, an_operation=0.0))
    for changes, passes in (({}, 2), ({"position": "alibi"}, 40)):
        found = estimate(make(**changes), Workload(lengths=(100, 200), questions=40, question_tokens=600, contexts=3))
        assert found.seconds == 3 * 2 * (1 + passes)


def test_a_table_of_positions_is_not_outgrown() -> None:
    assert measured_speed(make(position="learned", max_length=60)).a_pass >= 0.0
    assert measured_speed(make(position="learned", max_length=4)).an_operation == 0.0
