"""Checkpoints: whole or absent, checked when read, the older one kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diptych.checkpoints import weights
from diptych.core.events import Message
from diptych.training.state import Counters, TrainingState, load_newest_state, save_state


def make(step: int) -> TrainingState:
    tensors = {"a": torch.full((3,), float(step))}
    return TrainingState(counters=Counters(step=step), model=tensors, optimizer=tensors, average={})


def test_round_trip_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(make(step), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    state = load_newest_state(tmp_path, lambda event: None)
    assert state is not None and state.counters.step == 3
    assert torch.equal(state.model["a"], torch.full((3,), 3.0))
    assert load_newest_state(tmp_path / "none", lambda event: None) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    save_state(make(1), tmp_path)
    newest = save_state(make(2), tmp_path)
    file = newest / "optimizer.safetensors"
    match damage:
        case "flip":
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.write_bytes(data)
        case "truncate":
            file.write_bytes(file.read_bytes()[:-4])
        case "remove":
            file.unlink()
        case "json":
            (newest / "state.json").write_text("{")
    events: list[object] = []
    state = load_newest_state(tmp_path, events.append)
    assert state is not None and state.counters.step == 1
    assert isinstance(events[0], Message) and "step-00000002 is damaged" in events[0].text


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    (save_state(make(1), tmp_path) / "state.json").write_text("")
    with pytest.raises(ValueError, match="all checkpoints"):
        load_newest_state(tmp_path, lambda event: None)


def test_a_full_disk_loses_nothing_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(make(1), tmp_path)

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match=r"No space left.*older checkpoints are intact \(step-00000001\)"):
        save_state(make(2), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    monkeypatch.undo()
    state = load_newest_state(tmp_path, lambda event: None)
    assert state is not None and state.counters.step == 1
