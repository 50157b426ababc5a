"""Schedules against their closed forms."""

from __future__ import annotations

import math

import pytest

from diptych.core.config import OptimConfig
from diptych.training.schedules import lr_factor


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    config = OptimConfig(warmup_steps=4, schedule="constant")
    assert [lr_factor(s, 10, config) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_falls_from_one_to_its_final_share() -> None:
    config = OptimConfig(warmup_steps=0, schedule="cosine", final_lr_fraction=0.1)
    for step in (0, 25, 50, 100):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * step / 100)) / 2
        assert lr_factor(step, 100, config) == pytest.approx(expected)
    assert lr_factor(100, 100, config) == pytest.approx(0.1)


def test_wsd_is_flat_then_linear() -> None:
    config = OptimConfig(warmup_steps=0, schedule="wsd", decay_fraction=0.2, final_lr_fraction=0.0)
    assert [lr_factor(s, 100, config) for s in (0, 50, 80, 90, 95, 100)] == pytest.approx([1, 1, 1, 0.5, 0.25, 0])
