"""Where does a chunk of text end, by the split patterns of GPT-2, cl100k and o200k, or of words alone?

Each scanner is its regular expression (`diptych.tokenizers.splitting`) written out as one pass over valid UTF-8, byte
by byte, letters eight at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import int64, uint64

from diptych.tokenizers.kernels.memory import compiled, inlined, load64, pasted, trailing_zeros

GPT2, CL100K, CL100K_TAIL, O200K, WORDS = range(5)
"""CL100K_TAIL: tiktoken's newer form, where white space at the end of the text is one chunk, line ends and all."""

OTHER, MARK, UPPER, LOWER, LETTER, NUMBER, SPACE, NEWLINE = range(8)
"""`diptych.tokenizers.classes.Class` as the compiler takes it."""

LOW_SEVEN = np.uint64(0x7F7F7F7F7F7F7F7F)
HIGH_BITS = np.uint64(0x8080808080808080)
SPACES = np.uint64(0x2020202020202020)
ABOVE_A = np.uint64(0x1F1F1F1F1F1F1F1F)
ABOVE_Z = np.uint64(0x0505050505050505)


@inlined
def _class_at(buffer: Any, p: Any, classes: Any) -> Any:
    """(class, length in bytes) of the character at p."""
    b = int64(buffer[p])
    if b < 0x80:
        return int64(classes[b]), int64(1)
    if b < 0xE0:
        return int64(classes[((b & 31) << 6) | (int64(buffer[p + 1]) & 63)]), int64(2)
    c = ((b & 15) << 6) | (int64(buffer[p + 1]) & 63)
    if b < 0xF0:
        return int64(classes[(c << 6) | (int64(buffer[p + 2]) & 63)]), int64(3)
    c = ((c & 0x1FF) << 12) | ((int64(buffer[p + 2]) & 63) << 6) | (int64(buffer[p + 3]) & 63)
    return int64(classes[c]), int64(4)


@pasted
def _run(buffer: Any, p: Any, n: Any, classes: Any, low: Any, high: Any, letter_bit: Any) -> Any:
    """The end of the run, from p on, of characters of classes low to high.

    `letter_bit`: all 0x20 to skip ASCII letters of both cases eight at a time, 0 to skip lower-case ones; all ones:
    none.
    """
    if letter_bit != ~uint64(0):
        while p + 8 <= n:
            word = load64(buffer, p)
            seven = (word | letter_bit) & LOW_SEVEN
            others = ~((seven + ABOVE_A) & ~(seven + ABOVE_Z) & ~word) & HIGH_BITS
            if others != uint64(0):
                p += trailing_zeros(others) >> 3
                if low >= UPPER and high <= LETTER and buffer[p] < 0x80:
                    return p  # most runs of letters end here, at no letter of ASCII
                break
            p += 8
    while p < n:
        k, length = _class_at(buffer, p, classes)
        if k < low or k > high:
            break
        p += length
    return p


@inlined
def _contraction(buffer: Any, p: Any, n: Any, any_case: Any) -> Any:
    """The length of 's, 't, 're, 've, 'm, 'll or 'd at the apostrophe p; 0: none."""
    if p + 1 >= n:
        return int64(0)
    b = int64(buffer[p + 1])
    if any_case:
        if b == 0xC5 and p + 2 < n and buffer[p + 2] == 0xBF:
            return int64(3)  # U+017F, the long s, is an s when case is ignored
        b |= 0x20
    if b in (115, 116, 109, 100):
        return int64(2)
    if p + 2 < n:
        c = int64(buffer[p + 2])
        if any_case:
            c |= 0x20
        if (b == 108 and c == 108) or (b in (118, 114) and c == 101):
            return int64(3)
    return int64(0)


@pasted
def _white_space(buffer: Any, p: Any, n: Any, classes: Any, to_newline: Any, whole_tail: Any, digits_apart: Any) -> Any:
    r"""The end of the chunk that begins with the white space at p: all of it but the last character before other text.

    `digits_apart`: all of it before a number. `to_newline`: through the last line end, if there is one (`\s*[\r\n]+`);
    `whole_tail`: all of it at the end of the text.
    """
    q, last, newline, k = p, p, int64(-1), int64(SPACE)
    while q + 8 <= n:
        word = load64(buffer, q) ^ SPACES
        if word != uint64(0):
            q += trailing_zeros(word) >> 3
            break
        q += 8
    if q > p:
        last = q - 1
    while q < n:
        k, length = _class_at(buffer, q, classes)
        if k < SPACE:
            break
        last = q
        q += length
        if k == NEWLINE:
            newline = q
    if q >= n and whole_tail:
        return q
    if to_newline and newline >= 0:
        return newline
    if digits_apart and k == NUMBER:
        return q
    return last if q < n and last > p else q


@inlined
def _numbers(buffer: Any, p: Any, n: Any, classes: Any, max_digits: Any) -> Any:
    """The end of at most `max_digits` numbers from p on."""
    for _ in range(max_digits):
        if p >= n:
            break
        k, length = _class_at(buffer, p, classes)
        if k != NUMBER:
            break
        p += length
    return p


