"""How does byte-pair encoding cut text?

Byte-level byte-pair encoding (Sennrich et al. 2016, algorithm 1; Radford et al. 2019, section 2.2): within each chunk
of the split, the pair that was merged first in training is merged first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from diptych.tokenizers.base import BYTES, EOS, Ids, utf8
from diptych.tokenizers.engine import ChunkEncoder, MergeTable
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.vocabulary import VocabularyOfBytes

Pair = tuple[int, int]

SHORT_TEXT, SHORT_TEXTS = 16, 1 << 16
"""Characters of texts whose ids are remembered as a whole, and how many of them: words come one by one, again and
again."""

Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]

_RUNS = re.compile("[\ud800-\udfff]+|[^\ud800-\udfff]+")


@final
class BytePairTokenizer(VocabularyOfBytes):
    """Byte-pair encoding over the bytes of each chunk of `split`.

    pieces: the bytes of token i, special tokens included, empty where an id is not used; bytes that are no token are
    left out of texts, as Hugging Face does, but all of printable ASCII must be there. merges: pairs (left id, right
    id) in the order of the training, each making the token of their joint bytes; None takes tiktoken's rule instead:
    neighbours merge wherever their joint bytes are a token, lower ids first. whole_pieces: a chunk that is a token is
    taken whole. normalization: a Unicode form that text is brought to first, which cannot be undone. eos, bos: the
    special tokens that end and begin a document. always: special tokens that are recognized in every text. Raises
    ValueError where the parts do not fit together.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        merges: Sequence[Pair] | None,
        split: Split,
        special_tokens: Mapping[str, int],
        *,
        eos: str | None = EOS,
        bos: str | None = None,
        whole_pieces: bool = False,
        normalization: Normalization | None = None,
        always: Collection[str] = (),
    ) -> None:
        super().__init__(pieces, special_tokens, eos, always=always, bos=bos)
        self.merges = None if merges is None else [(int(left), int(right)) for left, right in merges]
        self.split = split
        self.normalization = normalization
        special = set(special_tokens.values())
        self.ordinary = [b"" if token in special else piece for token, piece in enumerate(self.pieces)]
        table = None if self.merges is None else merge_table(self.merges, self.ordinary)
        self.whole_pieces = whole_pieces or merges is None
        known = set(self.ordinary)
        self._lacking = b"".join(byte for byte in BYTES if byte not in known)
        if printable := [byte for byte in self._lacking if 0x20 <= byte < 0x7F]:
            raise ValueError(f"byte 0x{printable[0]:02x} has no token: only byte-level vocabularies are handled")
        # The encoder wants a token for every byte; what lacks one is taken out before it gets there.
        stand_ins = [bytes([byte]) for byte in self._lacking]
        self._encoder = ChunkEncoder([*self.ordinary, *stand_ins], table, split, whole_pieces=self.whole_pieces)
        self._short: dict[str, tuple[Ids, list[int]]] = {}

    def encode_ordinary(self, text: str) -> Ids:
        """Ids of the text, int32; what looks like a special token is ordinary text."""
        known = self._short.get(text) if isinstance(text, str) else None
        if known is not None:
            return known[0].copy()
        ids = self._encode(self._normalized(text))
        if len(text) <= SHORT_TEXT:
            self._remember(text, ids)
        return ids

    def encode_list(self, text: str) -> list[int]:
        """Ids of the text as a Python list; special tokens are ordinary text."""
        known = self._short.get(text) if isinstance(text, str) and not self.always else None
        return known[1].copy() if known is not None else super().encode_list(text)

    def encode_batch(self, texts: Iterable[str], n_threads: int | None = None) -> list[Ids]:
        """Ids of each text, on `n_threads` threads; None: on all cores. Special tokens are ordinary text."""
        if self.always:
            return [self.encode(text) for text in texts]
        if self.normalization is not None:
            texts = map(self._normalized, texts)
        if not self._lacking:
            return self._encoder.encode_batch(texts, n_threads)
        texts = list(texts)
        found = self._encoder.encode_batch(texts, n_threads)
        return [self._encode(text) if self._lacks(utf8(text)) else ids for text, ids in zip(texts, found, strict=True)]

    def encode_bytes(self, data: bytes) -> Ids:
        """Ids of any bytes: what is no UTF-8 makes chunks of its own. Decoding gives the bytes back."""
        text = data.decode("utf-8", "surrogateescape")
        parts = []
        for run in _RUNS.findall(text):
            piece = run.encode("utf-8", "surrogateescape")
            is_text = not "\ud800" <= run[0] <= "\udfff"
            parts.append(self._encode(run) if is_text else self._without_lacking(piece, np.array([len(piece)])))
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def _encode(self, text: str) -> Ids:
        if self._lacking and self._lacks(data := utf8(text)):
            return self._without_lacking(data, self.split.chunk_ends(data.decode()))
        return self._encoder.encode(text)

    def _lacks(self, data: bytes) -> bool:
        return len(data.translate(None, self._lacking)) < len(data)

    def _without_lacking(self, data: bytes, ends: NDArray[np.int64]) -> Ids:
        """Ids of chunks that end at `ends`, bytes that have no token taken out of each before its pairs merge."""
        kept = ~np.isin(np.frombuffer(data, np.uint8), np.frombuffer(self._lacking, np.uint8))
        ends = np.unique(np.concatenate(([0], np.cumsum(kept)))[ends])
        return self._encoder.encode_pieces(data.translate(None, self._lacking), ends[ends > 0])

    def _normalized(self, text: str) -> str:
        if self.normalization is None:
            return text
        import unicodedata

        return unicodedata.normalize(self.normalization, text)

    def _remember(self, text: str, ids: Ids) -> None:
        if len(self._short) >= SHORT_TEXTS:
            self._short.clear()
        self._short[text] = (ids.copy(), ids.tolist())

    def save(self, path: Path) -> None:
        """Write tokenizer.json in Hugging Face's format, or, where the name ends in .tiktoken, a rank file."""
        if path.suffix == ".tiktoken":
            from diptych.tokenizers.tiktoken_file import write_ranks

            write_ranks(self, path)
        else:
            from diptych.tokenizers.hugging_face import write

            write(self, path)


def merge_table(merges: Sequence[Pair], pieces: Sequence[bytes]) -> MergeTable:
    """The merges with the tokens they make. Raises ValueError for one that names or makes no token."""
    ids = {piece: token for token, piece in reversed(list(enumerate(pieces))) if piece}
    merged = []
    for left, right in merges:
        if not (0 <= left < len(pieces) and 0 <= right < len(pieces) and pieces[left] and pieces[right]):
            raise ValueError(f"merge ({left}, {right}) names a token that does not exist")
        token = ids.get(pieces[left] + pieces[right])
        if token is None:
            raise ValueError(f"merge ({left}, {right}) makes {pieces[left] + pieces[right]!r}, which is no token")
        merged.append(token)
    pairs = np.array(merges, np.int32).reshape(-1, 2)
    ranks = np.arange(len(merges), dtype=np.int32)
    return MergeTable(
        np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]), ranks, np.array(merged, np.int32)
    )
