"""How is a byte-level byte-pair tokenizer exchanged? As Hugging Face's tokenizer.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diptych.core.files import write_text
from diptych.tokenizers.bpe import BytePairTokenizer, Normalization
from diptych.tokenizers.ends import Ends, find_ends, marked
from diptych.tokenizers.letters import from_letters, to_letters
from diptych.tokenizers.splitting import PATTERNS, Split

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_STEPS = {"truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"}
_NO_PARTS = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
MAX_ID = 1 << 21
_LONGEST_PATTERN, _MOST_REPETITIONS = 20_000, 10_000


def write(tokenizer: BytePairTokenizer, path: Path) -> None:
    """Write a tokenizer.json that Hugging Face `tokenizers` loads with the same ids."""
    pieces, special = tokenizer.ordinary, tokenizer.special_tokens
    names = [to_letters(piece) for piece in pieces]
    added = [
        {"id": token, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | {"special": name not in tokenizer.always}
        for name, token in sorted(special.items(), key=lambda item: item[1])
    ]
    vocabulary = {name: i for i, name in reversed(list(enumerate(names))) if name}
    model = {
        "type": "BPE",
        **_NO_PARTS,
        "ignore_merges": tokenizer.whole_pieces,
        "vocab": {**dict(sorted(vocabulary.items(), key=lambda item: item[1])), **special},
        "merges": [[names[left], names[right]] for left, right in merges_of(tokenizer)],
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None if tokenizer.normalization is None else {"type": tokenizer.normalization},
        "pre_tokenizer": _pre_tokenizer(tokenizer.split),
        "post_processor": None if tokenizer.bos is None else opening(tokenizer.bos, tokenizer.opening_id),
        "decoder": _BYTE_LEVEL,
        "model": model,
    }
    whole = marked(whole, Ends(bos=tokenizer.bos, eos=tokenizer.eos))
    write_text(path, json.dumps(whole, ensure_ascii=False, indent=1) + "\n")


def opening(name: str, token: int) -> dict[str, Any]:
    """The post-processor that puts a special token before every text."""
    step = {"SpecialToken": {"id": name, "type_id": 0}}
    texts = [{"Sequence": {"id": which, "type_id": number}} for number, which in enumerate("AB")]
    return {
        "type": "TemplateProcessing",
        "single": [step, texts[0]],
        "pair": [step, texts[0], {"SpecialToken": {"id": name, "type_id": 1}}, texts[1]],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }


def _pre_tokenizer(split: Split) -> dict[str, Any]:
    if split == Split.named("gpt2"):
        return _BYTE_LEVEL
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    steps: list[dict[str, Any]] = [{**isolated, "pattern": {"Regex": pattern}} for pattern in split.patterns]
    return {"type": "Sequence", "pretokenizers": [*steps, {**_BYTE_LEVEL, "use_regex": False}]}


def merges_of(tokenizer: BytePairTokenizer) -> list[tuple[int, int]]:
    """The merges in order; for a tokenizer that has ranks only, every cut of a token into two, by the token's id."""
    if tokenizer.merges is not None:
        return tokenizer.merges
    ids = {piece: token for token, piece in reversed(list(enumerate(tokenizer.ordinary))) if piece}
    merges: list[tuple[int, int]] = []
    for token, piece in enumerate(tokenizer.ordinary):
        if ids.get(piece) == token:
            cuts = ((ids.get(piece[:i]), ids.get(piece[i:])) for i in range(1, len(piece)))
            merges += sorted((left, right) for left, right in cuts if left is not None and right is not None)
    return merges


def read(values: dict[str, Any], path: Path) -> BytePairTokenizer:
    """The tokenizer of a parsed tokenizer.json. Raises ValueError naming the first part that is not understood."""
    model = _checked(values, path)
    split, normalization = _split(values.get("pre_tokenizer"), path), _normalization(values.get("normalizer"), path)
    special, always = _added_tokens(values.get("added_tokens"), path)
    ends = find_ends(values, path, special)
    try:
        return from_vocabulary(
            _mapping(model.get("vocab")),
            model.get("merges"),
            split,
            special,
            eos=ends.eos,
            bos=ends.bos,
            whole_pieces=bool(model.get("ignore_merges")),
            normalization=normalization,
            always=always,
        )
    except ValueError as error:
        raise ValueError(f"{path}: vocabulary and merges do not fit together ({brief(error)})") from None


