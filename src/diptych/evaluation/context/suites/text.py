"""What text hides the needles and facts of the published measures?

RULER takes Paul Graham's essays and BABILong books; neither is at hand without a download. The reader's own text
serves, or else the prose of Python's language reference.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from diptych.data.sources import read_documents
from diptych.evaluation.context.words import NOUNS

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
"""RULER's noise, again and again."""

SHORTEST_PARAGRAPH = 80
"""Characters from which on a paragraph of the language reference is prose, not a heading or a list's entry."""

_ADJECTIVES = """
    able ancient angry bitter blank blunt bold brave brief bright brisk broad calm careful cheap clean clear clever cold
    cool crisp curious curly damp dark deep dense distant double dry dull eager early easy empty equal exact faint fair
    famous fancy fast fierce fine firm flat formal fresh frozen gentle giant glad grand great happy harsh heavy hidden
    high hollow honest huge humble hungry idle jolly keen kind large late lazy light little lively lone long loud lovely
    low lucky mad mellow mighty mild misty modern modest narrow neat noble noisy odd old open pale patient plain playful
    polite poor proud pure quick quiet rapid rare raw ready rich rough round royal rude sad safe sharp shiny short shy
    silent simple sleepy slim slow small smart smooth soft solid sour square stable steep stiff strange strict strong
    sturdy sudden sunny sweet swift tall tame tender thick thin tidy tiny tired tough true vast vivid warm weak weary
    wet wide wild windy wise witty wooden young
"""

ADJECTIVES = tuple(_ADJECTIVES.split())

WORDS = tuple(sorted({*ADJECTIVES, *NOUNS}))
"""Words of a list of words."""

COMPOUNDS = tuple(f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS)
"""Keys of needles; and words of a list that has more of them than there are words."""


@dataclass(frozen=True, kw_only=True)
class Essay:
    """Running text. words: without white space; sentences: the same words. name: where it is from, and a digest."""

    words: tuple[str, ...]
    sentences: tuple[str, ...]
    name: str


def essay(sources: Sequence[str] = ("stdlib",)) -> Essay:
    """The text of files and folders (see `read_documents`), or with "stdlib" the prose of Python's language reference.

    Raises whatever `read_documents` does, and ValueError for sources without text.
    """
    return _essay(tuple(sources))


@cache
def _essay(sources: tuple[str, ...]) -> Essay:
    paragraphs = list[str]()
    for source in sources:
        paragraphs += _reference() if source == "stdlib" else [doc.text for doc in read_documents([source], "text")]
    words = tuple(" ".join(paragraphs).split())
    if not words:
        raise ValueError(f"there is no text in {', '.join(sources)}; name files or folders that hold some")
    text = " ".join(words)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Essay(words=words, sentences=tuple(sentences(text)), name=f"{', '.join(sources)} ({digest})")


def _reference() -> list[str]:
    from pydoc_data.topics import topics

    paragraphs = [" ".join(part.split()) for name in sorted(topics) for part in re.split(r"\n\s*\n", topics[name])]
    return list(
        dict.fromkeys(
            text
            for text in paragraphs
            if len(text) >= SHORTEST_PARAGRAPH
            and text[0].isupper()
            and text.endswith(".")
            and not re.search(r"::=|>>>|\|", text)
        )
    )


def sentences(text: str) -> list[str]:
    """A text cut after each full stop, question or exclamation mark that a space follows."""
    return re.split(r"(?<=[.?!])\s+", text.strip())


def repeated(items: Sequence[str], n: int, start: int = 0) -> list[str]:
    """n items in a row from `start` on, from the beginning again where they end."""
    start %= len(items)
    rounds = -(-(start + n) // len(items))
    return [*items[start:], *list(items) * (rounds - 1)][:n] if rounds > 1 else list(items[start : start + n])


def spread(items: Sequence[str], among: Sequence[str], places: Sequence[int]) -> list[str]:
    """`among` with each of the items, in order, put before the one at its place; places ascend."""
    out, done = list[str](), 0
    for item, place in zip(items, places, strict=True):
        out += *among[done:place], item
        done = place
    return [*out, *among[done:]]
