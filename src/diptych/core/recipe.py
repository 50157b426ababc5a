"""How does a recipe become a configuration, and back?

TOML in, validated against the typed dataclasses; unknown keys and wrong values are errors that name the key and,
where a name was mistyped, the nearest valid one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from diptych.core.files import write_text

T = TypeVar("T")


def parse(kind: type[T], values: Mapping[str, Any], source: str) -> T:
    """Build the dataclass `kind` from nested mappings. Raises ValueError naming `source` and the offending key."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"{source}: {_explain(kind, error)}") from None


def _explain(kind: type[Any], error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {key}{_nearest(path, kind)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (found {first['input']!r})" if key else message


def _nearest(path: list[str], kind: type[Any]) -> str:
    """The valid key most like the unknown one: among its siblings first, then anywhere in the recipe."""
    known = list(dotted_keys(kind))
    siblings = [key for key in known if key.rsplit(".", 1)[:-1] == ([".".join(path[:-1])] if path[:-1] else [])]
    matches = difflib.get_close_matches(".".join(path), siblings, 1, 0.5)
    if not matches:
        by_leaf = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        matches = [by_leaf[leaf] for leaf in difflib.get_close_matches(path[-1], by_leaf, 1, 0.6)]
    return f"; did you mean {matches[0]}?" if matches else f"; valid keys: {', '.join(siblings or known)}"


def dotted_keys(kind: type[Any], prefix: str = "") -> Iterator[str]:
    """All keys of a recipe, such as `optim.lr`."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield prefix + field.name
        for nested in (hints[field.name], *get_args(hints[field.name])):
            if dataclasses.is_dataclass(nested) and isinstance(nested, type):
                yield from dotted_keys(nested, f"{prefix}{field.name}.")


def load_toml(kind: type[T], path: Path) -> T:
    """Read a TOML file as the dataclass `kind`. Raises FileNotFoundError, or ValueError with the place of the fault."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from None
    return parse(kind, values, str(path))


def load_json(kind: type[T], path: Path) -> T:
    """Read a JSON file as the dataclass `kind`. Raises FileNotFoundError, or ValueError with the fault."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object")
    return parse(kind, values, str(path))


def save_json(value: Any, path: Path) -> None:
    """Write a dataclass as JSON, atomically."""
    write_text(path, json.dumps(dataclasses.asdict(value), indent=2) + "\n")


def save_toml(value: Any, path: Path) -> None:
    """Write a dataclass as TOML, atomically; keys whose value is None are left out, as TOML has no null."""
    write_text(path, "\n".join(_toml_lines(dataclasses.asdict(value), "")) + "\n")


def _toml_lines(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        if value is not None and not isinstance(value, dict):
            # A JSON number, string, boolean or array of them is also TOML.
            yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"\n[{prefix}{key}]"
            yield from _toml_lines(value, f"{prefix}{key}.")


def differences(first: Any, second: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys in which two configurations of one kind differ."""
    for field in dataclasses.fields(first):
        left, right = getattr(first, field.name), getattr(second, field.name)
        if left == right:
            continue
        if dataclasses.is_dataclass(left) and type(left) is type(right):
            yield from differences(left, right, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name
