"""How is a model made to read longer texts than it was trained on, without training it?

An extension is a word with a few numbers, `yarn:factor=4`, that turns a network's configuration into another for the
same weights: its rotary frequencies are stretched, or near and far keys are told other positions. This module imports
no torch; `diptych.models.extension` gives the weights the new configuration.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

from diptych.core.config import PositionScheme, RopeScaling, TransformerConfig

ExtensionName = Literal[
    "interpolation", "ntk", "dynamic_ntk", "yarn", "llama3", "string", "rerope", "self_extend", "dca", "streaming"
]


@dataclass(frozen=True)
class Method:
    """A way to extend: its numbers besides `factor` and `length`, the factor where none is given, and what it does."""

    numbers: tuple[str, ...]
    factor: float
    about: str


METHODS: dict[ExtensionName, Method] = {
    "interpolation": Method((), 4.0, "positions divided by the factor"),
    "ntk": Method((), 4.0, "a larger rotary base, which stretches low frequencies most"),
    "dynamic_ntk": Method((), 4.0, "a rotary base that grows with the text's length"),
    "yarn": Method(("beta_fast", "beta_slow", "attention_factor"), 4.0, "low frequencies stretched, attention sharper"),
    "llama3": Method(("low_freq_factor", "high_freq_factor"), 8.0, "low frequencies stretched, as in Llama 3.1"),
    "string": Method(("shift", "window"), 1.0, "distances from `shift` on count from `window` again"),
    "rerope": Method(("window",), 4.0, "no distance is told farther than `window`"),
    "self_extend": Method(("window", "group"), 4.0, "positions beyond `window` are shared by groups"),
    "dca": Method(("chunk", "window"), 4.0, "dual chunk attention: distances within a chunk and to the one before"),
    "streaming": Method(("sinks", "window"), 4.0, "the first keys and a window alone; what lies between is not read"),
}
"""All ways, by name."""

_WHOLE = ("length", "shift", "window", "group", "chunk", "sinks")


@dataclass(frozen=True, kw_only=True)
class ContextExtension:
    """What an extension's text says; None: the default, which `extended` derives from the model's trained length."""

    name: ExtensionName
    factor: float | None = None
    """How many times the trained length is to be reached."""
    length: int | None = None
    """The trained length in tokens; None: the model's max_length."""
    window: int | None = None
    shift: int | None = None
    group: int | None = None
    chunk: int | None = None
    sinks: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def __post_init__(self) -> None:
        known = ("factor", "length", *METHODS[self.name].numbers)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "name" or value is None:
                continue
            if field.name not in known:
                raise ValueError(f"{self.name} takes no {field.name}; it takes {', '.join(known)}")
            if not 0 < value < math.inf:
                raise ValueError(f"{field.name} of {self.name} must be above 0, not {value}")
        if self.factor is not None and self.factor < 1.0:
            raise ValueError(f"factor of {self.name} must be at least 1, not {self.factor}")


def parse_extension(text: str) -> ContextExtension:
    """Read `name` or `name:key=number,key=number`. Raises ValueError in one line that lists what there is."""
    name, colon, rest = text.partition(":")
    name = name.strip()
    if name not in get_args(ExtensionName):
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(METHODS)}"
        raise ValueError(f"unknown context extension {name!r}; {hint}")
    method = cast(ExtensionName, name)
    known = ("factor", "length", *METHODS[method].numbers)
    given: dict[str, float] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or key not in known or key in given:
            what = f"gives {key} twice" if key in given else f"cannot be read at {pair.strip()!r}"
            raise ValueError(f"the context extension {text!r} {what}; {method} takes {', '.join(known)}, as in key=2")
        given[key] = _number(key, value, text)
    return ContextExtension(name=method, **given)  # type: ignore[arg-type]


def _number(key: str, value: str, text: str) -> float:
    try:
        return int(value) if key in _WHOLE else float(value)
    except ValueError:
        kind = "whole number" if key in _WHOLE else "number"
        raise ValueError(f"the context extension {text!r}: {key} must be a {kind}, not {value!r}") from None


