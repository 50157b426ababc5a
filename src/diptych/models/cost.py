"""What does a network cost: parameters by part, FLOPs a token, bytes of cache?

All from the configuration alone, before anything large is made.
"""

from __future__ import annotations

from diptych.core.config import TransformerConfig


def parameters_by_part(config: TransformerConfig) -> dict[str, int]:
    """Number of parameters in each part of a `LanguageModel` of this configuration."""
    d, layers = config.d_model, config.n_layers
    norm = d * (2 if config.norm == "layer" and config.bias else 1)
    parts = {
        "embedding": config.vocab_size * d,
        "positions": config.max_length * d if config.position == "learned" else 0,
        "attention": layers * (_attention_matrices(config) + _biases(config, _attention_rows(config), d)),
        "feed_forward": layers * (_feed_forward_matrices(config) + _biases(config, _feed_forward_rows(config), d)),
        "normalization": norm * (2 * layers + (1 if config.norm_placement == "pre" else 0)),
        "unembedding": 0 if config.tied_embedding else config.vocab_size * d,
    }
    return {name: count for name, count in parts.items() if count}


def _attention_rows(config: TransformerConfig) -> int:
    return (config.n_heads + 2 * config.kv_heads) * config.head_width


def _attention_matrices(config: TransformerConfig) -> int:
    return config.d_model * (_attention_rows(config) + config.n_heads * config.head_width)


def _feed_forward_rows(config: TransformerConfig) -> int:
    return config.inner_width * (2 if config.feed_forward == "swiglu" else 1)


def _feed_forward_matrices(config: TransformerConfig) -> int:
    return config.d_model * (_feed_forward_rows(config) + config.inner_width)


def _biases(config: TransformerConfig, inner: int, outer: int) -> int:
    return inner + outer if config.bias else 0


def matmul_parameters(config: TransformerConfig) -> int:
    """Parameters that multiply every token: all matrices but the embedding look-up, the un-embedding included."""
    block = _attention_matrices(config) + _feed_forward_matrices(config)
    return config.n_layers * block + config.vocab_size * config.d_model


def training_flops_per_token(config: TransformerConfig, sequence_length: int) -> float:
    """FLOPs of a training step a token: 6 a parameter, and 12 n_layers n_heads d_head T for the attention scores.

    Chowdhery et al. 2022, appendix B; the masked half of the causal scores is counted, as is the custom.
    """
    scores = 12 * config.n_layers * config.n_heads * config.head_width * sequence_length
    return 6.0 * matmul_parameters(config) + scores


def cache_bytes_per_token(config: TransformerConfig, element_size: int) -> int:
    """Bytes of keys and values that one position of one sequence occupies in the cache."""
    return 2 * config.n_layers * config.kv_heads * config.head_width * element_size
