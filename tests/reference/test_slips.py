"""What the review's slips would do: each figure that docs/review.md names is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from diptych.reference.attention import Head, attention, causal_mask
from diptych.reference.embedding import softmax, unembedding
from diptych.reference.generation import chain_rule
from diptych.reference.normalization import layer_norm

ONES, ZEROS = np.ones(4), np.zeros(4)


def random_head(d: int, d_z: int) -> Head:
    rng = np.random.default_rng(1)
    shapes = ((3, d), (3,), (3, d_z), (3,), (2, d_z), (2,))
    return Head(*(rng.normal(size=shape) for shape in shapes))


def test_table_2_the_embedding_matrix_does_not_fit_where_the_unembedding_matrix_is_meant() -> None:
    W_e = np.random.default_rng(0).normal(size=(6, 9))
    e = W_e[:, 4]
    with pytest.raises(ValueError, match="mismatch"):
        unembedding(e, W_e)
    assert unembedding(e, W_e.T).shape == (9,)


def test_table_3_dividing_twice_breaks_scale_and_shift() -> None:
    """For e = (1, 2, 3, 4) the deviation is 0.59 for 1; shifted by 100 it is 0.0145, and the right one is unmoved."""

    def slipped(e: np.ndarray) -> np.ndarray:
        m = e.mean()
        return (e - m) / np.sqrt(((e / len(e) - m) ** 2).mean())

    e = np.array([1.0, 2.0, 3.0, 4.0])
    assert slipped(e).std() == pytest.approx(0.5898, abs=1e-4)
    assert slipped(e + 100).std() == pytest.approx(0.0145, abs=1e-4)
    for vector in (e, e + 100):
        assert layer_norm(vector, ONES, ZEROS, epsilon=0.0).std() == pytest.approx(1.0, abs=1e-12)


def test_table_3_without_epsilon_a_constant_vector_has_no_normal_form() -> None:
    with np.errstate(invalid="ignore"):
        assert np.isnan(layer_norm(3 * ONES, ONES, ZEROS, epsilon=0.0)).all()
    np.testing.assert_array_equal(layer_norm(3 * ONES, ONES, ZEROS), ZEROS)


def test_table_4_keys_and_values_from_x_would_ignore_the_context() -> None:
    rng = np.random.default_rng(2)
    X, Z, other, W = rng.normal(size=(4, 5)), rng.normal(size=(4, 7)), rng.normal(size=(4, 7)), random_head(4, 4)
    everyone = np.ones((7, 5), dtype=bool)
    assert np.abs(attention(X, Z, W, everyone) - attention(X, other, W, everyone)).max() > 0.1
    # The slip computes attention(X, X, W, ...) whatever Z is: 5 positions to attend to, not 7.
    assert attention(X, X, W, np.ones((5, 5), dtype=bool)).shape == attention(X, Z, W, everyone).shape


def test_table_4_a_value_for_every_query_fits_no_context_of_another_length() -> None:
    rng = np.random.default_rng(3)
    X, Z, W = rng.normal(size=(4, 5)), rng.normal(size=(4, 7)), random_head(4, 4)
    Q, K = W.W_q @ X, W.W_k @ Z
    with pytest.raises(ValueError, match="mismatch"):
        Q @ softmax(K.T @ Q)


def test_table_4_the_softmax_over_queries_would_let_the_future_leak() -> None:
    """Position 0 may attend to itself alone; over queries its weight there depends on every later query."""
    rng = np.random.default_rng(4)
    X, W, Mask = rng.normal(size=(4, 5)), random_head(4, 4), causal_mask(5, 5)
    changed = X.copy()
    changed[:, 4] += 1.0
    first = []
    for Y in (X, changed):
        S = np.where(Mask, (W.W_k @ Y).T @ (W.W_q @ Y) / np.sqrt(3), -np.inf)
        assert softmax(S)[0, 0] == 1.0
        first.append(softmax(S.T).T[0, 0])
    assert abs(first[0] - first[1]) > 1e-3
    np.testing.assert_array_equal(attention(X, X, W, Mask)[:, :4], attention(changed, changed, W, Mask)[:, :4])


def test_equation_2_a_condition_that_ends_elsewhere_is_no_chain_rule() -> None:
    """Ending at t, the sequences of length 2 sum to 2.89; ending at t - 2, each has probability 0.25."""
    following = np.array([[0.9, 0.1], [0.2, 0.8]])

    def P(x: Sequence[int]) -> np.ndarray:
        return following[x[-1]] if x else np.array([0.5, 0.5])

    pairs = list(product(range(2), repeat=2))
    right = [chain_rule(x, P) for x in pairs]
    assert right == pytest.approx([0.45, 0.05, 0.1, 0.4], abs=1e-12)
    late = [P(x[:1])[x[0]] * P(x)[x[1]] for x in pairs]
    assert sum(late) == pytest.approx(2.89, abs=1e-12)
    early = [P([])[x[0]] * P([])[x[1]] for x in pairs]
    assert early == pytest.approx([0.25] * 4, abs=1e-12)
