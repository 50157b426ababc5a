"""Exponents of exact power laws, and their intervals against Student's density and numpy's least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diptych.evaluation.power_law import fit_power_law, student_quantile, student_within

LENGTHS = (1024, 2048, 4096, 8192, 16_384)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5, 2.0])
def test_an_exact_law_is_found_without_doubt(exponent: float) -> None:
    law = fit_power_law(LENGTHS, [3e-9 * n**exponent for n in LENGTHS])
    assert law.exponent == pytest.approx(exponent, abs=1e-12) and law.factor == pytest.approx(3e-9, rel=1e-9)
    assert law.half_width == pytest.approx(0, abs=1e-7) and law.lengths == LENGTHS


def test_the_interval_is_that_of_least_squares() -> None:
    costs = np.array([1.1, 2.3, 7.9, 33.0, 120.0])
    law = fit_power_law(LENGTHS, costs.tolist())
    x, y = np.log(LENGTHS), np.log(costs)
    (slope, intercept), covariance = np.polyfit(x, y, 1, cov="unscaled")
    variance = ((y - slope * x - intercept) ** 2).sum() / (len(x) - 2)
    deviation = math.sqrt(covariance[0, 0] * variance)
    assert law.exponent == pytest.approx(slope, rel=1e-10)
    assert law.half_width == pytest.approx(3.182446305284263 * deviation, rel=1e-9)  # t(0.975, 3) of the tables
    assert law.text == f"{slope:.2f} ± {3.182446305284263 * deviation:.2f}"


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12])
def test_students_distribution_is_the_integral_of_its_density(freedom: int) -> None:
    t = np.linspace(0, 2.5, 100_001)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    density = math.exp(log) * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    assert student_within(2.5, freedom) == pytest.approx(2 * np.trapezoid(density, t), abs=1e-9)
    assert student_within(student_quantile(freedom), freedom) == pytest.approx(0.95, abs=1e-12)


@pytest.mark.parametrize(("freedom", "tabled"), [(1, 12.706), (2, 4.303), (3, 3.182), (8, 2.306), (30, 2.042)])
def test_quantiles_are_those_of_the_tables(freedom: int, tabled: float) -> None:
    assert student_quantile(freedom) == pytest.approx(tabled, abs=5e-4)


def test_two_lengths_give_a_line_without_an_interval() -> None:
    law = fit_power_law((10, 100), (1.0, 10.0))
    assert law.exponent == pytest.approx(1) and law.half_width is None and law.text == "1.00"
    with pytest.raises(ValueError, match="two lengths"):
        fit_power_law((10,), (1.0,))
    with pytest.raises(ValueError, match="positive"):
        fit_power_law((10, 100), (1.0, 0.0))
