"""Drawing text from random tokens, on a network that knows the distribution."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from scipy.stats import chi2, ncx2
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.text_diffusion_config import AlphaScheduleName
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.uniform_diffusion import UniformDiffusionSampler, reverse_step
from tests.uniform_text import ExactText

GAP = -1


def law(text: ExactText, row: list[int], steps: int) -> Tensor:
    """The exact distribution of what is drawn after that many steps, by the whole transition matrix of each."""
    z = text.sequences[[all(g in (GAP, t) for g, t in zip(row, s, strict=True)) for s in text.sequences.tolist()]]
    gaps = [place for place, token in enumerate(row) if token == GAP]
    p = torch.full((len(z),), 1.0 / len(z), dtype=torch.float64)
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    alphas = text.schedule.alpha(times).tolist()
    for step in range(steps):
        x_theta = text.states(z, mask=None, time=times[step].expand(len(z))).softmax(-1)
        transition = torch.ones(len(z), len(z), dtype=torch.float64)
        for place in gaps:
            each = reverse_step(x_theta[:, place], z[:, place], alphas[step], alphas[step + 1])
            transition *= each[:, z[:, place]]
        p = p @ transition
    whole = torch.zeros(len(text.sequences), dtype=torch.float64)
    whole[text.number(z)] = p
    return whole


def statistic(text: ExactText, drawn: Tensor, p: Tensor) -> tuple[float, int]:
    """Pearson's chi-square of rows against probabilities, and its degrees of freedom."""
    possible = p > 0
    counts = torch.bincount(text.number(drawn), minlength=len(p)).double()
    assert not bool(counts[~possible].any())
    expected = p[possible] * len(drawn)
    assert float(expected.min()) > 4
    return float(((counts[possible] - expected).square() / expected).sum()), int(possible.sum()) - 1


def draw(text: ExactText, row: list[int], steps: int, n: int, schedule: AlphaScheduleName = "linear") -> list[Tensor]:
    request = CanvasRequest(canvas=[row] * n, mask_id=GAP)
    sampler = UniformDiffusionSampler(steps=steps, schedule=schedule)
    return [frame.state for frame in sampler.sample(text, request, Rng(8))]


