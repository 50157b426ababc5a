"""What is known of an effective context length, in words and on the disk."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.context_results import EMPTY, NONE, OPEN, RESULT, TASK, WHOLE

from diptych.core.recipe import save_json
from diptych.evaluation.context.result import (
    RESULT as FILE,
)
from diptych.evaluation.context.result import (
    AtThreshold,
    TaskResult,
    load_result,
    sentence,
    threshold_words,
)

THRESHOLDS = (
    AtThreshold(tau=0.5, passed=2048, failed=4096),
    AtThreshold(tau=0.7, passed=1024, failed=None),
    AtThreshold(tau=0.9, passed=None, failed=512),
    AtThreshold(tau=0.95, passed=None, failed=None),
)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (TASK, "1,024 to 1,218 tokens (95% confidence in each end); claimed 2,048, ratio 0.50 to 0.59."),
        (
            OPEN,
            "512 to 2,048 tokens (95% confidence in each end, undecided in between); claimed 2,048, "
            "ratio 0.25 to 1.00.",
        ),
        (replace(OPEN, failed=None), "at least 512 tokens (95% confidence), undecided beyond; claimed 2,048, "
         "ratio 0.25 or more."),
        (NONE, "none (95% confidence): it fails at 256 tokens already; claimed 2,048."),
        (EMPTY, "undecided: nothing is certified yet; claimed 2,048."),
        (replace(EMPTY, failed=512), "undecided: nothing is certified yet, it is below 512 tokens; claimed 2,048."),
    ],
)  # fmt: skip
def test_an_answer_is_one_sentence(task: TaskResult, said: str) -> None:
    assert sentence(RESULT, task) == f"runs/small, single key: effective context length {said}"


def test_an_answer_with_one_end_has_one_confidence() -> None:
    assert "at least 2,048 tokens (95% confidence), the longest that was asked" in sentence(RESULT, WHOLE)


def test_other_thresholds_are_one_line_and_none_where_they_were_not_read() -> None:
    assert threshold_words(replace(TASK, thresholds=THRESHOLDS)) == (
        "at other thresholds: tau 0.5 certified to 2,048, fails at 4,096; tau 0.7 certified to 1,024; "
        "tau 0.9 fails at 512; tau 0.95 undecided"
    )
    assert threshold_words(replace(TASK, thresholds=())) == ""


def test_a_result_from_before_other_thresholds_were_read_still_loads(tmp_path: Path) -> None:
    result = replace(RESULT, tasks=(replace(TASK, thresholds=THRESHOLDS),))
    save_json(result, tmp_path / FILE)
    assert load_result(tmp_path) == result
    kept = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(asdict(result)))
    del kept["tasks"][0]["thresholds"]
    (tmp_path / FILE).write_text(json.dumps(kept), encoding="utf-8")
    assert load_result(tmp_path) == replace(result, tasks=(replace(TASK, thresholds=()),))
