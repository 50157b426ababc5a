"""What is known of an effective length is said in a few words, whether it was decided or not."""

from __future__ import annotations

import dataclasses

from tests.context_results import EMPTY, NONE, OPEN, SATURATION, TASK, WHOLE

from diptych.evaluation.context.result import Distance
from diptych.report.context_words import bracket_words, distance_words, saturation_words


def test_what_is_known_is_said_in_a_few_words() -> None:
    words = [bracket_words(task) for task in (TASK, WHOLE, NONE, OPEN, EMPTY)]
    assert words == ["1,024 to 1,218", "at least 2,048", "none: fails at 256", "512 to 2,048, undecided", "undecided"]
    assert bracket_words(dataclasses.replace(EMPTY, failed=512)) == "below 512, undecided"
    assert bracket_words(dataclasses.replace(EMPTY, passed=512)) == "at least 512, undecided"
    distance = Distance(value=1812.4, low=640.0, high=2020.0, beyond=None)
    assert distance_words(distance) == "1,812 tokens (95 %: 640 to 2,020)"
    assert distance_words(dataclasses.replace(distance, high=None)) == "1,812 tokens (95 %: 640 or more)"
    assert distance_words(dataclasses.replace(distance, low=None)) == "1,812 tokens (95 %: up to 2,020)"
    assert distance_words(Distance(value=None, low=None, high=None, beyond=True)).startswith("above τ")
    assert distance_words(Distance(value=None, low=None, high=None, beyond=False)).startswith("below τ")
    assert saturation_words(SATURATION) == "1,024 tokens"
    assert "at least" in saturation_words(dataclasses.replace(SATURATION, censored=True))
    assert "no doubling" in saturation_words(dataclasses.replace(SATURATION, saturation=None))
