"""Which examples does a recipe train and score on?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diptych.checkpoints.hugging_face import chat_template
from diptych.core.config import RunConfig
from diptych.core.events import Handler
from diptych.data.chat_store import ConversationStream, build_conversation_store
from diptych.data.conversations import heldout_conversations, training_conversations
from diptych.data.corpus import heldout_documents, training_documents
from diptych.data.images import ImageSet, ImageStream, has_images, load_images, read_images, save_images
from diptych.data.packing import TokenStore, build_token_store
from diptych.data.pairs import PairStream, build_pair_store
from diptych.data.parallel import heldout_pairs, training_pairs
from diptych.data.pixels import PixelStream, check_pixels
from diptych.data.recall import HELD_OUT, RecallStream
from diptych.data.stream import SequenceStream, Stream
from diptych.tokenizers.base import Tokenizer

Streams = tuple[Stream, Stream]
"""What is learnt, and what is held out."""


def training_texts(run: RunConfig, on_event: Handler) -> Iterator[str]:
    """The text that a tokenizer learns from; of pairs both sides."""
    if run.data.format == "pairs":
        for pair in training_pairs(run.data, on_event):
            yield pair.source
            yield pair.target
    else:
        for document in training_documents(run.data, on_event):
            yield document.text


def build_streams(run: RunConfig, out: Path, tokenizer: Tokenizer, on_event: Handler) -> Streams:
    """The streams of a run, their tokens made or found in its folder. Raises ValueError where there is too little."""
    match run.data.format:
        case "pairs":
            return _pairs(run, out, tokenizer, on_event)
        case "chat":
            return _conversations(run, out, tokenizer, on_event)
        case "recall":
            return _recall(run, tokenizer)
        case "images":
            return image_streams(run, out, on_event)
        case "pixels":
            return _pixels(run, out, tokenizer, on_event)
        case "text":
            return _texts(run, out, tokenizer, on_event)


def _texts(run: RunConfig, out: Path, tokenizer: Tokenizer, on_event: Handler) -> Streams:
    data, seed, folder = run.data, run.train.seed, out / "data"
    train = build_token_store(lambda: training_documents(data, on_event), tokenizer, folder / "train", on_event)
    heldout = build_token_store(lambda: heldout_documents(data, on_event), tokenizer, folder / "heldout", on_event)
    length, masked = data.sequence_length, data.document_mask
    return (
        SequenceStream(train, length, seed=seed, shuffle=True, document_mask=masked),
        SequenceStream(heldout, length, seed=seed, shuffle=False, document_mask=masked),
    )


def _pairs(run: RunConfig, out: Path, tokenizer: Tokenizer, on_event: Handler) -> Streams:
    data, folder, longest = run.data, out / "data", run.data.sequence_length
    train = build_pair_store(lambda: training_pairs(data, on_event), tokenizer, folder / "train", longest, on_event)
    heldout = build_pair_store(lambda: heldout_pairs(data, on_event), tokenizer, folder / "heldout", longest, on_event)
    return PairStream(train, seed=run.train.seed, shuffle=True), PairStream(heldout, shuffle=False)


def _conversations(run: RunConfig, out: Path, tokenizer: Tokenizer, on_event: Handler) -> Streams:
    data, folder, template = run.data, out / "data", chat_template(out)
    train = build_conversation_store(
        lambda: training_conversations(data, on_event), tokenizer, template, folder / "train", on_event
    )
    heldout = build_conversation_store(
        lambda: heldout_conversations(data, on_event), tokenizer, template, folder / "heldout", on_event
    )
    length, masked = data.sequence_length, data.document_mask
    return (
        ConversationStream(train, length, seed=run.train.seed, document_mask=masked, on_event=on_event),
        ConversationStream(heldout, length, shuffle=False, document_mask=masked, on_event=on_event),
    )


def _recall(run: RunConfig, tokenizer: Tokenizer) -> Streams:
    data, seed = run.data, run.train.seed
    return RecallStream(data, tokenizer, seed=seed), RecallStream(data, tokenizer, seed=seed, purpose=HELD_OUT)


def image_streams(run: RunConfig, out: Path, on_event: Handler) -> tuple[ImageStream, ImageStream]:
    """The images of a run."""
    train, heldout = _images(run, out, on_event)
    return ImageStream(train, seed=run.train.seed, shuffle=True), ImageStream(heldout, shuffle=False)


def _pixels(run: RunConfig, out: Path, tokenizer: Tokenizer, on_event: Handler) -> Streams:
    train, heldout = _images(run, out, on_event)
    check_pixels(run.data, train, tokenizer)
    opening = tokenizer.opening_id
    return PixelStream(train, opening, seed=run.train.seed, shuffle=True), PixelStream(heldout, opening, shuffle=False)


def _images(run: RunConfig, out: Path, on_event: Handler) -> tuple[ImageSet, ImageSet]:
    """The images to learn from and those held out, read once and kept in the run's folder."""
    train, heldout = (out / "data" / name for name in ("train", "heldout"))
    if not (has_images(train) and has_images(heldout)):
        for images, folder in zip(read_images(run.data, on_event), (train, heldout), strict=True):
            save_images(images, folder)
    return load_images(train), load_images(heldout)


def text_store(stream: Stream) -> TokenStore:
    """The tokens behind a stream of running text."""
    assert isinstance(stream, SequenceStream), "only running text is kept in such a store"
    return stream.store
