"""How are measured numbers and a model's texts written for people?

Numbers with their units, bytes made visible, and the one paragraph that sums a review up. A non-breaking space keeps a
number and its unit on one line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from diptych.evaluation.yardsticks import Yardstick
from diptych.report.results import DataInfo, ReviewResults

SPACE = "\u00a0"
_PICTURES = {ord(" "): "␣", ord("\n"): "⏎", ord("\t"): "⇥", ord("\r"): "␍", 0x7F: "␡"}
_CONTROLS = {code: chr(0x2400 + code) for code in range(32)} | {0x7F: "␡"}


def number(value: float) -> str:
    """12345 -> "12,345"."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """12345678 -> "12.3 million"."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g}{SPACE}{word}"
    return number(value)


def size(n_bytes: float) -> str:
    """12345678 -> "12.3 MB", in powers of 1000."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            value = n_bytes / unit
            return f"{value:.0f}{SPACE}{word}" if value >= 100 else f"{value:.3g}{SPACE}{word}"
    return f"{n_bytes:.0f}{SPACE}bytes"


def memory(n_bytes: float) -> str:
    """24 * 2**30 -> "24 GiB"."""
    return f"{n_bytes / 2**30:.3g}{SPACE}GiB"


def duration(seconds: float) -> str:
    """243 -> "4 min 3 s"."""
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{SPACE}h {minutes}{SPACE}min"
    parts = [f"{minutes}{SPACE}min"] * (minutes > 0) + [f"{rest}{SPACE}s"] * (rest > 0)
    return " ".join(parts)


def percent(share: float) -> str:
    """0.523 -> "52 %", with one decimal below ten percent."""
    if 0 < share < 0.001:
        return f"<{SPACE}0.1{SPACE}%"
    return f"{100 * share:.0f}{SPACE}%" if share >= 0.0995 else f"{100 * share:.1f}{SPACE}%"


def listing(items: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def readable(text: str) -> str:
    """Text whose control characters, which a page cannot hold, have become their pictures; line ends and tabs stay."""
    kept = {ord("\n"), ord("\t")}
    return text.translate({code: picture for code, picture in _CONTROLS.items() if code not in kept})


def visible(token: bytes | str) -> str:
    """A token as it is shown: spaces and line ends as signs, long runs counted, stray bytes in hexadecimal."""
    text = token if isinstance(token, str) else token.decode("utf-8", "backslashreplace")
    text = re.sub(" {4,}", lambda run: f"␣×{len(run[0])}", text)
    return text.translate(_CONTROLS | _PICTURES)


def ending(text: str, width: int) -> str:
    """The end of a name that is too long, at most `width` signs: it tells a model's files and extensions apart."""
    return text if len(text) <= width else "…" + text[1 - width :]


def summary(results: ReviewResults) -> str:
    """One paragraph with the figures that matter, of those that were measured; empty if there are none."""
    learned = _learned(results)
    scored = _scored(results, subject="it" if learned else "the model")
    return " ".join(sentence for sentence in (learned, scored) if sentence)


def _learned(results: ReviewResults) -> str:
    if results.model is None or results.data is None or not results.training:
        return ""
    last = results.training[-1]
    cores = results.machine.cores if results.machine and results.machine.device == "cpu" else 0
    where = f" on {cores}{SPACE}processor core{'s' if cores > 1 else ''}" if cores else ""
    return (
        f"A transformer of {compact(results.model.parameters)} parameters was trained for {duration(last.seconds)}"
        f"{where}, reading {compact(last.tokens)} tokens of {results.data.name}{_passes(last.tokens, results.data)}."
    )


def _passes(tokens: int, data: DataInfo) -> str:
    if data.train_tokens < 1:
        return ""
    passes = tokens / data.train_tokens
    share = percent(passes) + " of" if passes < 1 else f"{passes:.1f} times through"
    return f" ({share} its {size(data.train_bytes)})"


def _scored(results: ReviewResults, subject: str) -> str:
    if results.score is None:
        return ""
    own = results.score.bits_per_byte
    at_most = "at most " if results.score.kind == "bound" else ""
    start = f"On text that was kept from it, {subject} needs {at_most}{own:.3f} bits per byte"
    beaten = [row for row in results.yardsticks if row.bits_per_byte > own]
    unbeaten = [row for row in results.yardsticks if row.bits_per_byte <= own]
    verdicts = [("fewer than", beaten), ("no fewer than", unbeaten)]
    parts = [f"{word} {listing([_cited(row) for row in rows])}" for word, rows in verdicts if rows]
    return f"{start}: {'; '.join(parts)}." if parts else f"{start}."


def _cited(row: Yardstick) -> str:
    return f"{row.name} ({row.bits_per_byte:.3f})"