def extended(config: TransformerConfig, extension: ContextExtension) -> TransformerConfig:
    """The configuration under which the same weights read longer texts; its `max_length` is factor times the trained
    length L.

    Defaults: STRING shifts by a third of the target, and by no less than keeps all distances below L; its window is
    128, or a quarter of the shift where that is less (An et al. 2025). ReRoPE's window is L / 2. Self-Extend's is
    L / 4, and its group the smallest that keeps all distances below L (Jin et al. 2024). Dual chunk attention has
    chunks of 3 L / 4 and the rest of L as its window (An et al. 2024). StreamingLLM keeps 4 sinks and the last L - 4
    tokens (Xiao et al. 2024).

    Raises ValueError in one line for a network without rotary positions or with layers other than attention, for one
    that is extended already, and for numbers by which a distance would be longer than any of the training.
    """
    if config.position != "rope":
        raise ValueError(
            f"{extension.name} changes rotary positions, and this model's positions are {config.position}; nothing "
            "extends them without training"
        )
    if set(config.attention) != {"softmax"} or config.n_encoder_layers or config.patches is not None:
        raise ValueError(f"{extension.name} is for decoders of text whose layers are all attention, and this is none")
    length = extension.length or config.max_length
    factor = METHODS[extension.name].factor if extension.factor is None else extension.factor
    target = round(factor * length)
    if (scaling := _scaling(extension, factor, length)) is not None:
        if config.rope_scaling is not None:
            raise ValueError(
                f"this model's rotary frequencies are already stretched ({config.rope_scaling.kind}, factor "
                f"{config.rope_scaling.factor:g}), and {extension.name} would undo what it was trained with; take "
                "string, self_extend, dca, rerope or streaming"
            )
        return dataclasses.replace(config, rope_scaling=scaling, max_length=target)
    if config.position_scheme is not None:
        raise ValueError(f"this model's context is already extended by {config.position_scheme.kind}")
    return dataclasses.replace(config, position_scheme=_scheme(extension, length, target), max_length=target)


def _scaling(extension: ContextExtension, factor: float, length: int) -> RopeScaling | None:
    """How frequencies are stretched; None where they stay."""
    names = METHODS[extension.name].numbers
    given = {name: getattr(extension, name) for name in names if getattr(extension, name) is not None}
    match extension.name:
        case "interpolation":
            return RopeScaling(kind="linear", factor=factor)
        case "ntk":
            return RopeScaling(kind="ntk", factor=factor)
        case "dynamic_ntk":
            return RopeScaling(kind="dynamic", factor=factor, original_max_length=length)
        case "yarn" | "llama3" as kind:
            return RopeScaling(kind=kind, factor=factor, original_max_length=length, **given)
        case _:
            return None


def _scheme(extension: ContextExtension, length: int, target: int) -> PositionScheme:
    """The scheme of an extension that tells other positions. Raises ValueError where one would reach `length`."""
    match extension.name:
        case "string":
            shift = extension.shift or max(1, target // 3)
            window = extension.window or min(128, max(1, shift // 4))
            shift = extension.shift or max(shift, target - length + window)
            scheme = PositionScheme(kind="string", shift=shift, window=window)
            farthest, hint = (
                max(shift - 1, target - 1 - shift + window),
                "set a smaller factor, or take self_extend or dca",
            )
        case "rerope":
            scheme = PositionScheme(kind="rerope", window=extension.window or max(1, length // 2))
            farthest, hint = scheme.window, "set a smaller window"
        case "self_extend":
            window = extension.window or max(1, length // 4)
            groups = range(1, target + 1) if extension.group is None else (extension.group,)
            told = {group: (target - 1) // group + window - window // group for group in groups}
            group = next((group for group in groups if told[group] < length), groups[-1])
            scheme = PositionScheme(kind="self_extend", window=window, group=group)
            farthest, hint = told[group], "set a larger group, or a smaller factor or window"
        case "dca":
            chunk = extension.chunk or max(1, 3 * length // 4)
            window = extension.window or max(1, length - chunk)
            if chunk + window > length:
                raise ValueError(f"dca: chunk + window = {chunk + window} is more than the trained length of {length}")
            return PositionScheme(kind="dca", chunk=chunk, window=window, length=length)
        case _:
            sinks = extension.sinks or 4
            scheme = PositionScheme(kind="streaming", sinks=sinks, window=extension.window or max(1, length - sinks))
            farthest, hint = sinks + scheme.window - 1, "set fewer sinks or a smaller window"
    if farthest >= length:
        raise ValueError(
            f"{extension.name} would tell distances of up to {farthest:,} to a model trained on {length:,} tokens; "
            f"{hint}"
        )
    return scheme
