"""Filling gaps: what is drawn follows the enumerated distribution, and blocks with a cache are those without one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Frame, Mask
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Full
from diptych.nn.patterns import BlockCausal
from diptych.samplers import masked_diffusion
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler, draw
from tests.exact_text import ExactCache, ExactText, random_text
from tests.samplers.drawn import Rule, all_above, all_within, distribution, in_random_order, paths, surest_first

V, N = 3, 3
TEXT = random_text(V, N, spread=1.0)
DRAWS = 20_000


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other over such small tensors cost far more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ONE_AT_A_TIME = {
    "random": MaskedDiffusionSampler(unmask="random"),
    "confidence": MaskedDiffusionSampler(),
    "more steps than gaps": MaskedDiffusionSampler(unmask="random", steps=7, schedule="cosine"),
    "threshold": MaskedDiffusionSampler(unmask="threshold", threshold=1.0),
    "entropy": MaskedDiffusionSampler(unmask="entropy", entropy_bound=0.0),
    "blocks": MaskedDiffusionSampler(unmask="random", block_length=2),
    "blocks of one": MaskedDiffusionSampler(block_length=1, steps=1),
    "blocks that stop short": MaskedDiffusionSampler(block_length=5),
}

IN_PARALLEL: dict[str, tuple[MaskedDiffusionSampler, Rule, Sequence[Sequence[int]] | None]] = {
    "all at once": (MaskedDiffusionSampler(steps=1), surest_first(3), None),
    "random": (MaskedDiffusionSampler(unmask="random", steps=2), in_random_order(2, 1), None),
    "random, cosine": (
        MaskedDiffusionSampler(unmask="random", steps=2, schedule="cosine"),
        in_random_order(1, 2),
        None,
    ),
    "confidence": (MaskedDiffusionSampler(steps=2), surest_first(2, 1), None),
    "threshold": (MaskedDiffusionSampler(unmask="threshold", threshold=0.5), all_above(0.5), None),
    "entropy": (MaskedDiffusionSampler(unmask="entropy", entropy_bound=0.95), all_within(0.95), None),
    "blocks": (MaskedDiffusionSampler(steps=1, block_length=2), surest_first(2), [(0,), (1, 2)]),
}


class Uncached:
    """The same network, which reads everything again each time, and equal rows once."""

    def __init__(self, model: LanguageModel | ExactText) -> None:
        self.model, self.vocab_size = model, model.vocab_size
        self.unembedding, self.output_bias = model.unembedding, model.output_bias

    def __call__(self, x: Tensor, **options: Any) -> Tensor:
        raise NotImplementedError

    def new_cache(self, batch_size: int, max_length: int) -> ExactCache:
        return ExactCache(batch_size, max_length)

    def states(self, x: Tensor, *, mask: Mask, cache: ExactCache | None = None, **options: Any) -> Tensor:
        tokens = x if cache is None else cache.append(x, None)[1]
        rows, which = tokens.unique(dim=0, return_inverse=True)
        return self.model.states(rows, mask=mask)[which, -x.shape[1] :]


def drawn(sampler: MaskedDiffusionSampler, p: Tensor, seed: int = 0) -> np.ndarray:
    """How often each text comes out."""
    v, n = p.shape[0], p.dim()
    request = CanvasRequest(canvas=[[v] * n] * DRAWS, mask_id=v)
    *_, last = sampler.sample(Uncached(ExactText(p, v)), request, Rng(seed))
    index = (last.state * v ** torch.arange(n - 1, -1, -1)).sum(1)
    return torch.bincount(index, minlength=v**n).numpy()


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    return float(stats.chisquare(observed, expected.flatten() / expected.sum() * observed.sum()).pvalue)


def power(truth: np.ndarray, other: np.ndarray, level: float = 1e-4) -> float:
    """Of the test of `truth` by DRAWS texts, where they come from `other`."""
    degrees = truth.size - 1
    noncentrality = DRAWS * ((other - truth) ** 2 / truth).sum()
    return float(stats.ncx2.sf(stats.chi2.isf(level, degrees), degrees, noncentrality))


@pytest.mark.parametrize("name", ONE_AT_A_TIME)
def test_one_position_a_step_draws_from_the_distribution_of_the_text(name: str) -> None:
    p = TEXT.numpy()
    for _, rule, blocks in IN_PARALLEL.values():  # the test would find out any of these
        assert power(p, distribution(p, paths(p, rule, blocks))) > 0.999
    assert chi_square(drawn(ONE_AT_A_TIME[name], TEXT), p) > 1e-4


@pytest.mark.parametrize("name", IN_PARALLEL)
def test_several_positions_a_step_draw_from_the_enumerated_distribution(name: str) -> None:
    p = TEXT.numpy()
    sampler, rule, blocks = IN_PARALLEL[name]
    q = distribution(p, paths(p, rule, blocks))
    assert q.sum() == pytest.approx(1.0, abs=1e-12)
    observed = drawn(sampler, TEXT, seed=1)
    assert chi_square(observed, q) > 1e-4
    assert chi_square(observed, p) < 1e-4


def test_gaps_are_filled_given_what_stands_anywhere() -> None:
    p = random_text(2, 4, seed=3)
    canvas = [2, 1, 2, 0]
    request = CanvasRequest(canvas=[canvas] * DRAWS, mask_id=2)
    *_, last = MaskedDiffusionSampler().sample(Uncached(ExactText(p, 2)), request, Rng(0))
    given_them = p[:, 1, :, 0].numpy()
    observed = torch.bincount(last.state[:, 0] * 2 + last.state[:, 2], minlength=4).numpy()
    assert chi_square(observed, given_them) > 1e-4
    assert (last.state[:, [1, 3]] == torch.tensor([1, 0])).all()


def test_temperatures_sharpen_the_draws_and_forbidden_tokens_share_theirs_out() -> None:
    p = random_text(5, 1, seed=4)
    request = CanvasRequest(canvas=[[5]] * DRAWS, mask_id=5, forbidden=(1,))
    (frame,) = MaskedDiffusionSampler(temperature=0.5).sample(Uncached(ExactText(p, 5)), request, Rng(0))
    observed = torch.bincount(frame.state[:, 0], minlength=5)
    allowed = p[[0, 2, 3, 4]]
    assert observed[1] == 0
    assert chi_square(observed[[0, 2, 3, 4]].numpy(), (allowed**2).numpy()) > 1e-4
    own = (p / allowed.sum())[frame.state]
    torch.testing.assert_close(frame.info["probability"], own, rtol=1e-12, atol=0)


def make(position: str = "rope", vocab_size: int = 13, spread: float = 0.5, **changes: Any) -> LanguageModel:
    config = TransformerConfig(
        vocab_size=vocab_size,
        d_model=16,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        d_ff=24,
        max_length=64,
        position=position,
        **changes,
    )
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(3)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.double().eval().requires_grad_(False)


MASK = 12
# Without any token given, all positions would be equally sure.
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8], [3], [7], [2, 2, 4, 1], [1, 2, 3, 4, 5], [*range(10), 0]]

RULES = {
    "random": {"unmask": "random", "steps": 2},
    "confidence": {"steps": 2, "schedule": "cosine"},
    "threshold": {"unmask": "threshold", "threshold": 0.3},
    "entropy": {"unmask": "entropy", "entropy_bound": 1.0},
    "greedy": {"temperature": 0.0},
}


def prompted(length: int = 12, **changes: Any) -> CanvasRequest:
    canvas = [prompt + [MASK] * (length - len(prompt)) for prompt in PROMPTS]
    canvas[3][9] = 5  # and a token that is given amid the gaps
    return CanvasRequest(**{"canvas": canvas, "mask_id": MASK, **changes})


@pytest.mark.parametrize("block_length", [1, 3, 4, 20])
@pytest.mark.parametrize("rule", RULES)
def test_blocks_with_a_cache_are_those_without(rule: str, block_length: int) -> None:
    """With prompts of several lengths, against one that reads all anew and against the whole canvas at once."""
    model, sampler = make(), MaskedDiffusionSampler(block_length=block_length, **RULES[rule])
    request = prompted()
    cached = list(sampler.sample(model, request, Rng(7)))
    again = list(sampler.sample(Uncached(model), request, Rng(7)))
    assert len(cached) == len(again)
    before = torch.tensor(request.canvas)
    for ours, theirs in zip(cached, again, strict=True):
        assert torch.equal(ours.state, theirs.state) and torch.equal(ours.info["revealed"], theirs.info["revealed"])
        torch.testing.assert_close(ours.info["probability"], theirs.info["probability"], rtol=0, atol=1e-10)
        logits = model(before, mask=BlockCausal(block_length, given=1))
        logits[..., MASK] = -torch.inf
        p = logits.softmax(-1).gather(2, ours.state[..., None])[..., 0]
        revealed = ours.info["revealed"]
        torch.testing.assert_close(ours.info["probability"][revealed], p[revealed], rtol=0, atol=1e-10)
        before = ours.state
    assert not bool((before == MASK).any())


@pytest.mark.parametrize("block_length", [None, 3])
@pytest.mark.parametrize("rule", RULES)
def test_every_step_reveals_what_its_rule_says_from_left_to_right(rule: str, block_length: int | None) -> None:
    model, sampler = make(), MaskedDiffusionSampler(block_length=block_length, **RULES[rule])
    request = prompted()
    before = torch.tensor(request.canvas)
    mask: Mask = Full() if block_length is None else BlockCausal(block_length, given=1)
    frames = list(sampler.sample(model, request, Rng(2)))
    assert [frame.step for frame in frames] == list(range(len(frames)))
    assert {frame.of for frame in frames} == {frames[0].of} and len(frames) <= frames[0].of
    assert sampler.by_steps == (len(frames) == frames[0].of) or not sampler.by_steps
    block = (torch.arange(12) + (block_length or 99) - 1) // (block_length or 99) * (block_length is not None)
    several = 0
    for frame in frames:
        revealed = frame.info["revealed"]
        assert torch.equal(frame.state != before, revealed)
        assert bool(((before == MASK) | ~revealed).all())
        logits = model(before, mask=mask)
        logits[..., MASK] = -torch.inf
        p = logits.softmax(-1)
        # The block of the step: the leftmost with a gap in any row; rows without one there wait.
        current = min(int(block[before[row] == MASK].min()) for row in range(6) if bool((before[row] == MASK).any()))
        for row in range(6):
            left = [i for i in range(12) if before[row, i] == MASK and block[i] == current]
            largest = {i: float(p[row, i].max()) for i in left}
            entropy = sorted((float(torch.special.entr(p[row, i]).sum()), i) for i in left)
            places = revealed[row].nonzero()[:, 0].tolist()
            several += len(places) > 1
            assert bool(places) == bool(left)
            if not left:
                continue
            match rule:
                case "threshold":
                    assert places == ([i for i in left if largest[i] >= 0.3] or [max(left, key=largest.__getitem__)])
                case "entropy":
                    fitting = [k for k in range(1, len(left) + 1) if k == 1 or sum(h for h, _ in entropy[: k - 1]) <= 1]
                    assert set(places) == {i for _, i in entropy[: fitting[-1]]}
                case "confidence":
                    assert set(places) == set(sorted(left, key=lambda i: -largest[i])[: len(places)])
                case "greedy":
                    assert places == [max(left, key=largest.__getitem__)]
                    assert int(frame.state[row, places[0]]) == int(p[row, places[0]].argmax())
        before = frame.state
    assert (several > 0) == (rule != "greedy")


@pytest.mark.parametrize("block_length", [None, 3])
@pytest.mark.parametrize("rule", RULES)
def test_a_row_does_not_depend_on_its_batch(rule: str, block_length: int | None) -> None:
    model, sampler = make(), MaskedDiffusionSampler(block_length=block_length, **RULES[rule])
    request = prompted(sample_ids=(4, 7, 1, 9, 30, 2))
    *_, together = sampler.sample(model, request, Rng(5))
    assert len({tuple(row) for row in together.state.tolist()}) == len(PROMPTS)
    for row, canvas in enumerate(request.canvas):
        alone = CanvasRequest(canvas=[canvas], mask_id=MASK, sample_ids=[request.ids(torch.device("cpu"))[row].item()])
        *_, last = sampler.sample(model, alone, Rng(5))
        assert last.state[0].tolist() == together.state[row].tolist()


@pytest.mark.parametrize("block_length", [None, 4])
def test_seeds_decide_but_at_temperature_zero_nothing_does(block_length: int | None) -> None:
    model, request = make(), prompted()

    def final(temperature: float, seed: int) -> list[list[int]]:
        sampler = MaskedDiffusionSampler(temperature=temperature, block_length=block_length)
        *_, last = sampler.sample(model, request, Rng(seed))
        return last.state.tolist()

    assert final(0.0, 1) == final(0.0, 2)
    assert final(1.0, 1) == final(1.0, 1) != final(1.0, 2)
    assert final(1e-12, 1) == final(0.0, 1)


MODEL = make(vocab_size=7)


@given(
    canvas=st.integers(1, 11).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    rule=st.sampled_from(sorted(RULES)),
    block_length=st.sampled_from([None, 1, 2, 5]),
    seed=st.integers(0, 2**30),
)
@settings(max_examples=60, deadline=None)
def test_given_tokens_are_never_altered(
    canvas: list[list[int]], rule: str, block_length: int | None, seed: int
) -> None:
    canvas[0][-1] = 6  # the mask
    sampler = MaskedDiffusionSampler(block_length=block_length, **RULES[rule])
    start = torch.tensor(canvas)
    frames = list(sampler.sample(MODEL, CanvasRequest(canvas=canvas, mask_id=6, forbidden=(2, 3)), Rng(seed)))
    states = [start, *(frame.state for frame in frames)]
    for before, after in pairwise(states):
        assert torch.equal(before[before != 6], after[before != 6])
    filled = states[-1][start == 6]
    assert filled.numel() and set(filled.tolist()) <= {0, 1, 4, 5}


def frames_until_eos(eos_id: int | None, **options: Any) -> list[Frame]:
    sampler = MaskedDiffusionSampler(block_length=3, eos_id=eos_id, temperature=2.0, **options)
    canvas = [[1, 5] + [MASK] * 29 for _ in range(4)]
    canvas[0][0] = 4  # an end in the prompt ends nothing
    return list(sampler.sample(make(), CanvasRequest(canvas=canvas, mask_id=MASK), Rng(3)))


def test_rows_end_with_the_block_in_which_the_end_is_drawn() -> None:
    eos = 4
    *_, free = frames_until_eos(None)
    frames = frames_until_eos(eos)
    lasts = []
    for row in range(4):
        places = (free.state[row, 2:] == eos).nonzero()[:, 0] + 2
        assert len(places)  # or the test shows nothing
        end = (int(places[0]) + 2) // 3 * 3 + 1
        assert frames[-1].state[row, :end].tolist() == free.state[row, :end].tolist()
        assert (frames[-1].state[row, end:] == MASK).all()
        lasts.append(end)
    assert len(set(lasts)) > 1 and max(lasts) < 31
    # Nobody is waited for once all have ended: no step is taken beyond the last block.
    assert len(frames) == max(lasts) - 2
    whole = MaskedDiffusionSampler(eos_id=eos).sample(make(), prompted(), Rng(3))
    assert not bool((list(whole)[-1].state == MASK).any())


@pytest.mark.parametrize(("rule", "block_length"), [("confidence", None), ("threshold", 3), ("random", None)])
def test_only_what_is_still_masked_is_unembedded(
    rule: str, block_length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_diffusion, "CHUNK_ELEMENTS", 3 * 13)  # three positions at a time
    sampler = MaskedDiffusionSampler(block_length=block_length, **RULES[rule])
    request, counts = prompted(), list[int]()
    whole = list(sampler.sample(make(), request, Rng(2)))
    plain = masked_diffusion.unembed
    monkeypatch.setattr(
        masked_diffusion, "unembed", lambda states, *rest: (counts.append(len(states)), plain(states, *rest))[1]
    )
    left, expected = torch.tensor(request.canvas) == MASK, 0
    frames = []
    for frame in sampler.sample(make(), request, Rng(2)):
        block = slice(None)
        if block_length is not None:
            first = int(left.any(0).nonzero()[0, 0])
            end = (first + block_length - 1) // block_length * block_length + 1
            block = slice(max(0, end - block_length), end) if first else slice(0, 1)
        expected += int(frame.info["revealed"].sum()) + (rule != "random") * int(left[:, block].sum())
        left = left & ~frame.info["revealed"]
        frames.append(frame)
    assert sum(counts) == expected and max(counts) <= 3
    assert torch.equal(frames[-1].state, whole[-1].state)


def test_tokens_of_one_in_a_billion_are_drawn_at_their_rate() -> None:
    """By the numbers in a window about such a token, which is a thousand times as wide."""
    v, rare, n = 1000, 700, 20_000
    p = torch.rand(v, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    p[rare] = 0.0
    p = p / p.sum() * (1 - 1e-9)
    p[rare] = 1e-9
    start = math.fsum(p[:rare].tolist())
    uniform = start + 1e-6 * (torch.arange(n, dtype=torch.float64) / n - 0.5)
    tokens = draw(p.log().expand(n, v), 1.0, uniform)
    assert int((tokens == rare).sum()) == pytest.approx(n * 1e-3, abs=1)
    assert (tokens[: n // 2 - 1] == rare - 1).all() and (tokens[n // 2 + n // 1000 + 1 :] == rare + 1).all()
    logits = p.log()[None].float()  # those of a network in float32 are told apart as finely
    middle = float(logits.double().softmax(-1)[0, :rare].sum())
    assert draw(logits, 1.0, torch.tensor([middle + 0.5e-9], dtype=torch.float64)).tolist() == [rare]


def test_tokens_of_probability_zero_are_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    uniform = torch.tensor([2.0**-54, 0.25, 0.5, 0.5 + 2**-53, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits.expand(5, -1), 1.0, uniform).tolist() == [1, 1, 1, 3, 3]


def test_a_network_in_float32_draws_what_one_in_float64_does() -> None:
    model, request = make(), prompted()
    *_, double = MaskedDiffusionSampler().sample(model, request, Rng(0))
    *_, single = MaskedDiffusionSampler().sample(make().float(), request, Rng(0))
    assert torch.equal(double.state, single.state) and single.info["probability"].dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"steps": 0}, "steps=0"),
        ({"block_length": 0}, "block_length=0"),
        ({"unmask": "threshold", "threshold": 1.5}, "threshold=1.5"),
        ({"unmask": "entropy", "entropy_bound": -1.0}, "entropy_bound=-1.0"),
        ({"unmask": "entropy", "entropy_bound": math.nan}, "entropy_bound=nan"),
        ({"unmask": "threshold"}, "unmask=threshold needs a number for threshold"),
        ({"threshold": 0.9}, "threshold goes with unmask=threshold only"),
        ({"unmask": "random", "entropy_bound": 0.1}, "entropy_bound goes with"),
        ({"unmask": "threshold", "threshold": 0.9, "steps": 3}, "leave out steps"),
    ],
)
def test_senseless_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedDiffusionSampler(**options)


def test_what_does_not_fit_the_network_is_refused() -> None:
    with pytest.raises(ValueError, match="the mask 13 is none of the network's 13 tokens"):
        next(MaskedDiffusionSampler().sample(make(), CanvasRequest(canvas=[[13]], mask_id=13), Rng(0)))
    windowed = make(mask=("window(2)",))
    request = CanvasRequest(canvas=[[1, 2, MASK, MASK, MASK]], mask_id=MASK)
    with pytest.raises(ValueError, match="cannot be cut"):
        list(MaskedDiffusionSampler(block_length=2).sample(windowed, request, Rng(0)))
