"""What does a network cost: parameters by part, FLOPs a token, bytes of cache?

All from the configuration alone, before anything large is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.core.config import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs at a context of some tokens."""

    parameters: dict[str, int]
    """Of each part."""
    forward_flops_per_token: int
    """2 a parameter that multiplies, and 4 n_layers n_heads d_head T for the attention over T tokens."""
    cache_bytes_per_token: int
    """Keys and values of all layers for one position."""
    memory_bytes: int
    """Weights, and the cache of one sequence."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())


def cost_of(config: TransformerConfig, context: int, element_size: int, *, cached: bool = True) -> Cost:
    """The cost at `context` tokens, weights and cache in numbers of `element_size` bytes.

    A position attends to no more than `config.window` others. An encoder-decoder is stated for `context` tokens of the
    source and of the target: a decoder's block attends to both, and caches both. cached: False for an encoder, which
    reads a text at once and remembers nothing.
    """
    parameters, cache = parameters_by_part(config), cache_bytes_per_token(config, element_size) if cached else 0
    reach = min(context, config.window or context)
    scores = 4 * _attention_layers(config) * config.n_heads * config.head_width * reach
    weights = sum(parameters.values()) * element_size
    return Cost(
        parameters=parameters,
        forward_flops_per_token=2 * matmul_parameters(config) + scores,
        cache_bytes_per_token=cache,
        memory_bytes=weights + cache * context,
    )


def parameters_by_part(config: TransformerConfig) -> dict[str, int]:
    """Number of parameters in each part of a network of this configuration."""
    d, layers, encoders = config.d_model, config.n_layers, config.n_encoder_layers
    is_pair = encoders > 0
    attention = _attention_matrices(config) + _attention_vectors(config)
    feed_forward = _feed_forward_matrices(config) + _biases(config, _feed_forward_rows(config), d)
    norms = 2 * (layers + encoders) + (layers if is_pair else 0)
    norms += (1 + is_pair if config.norm_placement == "pre" else 0) + (1 + is_pair if config.embedding_norm else 0)
    transform = d * d + _biases(config, d, 0) + _norm(config) if config.head_transform else 0
    parts = {
        "embedding": config.vocab_size * d,
        "positions": config.max_length * d if config.position == "learned" else 0,
        "attention": (layers + encoders) * attention,
        "cross_attention": layers * attention if is_pair else 0,
        "feed_forward": (layers + encoders) * feed_forward,
        "normalization": norms * _norm(config),
        "head_transform": transform,
        "unembedding": 0 if config.tied_embedding else config.vocab_size * d,
        "output_bias": config.vocab_size if config.output_bias else 0,
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

    Of an encoder-decoder: those of a source token and a target token together.
    """
    block = _attention_matrices(config) + _feed_forward_matrices(config)
    cross = _attention_matrices(config) if config.n_encoder_layers else 0
    head = (config.vocab_size + (config.d_model if config.head_transform else 0)) * config.d_model
    return (config.n_layers + config.n_encoder_layers) * block + config.n_layers * cross + head


def training_flops_per_token(config: TransformerConfig, sequence_length: int) -> float:
    """FLOPs of a training step a token: 6 a parameter, and 12 n_layers n_heads d_head T for the attention scores.

    Chowdhery et al. 2022, appendix B; the masked half of the causal scores is counted, as is the custom.
    """
    scores = 12 * _attention_layers(config) * config.n_heads * config.head_width * sequence_length
    return 6.0 * matmul_parameters(config) + scores


def _attention_layers(config: TransformerConfig) -> int:
    """How many times attention is computed: a decoder's block attends to itself and to an encoder's output."""
    return config.n_encoder_layers + config.n_layers * (2 if config.n_encoder_layers else 1)


def cache_bytes_per_token(config: TransformerConfig, element_size: int) -> int:
    """Bytes of keys and values that one position of one sequence occupies in the cache.

    Of an encoder-decoder: those of a source token and a target token together.
    """
    layers = config.n_layers * (2 if config.n_encoder_layers else 1)
    return 2 * layers * config.kv_heads * config.head_width * element_size
