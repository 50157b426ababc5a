"""What does a network cost: parameters by part, FLOPs a token, bytes of cache?

All from the configuration alone, before anything large is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diptych.core.config import TransformerConfig
from diptych.models.layers import reach, repeated_layers, sized_patches
from diptych.nn.block import build_mixer
from diptych.nn.conditioning import FEATURES
from diptych.nn.mixer import LayerState, Passage


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs at a context of some tokens."""

    parameters: dict[str, int]
    """Of each part."""
    forward_flops_per_token: int
    """2 a parameter that multiplies, and 4 n_heads d_head T a layer for the attention over T tokens."""
    cache_bytes_per_token: int
    """Keys and values for one position, of all layers that keep the whole past."""
    cache_bytes_fixed: int
    """What the other layers keep, however long the text."""
    memory_bytes: int
    """Weights, and the cache of one sequence."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())


def cost_of(config: TransformerConfig, context: int, element_size: int, *, cached: bool = True) -> Cost:
    """The cost at `context` tokens, weights and cache in numbers of `element_size` bytes.

    A position attends to no more than its mask lets it. An encoder-decoder is stated for `context` tokens of the source
    and of the target: a decoder's block attends to both, and caches both. cached: False for an encoder, which reads a
    text at once and remembers nothing.
    """
    parameters = parameters_by_part(config)
    cached = cached and config.patches is None  # all patches are read at once
    growing = cache_bytes_per_token(config, element_size) if cached else 0
    fixed = _fixed_cache_bytes(config, element_size, context) if cached else 0
    weights = sum(parameters.values()) * element_size
    return Cost(
        parameters=parameters,
        forward_flops_per_token=2 * matmul_parameters(config) + _mixing_flops(config, context),
        cache_bytes_per_token=growing,
        cache_bytes_fixed=fixed,
        memory_bytes=weights + growing * context + fixed,
    )


def parameters_by_part(config: TransformerConfig) -> dict[str, int]:
    """Number of parameters in each part of a network of this configuration."""
    if config.patches is not None:
        return _parts_over_patches(config)
    d, layers, encoders = config.d_model, config.n_layers, config.n_encoder_layers
    is_pair = encoders > 0
    attention = _attention_matrices(config) + _attention_vectors(config)
    own = sum(count * (_mixer_parameters(config, layer) or attention) for layer, count in repeated_layers(config))
    feed_forward = _feed_forward_matrices(config) + _biases(config, _feed_forward_rows(config), d)
    norms = 2 * (layers + encoders) + (layers if is_pair else 0)
    norms += (1 + is_pair if config.norm_placement == "pre" else 0) + (1 + is_pair if config.embedding_norm else 0)
    transform = d * d + _biases(config, d, 0) + _norm(config) if config.head_transform else 0
    parts = {
        "embedding": config.vocab_size * d,
        "positions": config.max_length * d if config.position == "learned" else 0,
        "attention": own + encoders * attention,
        "cross_attention": layers * attention if is_pair else 0,
        "feed_forward": (layers + encoders) * feed_forward,
        "normalization": norms * _norm(config),
        "head_transform": transform,
        "unembedding": 0 if config.tied_embedding else config.vocab_size * d,
        "output_bias": config.vocab_size if config.output_bias else 0,
    }
    return {name: count for name, count in parts.items() if count}


def _parts_over_patches(config: TransformerConfig) -> dict[str, int]:
    patches, d, layers = sized_patches(config), config.d_model, config.n_layers
    numbers, (rows, columns) = patches.channels * patches.size**2, patches.grid
    attention = _attention_matrices(config) + _attention_vectors(config)
    parts = {
        "patches": (numbers + 1) * d,
        "positions": rows * columns * d if config.position == "learned" else 0,
        "time": (FEATURES + 1 + d + 1) * d,
        "classes": (patches.n_classes + 1) * d if patches.n_classes else 0,
        "modulation": (d + 1) * (6 * layers + 2) * d,
        "attention": sum(n * (_mixer_parameters(config, layer) or attention) for layer, n in repeated_layers(config)),
        "feed_forward": layers * (_feed_forward_matrices(config) + _biases(config, _feed_forward_rows(config), d)),
        "unembedding": (d + 1) * numbers,
    }
    return {name: count for name, count in parts.items() if count}


def _norm(config: TransformerConfig) -> int:
    match config.norm:
        case "layer":
            return config.d_model * (2 if config.bias else 1)
        case "rms":
            return config.d_model
        case "none":
            return 0


def _attention_rows(config: TransformerConfig) -> int:
    return (config.n_heads + 2 * config.kv_heads) * config.head_width


def _attention_matrices(config: TransformerConfig) -> int:
    return config.d_model * (_attention_rows(config) + config.n_heads * config.head_width)


def _attention_vectors(config: TransformerConfig) -> int:
    inner = _attention_rows(config) if config.bias or config.qkv_bias else 0
    heads = 2 * config.head_width if config.qk_norm else 0
    return inner + heads + _biases(config, 0, config.d_model)


def _feed_forward_rows(config: TransformerConfig) -> int:
    return config.inner_width * (2 if config.feed_forward == "swiglu" else 1)


def _feed_forward_matrices(config: TransformerConfig) -> int:
    return config.d_model * (_feed_forward_rows(config) + config.inner_width)


def _biases(config: TransformerConfig, inner: int, outer: int) -> int:
    return inner + outer if config.bias else 0


def matmul_parameters(config: TransformerConfig) -> int:
    """Parameters that multiply every token: all matrices but the embedding look-up, the un-embedding included.

    Of an encoder-decoder: those of a source token and a target token together. Of a network over patches: those of one
    patch, and its share of those that multiply once an image.
    """
    own = sum(
        count * (_mixer_parameters(config, layer, matrices=True) or _attention_matrices(config))
        for layer, count in repeated_layers(config)
    )
    inner = _feed_forward_matrices(config)
    if config.patches is not None:
        return own + config.n_layers * inner + _patch_matrices(config)
    cross = _attention_matrices(config) if config.n_encoder_layers else 0
    head = (config.vocab_size + (config.d_model if config.head_transform else 0)) * config.d_model
    encoder = config.n_encoder_layers * (_attention_matrices(config) + inner)
    return own + config.n_layers * (inner + cross) + encoder + head


def _patch_matrices(config: TransformerConfig) -> int:
    """Those of a network over patches outside its blocks, for one patch."""
    patches, d = sized_patches(config), config.d_model
    rows, columns = patches.grid
    once = (FEATURES + d + d * (6 * config.n_layers + 2)) * d
    return 2 * patches.channels * patches.size**2 * d + once // (rows * columns)


def training_flops_per_token(config: TransformerConfig, sequence_length: int) -> float:
    """FLOPs of a training step a token: 6 a parameter, and 12 n_heads d_head T a layer for the attention scores.

    Chowdhery et al. 2022, appendix B; the masked half of the causal scores is counted, as is the custom.
    """
    return 6.0 * matmul_parameters(config) + 3.0 * _mixing_flops(config, sequence_length)


def _mixing_flops(config: TransformerConfig, context: int) -> int:
    """What mixing positions costs a token besides its matrices, forward, over all layers.

    Attention: 4 n_heads d_head for each key in reach. A recurrence: what one step of its state costs, a product and a
    sum of each number of it counted as two.
    """
    width = config.n_heads * config.head_width
    others = config.n_encoder_layers + (config.n_layers if config.n_encoder_layers else 0)
    flops = others * 4 * width * context
    for layer, count in repeated_layers(config):
        match config.attention_of(layer):
            case "softmax":
                back = reach(config, layer)
                own = 4 * width * (context if back is None else min(context, back.first + back.recent))
            case "linear":
                own = 4 * width * config.head_width  # add k v^T, read with q
            case "gated_delta":
                own = 8 * width * config.head_width  # decay, read with k, add, read with q
            case "transformer_xl":
                own = 6 * width * min(context, config.segment.memory_length + config.segment.length)
            case _:
                inner = config.memory.expansion if config.memory.depth > 1 else 1
                matrices = width * config.head_width * (1 if config.memory.depth == 1 else inner * config.memory.depth)
                near = (config.window or config.segment.length) + config.memory.n_persistent
                own = 12 * matrices + 4 * width * min(context, near)  # read, gradient, two decaying sums
        flops += count * own
    return flops


def cache_bytes_per_token(config: TransformerConfig, element_size: int) -> int:
    """Bytes of keys and values that one position of one sequence occupies in the layers that keep the whole past.

    Of an encoder-decoder: those of a source token and a target token together.
    """
    whole = sum(
        count
        for layer, count in repeated_layers(config)
        if config.attention_of(layer) == "softmax" and reach(config, layer) is None
    )
    layers = whole + (config.n_layers if config.n_encoder_layers else 0)
    return layers * _position_bytes(config, element_size)


def _position_bytes(config: TransformerConfig, element_size: int) -> int:
    return 2 * config.kv_heads * config.head_width * element_size


def _fixed_cache_bytes(config: TransformerConfig, element_size: int, context: int) -> int:
    """Bytes of what all other layers keep of one sequence: keys and values in reach, and states."""
    total = 0
    for layer, count in repeated_layers(config):
        back = reach(config, layer)
        if config.attention_of(layer) != "softmax":
            total += count * _state_bytes(config, layer, element_size)
        elif back is not None:
            total += count * min(context, back.first + back.recent) * _position_bytes(config, element_size)
    return total


def _state_bytes(config: TransformerConfig, layer: int, element_size: int) -> int:
    """Bytes of the state that a recurrence keeps, found by reading one token without computing anything."""
    dtype = torch.bfloat16 if element_size == 2 else torch.float32
    with torch.device("meta"):
        mixer = build_mixer(config, layer).to(dtype)
        state = LayerState()
        mixer(torch.empty(1, 1, config.d_model, dtype=dtype), Passage(), None, state)
    return state.n_bytes


def _mixer_parameters(config: TransformerConfig, layer: int, *, matrices: bool = False) -> int:
    """Parameters of a recurrence, or those of its matrices alone; 0 for attention, whose parameters are counted
    here."""
    if config.attention_of(layer) == "softmax":
        return 0
    with torch.device("meta"):
        mixer = build_mixer(config, layer)
    return sum(p.numel() for p in mixer.parameters() if p.dim() == 2 or not matrices)
