"""What is measured: a model on the disk, and what of its training is known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diptych.checkpoints.open import find, open_model
from diptych.checkpoints.run_folder import load_recipe
from diptych.core.config import RECIPE, RunConfig
from diptych.core.events import Handler, ignore
from diptych.data.lengths import relative_positions
from diptych.data.packing import TokenStore
from diptych.data.sources import read_documents
from diptych.evaluation.context.result import Positions
from diptych.models.language_model import LanguageModel
from diptych.tokenizers.base import Tokenizer, document_ids
from diptych.training.streams import build_streams, text_store

MOST_SHOWN = 200
"""Distances of which the frequency in training is kept, at equal factors."""

HASHED = 1 << 20
"""Bytes of a file of weights from which it is known again: its size and as much of its beginning and its end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A network that continues text. claimed: the longest sequence it says it takes. opens: whether its texts begin
    with the tokenizer's opening token. recipe: that of its training, where it was trained here."""

    name: str
    path: Path
    model: LanguageModel
    tokenizer: Tokenizer
    opens: bool
    chat_template: str | None
    stop_ids: tuple[int, ...]
    recipe: RunConfig | None
    fingerprint: str

    @property
    def claimed(self) -> int:
        """Tokens."""
        return self.model.config.max_length


def open_subject(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Subject:
    """Open MODEL. Raises ValueError for a model that does not continue text, and whatever `open_model` raises."""
    opened = open_model(path, device=device, dtype=dtype)
    if opened.objective != "autoregressive" or not isinstance(opened.model, LanguageModel):
        raise ValueError(f"{path} does not continue text; a context length is measured of models that do")
    is_run = path.is_dir() and (path / RECIPE).is_file()
    recipe = load_recipe(path) if is_run else None
    if recipe is not None and recipe.data.format in ("pairs", "images", "pixels"):
        raise ValueError(f"{path} learnt {recipe.data.format}, no running text, in which nothing can be asked")
    return Subject(
        name=path.resolve().name,
        path=path,
        model=opened.model.eval(),
        tokenizer=opened.tokenizer,
        opens=opened.opens,
        chat_template=opened.chat_template,
        stop_ids=opened.stop_ids,
        recipe=recipe,
        fingerprint=fingerprint(path),
    )


def fingerprint(path: Path) -> str:
    """What tells the weights of MODEL from others."""
    place = find(path)[1]
    digest = hashlib.blake2b(digest_size=16)
    weights = (".safetensors", ".gguf")
    files = [place] if place.is_file() else sorted(f for f in place.iterdir() if f.suffix in weights and f.is_file())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(HASHED))
            opened.seek(max(0, size - HASHED))
            digest.update(opened.read(HASHED))
    return digest.hexdigest()


def positions_in_training(subject: Subject, on_event: Handler = ignore) -> Positions | None:
    """How often training showed each distance, of a run on running text; None for all others."""
    recipe = subject.recipe
    if recipe is None or recipe.data.format != "text":
        return None
    train, _ = build_streams(recipe, subject.path, subject.tokenizer, on_event)
    length = recipe.data.sequence_length
    lengths = document_lengths(text_store(train)) if recipe.data.document_mask else np.array([length])
    frequency = np.array(relative_positions(lengths, length).frequency, np.float64)
    shown = np.unique(np.geomspace(1, length - 1, min(MOST_SHOWN, length - 1)).round().astype(int))
    shares = frequency[shown] / frequency[1]
    return Positions(distances=tuple(shown.tolist()), shares=tuple(shares.tolist()))


def document_lengths(store: TokenStore) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Tokens of each document of a store, that which opens it included."""
    mark = store.eos_id if store.opening_id is None else store.opening_id
    starts = np.flatnonzero(np.asarray(store.tokens) == mark)
    lengths = np.diff(np.append(starts, store.n_tokens)).astype(np.int64)
    return lengths[lengths > 1]


def held_out_texts(
    subject: Subject, sources: Sequence[str], longest: int, most: int, on_event: Handler = ignore
) -> list[list[int]]:
    """At most `most` documents of at least `longest` tokens, cut there: of `sources`, else of what a run held out, else
    of Python's own library."""
    recipe = subject.recipe
    if sources or recipe is None or recipe.data.format != "text":
        return _from_sources(subject.tokenizer, sources or ("stdlib",), longest, most)
    _, heldout = build_streams(recipe, subject.path, subject.tokenizer, on_event)
    tokens = np.asarray(text_store(heldout).tokens)
    lengths = document_lengths(text_store(heldout))
    mark = subject.tokenizer.opening_id
    starts = np.flatnonzero(tokens == mark)
    long = [int(start) for start, length in zip(starts, lengths, strict=False) if length >= longest]
    return [tokens[start : start + longest].tolist() for start in _spread(long, most)]


def _from_sources(tokenizer: Tokenizer, sources: Sequence[str], longest: int, most: int) -> list[list[int]]:
    found: list[list[int]] = []
    for document in read_documents(sources, "text"):
        if len(document.text) < longest:  # a token is at least a character, of all but a few
            continue
        ids = document_ids(tokenizer, document.text[: 16 * longest])
        if len(ids) >= longest:
            found.append(ids[:longest])
        if len(found) >= most:
            break
    return found


def _spread(places: list[int], most: int) -> list[int]:
    if len(places) <= most:
        return places
    return [places[i * len(places) // most] for i in range(most)]