def _mapping(vocab: object) -> dict[str, Any]:
    if not isinstance(vocab, dict):
        raise ValueError("the vocabulary is no object of tokens and ids")
    return vocab


def from_vocabulary(
    vocab: Mapping[str, int],
    merges: Any,
    split: Split,
    special: Mapping[str, int],
    *,
    eos: str | None,
    bos: str | None = None,
    whole_pieces: bool = False,
    normalization: Normalization | None = None,
    size: int = 0,
    always: Collection[str] = (),
) -> BytePairTokenizer:
    """A tokenizer of entries in GPT-2's letters.

    merges: a list; each is a pair of entries, or a line with a space between them. size: the least number of ids, some
    perhaps not in use. always: special tokens that are recognized in every text. Raises ValueError where the parts do
    not fit together.
    """
    pieces = [b""] * count_ids([*vocab.values(), *special.values()], size)
    reserved = {token: name for name, token in special.items()}
    if len(reserved) < len(special):
        raise ValueError("two special tokens have one id")
    for name, token in special.items():
        pieces[token] = name.encode()
    for name, token in vocab.items():
        if reserved.get(token, name) != name or (token not in reserved and pieces[token]):
            raise ValueError(f"id {token} stands for two tokens")
        if token not in reserved:
            try:
                pieces[token] = from_letters(name)
            except KeyError:
                raise ValueError(f"token {brief(name)} is not written in the letters of bytes") from None
    return BytePairTokenizer(
        pieces,
        _pairs(merges, vocab),
        split,
        special,
        eos=eos,
        bos=bos,
        whole_pieces=whole_pieces,
        normalization=normalization,
        always=always,
    )


def count_ids(ids: list[Any], size: int) -> int:
    """How many ids there are, those not in use included. Raises ValueError for a file of few tokens that asks for
    millions."""
    most = min(MAX_ID, 2 * max(len(ids), size) + 1000)
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < most:
            raise ValueError(f"id {brief(token)} is no whole number from 0 to {most - 1}")
    return max(size, max(ids, default=-1) + 1)


def _pairs(merges: Any, vocab: Mapping[str, int]) -> list[tuple[int, int]]:
    if not isinstance(merges, list):
        raise ValueError("there is no list of merges")
    pairs = []
    try:
        for merge in merges:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            pairs.append((vocab[left], vocab[right]))
    except (KeyError, TypeError, ValueError):
        place = f"merge {len(pairs)}" if pairs else "the first merge"
        raise ValueError(f"{place} is no pair of tokens") from None
    return pairs


