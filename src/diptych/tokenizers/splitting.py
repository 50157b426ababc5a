r"""Where may a token not cross? The split of text into chunks before byte-pair merges.

The patterns of GPT-2, Llama 3, Qwen 2, cl100k and o200k are compiled scanners; any other regular expression goes
through the `regex` library. What a pattern does not match is a chunk of its own, so that no text is lost.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

GPT2, CL100K, CL100K_TAIL, O200K, WORDS = range(5)
"""The scanners of `diptych.tokenizers.kernels.scanning`."""

_SHORT_FORMS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"'(?i:[sdmt]|ll|ve|re)")
_O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def _llama(digits: str) -> str:
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": _llama("{1,3}"),
    "qwen2": _llama(""),
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k": _O200K,
    "words": r"\S+ ?|\s",
}
"""Split patterns by name: Radford et al. 2019; Llama 3, which is GPT-4's first form; Qwen 2; GPT-4's present form in
tiktoken (0.8 on), where white space at the end of the text stays whole; GPT-4o's; words with the space behind them.
Written so that Hugging Face's engine reads them too."""


def _known_rules() -> dict[str, tuple[int, int]]:
    """(scanner, longest run of digits) for every published spelling of the patterns above."""
    rules = {PATTERNS["gpt2"]: (GPT2, 0), PATTERNS["o200k"]: (O200K, 3), PATTERNS["cl100k"]: (CL100K_TAIL, 3)}
    rules[PATTERNS["words"]] = (WORDS, 0)
    rules[r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"] = (GPT2, 0)
    rules[r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"] = (GPT2, 0)
    rules[
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ] = (CL100K_TAIL, 3)
    for digits, most in (("", 1), ("{1,1}", 1), ("{1,2}", 2), ("{1,3}", 3)):
        rules[_llama(digits)] = (CL100K, most)
        for end in (r"\s*[\r\n]+", r"\s*[\r\n]"):
            for possessive in ("", "+"):
                rules[
                    rf"{_SHORT_FORMS[1]}|[^\r\n\p{{L}}\p{{N}}]?{possessive}\p{{L}}+|\p{{N}}{digits}"
                    rf"| ?[^\s\p{{L}}\p{{N}}]+{possessive}[\r\n]*|{end}|\s+(?!\S)|\s+"
                ] = (CL100K, most)
    return rules


_RULES = _known_rules()

DIGITS_APART = (r"\p{N}", PATTERNS["gpt2"])
"""Every digit alone, and GPT-2's split between them, as StarCoder and SmolLM cut text."""

_ESCAPED = re.compile(r"\\.", re.DOTALL)


def _end_of_text(escaped: re.Match[str]) -> str:
    r"""What other engines call \z is \Z to `regex`."""
    return r"\Z" if escaped.group() == r"\z" else escaped.group()


@final
@dataclass(frozen=True)
class Split:
    """How text is cut into chunks: by each pattern in turn, within the chunks of the one before."""

    patterns: tuple[str, ...]

    @staticmethod
    def named(name: str) -> Split:
        """A split by its name in `PATTERNS`, or by a regular expression. Raises ValueError for what is neither."""
        if name not in PATTERNS and not set(name) & set("\\[](){}|+*?.^$ "):
            near = difflib.get_close_matches(name, PATTERNS, 1)
            hint = f"did you mean {near[0]}?" if near else f"names: {', '.join(PATTERNS)}"
            raise ValueError(f"split {name!r} is neither a known name nor a regular expression; {hint}")
        split = Split((PATTERNS.get(name, name),))
        if split.rule is None:
            _ = split.compiled
        return split

    @property
    def name(self) -> str:
        """The name in `PATTERNS`, or the patterns themselves."""
        names = {pattern: name for name, pattern in PATTERNS.items()}
        return " then ".join(names.get(pattern, pattern) for pattern in self.patterns)

    @cached_property
    def rule(self) -> tuple[int, int] | None:
        """(scanner, longest run of digits) where there is a compiled scanner for this split."""
        if self.patterns == DIGITS_APART:
            return (GPT2, 1)
        return _RULES.get(self.patterns[0]) if len(self.patterns) == 1 else None

    @cached_property
    def compiled(self) -> tuple[Any, ...]:
        """The patterns for the `regex` library. Raises ValueError for one that it does not understand."""
        import regex

        shown = " ".join(self.patterns)[:200]
        try:
            compiled = tuple(regex.compile(_ESCAPED.sub(_end_of_text, pattern)) for pattern in self.patterns)
        except (regex.error, RecursionError) as error:
            raise ValueError(f"{shown!r} is no regular expression: {error}") from None
        if any(pattern.flags & regex.REVERSE for pattern in compiled):
            raise ValueError(f"{shown!r} searches backwards, and a split goes forwards; leave (?r) out")
        return compiled

    def chunks(self, text: str) -> list[str]:
        """The chunks by the `regex` library, with its own table of characters; they join to the text."""
        chunks = [text] if text else []
        for pattern in self.compiled:
            chunks = [part for chunk in chunks for part in _parts(pattern, chunk)]
        return chunks

    def chunk_ends(self, text: str) -> NDArray[np.int64]:
        """Where the chunks of a text end in its UTF-8, by the `regex` library."""
        ends = np.cumsum([len(chunk) for chunk in self.chunks(text)], dtype=np.int64)
        if text.isascii():
            return ends
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        sizes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
        return np.concatenate(([0], np.cumsum(sizes)))[ends]


def _parts(pattern: Any, text: str) -> list[str]:
    """Matches and what lies between them."""
    parts, last = [], 0
    for match in pattern.finditer(text):
        if match.start() > last:
            parts.append(text[last : match.start()])
        if match.end() > match.start():
            parts.append(match.group())
        last = match.end()
    if last < len(text):
        parts.append(text[last:])
    return parts
