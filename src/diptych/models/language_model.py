"""How do the layers make a network over tokens?

Embedding, blocks, final normalization and un-embedding: the decoder-only transformer (*Formal Algorithms*,
algorithm 10) under a causal mask, an encoder or a denoiser of text under a full one.
"""

from __future__ import annotations

from functools import partial
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.core.config import TransformerConfig
from diptych.core.types import Mask
from diptych.models.cache import KeyValueCache
from diptych.models.masking import given_to_layers
from diptych.nn.block import Block
from diptych.nn.embedding import HeadTransform, TokenEmbedding, Unembedding, unembed
from diptych.nn.lowering import Lowered
from diptych.nn.mixer import Given
from diptych.nn.near_far import Turn, refuse_positions
from diptych.nn.normalization import build_norm
from diptych.nn.one_row import next_row
from diptych.nn.positions import Rotation, check_reach, position_tables, rope_frequencies, rotation
from diptych.nn.precision import matmul_dtype


@final
class LanguageModel(nn.Module):
    """A `TokenPredictor`: logits over the vocabulary for every position. Weights start from `initialize`."""

    rope: Tensor | None
    slopes: Tensor | None
    sinusoids: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise ValueError(
                "the model's vocab_size is 0; set model.vocab_size, or train from a recipe with a tokenizer"
            )
        self.config = config
        self.vocab_size = config.vocab_size
        self.checkpoint_activations = False
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model, scaled=config.embedding_scale)
        learned = config.position == "learned"
        self.position_embedding = TokenEmbedding(config.max_length, config.d_model) if learned else None
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.blocks = nn.ModuleList(Block(config, layer=i) for i in range(config.n_layers))
        self.final_norm = build_norm(config) if config.norm_placement == "pre" else None
        self.head_transform = HeadTransform(config) if config.head_transform else None
        self.head = None if config.tied_embedding else Unembedding(config.vocab_size, config.d_model)
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.output_bias else None
        self.add_tables()

    def add_tables(self) -> None:
        """Make the tables by which positions are told, float32."""
        for name, table in position_tables(self.config).items():
            self.register_buffer(name, table, persistent=False)

    @property
    def unembedding(self) -> Float[Tensor, "v d"]:
        """W_u: the embedding's matrix where tied, else the head's."""
        return self.embedding.weight if self.head is None else self.head.weight

    def new_cache(self, batch_size: int, max_length: int) -> KeyValueCache:
        """An empty cache on the model's device and in its precision."""
        weight = self.embedding.weight
        return KeyValueCache(self.config, batch_size, max_length, device=weight.device, dtype=weight.dtype)

    def forward(
        self,
        x: Int[Tensor, "b t"],
        *,
        mask: Mask,
        time: Tensor | None = None,
        cond: Tensor | None = None,
        positions: Int[Tensor, "#b t"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t v"]:
        """Logits of every position."""
        states = self.states(x, mask=mask, time=time, cond=cond, positions=positions, cache=cache)
        return unembed(states, self.unembedding, self.output_bias)

    def states(
        self,
        x: Int[Tensor, "b t"],
        *,
        mask: Mask,
        time: Tensor | None = None,
        cond: Tensor | None = None,
        positions: Int[Tensor, "#b t"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """The states that are un-embedded. `positions` default to counting on from what the cache holds.

        Where rotary frequencies depend on the text's length (`rope_scaling.kind = "dynamic"`), it is the length that
        the cache was made for, else that of x. Raises ValueError where a sequence outgrows the cache or a table of
        positions, and for positions or a mask that a `position_scheme` cannot obey.
        """
        del time, cond  # this network is not conditioned
        count = x.shape[1]
        if positions is not None and cache is None and self.config.position_scheme is not None:
            refuse_positions(self.config.position_scheme)
        offset = 0 if cache is None else cache.offset
        end = count if cache is None else cache.end_after(count)
        if positions is not None and end > self.config.max_length:
            end = int(positions.max()) + 1  # a row may hold several copies of a position
        check_reach(self.config, end)
        places, branches = (positions, None) if cache is None else (None, positions)
        if positions is None:
            first = offset[:, None] if isinstance(offset, Tensor) else offset
            positions = (first + torch.arange(count, device=x.device)).view(-1, count)
        h = self._embed(x, positions)
        turn = self._turn(count if cache is None else cache.max_length, places, h)
        given = given_to_layers(
            self.config, mask, h, cache=cache, places=places, slopes=self.slopes, turn=turn, positions=branches
        )
        # Near and far parts turn queries and keys themselves.
        turned = None if turn is None or self.config.position_scheme is not None else turn(positions)
        h = self._through_blocks(h, given, turned, cache)
        if cache is not None:
            cache.advance(count)
        h = h if self.final_norm is None else self.final_norm(h)
        return h if self.head_transform is None else self.head_transform(h)

    def _through_blocks(
        self, h: Tensor, given: list[Given], turn: Rotation | None, cache: KeyValueCache | None
    ) -> Tensor:
        first = given[0]
        if isinstance(first, Lowered) and cache is not None and (room := cache.single_row()) is not None:
            row = next_row(self.blocks, h, first, turn, room)
            if row is not None:
                return row
        for index, block in enumerate(self.blocks):
            lowered = given[index % len(given)]
            if self.checkpoint_activations and self.training:
                h = checkpoint(block, h, lowered, turn, use_reentrant=False)
            else:
                h = block(h, lowered, turn, None if cache is None else cache.layer(index))
        return h

    def _embed(self, x: Tensor, positions: Tensor) -> Tensor:
        h: Tensor = self.embedding(x)
        if self.position_embedding is not None:
            h = h + self.position_embedding(positions)
        if self.sinusoids is not None:
            h = h + self.sinusoids[positions].to(h.dtype)
        if self.embedding_norm is not None:
            h = self.embedding_norm(h)
        return nn.functional.dropout(h, self.config.dropout, self.training)

    def _turn(self, length: int, places: Tensor | None, h: Tensor) -> Turn | None:
        """The rotation of positions in a text of `length` tokens, or of documents whose places are given."""
        if self.rope is None:
            return None
        config, frequencies, scale = self.config, self.rope, 1.0
        if config.rope_scaling is not None:
            scale = config.rope_scaling.attention_scale
            if config.rope_scaling.kind == "dynamic":
                length = length if places is None else int(places.max()) + 1
                found = rope_frequencies(config.head_width, config.rope_theta, config.rope_scaling, length)
                frequencies = found.to(self.rope)
        return partial(rotation, frequencies=frequencies, dtype=matmul_dtype(h), scale=scale)
