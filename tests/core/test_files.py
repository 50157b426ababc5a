"""Atomic writing: complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.core.files import replacing, write_folder, write_text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    def good(folder: Path) -> None:
        (folder / "x").write_text("1")

    def bad(folder: Path) -> None:
        (folder / "x").write_text("2")
        raise OSError(28, "No space left on device")

    write_folder(tmp_path / "state", good)
    with pytest.raises(OSError):
        write_folder(tmp_path / "state", bad)
    assert (tmp_path / "state" / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
