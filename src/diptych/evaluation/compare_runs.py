"""What was trained in each run of a comparison, at what cost, and in what do the runs differ?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from diptych.checkpoints.open import open_model
from diptych.checkpoints.run_folder import WEIGHTS, load_recipe
from diptych.core.config import RunConfig
from diptych.core.events import Handler, ignore
from diptych.core.recipe import differences
from diptych.data.packing import TokenStore
from diptych.data.stream import Stream
from diptych.models.language_model import LanguageModel
from diptych.tokenizers.base import Tokenizer
from diptych.training.prepare import MAY_CHANGE
from diptych.training.streams import build_streams, text_store

EQUAL_WITHIN: Final = 0.05
"""FLOPs that differ by a smaller share count as equal."""

_OWN_LINES: Final = {"data.document_mask", "train.seed", *MAY_CHANGE}
_TRAINED_BY: Final = ("data.", "optim.", "train.", "init")


@dataclass(frozen=True, kw_only=True, eq=False)
class Contender:
    """A run made ready to be measured."""

    path: Path
    run: RunConfig
    model: LanguageModel
    tokenizer: Tokenizer
    train: TokenStore
    heldout: TokenStore
    heldout_stream: Stream
    """The rows of the held-out text, as training scored them."""

    @property
    def is_autoregressive(self) -> bool:
        """Whether its likelihood is exact and it writes from left to right, a token at a time."""
        return self.run.objective == "autoregressive"

    @property
    def length(self) -> int:
        """Targets in a training sequence."""
        return self.run.data.sequence_length


def open_contender(path: Path, device: torch.device, on_event: Handler = ignore) -> Contender:
    """Open a run folder with its own training text and held-out text.

    Raises ValueError for a run of another kind, FileNotFoundError for what is missing.
    """
    run = load_recipe(path)
    if is_of_images(run):
        raise ValueError(f"{path} learnt images and the others text, which do not compare; name runs of one kind")
    if run.data.format != "text" or run.objective == "masked_lm":
        raise ValueError(f"{path} is no run that writes text; compare runs of autoregression and of text diffusion")
    if run.lora is not None:
        raise ValueError(f"{path} trained a low-rank update; compare runs whose every weight was trained")
    opened = open_model(path, device=device, dtype=torch.float32)
    assert isinstance(opened.model, LanguageModel), "running text is learnt by one stack"
    train, heldout = build_streams(run, path, opened.tokenizer, on_event)
    return Contender(
        path=path,
        run=run,
        model=opened.model.eval(),
        tokenizer=opened.tokenizer,
        train=text_store(train),
        heldout=text_store(heldout),
        heldout_stream=heldout,
    )


def is_of_images(run: RunConfig) -> bool:
    """Whether a run learnt images, as sequences of pixels or whole."""
    return run.data.format in ("images", "pixels")


def paradigm_of(run: RunConfig) -> str:
    """The paradigm in words."""
    block = run.text_diffusion.block_length
    match run.objective:
        case "masked_diffusion":
            return "masked diffusion" if block is None else f"block diffusion, blocks of {block}"
        case "gaussian":
            return "Gaussian diffusion"
        case other:
            return other.replace("_", " ")


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths where these tell them apart, else the paths."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def ordinary_tokens(tokenizer: Tokenizer) -> str:
    """A digest of the tokens that come from text, in their order."""
    special = set(tokenizer.special_tokens.values())
    digest = hashlib.blake2b(digest_size=16)
    for token in range(tokenizer.vocab_size):
        if token not in special:
            piece = tokenizer.token_bytes(token)
            digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


def text_digest(store: TokenStore, tokenizer: Tokenizer) -> str:
    """A digest of a store's text, whatever its tokens."""
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    for special in tokenizer.special_tokens.values():
        pieces[special] = b"\0" if special == store.eos_id else b""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, store.n_tokens, 1 << 16):
        digest.update(b"".join(pieces[token] for token in store.tokens[start : start + (1 << 16)].tolist()))
    return digest.hexdigest()


def weights_digest(path: Path) -> str:
    """A digest of a run's weights."""
    with (path / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def same_rows(first: Contender, other: Contender) -> bool:
    """Whether row i of both runs' held-out text has the same tokens' text as its targets, so that rows pair up."""
    return (
        first.length == other.length
        and ordinary_tokens(first.tokenizer) == ordinary_tokens(other.tokenizer)
        and text_digest(first.heldout, first.tokenizer) == text_digest(other.heldout, other.tokenizer)
    )


def reservations(first: Contender, other: Contender, flops: tuple[float, float]) -> Iterator[str]:
    """What two runs differ in besides the paradigm, a line each. flops: of all their training."""
    keys = set(differences(first.model.config, other.model.config))
    if _ordinary_size(first) == _ordinary_size(other):
        keys.discard("vocab_size")
    if keys:
        yield f"another network: {', '.join(sorted(keys))}"
    if ordinary_tokens(first.tokenizer) != ordinary_tokens(other.tokenizer):
        yield "another tokenizer: rows of held-out text are not the same, so only bits per byte of all of it compare"
    if text_digest(first.heldout, first.tokenizer) != text_digest(other.heldout, other.tokenizer):
        yield "another held-out text: bits per byte do not compare"
    if (first.train.n_documents, first.train.n_bytes) != (other.train.n_documents, other.train.n_bytes):
        yield f"another training text: {other.train.n_bytes:,} bytes instead of {first.train.n_bytes:,}"
    yield from trained_otherwise(first.run, other.run, flops)


def trained_otherwise(
    first: RunConfig, other: RunConfig, flops: tuple[float, float], apart: Collection[str] = ()
) -> Iterator[str]:
    """In what the training of two runs differs, a line each; but for the keys `apart`. flops: of all of it."""
    changed = set(differences(first, other)) - _OWN_LINES - set(apart)
    if trained := sorted(key for key in changed if key.startswith(_TRAINED_BY)):
        yield f"trained by another recipe: {', '.join(trained)}"
    ratio = flops[1] / flops[0] if flops[0] else math.inf
    if not 1 / (1 + EQUAL_WITHIN) <= ratio <= 1 + EQUAL_WITHIN:
        yield f"{ratio:.2f} times the training FLOPs"


def _ordinary_size(contender: Contender) -> int:
    """Rows of the embedding that are no special token's."""
    return contender.model.config.vocab_size - len(contender.tokenizer.special_tokens)
