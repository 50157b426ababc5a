"""How does a job of many stages go on where it was interrupted? Each stage's result is kept as JSON in its folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from pydantic import TypeAdapter

from diptych.core.files import write_text

T = TypeVar("T")

SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class _Kept:
    seconds: float
    value: Any


@final
class Stages:
    """The stages of one job in the folder `out`, and how long each took.

    settings: what the results depend on, as JSON values. Raises ValueError where the folder holds a job of other
    settings, named by `what`, or is a file.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], what: str) -> None:
        self.out, self.seconds = out, dict[str, float]()
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; name a folder for the {what}")
        path, wanted = out / SETTINGS, json.loads(json.dumps(settings))
        if path.is_file():
            kept = json.loads(path.read_bytes())
            changed = sorted(key for key in {*kept, *wanted} if kept.get(key) != wanted.get(key))
            if changed:
                raise ValueError(
                    f"{out} holds a {what} of other settings (it differs in {', '.join(changed)}); choose another "
                    "--out, delete the folder, or give the same settings to go on"
                )
        write_text(path, json.dumps(wanted, indent=2) + "\n")

    def stage(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """The kept result of a stage, or a new one that is kept from now on."""
        path, adapter = self.out / "stages" / f"{name}.json", TypeAdapter(kind)
        if path.is_file():
            kept = TypeAdapter(_Kept).validate_json(path.read_bytes())
            self.seconds[name] = kept.seconds
            return adapter.validate_python(kept.value)
        start = time.perf_counter()
        value = compute()
        self._keep(name, time.perf_counter() - start, adapter.dump_python(value, mode="json"))
        return value

    def has(self, name: str) -> bool:
        """Whether the result of a stage is kept."""
        return (self.out / "stages" / f"{name}.json").is_file()

    def took(self, name: str, seconds: float) -> None:
        """How long a stage took that keeps its own results; one that an earlier call finished took what it took."""
        if self.has(name):
            self.stage(name, type(None), lambda: None)
        else:
            self._keep(name, seconds, None)

    def _keep(self, name: str, seconds: float, value: Any) -> None:
        self.seconds[name] = seconds
        write_text(self.out / "stages" / f"{name}.json", json.dumps({"seconds": seconds, "value": value}) + "\n")
