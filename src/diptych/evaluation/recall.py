"""How often does a network still know a needle that it read so many tokens ago?

The share of right answers by the distance from a needle to where it is asked for, each with its interval, beside the
share that guessing gives. Documents are those of a stream that nothing was learnt from; the same seed and number of
them give the same score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.types import TokenPredictor
from diptych.data.recall import RecallDocuments, RecallStream
from diptych.evaluation.intervals import wilson
from diptych.nn.embedding import unembed
from diptych.nn.masks import Causal

MOST_BINS = 10
"""Ranges of distance that a table or drawing shows at most."""

Guesser = Callable[[RecallDocuments], Int[Tensor, "b q"]]
"""Whatever answers the questions of documents: a token a question."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Right answers to questions whose needle lies `first` to `last` tokens before them."""

    first: int
    last: int
    right: int
    count: int

    @property
    def accuracy(self) -> float:
        """Right answers among all; NaN where nothing was asked."""
        return self.right / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson 1927), as if the questions of a document were independent."""
        return wilson(self.right, self.count)


@dataclass(frozen=True, kw_only=True)
class RecallScore:
    """Answers by distance: of `count[d]` questions whose needle lies d tokens before them, `right[d]` were answered.

    reach: how many tokens back information can travel through attention alone, all layers together; None: any distance,
    or not known.
    """

    right: tuple[int, ...]
    count: tuple[int, ...]
    n_values: int
    n_documents: int
    reach: int | None = None

    @property
    def chance(self) -> float:
        """Accuracy of a guess among the values: that of whoever does not know the needle, however clever."""
        return 1 / self.n_values

    def between(self, first: int, last: int) -> Share:
        """The questions whose needle lies `first` to `last` tokens before them, both included."""
        right, count = (sum(numbers[first : last + 1]) for numbers in (self.right, self.count))
        return Share(first=first, last=last, right=right, count=count)

    @property
    def whole(self) -> Share:
        """All questions."""
        return self.between(self._nearest, len(self.count) - 1)

    @property
    def beyond_reach(self) -> Share | None:
        """The questions whose needle attention alone cannot carry to them; None where there are none."""
        if self.reach is None or self.reach >= len(self.count) - 1:
            return None
        return self.between(max(self.reach + 1, self._nearest), len(self.count) - 1)

    def bins(self) -> Iterator[Share]:
        """Ranges of distance in order, at most `MOST_BINS` of a width that is a power of two; empty ones left out."""
        width = 1
        while len(self.count) > width * MOST_BINS:
            width *= 2
        for start in range(0, len(self.count), width):
            share = self.between(max(start, self._nearest), min(start + width, len(self.count)) - 1)
            if share.count:
                yield share

    @property
    def _nearest(self) -> int:
        return next((distance for distance, count in enumerate(self.count) if count), 0)


def attention_reach(config: TransformerConfig) -> int | None:
    """Distance of the farthest needle whose value attention alone can carry to a question, through all layers.

    A layer that sees w tokens, itself included, carries it w - 1 further; the value stands one token behind its key.
    None where a layer attends or remembers without bound, or attends by a mask.
    """
    spans = [_span(config, layer) for layer in range(config.n_layers)]
    return None if config.mask or None in spans else 1 + sum(span - 1 for span in spans if span is not None)


def _span(config: TransformerConfig, layer: int) -> int | None:
    """Tokens that attention in a layer sees at most; a Titans memory beside it is not counted."""
    match config.attention_of(layer):
        case "softmax":
            return config.window
        case "titans_gate" | "titans_layer":
            return config.window or config.segment.length
        case "titans_context":
            return config.segment.length
        case "transformer_xl":
            return config.segment.length + config.segment.memory_length
        case "linear" | "gated_delta":
            return None


def score_recall(
    model: TokenPredictor,
    stream: RecallStream,
    *,
    n_documents: int = 256,
    batch_size: int = 16,
    reach: int | None = None,
    on_event: Handler = ignore,
) -> RecallScore:
    """Ask a network about the first documents of a stream; its answer is the likeliest of all tokens.

    Raises ValueError for less than one document.
    """
    device = model.unembedding.device

    def guess(documents: RecallDocuments) -> Tensor:
        with torch.inference_mode():
            states = model.states(documents.tokens[:, :-1].to(device), mask=Causal())[:, documents.asked.to(device)]
            return unembed(states, model.unembedding, model.output_bias).argmax(-1).cpu()

    return score_guesses(guess, stream, n_documents=n_documents, batch_size=batch_size, reach=reach, on_event=on_event)


def score_guesses(
    guess: Guesser,
    stream: RecallStream,
    *,
    n_documents: int,
    batch_size: int,
    reach: int | None = None,
    on_event: Handler = ignore,
) -> RecallScore:
    """`score_recall` of whatever guesses."""
    if n_documents < 1 or batch_size < 1:
        raise ValueError("recall is scored on at least one document, and at least one at a time")
    right, count = (torch.zeros(stream.length + 1, dtype=torch.long) for _ in range(2))
    for first in range(0, n_documents, batch_size):
        documents = stream.documents(first, min(batch_size, n_documents - first))
        hits, distances = guess(documents) == documents.answers, documents.distances
        right += torch.bincount(distances[hits], minlength=len(right))
        count += torch.bincount(distances.flatten(), minlength=len(count))
        done = first + len(documents.tokens)
        on_event(Progressed(what="asking", done=done, total=n_documents, unit="documents"))
    farthest = int(count.nonzero().max())
    return RecallScore(
        right=tuple(right[: farthest + 1].tolist()),
        count=tuple(count[: farthest + 1].tolist()),
        n_values=stream.config.n_values,
        n_documents=n_documents,
        reach=reach,
    )