@inlined
def _gpt2(buffer: Any, p: Any, n: Any, classes: Any, digits_apart: Any) -> Any:
    if buffer[p] == 39:
        length = _contraction(buffer, p, n, False)
        if length > 0:
            return p + length
    q = p + 1 if buffer[p] == 32 and p + 1 < n else p
    k, length = _class_at(buffer, q, classes)
    if digits_apart and k == NUMBER:
        return p + 1 if q > p else p + length
    q += length
    if UPPER <= k <= LETTER:
        return _run(buffer, q, n, classes, UPPER, LETTER, SPACES)
    if k == NUMBER:
        return _run(buffer, q, n, classes, NUMBER, NUMBER, ~uint64(0))
    if k <= MARK:
        return _run(buffer, q, n, classes, OTHER, MARK, ~uint64(0))
    return _white_space(buffer, p, n, classes, False, False, digits_apart)


@pasted
def _signs(buffer: Any, p: Any, n: Any, classes: Any, slash: Any) -> Any:
    """The end of signs from p on and of the line ends (and slashes) behind them."""
    p = _run(buffer, p, n, classes, OTHER, MARK, ~uint64(0))
    while p < n and (buffer[p] == 10 or buffer[p] == 13 or (slash and buffer[p] == 47)):
        p += 1
    return p


@inlined
def _cl100k(buffer: Any, p: Any, n: Any, classes: Any, max_digits: Any, whole_tail: Any) -> Any:
    if buffer[p] == 39:
        length = _contraction(buffer, p, n, True)
        if length > 0:
            return p + length
    k, length = _class_at(buffer, p, classes)
    q = p + length
    if UPPER <= k <= LETTER:
        return _run(buffer, q, n, classes, UPPER, LETTER, SPACES)
    if k == NUMBER:
        return _numbers(buffer, p, n, classes, max_digits)
    if k != NEWLINE:
        following, length = (_class_at(buffer, q, classes)) if q < n else (int64(SPACE), int64(0))
        if UPPER <= following <= LETTER:
            return _run(buffer, q + length, n, classes, UPPER, LETTER, SPACES)
        if k <= MARK or (buffer[p] == 32 and following <= MARK):
            return _signs(buffer, q, n, classes, False)
    return _white_space(buffer, p, n, classes, True, whole_tail, False)


@pasted
def _cased_word(buffer: Any, p: Any, n: Any, classes: Any) -> Any:
    """The end of upper-case letters and then at least one lower-case, o200k's first alternative; -1: no such word at p.

    Letters without case and marks count as either. Where no lower-case letter follows the upper-case ones, the pattern
    gives back characters up to the last one that may count as lower-case.
    """
    last = int64(-1)
    k = int64(OTHER)
    while p < n:
        k, length = _class_at(buffer, p, classes)
        if k in (LETTER, MARK):
            p += length
            last = p
        elif k == UPPER:
            p += length
        else:
            break
    if p < n and k == LOWER:
        p = _run(buffer, p, n, classes, LOWER, LOWER, uint64(0))
        while p < n:
            k, length = _class_at(buffer, p, classes)
            if k not in (LOWER, LETTER, MARK):
                break
            p += length
        return p
    return last


@inlined
def _o200k(buffer: Any, p: Any, n: Any, classes: Any, max_digits: Any) -> Any:
    k, length = _class_at(buffer, p, classes)
    q = p + length
    if k == NUMBER:
        return _numbers(buffer, p, n, classes, max_digits)
    prefixed = k in (OTHER, MARK, SPACE)
    start = q if prefixed else p
    end = _cased_word(buffer, start, n, classes) if k != NEWLINE else int64(-1)
    if end < 0 and k == MARK:
        end = _cased_word(buffer, p, n, classes)
    if end < 0 and k != NEWLINE:
        upper = _run(buffer, start, n, classes, UPPER, UPPER, ~uint64(0))
        if upper > start:
            end = upper
    if end >= 0:
        if end < n and buffer[end] == 39:
            end += _contraction(buffer, end, n, True)
        return end
    if k <= MARK:
        return _signs(buffer, q, n, classes, True)
    if buffer[p] == 32 and q < n and _class_at(buffer, q, classes)[0] <= MARK:
        return _signs(buffer, q, n, classes, True)
    return _white_space(buffer, p, n, classes, True, False, False)


@inlined
def _words(buffer: Any, p: Any, n: Any, classes: Any) -> Any:
    k, length = _class_at(buffer, p, classes)
    p += length
    if k >= SPACE:
        return p
    p = _run(buffer, p, n, classes, OTHER, NUMBER, SPACES)
    return p + 1 if p < n and buffer[p] == 32 else p


@compiled
def split(buffer: Any, offsets: Any, classes: Any, rule: Any, cursor: Any, ends: Any) -> Any:
    """Fill `ends` with the ends of the next chunks; returns how many, 0 when all documents are done.

    buffer: uint8, documents of valid UTF-8 one after another, document i from offsets[i] to offsets[i + 1]; rule:
    (scanner, max_digits); cursor: (document, position), moved on.
    """
    d, p, count = cursor[0], cursor[1], 0
    scanner, max_digits = rule
    while d < offsets.size - 1:
        n = offsets[d + 1]
        while p < n:
            if count == ends.size:
                cursor[0], cursor[1] = d, p
                return count
            if scanner == GPT2:
                p = _gpt2(buffer, p, n, classes, max_digits == 1)
            elif scanner == O200K:
                p = _o200k(buffer, p, n, classes, max_digits)
            elif scanner == WORDS:
                p = _words(buffer, p, n, classes)
            else:
                p = _cl100k(buffer, p, n, classes, max_digits, scanner == CL100K_TAIL)
            ends[count] = p
            count += 1
        d += 1
    cursor[0], cursor[1] = d, p
    return count
