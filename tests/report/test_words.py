"""Are numbers and texts written as people read them?"""

from __future__ import annotations

import dataclasses

import pytest

from diptych.report import words
from diptych.report.results import ReviewResults, Score


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.number(1234567), "1,234,567"),
        (words.compact(11_228_480), "11.2 million"),
        (words.compact(999), "999"),
        (words.compact(3.1e9), "3.1 billion"),
        (words.size(999), "999 bytes"),
        (words.size(27_951_228), "28 MB"),
        (words.size(1_412_337), "1.41 MB"),
        (words.size(512e9), "512 GB"),
        (words.memory(24 * 2**30), "24 GiB"),
        (words.duration(0), "0.0 s"),
        (words.duration(9.94), "9.9 s"),
        (words.duration(59.6), "1 min"),
        (words.duration(243), "4 min 3 s"),
        (words.duration(7260), "2 h 1 min"),
        (words.ending("runs/small", 10), "runs/small"),
        (words.ending("runs/small + yarn", 10), "…ll + yarn"),
        (words.percent(0.523), "52 %"),
        (words.percent(0.0996), "10 %"),
        (words.percent(0.01), "1.0 %"),
        (words.percent(0.0004), "< 0.1 %"),
        (words.percent(0.0), "0.0 %"),
        (words.percent(1.0), "100 %"),
        (words.listing(["a"]), "a"),
        (words.listing(["a", "b", "c"]), "a, b and c"),
        (words.visible(b" the\n"), "␣the⏎"),
        (words.visible("        x"), "␣×8x"),
        (words.visible("\t\r\x00\x7f"), "⇥␍␀␡"),
        (words.visible(b"\xe2\x82"), "\\xe2\\x82"),
        (words.visible("é".encode()), "é"),
        (words.visible("␣the⏎"), "␣the⏎"),
        (words.readable("a\tb\nc\x1b[0m\x00"), "a\tb\nc␛[0m␀"),
    ],
)
def test_written(written: str, expected: str) -> None:
    assert written.replace(words.SPACE, " ") == expected


def test_the_summary_tells_better_from_worse(full: ReviewResults) -> None:
    text = words.summary(full).replace(words.SPACE, " ")
    assert text == (
        "A transformer of 4.5 million parameters was trained for 24 s on 2 processor cores, reading 49,000 tokens of "
        "the Python standard library (0.6 % of its 28 MB). On text that was kept from it, it needs 1.250 bits per "
        "byte: fewer than xz -9e (1.600); no fewer than 5-gram (1.200)."
    )


def test_the_summary_says_only_what_was_measured(full: ReviewResults, bare: ReviewResults) -> None:
    assert words.summary(bare) == ""
    scored = dataclasses.replace(bare, score=Score(nats=69.3147, n_tokens=30, n_bytes=100, kind="bound"))
    assert words.summary(scored) == "On text that was kept from it, the model needs at most 1.000 bits per byte."
    unscored = words.summary(dataclasses.replace(full, score=None))
    assert "bits per byte" not in unscored and unscored.startswith("A transformer")
