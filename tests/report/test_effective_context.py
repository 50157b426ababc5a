"""The part of the living review on a pretrained model: its budget, and going on after Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import final

import pytest

from diptych.core.events import ignore
from diptych.evaluation.context.journal import JOURNAL
from diptych.evaluation.context.study import Study
from diptych.evaluation.context.types import Answers, Context
from diptych.report import effective_context
from diptych.report.effective_context import measure_pretrained_context, pretrained_study


@final
class Knowing:
    """Finds whatever stands in the context; after `until` contexts Ctrl-C is pressed."""

    def __init__(self, until: int | None = None) -> None:
        self.until, self.asked = until, 0

    def ask(self, context: Context) -> Answers:
        if self.asked == self.until:
            raise KeyboardInterrupt
        self.asked += 1
        scores = tuple(
            tuple(0.0 if k == probe.answer else -1.0 for k in range(len(probe.candidates))) for probe in context.probes
        )
        return Answers(scores=scores, right=(True,) * len(context.probes), tokens=len(context.ids))


@pytest.fixture
def study(tiny_pretrained: Callable[[int], Path]) -> Study:
    return dataclasses.replace(pretrained_study(tiny_pretrained(256), 3, ignore), scorer=Knowing())


def test_a_model_that_finds_everything_reaches_the_length_that_it_claims(study: Study, tmp_path: Path) -> None:
    result = measure_pretrained_context(study, tmp_path / "out", 3, ignore)
    (task,) = result.tasks
    assert (task.task, task.state, task.passed, result.claimed) == ("single_key", "at_least", 256, 256)
    assert result.stopped is None and result.model == study.name


def test_a_spent_budget_is_a_result(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effective_context, "PRETRAINED_SECONDS", 0.0)
    result = measure_pretrained_context(study, tmp_path / "out", 3, ignore)
    (task,) = result.tasks
    assert (task.state, task.passed, task.failed, task.contexts) == ("undecided", None, None, 1)
    assert result.stopped is not None


def test_interrupted_it_goes_on_to_the_same_result_and_asks_nothing_twice(study: Study, tmp_path: Path) -> None:
    whole = measure_pretrained_context(study, tmp_path / "whole", 3, ignore)
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        measure_pretrained_context(dataclasses.replace(study, scorer=Knowing(7)), parts, 3, ignore)
    again = Knowing()
    resumed = measure_pretrained_context(dataclasses.replace(study, scorer=again), parts, 3, ignore)
    assert [dataclasses.replace(task, seconds=0) for task in resumed.tasks] == [
        dataclasses.replace(task, seconds=0) for task in whole.tasks
    ]
    assert isinstance(study.scorer, Knowing) and again.asked == study.scorer.asked - 7 > 0
    records = [json.loads(line) for line in (parts / JOURNAL).read_text().splitlines()]
    places = [(of["task"], of["length"], of["number"]) for of in records if of.get("kind") == "context"]
    assert len(places) == len(set(places)) == study.scorer.asked
