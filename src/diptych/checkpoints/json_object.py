"""How is JSON that others wrote read without trusting it?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 25
"""A longer file of JSON is no description of a network."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises FileNotFoundError, or ValueError for anything but one object."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES:,} bytes, which no description of a model is")
    return parse_object(path.read_bytes(), str(path))


def parse_object(data: bytes, source: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises ValueError naming `source` for anything else, a name that stands twice too."""
    try:
        values = json.loads(data, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is damaged: no valid JSON ({str(error)[:200]})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{source} is damaged: it holds no JSON object")
    return values


def brief(value: object) -> str:
    """One short line of what may be anything."""
    text = ascii(value)
    return text if len(text) < 80 else text[:77] + "..."


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {brief(twice)} stands twice")
    return values