@pytest.mark.parametrize(("alpha_t", "alpha_s"), [(0.0, 0.2), (0.3, 0.7), (0.4, 1.0), (0.0, 1.0)])
def test_a_step_is_bayes_rule_averaged_over_what_is_believed(alpha_t: float, alpha_s: float) -> None:
    n = 4
    believed = Rng(0).uniform("p", torch.arange(n), n)
    believed = believed / believed.sum(1, keepdim=True)
    step = reverse_step(believed, torch.arange(n), alpha_t, alpha_s)

    def q(stays: float, j: int, x: int) -> float:
        return stays * (j == x) + (1.0 - stays) / n

    for z in range(n):
        posterior = [float(believed[z, x]) * q(alpha_t, z, x) for x in range(n)]
        for j in range(n):
            back = [q(alpha_t / alpha_s, z, j) * q(alpha_s, j, x) / q(alpha_t, z, x) for x in range(n)]
            expected = sum(a * b for a, b in zip(posterior, back, strict=True)) / sum(posterior)
            assert float(step[z, j]) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    torch.testing.assert_close(step.sum(1), torch.ones(n, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("row", [[1, GAP, GAP, GAP], [2, GAP, 0, GAP]])
@pytest.mark.parametrize("schedule", get_args(AlphaScheduleName))
def test_what_is_drawn_converges_to_the_text_at_first_order(schedule: AlphaScheduleName, row: list[int]) -> None:
    text = ExactText(schedule, given=[i for i, token in enumerate(row) if token != GAP])
    p = text.conditional(row)
    errors = [float((law(text, row, steps) - p).abs().sum() / 2) for steps in (32, 64, 128)]
    ratios = [coarse / fine for coarse, fine in itertools.pairwise(errors)]
    assert errors[-1] < 8e-3 and errors[0] > 3e-4
    assert ratios[-1] == pytest.approx(2.0, abs=0.1), (errors, ratios)


def test_one_gap_is_exact_in_one_step_and_in_many() -> None:
    """With nothing drawn beside it there is nothing that a step could wrongly hold for independent."""
    row = [1, 0, GAP, 2]
    text = ExactText(given=[0, 1, 3])
    for steps in (1, 2, 7):
        torch.testing.assert_close(law(text, row, steps), text.conditional(row), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("row", [[0, GAP, GAP, GAP], [2, GAP, 1, GAP]])
def test_draws_are_of_the_text_and_of_nothing_near_it(row: list[int]) -> None:
    """By Pearson's chi-square, which would find what 4 steps draw with a power above 0.999 at this size.

    Draws with few steps follow the enumerated law of as many steps and, being what the test should find, not the text.
    """
    text, n = ExactText(given=[i for i, token in enumerate(row) if token != GAP]), 6000
    p, coarse = text.conditional(row), law(text, row, 4)
    degrees = int((p > 0).sum()) - 1
    limit = float(chi2.isf(1e-3, degrees))
    apart = float(((coarse - p).square() / p.clamp_min(1e-300)).sum())
    assert ncx2.sf(limit, degrees, n * apart) > 0.999
    many = draw(text, row, 128, n)[-1]
    assert statistic(text, many, p)[0] < limit
    few = draw(text, row, 4, n)[-1]
    assert statistic(text, few, coarse)[0] < limit
    assert statistic(text, few, p)[0] > limit


def test_given_tokens_are_never_altered_and_frames_are_canvases() -> None:
    text = ExactText(given=[1, 3])
    frames = list(
        UniformDiffusionSampler(steps=9).sample(
            text, CanvasRequest(canvas=[[GAP, 2, GAP, 0], [1, 1, GAP, GAP], [0, 1, 2, 0]], mask_id=GAP), Rng(0)
        )
    )
    assert [(frame.step, frame.of) for frame in frames] == [(step, 9) for step in range(9)]
    for canvas in [*text.seen, *(frame.state for frame in frames)]:
        assert canvas[0, 1] == 2 and canvas[0, 3] == 0 and canvas[1, :2].tolist() == [1, 1]
        assert canvas[2].tolist() == [0, 1, 2, 0]
        assert int(canvas.min()) >= 0 and int(canvas.max()) < text.vocab_size


def test_the_batch_does_not_matter() -> None:
    rows, numbers = [[1, GAP, GAP, GAP], [0, GAP, 2, GAP], [2, 2, GAP, GAP], [1, GAP, GAP, GAP]], [7, 3, 90, 8]
    text, sampler = ExactText(), UniformDiffusionSampler(steps=12)
    whole = list(sampler.sample(text, CanvasRequest(canvas=rows, mask_id=GAP, sample_ids=numbers), Rng(2)))
    for index, (row, own) in enumerate(zip(rows, numbers, strict=True)):
        alone = sampler.sample(text, CanvasRequest(canvas=[row], mask_id=GAP, sample_ids=[own]), Rng(2))
        for frame, together in zip(alone, whole, strict=True):
            assert torch.equal(frame.state[0], together.state[index])
    histories = torch.stack([frame.state for frame in whole], 1)
    assert not torch.equal(histories[0], histories[3])


def test_the_mask_and_forbidden_tokens_are_never_left() -> None:
    text = ExactText(vocab=4, length=3, given=[0])
    request = CanvasRequest(canvas=[[0, 3, 3]] * 200, mask_id=3, forbidden=(1,))
    frames = list(UniformDiffusionSampler(steps=3).sample(text, request, Rng(0)))
    assert set(frames[-1].state[:, 1:].unique().tolist()) == {0, 2}
    assert {1, 3} <= set(text.seen[0].unique().tolist())  # the noise is of all tokens, as in training
    with pytest.raises(ValueError, match="every token is forbidden"):
        next(
            UniformDiffusionSampler().sample(
                text, CanvasRequest(canvas=[[0, 3]], mask_id=3, forbidden=(0, 1, 2)), Rng(0)
            )
        )


def test_without_temperature_the_last_step_takes_the_likeliest() -> None:
    text, sampler = ExactText(), UniformDiffusionSampler(steps=5, temperature=0.0)
    frames = list(sampler.sample(text, CanvasRequest(canvas=[[1, GAP, GAP, GAP]] * 50, mask_id=GAP), Rng(1)))
    last = text.states(frames[-2].state, mask=None, time=torch.full((50,), 0.2, dtype=torch.float64))
    assert torch.equal(frames[-1].state[:, 1:], last.argmax(-1)[:, 1:])


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        UniformDiffusionSampler(steps=0)
    with pytest.raises(ValueError, match="temperature"):
        UniformDiffusionSampler(temperature=-1.0)
    for canvas, numbers, message in (
        ([[1, 2]], None, "nothing is masked"),
        ([], None, "nothing is masked"),
        ([[GAP], [GAP, 1]], None, "one length"),
        ([[GAP, -2]], None, "negative"),
        ([[GAP, 1]], [1, 2], "2 sample ids do not fit 1 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            CanvasRequest(canvas=canvas, mask_id=GAP, sample_ids=numbers)
