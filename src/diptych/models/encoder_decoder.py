"""How does a network read one sequence and write another?

The encoder-decoder of Vaswani et al. 2017 (*Formal Algorithms*, algorithm 8): an encoder that attends to the whole
source, and a decoder whose blocks attend to what they have written so far and then to the encoder's output. One
embedding serves source, target and un-embedding.
"""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.core.config import TransformerConfig
from diptych.core.types import Mask
from diptych.models.cache import EncoderDecoderCache, KeyValueCache
from diptych.models.masking import given_to_layers
from diptych.nn.attention import KeysAndValues, MultiHeadAttention
from diptych.nn.block import Block
from diptych.nn.embedding import HeadTransform, TokenEmbedding, Unembedding, unembed
from diptych.nn.lowering import Lowered
from diptych.nn.masks import Causal, Keys
from diptych.nn.mixer import Given
from diptych.nn.normalization import build_norm
from diptych.nn.positions import Rotation, check_reach, position_tables, rotation
from diptych.nn.precision import matmul_dtype


@final
class EncoderDecoder(nn.Module):
    """A `ConditionalPredictor`: `given` a source, a predictor of the target. Weights start from `initialize`."""

    rope: Tensor | None
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
        pre = config.norm_placement == "pre"
        self.embedding = TokenEmbedding(config.vocab_size, config.d_model, scaled=config.embedding_scale)
        learned = config.position == "learned"
        self.position_embedding = TokenEmbedding(config.max_length, config.d_model) if learned else None
        self.encoder_embedding_norm = build_norm(config) if config.embedding_norm else None
        self.embedding_norm = build_norm(config) if config.embedding_norm else None
        self.encoder = nn.ModuleList(Block(config) for _ in range(config.n_encoder_layers))
        self.encoder_norm = build_norm(config) if pre else None
        self.blocks = nn.ModuleList(Block(config, cross=True) for _ in range(config.n_layers))
        self.final_norm = build_norm(config) if pre else None
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

    def forward(
        self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"], x: Int[Tensor, "b t"]
    ) -> Float[Tensor, "b t v"]:
        """Logits of what follows each position of the target x."""
        logits: Tensor = self.given(source, lengths)(x, mask=Causal())
        return logits

    def given(self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"]) -> Conditioned:
        """The predictor of the target of each row's source, of whose tokens the first `lengths` are no padding."""
        return Conditioned(self, self.encode(source, lengths), _only_tokens(source, lengths))

    def encode(self, source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"]) -> Float[Tensor, "b s d"]:
        """The encoder's output. Raises ValueError where the source outgrows a table of positions."""
        positions = torch.arange(source.shape[1], device=source.device)[None]
        h, turn = self._embed(source, positions, self.encoder_embedding_norm)
        # Where a layer hides nothing of its own, one row of a mask serves all queries.
        hides = self.config.mask or self.config.window is not None
        given = given_to_layers(self.config, Keys(lengths), h) if hides else [_only_tokens(source, lengths)]
        for index, block in enumerate(self.encoder):
            h = self._through(block, h, given[index % len(given)], turn)
        return h if self.encoder_norm is None else self.encoder_norm(h)

    def decode(
        self,
        x: Int[Tensor, "b t"],
        states: Float[Tensor, "_ s d"],
        seen: Lowered,
        *,
        mask: Mask,
        positions: Int[Tensor, "b t"] | None = None,
        cache: EncoderDecoderCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """The states that are un-embedded, of a target whose source the encoder made `states` of.

        `seen` says which of those may be attended to. A cache holds all that it takes of them; it must be of the same
        source. Raises ValueError where a sequence outgrows the cache or a table of positions.
        """
        count = x.shape[1]
        own = None if cache is None else cache.own
        offset = 0 if own is None else own.offset
        end = count if own is None else own.end_after(count)
        if positions is None:
            first = offset[:, None] if isinstance(offset, Tensor) else offset
            positions = (first + torch.arange(count, device=x.device)).view(-1, count)
        h, turn = self._embed(x, positions, self.embedding_norm, end)
        given = given_to_layers(self.config, mask, h, cache=own)
        for index, block in enumerate(self.blocks):
            lowered = given[index % len(given)]
            if cache is None or own is None:
                h = self._through(block, h, lowered, turn, context=states, context_mask=seen)
            else:
                context, context_mask = cache.context[index], cache.context_mask
                h = block(h, lowered, turn, own.layer(index), context=context, context_mask=context_mask)
        if own is not None:
            own.advance(count)
        h = h if self.final_norm is None else self.final_norm(h)
        return h if self.head_transform is None else self.head_transform(h)

    def _through(self, block: nn.Module, *inputs: Tensor | Given | Rotation | None, **kept: Any) -> Tensor:
        """A block's output, its activations recomputed in the backward pass where that is wanted."""
        if self.checkpoint_activations and self.training:
            out: Tensor = checkpoint(block, *inputs, use_reentrant=False, **kept)
        else:
            out = block(*inputs, **kept)
        return out

    def _embed(
        self, x: Tensor, positions: Tensor, norm: nn.Module | None, end: int | None = None
    ) -> tuple[Tensor, Rotation | None]:
        """Token and position embeddings, and the rotation of queries and keys where positions are told by one."""
        check_reach(self.config, end or x.shape[1])
        h: Tensor = self.embedding(x)
        if self.position_embedding is not None:
            h = h + self.position_embedding(positions)
        if self.sinusoids is not None:
            h = h + self.sinusoids[positions].to(h.dtype)
        if norm is not None:
            h = norm(h)
        turn = None if self.rope is None else rotation(positions, self.rope, matmul_dtype(h))
        return nn.functional.dropout(h, self.config.dropout, self.training), turn


@final
class Conditioned:
    """A `TokenPredictor` of what follows from a source that has been read: `EncoderDecoder.given` makes it."""

    def __init__(self, network: EncoderDecoder, encoded: Float[Tensor, "b s d"], seen: Lowered) -> None:
        self.network, self.encoded, self.seen = network, encoded, seen
        self.vocab_size = network.vocab_size

    @property
    def unembedding(self) -> Float[Tensor, "v d"]:
        """The network's."""
        return self.network.unembedding

    @property
    def output_bias(self) -> Float[Tensor, " v"] | None:
        """The network's."""
        return self.network.output_bias

    def new_cache(self, batch_size: int, max_length: int) -> EncoderDecoderCache:
        """An empty cache of the target and the projected source; one source serves any number of rows.

        Raises ValueError where several sources do not fit `batch_size` rows.
        """
        rows = self.encoded.shape[0]
        if rows not in (1, batch_size):
            raise ValueError(f"{rows} sources do not fit {batch_size} targets")

        def spread(tensor: Tensor) -> Tensor:
            return tensor if rows == batch_size else tensor.expand(batch_size, *tensor.shape[1:])

        context: list[KeysAndValues] = []
        for attention in _cross_attentions(self.network):
            key, value = attention.project(self.encoded)
            context.append((spread(key), spread(value)))
        weight = self.network.embedding.weight
        own = KeyValueCache(self.network.config, batch_size, max_length, device=weight.device, dtype=weight.dtype)
        dense = self.seen.dense
        return EncoderDecoderCache(own, context, Lowered(dense=None if dense is None else spread(dense)))

    def __call__(
        self,
        x: Int[Tensor, "b t"],
        *,
        mask: Mask,
        time: Tensor | None = None,
        cond: Tensor | None = None,
        positions: Int[Tensor, "b t"] | None = None,
        cache: EncoderDecoderCache | None = None,
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
        positions: Int[Tensor, "b t"] | None = None,
        cache: EncoderDecoderCache | None = None,
    ) -> Float[Tensor, "b t d"]:
        """The states that are un-embedded."""
        del time, cond  # the source has been read
        return self.network.decode(x, self.encoded, self.seen, mask=mask, positions=positions, cache=cache)


def _only_tokens(source: Int[Tensor, "b s"], lengths: Int[Tensor, " b"]) -> Lowered:
    """Queries may attend to the tokens of their row's source, not to its padding: one row of a mask for all of them."""
    query = torch.zeros(1, 1, 1, dtype=torch.long, device=source.device)
    key = torch.arange(source.shape[1], device=source.device)[None, None, :]
    return Lowered(dense=Keys(lengths).allowed(query, key)[:, None])


@torch.no_grad()
def cross_attention_weights(
    model: EncoderDecoder, source: Int[Tensor, " s"], target: Int[Tensor, " t"]
) -> Float[Tensor, "l h t s"]:
    """How much each position of a target attends to each of its source: softmax(Q K^T / sqrt(d)) of every layer and
    head, by the written-out formula. The model must be in evaluation mode."""
    inputs: list[Tensor] = []
    attentions = _cross_attentions(model)
    hooks = [a.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0])) for a in attentions]
    try:
        given = model.given(source[None], torch.tensor([len(source)], device=source.device))
        given.states(target[None], mask=Causal())
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([a.weights(x, given.encoded)[0] for a, x in zip(attentions, inputs, strict=True)])


def _cross_attentions(model: EncoderDecoder) -> list[MultiHeadAttention]:
    """The layers by which the decoder's blocks attend to the source."""
    attentions = [block.cross_attention for block in model.blocks if isinstance(block, Block)]
    return [attention for attention in attentions if attention is not None]
