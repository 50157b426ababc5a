"""What do the parts of a paradigm say to each other?

A paradigm is an `Objective` (a forward process and its loss) and a `Sampler` (the backward process). Both see
a network only as a `Predictor`, and the trainer sees only these protocols, so that autoregression and diffusion
share everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from diptych.core.random import Rng


@runtime_checkable
class Mask(Protocol):
    """Which keys may each query attend to? A value: see `diptych.nn.masks` for the kinds."""

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where the query at position `query` may attend to the key at position `key`."""
        ...

    def bounds(self, query: Any, key: Any) -> Any:
        """What holds of whole blocks of queries and keys: `Bounds` of two `Span`s."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples for one micro-batch.

    `x` holds tokens (b, t) or continuous data (b, ...). `sample_ids` numbers the examples globally, so that
    noise keyed by them survives re-batching, resharding and resume. `places` (b) numbers them in the order of
    training, from the first step on, so that what is spread evenly over a step survives them too. `documents` (b, t)
    numbers the documents that share a row: attention must not cross them. `positions` (b, t) counts from each
    document's first token in the row. `counted` (b, t - 1) says which of the targets x[:, 1:] count. `cond` is what the
    examples are conditioned on, for translation the source's tokens (b, s), of which `cond_lengths` (b) are no padding.
    `n_bytes` is the UTF-8 length of what the loss predicts, by which nats become bits per byte.
    """

    x: Tensor
    sample_ids: Int[Tensor, " b"]
    places: Int[Tensor, " b"] | None = None
    documents: Int[Tensor, "b t"] | None = None
    positions: Int[Tensor, "b t"] | None = None
    counted: Bool[Tensor, "b t"] | None = None
    cond: Tensor | None = None
    cond_lengths: Int[Tensor, " b"] | None = None
    n_bytes: int = 0

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        return Batch(
            x=self.x.to(device, non_blocking=True),
            sample_ids=self.sample_ids.to(device, non_blocking=True),
            places=move(self.places),
            documents=move(self.documents),
            positions=move(self.positions),
            counted=move(self.counted),
            cond=move(self.cond),
            cond_lengths=move(self.cond_lengths),
            n_bytes=self.n_bytes,
        )

    def rows(self, start: int, end: int) -> Batch:
        """The examples from `start` to `end`; their bytes are not counted apart."""

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[start:end]

        return Batch(
            x=self.x[start:end],
            sample_ids=self.sample_ids[start:end],
            places=cut(self.places),
            documents=cut(self.documents),
            positions=cut(self.positions),
            counted=cut(self.counted),
            cond=cut(self.cond),
            cond_lengths=cut(self.cond_lengths),
        )


@dataclass(frozen=True)
class Loss:
    """A sum of losses in nats and the number of terms in it.

    The trainer alone divides, once, over all micro-batches and ranks: gradients do not depend on how a batch
    is split.
    """

    total: Float[Tensor, ""]
    count: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood of each sample in nats, exact or an upper bound.

    `nats` is (b,); `count` is the number of predicted terms in each sample (b,); `standard_error` (b,) is given
    where `nats` is a Monte-Carlo estimate.
    """

    nats: Float[Tensor, " b"]
    count: Int[Tensor, " b"]
    kind: Literal["exact", "bound"]
    standard_error: Float[Tensor, " b"] | None = None


@dataclass(frozen=True)
class Frame:
    """One step of a backward process: tokens for autoregression, a canvas for diffusion.

    `state` is (b,) tokens just chosen or (b, ...) the whole canvas; `info` carries what a view may show beside
    it (log-probabilities, candidates, which rows are finished), each with leading dimension b.
    """

    step: int
    of: int
    state: Tensor
    info: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Predictor(Protocol):
    """What an objective or a sampler may ask of a network."""

    def __call__(
        self,
        x: Tensor,
        *,
        mask: Mask,
        time: Tensor | None = None,
        cond: Tensor | None = None,
        positions: Int[Tensor, "#b t"] | None = None,
        cache: Any = None,
    ) -> Tensor: ...


@runtime_checkable
class TokenPredictor(Predictor, Protocol):
    """A predictor over a vocabulary whose last layer is linear, so that a loss need not hold all logits."""

    vocab_size: int

    def states(
        self,
        x: Int[Tensor, "b t"],
        *,
        mask: Mask,
        time: Tensor | None = None,
        cond: Tensor | None = None,
        positions: Int[Tensor, "#b t"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "b t d"]:
        """The last hidden states; `logits = states @ unembedding.T + output_bias`."""
        ...

    @property
    def unembedding(self) -> Float[Tensor, "v d"]:
        """W_u, the un-embedding matrix."""
        ...

    @property
    def output_bias(self) -> Float[Tensor, " v"] | None:
        """What is added to the logits, if anything."""
        ...

    def new_cache(self, batch_size: int, max_length: int) -> Any:
        """An empty key-value cache for `batch_size` rows of at most `max_length` positions."""
        ...


@runtime_checkable
class ConditionalPredictor(Protocol):
    """A network that reads a source before it predicts."""

    def given(self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"]) -> TokenPredictor:
        """The predictor of what follows from each row's source, of whose tokens the first `lengths` are no padding."""
        ...

    @property
    def unembedding(self) -> Float[Tensor, "v d"]:
        """W_u, the un-embedding matrix."""
        ...

    @property
    def output_bias(self) -> Float[Tensor, " v"] | None:
        """What is added to the logits, if anything."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """What a Gaussian backward process asks: the mean of clean data given noisy data, E[x | x + sigma eps].

    `x` is (b, ...) in the frame in which the signal is not scaled, z / alpha; `sigma` is (b,), sigma / alpha there.
    Networks, exactly solvable data and guided mixtures of them are all denoisers.
    """

    def __call__(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]: ...


@runtime_checkable
class Objective(Protocol):
    """The forward process of a paradigm and its loss."""

    def loss(self, model: Any, batch: Batch, rng: Rng) -> Loss:
        """Training loss in nats, summed, with gradients."""
        ...

    def likelihood(self, model: Any, batch: Batch, rng: Rng) -> Likelihood:
        """Negative log-likelihood of each sample in nats."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """The backward process of a paradigm."""

    def sample(self, model: Any, request: Any, rng: Rng) -> Iterator[Frame]:
        """Yield one frame a step."""
        ...
