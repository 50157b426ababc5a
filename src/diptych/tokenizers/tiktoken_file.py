"""How is a tokenizer exchanged with tiktoken? As its file of ranks: a line a token, its bytes in base64 and its rank.

The file names neither the split nor the special tokens; both are known for the files that OpenAI publishes, by their
names.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from diptych.core.files import write_text
from diptych.tokenizers.base import BYTES, EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.hugging_face import MAX_ID
from diptych.tokenizers.splitting import Split

_FIM = {"<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260}
PUBLISHED: dict[str, tuple[str, dict[str, int]]] = {
    "r50k_base": ("gpt2", {EOS: 50256}),
    "p50k_base": ("gpt2", {EOS: 50256}),
    "cl100k_base": ("cl100k", {EOS: 100257, **_FIM, "<|endofprompt|>": 100276}),
    "o200k_base": ("o200k", {EOS: 199999, "<|endofprompt|>": 200018}),
}
"""Name of a published file -> split and special tokens (tiktoken_ext/openai_public.py)."""


def write_ranks(tokenizer: BytePairTokenizer, path: Path) -> None:
    """Write the ranks of all tokens but the special ones.

    Raises ValueError for a tokenizer that ranks cannot describe: one that normalizes text, or whose ids do not follow
    the order of its merges.
    """
    if tokenizer.normalization is not None:
        raise ValueError(f"a file of ranks cannot say that text is brought to {tokenizer.normalization}; save as .json")
    ids = {piece: token for token, piece in reversed(list(enumerate(tokenizer.ordinary))) if piece}
    made = [ids[tokenizer.ordinary[left] + tokenizer.ordinary[right]] for left, right in tokenizer.merges or ()]
    firsts = list(dict.fromkeys(made))  # a token that two merges make has the place of the first
    if firsts != sorted(firsts):
        raise ValueError("the ids do not follow the order of the merges, so ranks cannot describe them; save as .json")
    lines = (f"{base64.b64encode(piece).decode()} {rank}\n" for rank, piece in enumerate(tokenizer.ordinary) if piece)
    write_text(path, "".join(lines))


def read_ranks(path: Path, split: str | None = None) -> BytePairTokenizer:
    """The tokenizer of a rank file, by tiktoken's rule of merging.

    split: a name or a regular expression; None: known by the file's name. A file that is none of the published ones
    gets one special token behind its ranks. Raises ValueError for a damaged file, naming the line.
    """
    name, special = path.stem, None
    if split is None:
        if name not in PUBLISHED:
            raise ValueError(
                f"{path} does not say how text is split; name the split, as in --split cl100k "
                f"(published files are known by their names: {', '.join(PUBLISHED)})"
            )
        split, special = PUBLISHED[name]
    pieces = _pieces(path)
    if special is None:
        special = {EOS: len(pieces)}
    pieces += [b""] * (max(special.values()) + 1 - len(pieces))
    for token_name, token in special.items():
        if pieces[token]:
            raise ValueError(f"{path}: rank {token} is not free for the special token {token_name}")
        pieces[token] = token_name.encode()
    try:
        return BytePairTokenizer(pieces, None, Split.named(split), special)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _pieces(path: Path) -> list[bytes]:
    by_rank: dict[int, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            text, rank_text = line.split()
            piece, rank = base64.b64decode(text, validate=True), int(rank_text)
            if not piece or not 0 <= rank < MAX_ID or rank in by_rank:
                raise ValueError
        except (ValueError, binascii.Error):
            raise ValueError(f"{path}, line {number}: not a token in base64 and a rank of its own") from None
        by_rank[rank] = piece
    if not by_rank:
        raise ValueError(f"{path} holds no ranks")
    if max(by_rank) > 2 * len(by_rank) + 1000:
        raise ValueError(f"{path} gives rank {max(by_rank)}, but holds only {len(by_rank)} tokens")
    if missing := set(BYTES) - set(by_rank.values()):
        raise ValueError(f"{path} is incomplete: byte 0x{min(missing)[0]:02x} has no token")
    if len(set(by_rank.values())) < len(by_rank):
        raise ValueError(f"{path} names a token twice")
    return [by_rank.get(rank, b"") for rank in range(max(by_rank) + 1)]
