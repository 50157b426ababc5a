"""Extensions: what their text says, what follows from the trained length, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from diptych.core.config import PositionScheme, RopeScaling, TransformerConfig
from diptych.core.context_extension import METHODS, ContextExtension, extended, parse_extension
from diptych.core.recipe import parse

L = 1024
CONFIG = TransformerConfig(vocab_size=9, max_length=L)


def config_for(text: str, config: TransformerConfig = CONFIG) -> TransformerConfig:
    return extended(config, parse_extension(text))


def test_text_becomes_numbers() -> None:
    assert parse_extension("string") == ContextExtension(name="string")
    expected = ContextExtension(name="yarn", factor=4.0, beta_fast=16.0)
    assert parse_extension(" yarn : factor = 4, beta_fast=16") == expected
    assert parse_extension("self_extend:group=8,window=512").window == 512


@pytest.mark.parametrize(
    ("text", "expected", "length"),
    [
        ("interpolation", RopeScaling(kind="linear", factor=4.0), 4 * L),
        ("interpolation:factor=2.5", RopeScaling(kind="linear", factor=2.5), 2560),
        ("ntk", RopeScaling(kind="ntk", factor=4.0), 4 * L),
        ("dynamic_ntk", RopeScaling(kind="dynamic", factor=4.0, original_max_length=L), 4 * L),
        ("yarn:length=512", RopeScaling(kind="yarn", factor=4.0, original_max_length=512), 2048),
        (
            "yarn:attention_factor=1.5,beta_slow=2",
            RopeScaling(kind="yarn", factor=4.0, original_max_length=L, attention_factor=1.5, beta_slow=2.0),
            4 * L,
        ),
        ("llama3", RopeScaling(kind="llama3", factor=8.0, original_max_length=L), 8 * L),
        ("string", PositionScheme(kind="string", shift=341, window=85), L),
        ("string:length=6144", PositionScheme(kind="string", shift=2048, window=128), 6144),
        ("string:factor=1.5", PositionScheme(kind="string", shift=640, window=128), 1536),
        ("string:shift=500,window=20", PositionScheme(kind="string", shift=500, window=20), L),
        ("rerope", PositionScheme(kind="rerope", window=512), 4 * L),
        ("self_extend:factor=2", PositionScheme(kind="self_extend", window=256, group=3), 2 * L),
        ("self_extend:window=512,group=8", PositionScheme(kind="self_extend", window=512, group=8), 4 * L),
        ("dca", PositionScheme(kind="dca", chunk=768, window=256, length=L), 4 * L),
        ("streaming", PositionScheme(kind="streaming", sinks=4, window=1020), 4 * L),
    ],
)
def test_defaults_follow_from_the_trained_length(
    text: str, expected: RopeScaling | PositionScheme, length: int
) -> None:
    found = config_for(text)
    assert found.max_length == length
    assert expected in (found.rope_scaling, found.position_scheme)
    changed = {"rope_scaling": None, "position_scheme": None, "max_length": L}
    assert dataclasses.replace(found, **changed) == CONFIG


@pytest.mark.parametrize("factor", [1.0, 1.25, 1.5, 2.0, 3.7, 16.0])
@pytest.mark.parametrize("length", [32, 100, 1024])
@pytest.mark.parametrize("name", ["string", "rerope", "self_extend", "dca", "streaming"])
def test_no_relative_position_is_longer_than_any_of_the_training(name: str, factor: float, length: int) -> None:
    """Counted pair by pair, at the last queries of the target; groups are the smallest for which it holds."""
    try:
        found = config_for(f"{name}:factor={factor},length={length}")
    except ValueError:
        assert name == "string" and factor > 1.5
        return
    scheme, target = found.position_scheme, found.max_length
    assert scheme is not None

    def farthest(group: int = scheme.group) -> int:
        m, told = target - 1, []
        for n in range(target):
            delta = m - n
            match name:
                case "string":
                    told.append(delta if delta < scheme.shift else delta - scheme.shift + scheme.window)
                case "rerope":
                    told.append(min(delta, scheme.window))
                case "self_extend":
                    w = scheme.window
                    told.append(delta if delta < w else m // group - n // group + w - w // group)
                case "dca":
                    told.append(scheme.length - 1 - n % scheme.chunk)
                case _:
                    told.append(delta if delta < scheme.window else scheme.sinks + scheme.window - 1 - min(n, 3))
        return max(told)

    assert farthest() < length
    if name == "self_extend" and scheme.group > 1:
        assert farthest(scheme.group - 1) >= length


@pytest.mark.parametrize("name", METHODS)
def test_configurations_survive_their_text_form(name: str) -> None:
    found = config_for(name)
    assert parse(TransformerConfig, json.loads(json.dumps(dataclasses.asdict(found))), "config.json") == found


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("rope", "unknown context extension 'rope'; did you mean rerope?"),
        (
            "magic",
            "there are interpolation, ntk, dynamic_ntk, yarn, llama3, string, rerope, self_extend, dca, streaming",
        ),
        ("", "there are interpolation"),
        ("yarn:", "cannot be read at ''; yarn takes factor, length, beta_fast, beta_slow, attention_factor"),
        ("yarn:group=2", "cannot be read at 'group=2'"),
        ("yarn:4", "cannot be read at '4'"),
        ("yarn:factor=2,factor=3", "gives factor twice"),
        ("yarn:factor=two", "factor must be a number, not 'two'"),
        ("string:shift=2.5", "shift must be a whole number, not '2.5'"),
        ("string:shift=0", "shift of string must be above 0"),
        ("yarn:factor=nan", "factor of yarn must be above 0"),
        ("yarn:factor=0.5", "must be at least 1"),
        ("yarn:factor=1e9", "rope_scaling.factor must be in"),
        ("yarn:beta_fast=0.5", "beta_fast must be above beta_slow"),
        ("string:factor=2", "distances of up to"),
        ("string:shift=5,window=9", "window=9 must not be above shift=5"),
        ("rerope:window=1024", "set a smaller window"),
        ("self_extend:group=2,window=512", "set a larger group"),
        ("dca:chunk=1000,window=30", "more than the trained length of 1024"),
        ("streaming:sinks=4,window=1024", "fewer sinks"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(text: str, fragment: str) -> None:
    with pytest.raises(ValueError) as caught:
        config_for(text)
    assert fragment in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_extended_already_is_refused() -> None:
    scaled = dataclasses.replace(CONFIG, rope_scaling=RopeScaling())
    with pytest.raises(ValueError, match="already stretched \\(llama3, factor 8\\)"):
        config_for("yarn", scaled)
    assert config_for("string", scaled).rope_scaling == RopeScaling()  # STRING was published for such models
    with pytest.raises(ValueError, match="already extended by string"):
        config_for("dca", config_for("string"))


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "string", "window": 3},
        {"kind": "rerope", "window": 3, "group": 2},
        {"kind": "dca", "window": 3, "chunk": 6, "length": 8},
        {"kind": "streaming", "window": 0, "sinks": 4},
    ],
)
def test_schemes_with_wrong_numbers_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^position_scheme[^\n]+$"):
        PositionScheme(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"position": "none"}, {"attention": ("linear",)}, {"n_encoder_layers": 1}])
@pytest.mark.parametrize(
    "field",
    [{"position_scheme": PositionScheme(kind="rerope", window=3)}, {"rope_scaling": RopeScaling(kind="yarn")}],
)
def test_networks_that_know_no_such_positions_are_refused(field: dict[str, object], changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^(position_scheme|rope_scaling)[^\n]+alone$"):
        TransformerConfig(**field, **changes)  # type: ignore[arg-type]
