"""Does every token of a text appear, in the terminal, in the drawing and on the page?"""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyBboxPatch

from diptych.core.events import Event, Message
from diptych.report import schemes
from diptych.report.page import page
from diptych.report.results import ReviewResults
from diptych.report.schemes import NAMES, SENTENCE, compare_schemes
from diptych.report.tokens import COLOURS, Row, drawing, row, terminal
from diptych.tokenizers.simple import ByteTokenizer, WordTokenizer


def texts_of(figure_rows: list[Row], width: float = 7.4) -> list[str]:
    (axes,) = drawing(figure_rows, width=width).axes
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_neighbouring_tokens_have_different_colours() -> None:
    text = terminal([b"Sun", b" rises", b" from"])
    assert text.plain == "Sun rises from"
    assert [span.style for span in text.spans] == [f"black on {colour}" for colour in COLOURS[:3]]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=30))
def test_the_terminal_shows_text_whole_and_no_control_character_acts(text: str) -> None:
    shown = terminal([bytes([byte]) for byte in text.encode("utf-8", "replace")]).plain
    assert not set(shown) & {chr(c) for c in [*range(9), *range(11, 32), 0x7F, 0x9B]}
    assert shown.count("\n") == text.count("\n")
    if not any(unicodedata.category(c) in ("Cc", "Cf") for c in text):
        letters = "".join(c for c in text if c.isalnum())
        assert "".join(c for c in shown if c.isalnum()) == letters.encode("utf-8", "replace").decode()


def test_half_a_character_is_a_dot_and_a_rest_is_marked() -> None:
    assert terminal(["é".encode()[:1], "é".encode()[1:], b"x"]).plain == "·éx"
    assert terminal([b"a", "é".encode()[:1]]).plain == "a·\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("width", [2.0, 7.4])
def test_the_drawing_has_a_box_a_token_within_its_width(width: float) -> None:
    rows = [row("words", WordTokenizer(["Sun", " rises"]), SENTENCE), row("bytes", ByteTokenizer(), SENTENCE)]
    figure = drawing(rows, width=width)
    (axes,) = figure.axes
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == sum(len(each.tokens) for each in rows) == 2 + 14 + 23
    right = max(box.get_x() + box.get_width() for box in boxes)
    assert right <= axes.get_xlim()[1]
    labels = texts_of(rows, width)
    assert "words: 16 tokens" in labels and "bytes: 23 tokens" in labels and "␣rises" in labels


def test_every_scheme_is_tried_on_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    train = [f"{SENTENCE}. " * 50 + "the moon sets in the west\n" * 20]
    found = compare_schemes(train, train, vocab_size=600, train_bytes=10_000, heldout_bytes=1_000)
    assert [scheme.name for scheme in found] == list(NAMES.values())
    for scheme in found:
        assert "".join(scheme.sentence).rstrip() == SENTENCE
        assert scheme.bytes_per_token >= 1 and 0 <= scheme.words_whole_share <= 1 and scheme.attention_pairs > 0
    by_name = {scheme.name: scheme for scheme in found}
    assert by_name["Words"].sentence == ("Sun", " rises", " from", " the", " east")
    assert by_name["Raw bytes"].attention_pairs == 1_000**2
    events: list[Event] = []
    monkeypatch.setattr(schemes, "find_spec", lambda name: None)
    fewer = compare_schemes(train, train, vocab_size=600, train_bytes=900, heldout_bytes=100, on_event=events.append)
    assert len(fewer) == len(found) - 2
    assert sum("pip install 'diptych[subword]'" in event.text for event in events if isinstance(event, Message)) == 2


def test_the_page_has_the_schemes(full: ReviewResults) -> None:
    html = page(full)
    assert "Words" in html and "12\u00a0%" in html and "20.2×" in html  # 2025 / 100
