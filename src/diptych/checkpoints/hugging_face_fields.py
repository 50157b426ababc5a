"""How is a field of a config.json read so that a wrong one is named?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.checkpoints.json_object import brief

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Fields:
    """A JSON object and where it came from; each reading names what is wrong with a field."""

    values: Mapping[str, Any]
    path: Path

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{self.path}: {name} is {brief(value)}, not a whole number of at least 1")
        return value

    def optional_whole(self, name: str) -> int | None:
        """The same, or None where it is absent or null."""
        return None if self.values.get(name) is None else self.whole(name)

    def positive(self, name: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._get(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value < 1e300 or not math.isfinite(value):
            raise ValueError(f"{self.path}: {name} is {brief(value)}, not a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {name} is {brief(value)}, not true or false")
        return value

    def activation(self, name: str, default: str) -> Activation:
        """One of the activations that the networks here have."""
        value = self._get(name, default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ValueError(f"{self.path}: {name} is {brief(value)}; understood are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def must(self, name: str, *allowed: Any) -> None:
        """The field is absent, null or one of `allowed`."""
        value = self.values.get(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in allowed):
            raise ValueError(f"{self.path}: {name} = {brief(value)} is not supported")

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        value = default if value is None else value
        if value is None:
            raise ValueError(f"{self.path} lacks {name}")
        return value