def _checked(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The model of a tokenizer.json that holds only parts which are understood; ValueError naming the first other."""
    if extra := sorted(values.keys() - _STEPS - {"version", "added_tokens", "model"}):
        raise _refused(path, f"part {brief(extra[0])}")
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise NotReadHereError(f"{path}: only byte-level BPE tokenizers are read, not {_kind(model)}")
    if extra := sorted(model.keys() - {"type", "vocab", "merges", "ignore_merges"} - _NO_PARTS.keys()):
        raise _refused(path, f"model.{brief(extra[0])}")
    for name, expected in _NO_PARTS.items():
        if model.get(name, expected) not in (expected, "" if expected is None else expected):
            raise _refused(path, f"model.{name} = {brief(model[name])}")
    if not isinstance(model.get("ignore_merges", False), bool):
        raise _refused(path, f"model.ignore_merges = {brief(model['ignore_merges'])}")
    for name in ("post_processor", "decoder"):
        if values.get(name) is not None and _kind(values[name]) != "ByteLevel" and not _adds_special(values[name]):
            raise _refused(path, f"{name} {_kind(values[name])}")
    return model


def _adds_special(part: object) -> bool:
    """Whether a post-processor only puts special tokens around a text, which is left to the caller here."""
    if not isinstance(part, dict):
        return False
    if part.get("type") == "Sequence" and isinstance(part.get("processors"), list):
        return all(_kind(step) == "ByteLevel" or _adds_special(step) for step in part["processors"])
    return part.get("type") == "TemplateProcessing" and isinstance(part.get("special_tokens"), dict)


def _split(part: object, path: Path) -> Split:
    """The split of a pre-tokenizer: ByteLevel, alone or after splits by regular expressions and of digits."""
    steps = part.get("pretokenizers") if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    patterns = []
    if not isinstance(steps, list) or not steps:
        raise _refused(path, f"pre_tokenizer {brief(part)}")
    for step in steps[:-1]:
        patterns.append(_pattern(step, path))
    last = steps[-1]
    uses_regex = isinstance(last, dict) and last.get("use_regex", True)
    expected = {**_BYTE_LEVEL, "use_regex": uses_regex}
    if not isinstance(last, dict) or {**expected, **last, "trim_offsets": True} != expected:
        raise _refused(path, f"pre_tokenizer {_kind(last)}")
    if uses_regex:
        patterns.append(PATTERNS["gpt2"])
    if not patterns:
        raise _refused(path, "pre_tokenizer ByteLevel without any split")
    for pattern in patterns:
        check_pattern(pattern, path)
        try:
            _ = Split((pattern,)).rule or Split((pattern,)).compiled
        except (ValueError, RecursionError):
            raise ValueError(f"{path}: {brief(pattern)} is no regular expression that is understood") from None
    return Split(tuple(patterns))


def check_pattern(pattern: str, path: Path) -> None:
    """ValueError for a pattern that takes memory without end: what must repeat is written out when it is compiled, and
    a pattern that calls itself, which Hugging Face's engine writes otherwise, may never return."""
    repetitions = math.prod(max(1, int(count[:9])) for count in re.findall(r"\{\s*(\d+)", pattern))
    if len(pattern) > _LONGEST_PATTERN or repetitions > _MOST_REPETITIONS:
        raise ValueError(f"{path}: {brief(pattern)} is too large for a split")
    if re.search(r"(?<!\\)\(\?(?:R|&|P>|[+-]?\d)", pattern):
        raise ValueError(f"{path}: {brief(pattern)} calls itself, which is not supported")


def _pattern(step: object, path: Path) -> str:
    match step:
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", **rest} if not rest.get(
            "invert"
        ):
            return pattern
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True}:
            return pattern
        case {"type": "Digits", **rest}:
            return r"\p{N}" if rest.get("individual_digits") else r"\p{N}+"
        case _:
            raise _refused(path, f"pre_tokenizer {_kind(step)}")


def _normalization(part: object, path: Path) -> Normalization | None:
    if part is None:
        return None
    if not isinstance(part, dict) or part.keys() != {"type"} or part["type"] not in _FORMS:
        raise _refused(path, f"normalizer {_kind(part)}")
    form: Normalization = part["type"]
    return form


def _added_tokens(added: object, path: Path) -> tuple[dict[str, int], list[str]]:
    """Added tokens by name, and those of them that are not special and so are recognized in every text.

    Those that reach into the text around them are refused.
    """
    special, always = {}, []
    for token in added if isinstance(added, list) else [] if added is None else [added]:
        content = token.get("content") if isinstance(token, dict) else token
        if not isinstance(token, dict) or not isinstance(content, str) or not isinstance(token.get("id"), int):
            raise _refused(path, f"added token {brief(content)}")
        for flag in ("single_word", "lstrip", "rstrip"):
            if token.get(flag):
                raise _refused(path, f"added token {brief(content)} with {flag}")
        special[content] = token["id"]
        always += [] if token.get("special") else [content]
    return special, always


class NotReadHereError(ValueError):
    """A tokenizer.json with a part that another reader may understand."""


def _refused(path: Path, what: str) -> NotReadHereError:
    return NotReadHereError(f"{path}: {what} is not supported")


def _kind(part: object) -> str:
    return brief(part.get("type") if isinstance(part, dict) else part)


def brief(value: object) -> str:
    """One short line of what may be anything."""
    text = str(value) if isinstance(value, Exception) else " ".join(repr(value).strip("'").split())
    return text if len(text) < 100 else text[:97] + "..."
