"""How are needles hidden in a haystack? (RULER's eight tasks of a needle in a haystack)"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from diptych.evaluation.context.suites.draft import Draft
from diptych.evaluation.context.suites.text import COMPOUNDS, NOISE, Essay, repeated, sentences, spread

NEEDLE = "One of the special magic {kind} for {key} is: {value}."

TEMPLATE = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {kind} afterwards.\n{context}\nWhat are all the special magic {kind} for {query} mentioned in the provided "
    "text? The special magic {kind} for {query} mentioned in the provided text are"
)

TEMPLATE_OF_ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind} afterwards.\n{context}\nWhat is the special magic {kind} for {query} mentioned in the provided text? The "
    "special magic {kind} for {query} mentioned in the provided text is"
)

N_DEPTHS = 40
"""Needles in an essay stand at so many depths, at equal distances from its beginning to its end."""

FEWEST_TOKENS = 8
"""What a needle takes at least."""

Kind = Literal["words", "numbers", "uuids"]


@dataclass(frozen=True, kw_only=True)
class Needles:
    """One task: what the haystack is, of which kind keys and values are, and how many keys, values of each key, and
    keys that are asked for."""

    haystack: Literal["noise", "essay", "needle"]
    key: Kind = "words"
    value: Kind = "numbers"
    n_keys: int = 1
    n_values: int = 1
    n_asked: int = 1


NEEDLES: Final = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(haystack="essay"),
    "niah_single_3": Needles(haystack="essay", value="uuids"),
    "niah_multikey_1": Needles(haystack="essay", n_keys=4),
    "niah_multikey_2": Needles(haystack="needle"),
    "niah_multikey_3": Needles(haystack="needle", key="uuids", value="uuids"),
    "niah_multivalue": Needles(haystack="essay", n_values=4),
    "niah_multiquery": Needles(haystack="essay", n_keys=4, n_asked=4),
}


def hide(rng: Random, length: int, task: Needles, essay: Essay) -> Draft:
    """n units of haystack: words of the essay, or sentences of noise or needles."""
    straw = length // FEWEST_TOKENS if task.haystack == "needle" else 0
    keys = _keys(rng, task.key, task.n_keys + straw)
    values = [[_value(rng, task.value) for _ in range(task.n_values)] for _ in keys[: task.n_keys]]
    needles = [_needle(task, key, value) for key, of in zip(keys, values, strict=False) for value in of]
    rng.shuffle(needles)
    hay = [NOISE] if not straw else [_needle(task, key, _value(rng, task.value)) for key in keys[task.n_keys :]]
    if task.haystack == "essay":
        shares = sorted(round(100 * i / (N_DEPTHS - 1)) / 100 for i in rng.sample(range(N_DEPTHS), len(needles)))
    else:
        shares = sorted(rng.random() for _ in needles)
    asked = rng.sample(range(task.n_keys), task.n_asked)
    query = ", ".join(keys[i] for i in asked[:-1])
    query = f"{query}, and {keys[asked[-1]]}" if query else keys[asked[0]]
    one = task.n_asked * task.n_values == 1
    template, kind = (TEMPLATE_OF_ONE, task.value[:-1]) if one else (TEMPLATE, task.value)

    def build(n: int) -> str:
        if task.haystack == "essay":
            straws, space = sentences(" ".join(repeated(essay.words, n))), " "
        else:
            straws, space = repeated(hay, n), "\n"
        context = space.join(spread(needles, straws, [int(len(straws) * share) for share in shares]))
        return template.format(kind=kind, context=context, query=query)

    return Draft(
        build=build,
        low=1,
        high=len(hay) if straw else 4 * length,
        question=query,
        answers=tuple(value for i in asked for value in values[i]),
    )


def _needle(task: Needles, key: str, value: str) -> str:
    return NEEDLE.format(kind=task.value, key=key, value=value)


def _keys(rng: Random, kind: Kind, n: int) -> list[str]:
    """Different keys; of words at most as many as there are."""
    if kind == "words":
        return [COMPOUNDS[i] for i in rng.sample(range(len(COMPOUNDS)), min(n, len(COMPOUNDS)))]
    return [_value(rng, kind) for _ in range(n)]


def _value(rng: Random, kind: Kind) -> str:
    return (
        str(rng.randint(10**6, 10**7 - 1)) if kind == "numbers" else str(uuid.UUID(int=rng.getrandbits(128), version=4))
    )
