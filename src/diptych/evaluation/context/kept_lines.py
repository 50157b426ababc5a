"""How is every answer kept, so that asking that was stopped loses none and goes on?

A file of JSON lines: first the settings that the answers depend on, then one line an answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, final

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


@final
class KeptLines(Generic[T]):
    """The answers in a file, `kept` by their place, and those that are added.

    kind: their dataclass. place: what tells one from the others. settings: what they depend on, as JSON values. Raises
    ValueError for a file of other settings, of something else, or damaged in the middle. A last line that was cut off
    in writing is written anew.
    """

    def __init__(
        self, path: Path, kind: type[T], place: Callable[[T], Hashable], *, settings: Mapping[str, Any]
    ) -> None:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file for the answers")
        self.path, self.place, self.kept = path, place, dict[Hashable, T]()
        self.adapter = TypeAdapter(kind)
        wanted = json.loads(json.dumps({"kind": "settings", **settings}))
        end = self._read(wanted) if path.is_file() else 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[str] = path.open("r+" if path.is_file() else "w", encoding="utf-8")
        self.file.seek(end)
        self.file.truncate()
        if end == 0:
            self._write(wanted)

    def _read(self, wanted: dict[str, Any]) -> int:
        """Take in what is there; returns where new lines are written."""
        lines, end = self.path.read_bytes().splitlines(keepends=True), 0
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            if number == 1:
                self._check(line, wanted)
            else:
                try:
                    answer = self.adapter.validate_json(line)
                except ValidationError:
                    if number == len(lines):
                        break
                    raise ValueError(
                        f"{self.path} is damaged in line {number}; delete that line and all after it to go on from "
                        "there, or choose another --out"
                    ) from None
                self.kept[self.place(answer)] = answer
            end += len(line)
        return end

    def _check(self, line: bytes, wanted: dict[str, Any]) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("kind") != "settings":
            raise ValueError(f"{self.path} holds no answers of diptych context; choose another --out")
        changed = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if changed:
            raise ValueError(
                f"{self.path} holds answers under other settings (it differs in {', '.join(changed)}); choose another "
                "--out, delete the file, or give the same settings to go on"
            )

    def add(self, answer: T) -> None:
        """Keep an answer, on the disk before anything else is asked."""
        self.kept[self.place(answer)] = answer
        self._write(asdict(answer))  # type: ignore[call-overload]

    def _write(self, values: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()
