"""How does an encoder learn from words that are hidden from it?

Masked language modelling (Devlin et al. 2019, section 3.1; *Formal Algorithms*, algorithm 12): the forward process
selects a random subset of positions and hides most of them behind a mask token, and the loss is the negative
log-likelihood of the true tokens there, given all that is left on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import Batch, Likelihood, Loss, Mask, TokenPredictor
from diptych.nn.embedding import unembed
from diptych.nn.masks import Documents, Full
from diptych.objectives.cross_entropy import SliceLoss, cross_entropy_each, cross_entropy_sum, slice_loss
from diptych.tokenizers.base import Tokenizer

MASK_NAMES = ("<|mask|>", "[MASK]", "<mask>")
"""What tokenizers call the token that hides others: ours, BERT's, RoBERTa's."""


def mask_id_of(tokenizer: Tokenizer, chosen: str | None = None) -> int:
    """The token that hides others, by a name of its own if one is `chosen`. Raises ValueError where the tokenizer has
    none."""
    for name in MASK_NAMES if chosen is None else (chosen,):
        if name in tokenizer.special_tokens:
            return tokenizer.special_tokens[name]
    if chosen is not None:
        known = ", ".join(list(tokenizer.special_tokens)[:20])
        raise ValueError(f"text_diffusion.mask_token = '{chosen}' is no special token of the tokenizer; it has {known}")
    raise ValueError(
        "the tokenizer has no mask token; train one with tokenizer.special_tokens = ['<|mask|>'], as recipes/bert.toml "
        "does, or use a model that was trained on masked words"
    )


def select(
    maskable: Bool[Tensor, "b t"], uniform: Float[Tensor, "b t"], share: float | Float[Tensor, "b 1"]
) -> Bool[Tensor, "b t"]:
    """Each maskable position with probability `share` on its own, by a uniform number in (0, 1) a position."""
    return maskable & (uniform < share)


def corrupt(
    x: Int[Tensor, "b t"],
    selected: Bool[Tensor, "b t"],
    uniform: Float[Tensor, "b t"],
    drawn: Int[Tensor, "b t"],
    *,
    mask_id: int,
    masked: float = 1.0,
    random: float = 0.0,
) -> Int[Tensor, "b t"]:
    """The tokens with a share `masked` of the selected ones hidden and a share `random` replaced by those `drawn`.

    The rest of the selected tokens stay as they are. `uniform` decides, one number in (0, 1) a position.
    """
    hidden = selected & (uniform < masked)
    replaced = selected & (uniform >= masked) & (uniform < masked + random)
    return torch.where(hidden, mask_id, torch.where(replaced, drawn, x))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedLanguageModel:
    """Predict the selected tokens of x[:, :-1] from both sides: `share` of them, and at least one of a row that can.

    Of the selected ones `masked` are hidden behind `mask_id`, `random` are replaced by a token drawn evenly from the
    ordinary ones, and the rest stay, so that no position can be trusted blindly. `ordinary` (v) is True for tokens that
    may be selected and drawn: special ones, and so the openers of documents, never are. Attention goes both ways
    within a document. Noise is keyed by the row's sample id.
    """

    mask_id: int
    ordinary: Bool[Tensor, " v"]
    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    slice_loss: SliceLoss = slice_loss

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share={self.share} lies outside (0, 1]")
        if min(self.masked, self.random) < 0 or self.masked + self.random > 1.0:
            raise ValueError(f"masked={self.masked} and random={self.random} are no shares of a whole")

    def hide(
        self, x: Int[Tensor, "b t"], sample_ids: Int[Tensor, " b"], rng: Rng
    ) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """The forward process: what the network sees, and which positions it must predict."""
        ordinary = self.ordinary.to(x.device)
        maskable = ordinary[x]
        uniform = rng.uniform("select", sample_ids, x.shape[1])
        least = uniform.masked_fill(~maskable, 1.0).amin(1, keepdim=True)
        selected = select(maskable, uniform, self.share) | (maskable & (uniform == least))
        tokens = ordinary.nonzero()[:, 0]
        places = (rng.uniform("token", sample_ids, x.shape[1]) * len(tokens)).long()
        kind = rng.uniform("kind", sample_ids, x.shape[1])
        noisy = corrupt(x, selected, kind, tokens[places], mask_id=self.mask_id, masked=self.masked, random=self.random)
        return noisy, selected

    def loss(self, model: TokenPredictor, batch: Batch, rng: Rng) -> Loss:
        """Sum over the selected positions of the negative log-likelihood of their tokens in nats; `count` of them."""
        states, targets = self._states_and_targets(model, batch, rng)
        total = cross_entropy_sum(states, model.unembedding, targets, self.slice_loss, bias=model.output_bias)
        return Loss(total=total, count=targets.numel())

    def likelihood(self, model: TokenPredictor, batch: Batch, rng: Rng) -> Likelihood:
        """Raises ValueError: a network that sees both sides gives no probability to a text as a whole.

        The loss at the masked positions is neither exact nor a bound of one; `scores` gives it as what it is.
        """
        del model, batch, rng
        raise ValueError(
            "a masked language model gives no text a probability, and so no bits per byte; score its guesses at "
            "masked words with diptych fill MODEL --data DATA"
        )

    @torch.no_grad()
    def scores(
        self, model: TokenPredictor, batch: Batch, rng: Rng
    ) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Of each selected position: the nats of its token, the network's likeliest token, and the token."""
        states, targets = self._states_and_targets(model, batch, rng)
        nats = cross_entropy_each(states, model.unembedding, targets, model.output_bias)
        guesses = unembed(states, model.unembedding, model.output_bias).argmax(-1)
        return nats, guesses, targets

    def _states_and_targets(self, model: TokenPredictor, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor]:
        x = batch.x[:, :-1]
        mask: Mask = Full() if batch.documents is None else Documents(batch.documents[:, :-1])
        positions = None if batch.positions is None else batch.positions[:, :-1]
        noisy, selected = self.hide(x, batch.sample_ids, rng)
        return model.states(noisy, mask=mask, positions=positions)[selected], x[selected]


def masked_language_model(tokenizer: Tokenizer, slice_loss: SliceLoss = slice_loss) -> MaskedLanguageModel:
    """BERT's objective over a tokenizer's vocabulary. Raises ValueError where it has no mask token."""
    return MaskedLanguageModel(
        mask_id=mask_id_of(tokenizer),
        ordinary=ordinary_tokens(tokenizer.vocab_size, tokenizer.special_tokens.values()),
        slice_loss=slice_loss,
    )


def ordinary_tokens(vocab_size: int, special: Iterable[int]) -> Bool[Tensor, " v"]:
    """True for every token but the special ones."""
    ordinary = torch.ones(vocab_size, dtype=torch.bool)
    ordinary[list(special)] = False
    return ordinary
