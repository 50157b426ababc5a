"""Filling masks in, on predictors whose right answers are known exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.random import Rng
from diptych.objectives.masked_lm import ordinary_tokens
from diptych.samplers.fill import FillRequest, FillSampler

VOCAB, MASK = 5, 4
ORDINARY = ordinary_tokens(VOCAB, [3, MASK])


class Exact:
    """The marginals of a joint distribution over sequences, given whatever is not masked."""

    vocab_size = VOCAB
    unembedding = torch.eye(VOCAB, dtype=torch.float64)
    output_bias = None

    def __init__(self, joint: dict[tuple[int, ...], float]) -> None:
        self.joint, self.calls = joint, 0

    def marginals(self, canvas: list[int]) -> np.ndarray:
        table = np.zeros((len(canvas), VOCAB))
        for sequence, p in self.joint.items():
            if all(seen in (MASK, token) for seen, token in zip(canvas, sequence, strict=True)):
                table[range(len(canvas)), sequence] += p
        return table / table.sum(1, keepdims=True)

    def states(self, x: Tensor, *, mask: object) -> Tensor:
        del mask
        self.calls += 1
        return torch.from_numpy(np.log(self.marginals(x[0].tolist()) + 1e-300))[None]


def request(*ids: int) -> FillRequest:
    return FillRequest(ids=ids, mask_id=MASK, ordinary=ORDINARY)


def test_the_surest_is_filled_first_and_the_next_sees_it() -> None:
    """Guessed one by one, the two masks would become (0, 0), which never occurs."""
    model = Exact({(0, 1): 0.3, (0, 2): 0.12, (1, 0): 0.3, (2, 0): 0.28})
    assert model.marginals([MASK, MASK]).argmax(1).tolist() == [0, 0]
    frames = list(FillSampler(candidates=2).sample(model, request(MASK, MASK), Rng(0)))
    assert [int(f.info["position"]) for f in frames] == [1, 0]
    assert frames[0].state.tolist() == [[MASK, 0]] and frames[1].state.tolist() == [[1, 0]]
    assert frames[0].info["candidates"].tolist() == [[0, 1]]
    np.testing.assert_allclose(frames[0].info["candidate_probabilities"][0], [0.58, 0.3])
    np.testing.assert_allclose(frames[1].info["candidate_probabilities"][0], [0.3 / 0.58, 0.28 / 0.58])
    assert model.calls == 2 and [f.of for f in frames] == [2, 2]


def test_random_joints_are_filled_as_an_enumeration_says() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        sequences = list(product(range(3), repeat=4))
        weights = generator.random(len(sequences)) ** 4
        model = Exact(dict(zip(sequences, weights / weights.sum(), strict=True)))
        canvas = [MASK, 1, MASK, MASK]
        last = list(FillSampler().sample(model, request(*canvas), Rng(0)))[-1]
        while MASK in canvas:
            best = (-1.0, 0, 0)
            for at, token in product([i for i, seen in enumerate(canvas) if seen == MASK], range(3)):
                with_token = [token if i == at else seen for i, seen in enumerate(canvas)]
                p = sum(
                    model.joint[s] for s in sequences if all(a in (MASK, b) for a, b in zip(with_token, s, strict=True))
                )
                best = max(best, (p, at, token))
            canvas[best[1]] = best[2]
        assert last.state[0].tolist() == canvas


def test_special_tokens_are_no_words() -> None:
    model = Exact({(3, 0): 0.9, (1, 0): 0.1})
    (frame,) = FillSampler().sample(model, request(MASK, 0), Rng(0))
    assert frame.state.tolist() == [[1, 0]]
    # Their probability is not given to the others.
    assert float(frame.info["candidate_probabilities"][0, 0]) == pytest.approx(0.1)
    assert frame.info["candidates"].shape == (1, 3)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="nothing is masked"):
        request(0, 1)
    with pytest.raises(ValueError, match="candidates=0"):
        FillSampler(candidates=0)
