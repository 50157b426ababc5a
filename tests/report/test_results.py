"""Do results survive the disk, and are damaged ones refused clearly?"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from diptych.report.results import ReviewResults, Stage, load_results, save_results


def test_equal_after_the_disk(full: ReviewResults, bare: ReviewResults, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        full, command="é\u2028 \x00 </script> \ufffd", stages=(Stage(name="0.1", seconds=0.1 + 0.2),)
    )
    for results in (full, bare, odd):
        save_results(results, tmp_path / "results.json")
        assert load_results(tmp_path / "results.json") == results


def test_bits_per_byte_of_a_score(full: ReviewResults) -> None:
    assert full.score is not None
    assert full.score.bits_per_byte == pytest.approx(1.25)


def test_not_a_number_is_refused_before_anything_is_written(full: ReviewResults, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        save_results(dataclasses.replace(full, mfu=math.nan), tmp_path / "results.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": "many"}, "seed"), ({"novel": 1}, "novel"), ({"machine": {"cores": 2}}, "machine.processor")],
)
def test_damaged_results_name_their_field(
    full: ReviewResults, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(dataclasses.asdict(full) | change))
    with pytest.raises(ValueError, match=f"holds no review results: {said}") as error:
        load_results(path)
    assert "\n" not in str(error.value)


def test_absent_results_are_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path / "results.json")
