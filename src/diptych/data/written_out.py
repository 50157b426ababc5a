"""Which translations are exact and need no download? Numbers and dates written out in two languages.

`numbers:en-de` holds every number below a million in words (num2words), `dates:en-de` every day of two centuries in
full (babel). Both come in a fixed mixed order, so that the beginning of them is a sample of all of them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from functools import lru_cache

KINDS = ("numbers", "dates")

_STRIDE = 618_041
"""Prime to the sizes below: multiples of it, by the remainder, run through all places in a mixed order."""

_FIRST_DAY, _DAYS = datetime.date(1900, 1, 1), 73_049
_KINDS_OF_NUMBERS = (
    range(1_000),
    range(1_000, 1_000_000, 1_000),
    range(1_000, 10_000),
    range(10_000, 100_000),
    range(100_000, 1_000_000),
)
"""Of three digits at most; whole thousands, which are rare and end as no other number does; of four, five, six
digits."""


def is_written_out(source: str) -> bool:
    """Whether a source is one of these tasks."""
    return source.partition(":")[0] in KINDS and ":" in source


def written_out(source: str) -> Iterator[tuple[str, str]]:
    """Pairs of `KIND:FROM-TO`. Raises ValueError for an unknown language, ModuleNotFoundError without the extra."""
    kind, _, languages = source.partition(":")
    first, dash, second = languages.partition("-")
    if not dash or not first or not second:
        raise ValueError(f"{source} names no two languages; write it as {kind}:en-de")
    write: Callable[[int, str], str] = _number if kind == "numbers" else _date
    for index in _numbers() if kind == "numbers" else _places(_DAYS):
        yield write(index, first), write(index, second)


def _numbers() -> Iterator[int]:
    """Every number below a million once, the kinds of numbers in turns."""
    streams = [(kind, _places(len(kind))) for kind in _KINDS_OF_NUMBERS]
    while streams:
        for kind, places in list(streams):
            if (place := next(places, None)) is None:
                streams.remove((kind, places))
            elif kind.step > 1 or kind[place] < 1_000 or kind[place] % 1_000:
                yield kind[place]


def _places(size: int) -> Iterator[int]:
    return (i * _STRIDE % size for i in range(size))


@lru_cache(maxsize=1 << 18)
def _number(value: int, language: str) -> str:
    try:
        from num2words import num2words
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"numbers in words need num2words; {_INSTALL}") from None
    try:
        return str(num2words(value, lang=language))
    except NotImplementedError:
        raise ValueError(f"num2words does not know the language {language}; take another, such as en or de") from None


@lru_cache(maxsize=1 << 18)
def _date(day: int, language: str) -> str:
    try:
        from babel.core import UnknownLocaleError
        from babel.dates import format_date
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"dates in words need babel; {_INSTALL}") from None
    try:
        return str(format_date(_FIRST_DAY + datetime.timedelta(days=day), "full", locale=language))
    except (UnknownLocaleError, ValueError):
        raise ValueError(f"babel does not know the language {language}; take another, such as en or de") from None


_INSTALL = "pip install 'diptych[translate]'"
