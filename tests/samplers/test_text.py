"""Streaming text: stop strings across tokens, whole characters only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.random import Rng
from diptych.core.types import Frame
from diptych.samplers.autoregressive import GenerationRequest
from diptych.samplers.text import Generation, StopFilter, generate_text
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.streaming import StreamDecoder

TEXT = st.text("abc", max_size=20)


@given(TEXT, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.integers(1, 4)))
def test_stop_filter_equals_cutting_the_whole_text(text: str, stops: list[str], sizes: list[int]) -> None:
    ends = [i for stop in stops if (i := text.find(stop)) >= 0]
    # What ends first wins when texts come in pieces: the stop that is complete earliest.
    complete = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if complete and len([c for c in complete if c == min(complete)]) + sum(e < min(ends) for e in ends) != 1:
        return
    if complete and text.find(min(stops, key=lambda s: text.find(s) + len(s) if s in text else 99)) != min(ends):
        return
    stop_filter, shown, at = StopFilter(stops), "", 0
    for size in [*sizes, *[1] * len(text)]:
        shown += stop_filter.push(text[at : at + size])
        at += size
    shown += stop_filter.finish()
    assert shown == (text[: min(ends)] if ends else text)


class Scripted:
    """A sampler that says what it is told."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = rows

    def sample(self, model: object, request: GenerationRequest, rng: Rng) -> Iterator[Frame]:
        for step in range(max(map(len, self.rows))):
            state = torch.tensor([row[step] if step < len(row) else 256 for row in self.rows])
            yield Frame(step, 99, state, {"log_probability": torch.full((len(state),), -1.0), "finished": state == 256})


def generate(rows: list[list[int]], stops: list[str]) -> tuple[list[Generation], list[tuple[int, str]]]:
    shown: list[tuple[int, str]] = []
    request = GenerationRequest(prompts=[[1]] * len(rows), max_new_tokens=99, eos_id=256)
    generations = generate_text(
        None,  # type: ignore[arg-type]
        Scripted(rows),  # type: ignore[arg-type]
        request,
        Rng(0),
        new_decoder=lambda: StreamDecoder(ByteTokenizer()),
        stops=stops,
        on_text=lambda row, text: shown.append((row, text)),
    )
    return generations, shown


def test_rows_end_by_stop_by_end_of_sequence_and_by_length() -> None:
    rows = [list(b"one STOP two"), [*b"abc", 256], list("añ€ añ€ añ€".encode())]
    generations, shown = generate(rows, ["STOP"])
    assert [(g.text, g.reason) for g in generations] == [("one ", "stop"), ("abc", "eos"), ("añ€ añ€ añ€", "length")]
    assert len(generations[1].ids) == 4 == len(generations[1].log_probabilities)
    for row, generation in enumerate(generations):
        assert "".join(text for at, text in shown if at == row) == generation.text
    assert all("�" not in text for _, text in shown)


def test_further_tokens_that_end_a_row_are_not_shown() -> None:
    request = GenerationRequest(prompts=[[1]] * 3, max_new_tokens=99, eos_id=None, stop_ids=(7, 256))
    rows = [[*b"abc", 7, *b"x"], [*b"de", 256], list(b"fgh")]
    generations = generate_text(
        None,  # type: ignore[arg-type]
        Scripted(rows),  # type: ignore[arg-type]
        request,
        Rng(0),
        new_decoder=lambda: StreamDecoder(ByteTokenizer()),
    )
    assert [(g.text, g.reason, g.ids[-1]) for g in generations[:2]] == [("abc", "eos", 7), ("de", "eos", 256)]


def test_half_a_stop_string_and_half_a_character_come_out_at_the_end() -> None:
    generations, _ = generate([list(b"one ST"), list("€".encode()[:2])], ["STOP"])
    assert generations[0].text == "one ST"
    assert generations[1].text == "�"


@pytest.mark.parametrize("stops", [[], [""]])
def test_no_stop_holds_nothing_back(stops: list[str]) -> None:
    assert StopFilter(stops).push("abc") == "abc"
