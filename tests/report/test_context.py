"""The report of a measurement of the effective context length shows what was measured, finished or not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.context_results import EMPTY, RESULT, STOPPED, TASK
from tests.report.reading import read

from diptych.evaluation.context.result import AtThreshold, sentence
from diptych.report.context import context_figures, context_page, write_context_report

HOSTILE = "</p><script>alert(1)</script>&lt;\"'$x^2$\x00{{ 7*7 }}"


def test_the_page_says_what_was_measured_and_loads_nothing() -> None:
    result = dataclasses.replace(RESULT, tasks=(TASK,))
    reader = read(context_page([result]))
    assert len(reader.ids) == len(set(reader.ids))
    assert all(load.startswith("#") or load == "data:," for load in reader.loads)
    assert {load[1:] for load in reader.loads if load.startswith("#")} <= set(reader.ids)
    text = " ".join(reader.text.split())
    assert sentence(result, TASK) in text
    for cell in TASK.cells:
        assert f"{cell.score:.3f}{100 * cell.accuracy:.1f} %, n {cell.n}" in text
    for said in ("234,567", "1 min 23 s", "0.062", "1.44", "812 tokens (95 %: 640 to 1,020)", "0.50 to 0.59", "12.5 %"):
        assert said in text
    assert reader.tags.count("svg") >= 2 * len(list(context_figures([result])))


def test_other_thresholds_are_a_table_where_they_were_read() -> None:
    thresholds = (AtThreshold(tau=0.5, passed=2048, failed=4096), AtThreshold(tau=0.95, passed=None, failed=512))
    undrawn = dataclasses.replace(TASK, cells=(), distances=())
    bare = dataclasses.replace(RESULT, tasks=(undrawn,), saturation=None)
    read_at = dataclasses.replace(bare, tasks=(dataclasses.replace(undrawn, thresholds=thresholds),))
    text = " ".join(read(context_page([read_at])).text.split())
    assert "At other thresholdsCertified up toFails from τ = 0.52,0484,096 τ = 0.95none yet512 " in text
    assert "95 % confidence in each end" in text
    assert "other thresholds" not in context_page([bare])


def test_an_unfinished_measurement_is_a_page_and_names_carry_no_markup(tmp_path: Path) -> None:
    bare = dataclasses.replace(
        RESULT, model=HOSTILE, tasks=(), saturation=None, positions=None, stopped="out of memory <b>."
    )
    empty = dataclasses.replace(bare, tasks=(EMPTY,), stopped=None)
    path = write_context_report([bare, empty], tmp_path / "report")
    html = path.read_text(encoding="utf-8")
    assert html == context_page([bare, empty])
    reader = read(html)
    assert "script" not in reader.tags and "b" not in reader.tags
    assert "\x00" not in html and "alert(1)" in reader.text and "{{ 7*7 }}" in reader.text
    assert "stopped before it was done: out of memory <b>." in " ".join(reader.text.split())
    assert "no task has been asked yet" in reader.text and "No context has been answered yet" in reader.text
    files = sorted(str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file())
    assert files == ["figures/brackets.png", "index.html"]
    assert (path.parent / "figures" / "brackets.png").read_bytes().startswith(b"\x89PNG")


def test_drawings_are_named_once_by_result_and_task() -> None:
    names = [name for name, _ in context_figures([RESULT, STOPPED])]
    assert len(names) == len(set(names))
    assert names == [
        "brackets",
        "worst-depth",
        "1-1-single-key-depths",
        "1-1-single-key-distance",
        "1-2-in-context-classes-depths",
        "1-loss",
        "2-1-single-key-depths",
        "2-1-single-key-distance",
    ]


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    for act in (lambda: context_page([]), lambda: write_context_report([], tmp_path)):
        with pytest.raises(ValueError, match=r"^a report needs at least one result; give [^\n]+$"):
            act()
    assert list(tmp_path.iterdir()) == []
