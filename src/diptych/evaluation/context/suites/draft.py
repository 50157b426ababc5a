"""How is a sample's haystack cut to a length?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from diptych.evaluation.context.suites.sample import Count, Sample


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A prompt with n units of haystack, n from `low` to `high`; the rest is as in a `Sample`."""

    build: Callable[[int], str]
    low: int
    high: int
    question: str
    answers: tuple[str, ...]
    kind: Literal["all", "any", "label"] = "all"


class TooShortError(ValueError):
    """A length does not hold even the least haystack."""


def fitted(draft: Draft, count: Count, tokens_to_generate: int, *, task: str, length: int, index: int) -> Sample:
    """The draft with as much haystack as the length holds beside what is generated. Raises ValueError for too short a
    length."""
    try:
        prompt, tokens = fit(draft.build, count, length - tokens_to_generate, low=draft.low, high=draft.high)
    except TooShortError as error:
        raise ValueError(f"{task} does not fit into {length:,} tokens: {error}; ask for a longer length") from None
    return Sample(
        task=task,
        length=length,
        index=index,
        prompt=prompt,
        tokens=tokens,
        question=draft.question,
        answers=draft.answers,
        kind=draft.kind,
        tokens_to_generate=tokens_to_generate,
    )


def fit(build: Callable[[int], str], count: Count, limit: int, *, low: int, high: int) -> tuple[str, int]:
    """`build(n)` and its tokens for the largest n in [low, high] with at most `limit` tokens, or one that leaves less
    room than a unit takes; the texts grow with n. Raises TooShortError where `build(low)` is too long.

    From the tokens a unit takes the next n is guessed; every third n halves what is left.
    """
    text = build(low)
    used = first = count(text)
    if used > limit:
        raise TooShortError(f"its shortest prompt takes {used - limit:,} tokens more")
    best, fails, n, rounds = low, high + 1, low + 8, 0
    while best + 1 < fails:
        n = min(max(n, best + 1), fails - 1)
        candidate = build(n)
        tokens = count(candidate)
        unit = max((tokens - first) / (n - low), 1e-3)
        if tokens <= limit:
            best, text, used = n, candidate, tokens
        else:
            fails = n
        if limit - used < unit:
            break
        rounds += 1
        n = (best + fails) // 2 if rounds % 3 == 0 and fails <= high else best + int((limit - used) / unit)
    return text, used
