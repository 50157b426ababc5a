"""Do the drawings show the numbers that they were given?"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from matplotlib.colors import to_hex

from diptych.report import next_token, plots
from diptych.report.results import ReviewResults

STYLE = Path(plots.__file__).parent / "templates" / "style.css"


def test_the_curve_is_in_bits_per_byte_where_it_can_be(full: ReviewResults) -> None:
    axes = plots.training_curve(full).axes[0]
    assert axes.get_ylabel() == "bits per byte"
    training, smooth, heldout, xz = axes.get_lines()
    assert list(smooth.get_ydata()) == plots.running_mean([p.bits_per_byte for p in full.training])
    assert list(training.get_ydata()) == [p.bits_per_byte for p in full.training]
    assert list(training.get_xdata()) == [p.tokens / 1e6 for p in full.training]
    assert (heldout.get_xdata()[0], heldout.get_ydata()[0]) == (0.025, 0.15)
    assert set(xz.get_ydata()) == {1.6}


def test_the_curve_is_in_nats_where_bytes_are_unknown(full: ReviewResults) -> None:
    points = (dataclasses.replace(full.training[0], bits_per_byte=None), *full.training[1:])
    axes = plots.training_curve(dataclasses.replace(full, training=points)).axes[0]
    assert axes.get_ylabel() == "nats a token"
    assert len(axes.get_lines()) == 3, "a compressor has no nats a token"
    assert list(axes.get_lines()[0].get_ydata()) == [p.loss for p in points]


def test_a_curve_of_one_point_can_be_drawn(full: ReviewResults) -> None:
    plots.svg(plots.training_curve(dataclasses.replace(full, training=full.training[:1], heldout=())), "one")


@pytest.mark.parametrize("narrow", [False, True])
def test_bars_are_sorted_and_only_the_model_is_in_colour(full: ReviewResults, narrow: bool) -> None:
    axes = plots.yardstick_bars(full, narrow=narrow).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1.6, pytest.approx(1.25), 1.2]
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [plots.PALETTE["other"], plots.PALETTE["model"], plots.PALETTE["other"]]


def test_figure_1_marks_the_chosen_token(full: ReviewResults) -> None:
    axes = next_token.drawing(full).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.0004, 0.75]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [plots.PALETTE["other"], plots.PALETTE["model"]]
    assert [label.get_text().strip() for label in axes.get_yticklabels()] == ["␣sets", "␣rises"]
    assert "The sun" in axes.get_title(loc="left")


def test_every_colour_has_a_value_in_both_schemes() -> None:
    light, dark = STYLE.read_text().split("@media (prefers-color-scheme: dark)")[:2]
    dark = dark.split("* {")[0]
    for variable, colour in plots.PALETTE.items():
        assert f"--{variable}: {colour}" in light
        assert re.search(rf"--{variable}: #[0-9a-f]{{6}}", dark)


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_can_be_read_in_both_schemes(scheme: int) -> None:
    """WCAG 2.2, success criterion 1.4.3: a contrast of at least 4.5 between text and what it stands on."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    css = STYLE.read_text().split("@media (prefers-color-scheme: dark)")[scheme]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css.split("* {")[0]))
    for text, ground in [(t, g) for t in ("ink", "muted", "model") for g in ("page", "panel", "soft")]:
        pair = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (pair[0] + 0.05) / (pair[1] + 0.05) >= 4.5, (text, ground)


def test_the_running_mean_equals_its_definition() -> None:
    assert plots.running_mean([1.0, 5.0, 3.0]) == [1.0, 5.0, 3.0]
    values = [float(i % 7) for i in range(160)]
    smooth = plots.running_mean(values)
    assert len(smooth) == 160
    for i in (0, 1, 2, 80, 158, 159):
        window = [values[j] for j in range(160) if abs(j - i) <= 2]
        assert smooth[i] == pytest.approx(sum(window) / len(window))
