"""In which words are the needles of a task written and asked for?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Style = Literal["pairs", "sentences", "question"]
"""`pairs`: bare keys and values, as small models are trained on (`diptych.data.recall`). `sentences`: short sentences
that the model goes on with. `question`: the same sentences, asked about as people ask."""

STYLES: tuple[Style, ...] = ("pairs", "sentences", "question")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Templates. Words bring the space before them along."""

    pair: str
    """A needle: of `key` the value is `value`."""
    loose: str
    """A `value` that belongs to no key."""
    link: str
    """The value of `key` is that of `other`."""
    vote: str
    """One occurrence of `value` among those that are counted for `key`."""
    demonstration: str
    """An example, `first` and `second`, of the class `value`."""
    ask_value: str
    """Asks for the value of `key`."""
    ask_vote: str
    """Asks which value stood most often for `key`."""
    ask_class: str
    """Asks for the class of `first` and `second`."""


_PAIRS = Wording(
    pair="{key}{value}",
    loose="{value}",
    link="{key}{other}",
    vote="{key}{value}",
    demonstration="{first}{second}{value}",
    ask_value="{key}",
    ask_vote="{key}",
    ask_class="{first}{second}",
)

_SENTENCES = Wording(
    pair=" The code of{key} is{value}.",
    loose=" Somebody said{value}.",
    link=" The code of{key} is that of{other}.",
    vote=" One more vote for{value}.",
    demonstration="{first} and{second} belong to team{value}.",
    ask_value=" The code of{key} is",
    ask_vote=" Most votes were for",
    ask_class="{first} and{second} belong to team",
)

_QUESTION = Wording(
    pair=_SENTENCES.pair,
    loose=_SENTENCES.loose,
    link=_SENTENCES.link,
    vote=_SENTENCES.vote,
    demonstration=_SENTENCES.demonstration,
    ask_value=" Question: What is the code of{key}? Answer: The code of{key} is",
    ask_vote=" Question: What were most votes for? Answer: Most votes were for",
    ask_class=" Question: Which team do{first} and{second} belong to? Answer:{first} and{second} belong to team",
)


def wording_of(style: Style) -> Wording:
    """The templates of a style. Raises ValueError for one that there is not."""
    match style:
        case "pairs":
            return _PAIRS
        case "sentences":
            return _SENTENCES
        case "question":
            return _QUESTION
        case _:
            raise ValueError(f"there is no style {style!r}; there are {', '.join(STYLES)}")


def words_of(wording: Wording) -> frozenset[str]:
    """The words that the templates themselves hold."""
    texts = "".join(vars(wording).values())
    return frozenset(re.findall("[A-Za-z]+", re.sub(r"{\w+}", " ", texts)))
