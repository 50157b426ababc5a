"""Which network does the config.json of a Hugging Face folder describe, and how is one of ours described by it?

For each family one function reads the fields that decide the mathematics and one writes them. A value that would change
the mathematics in a way that is not understood is refused by name; fields that the family's own code never looks at are
not looked at here either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.checkpoints.hugging_face_fields import ACTIVATIONS, Fields
from diptych.checkpoints.hugging_face_names import BERT, GPT2, LLAMA, MARIAN, Names
from diptych.checkpoints.json_object import brief
from diptych.core.config import RopeScaling, TransformerConfig
from diptych.nn.positions import stretched_theta


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture of Hugging Face's and ours for it."""

    architectures: tuple[str, ...]
    """Its class with a head over the vocabulary first, then others of the same mathematics."""
    names: Names
    read: Callable[[Fields], TransformerConfig]
    write: Callable[[TransformerConfig], dict[str, Any]]
    objective: Literal["autoregressive", "masked_lm"] = "autoregressive"


def read_config(values: Mapping[str, Any], path: Path) -> tuple[Family, TransformerConfig]:
    """The family and the network of a config.json. Raises ValueError for what is not understood."""
    fields = Fields(values, path)
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{path}: model_type {brief(kind)} is not understood; opened are {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    architectures = values.get("architectures") or [family.architectures[0]]
    if not isinstance(architectures, list) or architectures[0] not in family.architectures:
        raise ValueError(
            f"{path}: architecture {brief(architectures)} is not supported; of {kind} it is {family.architectures[0]}"
        )
    if values.get("quantization_config") is not None:
        raise ValueError(f"{path}: the weights are quantized; take the checkpoint in full precision, or a GGUF file")
    if values.get("auto_map") is not None:
        raise ValueError(f"{path}: auto_map asks for code that comes with the checkpoint, which is never run")
    try:
        return family, family.read(fields)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None


def _read_rope(fields: Fields, longest: int) -> tuple[float, RopeScaling | None]:
    """Base and stretching of a network with `longest` max_position_embeddings.

    They stand in `rope_parameters` since transformers 5, in `rope_theta` and `rope_scaling` before.
    """
    given = fields.values.get("rope_scaling") or fields.values.get("rope_parameters") or {}
    if not isinstance(given, dict) or any(isinstance(value, dict) for value in given.values()):
        raise ValueError(f"{fields.path}: rope_parameters = {brief(given)} is not supported")
    rope = Fields(given, fields.path)
    theta = rope.positive("rope_theta", fields.positive("rope_theta", 10_000.0))
    for place in (fields, rope):
        place.must("partial_rotary_factor", 1.0, 1)
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind == "default":
        return theta, None
    if not isinstance(kind, str) or kind not in _ROPE_FIELDS:
        raise ValueError(
            f"{fields.path}: rotary positions of type {brief(kind)} are not supported, only {', '.join(_ROPE_FIELDS)}"
        )
    for name in given:
        if given[name] is not None and name not in {*_ROPE_COMMON, *_ROPE_FIELDS[kind]}:
            raise ValueError(f"{fields.path}: rotary positions of type {kind} with {brief(name)} are not supported")
    return theta, _read_scaling(kind, fields, rope, longest)


_ROPE_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor")
_ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "linear": (),
    "dynamic": (),
    "yarn": (
        *("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
}
"""The types of rotary scaling, and the fields of each besides those of all."""


def _read_scaling(kind: str, fields: Fields, rope: Fields, longest: int) -> RopeScaling:
    # The outer field wins, as in transformers.
    original = fields.optional_whole("original_max_position_embeddings")
    original = original or rope.whole("original_max_position_embeddings", longest)
    match kind:
        case "llama3":
            return RopeScaling(
                factor=rope.positive("factor"),
                low_freq_factor=rope.positive("low_freq_factor"),
                high_freq_factor=rope.positive("high_freq_factor"),
                original_max_length=original,
            )
        case "yarn":
            rope.must("truncate", True)
            factor = rope.positive("factor", longest / original)
            return RopeScaling(
                kind="yarn",
                factor=factor,
                original_max_length=original,
                beta_fast=rope.positive("beta_fast", 32.0),
                beta_slow=rope.positive("beta_slow", 1.0),
                attention_factor=_read_attention_factor(rope, factor),
            )
        case "dynamic":
            return RopeScaling(kind="dynamic", factor=rope.positive("factor"), original_max_length=longest)
        case _:
            return RopeScaling(kind="linear", factor=rope.positive("factor"))


def _read_attention_factor(rope: Fields, factor: float) -> float | None:
    """YaRN's, given as it is or, in DeepSeek's way, as the ratio of 0.1 m ln(factor) + 1 for two numbers m."""
    if rope.values.get("attention_factor") is not None:
        return rope.positive("attention_factor")
    if not (rope.values.get("mscale") and rope.values.get("mscale_all_dim")):
        return None
    spread = 0.1 * math.log(max(factor, 1.0))
    return (spread * rope.positive("mscale") + 1.0) / (spread * rope.positive("mscale_all_dim") + 1.0)


def _read_llama(
    fields: Fields,
    *,
    length: int = 2048,
    kv_heads: int | None = None,
    head: int | None = None,
    window: int | None = None,
    bias: bool = False,
    qkv_bias: bool = False,
    qk_norm: bool = False,
) -> TransformerConfig:
    """Llama's fields, and what the families that follow it choose otherwise."""
    fields.must("hidden_act", "silu", "swish")
    max_length = fields.whole("max_position_embeddings", length)
    theta, scaling = _read_rope(fields, max_length)
    n_heads = fields.whole("num_attention_heads", 32)
    d_model = fields.whole("hidden_size", 4096)
    if scaling is not None and scaling.kind == "dynamic":
        max_length = round(scaling.factor * max_length)  # of the training's length, which the field is there
    return TransformerConfig(
        vocab_size=fields.whole("vocab_size"),
        d_model=d_model,
        n_layers=fields.whole("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=fields.whole("num_key_value_heads", kv_heads or n_heads),
        d_head=fields.whole("head_dim", head or max(1, d_model // n_heads)),
        d_ff=fields.whole("intermediate_size"),
        max_length=max_length,
        norm_eps=fields.positive("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        window=window,
        bias=bias,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        tied_embedding=fields.flag("tie_word_embeddings", False),
    )


def _llama(fields: Fields) -> TransformerConfig:
    bias = fields.flag("attention_bias", False)
    if fields.flag("mlp_bias", False) != bias:
        raise ValueError(f"{fields.path}: attention_bias without mlp_bias, or the reverse, is not supported")
    return _read_llama(fields, bias=bias)


def _mistral(fields: Fields) -> TransformerConfig:
    has_window = fields.values.get("sliding_window", 4096) is not None
    if set(map(str, _layer_types(fields))) - {"sliding_attention" if has_window else "full_attention"}:
        raise ValueError(f"{fields.path}: layers of several kinds of attention are not supported")
    window = fields.whole("sliding_window", 4096) if has_window else None
    return _read_llama(fields, length=131_072, kv_heads=8, window=window)


def _qwen2(fields: Fields) -> TransformerConfig:
    return _read_llama(fields, length=32_768, window=_qwen_window(fields), qkv_bias=True)


def _qwen3(fields: Fields) -> TransformerConfig:
    fields.must("attention_bias", False)
    return _read_llama(fields, length=32_768, head=128, window=_qwen_window(fields), qk_norm=True)


def _layer_types(fields: Fields) -> list[Any]:
    """The kind of each layer's attention, where it is given."""
    kinds = fields.values.get("layer_types")
    if kinds is None:
        return []
    if not isinstance(kinds, list):
        raise ValueError(f"{fields.path}: layer_types is {brief(kinds)}, not a list")
    return kinds


def _qwen_window(fields: Fields) -> int | None:
    """Qwen's layers from `max_window_layers` on have a window; here all of them have it, or none."""
    used = fields.flag("use_sliding_window", False) and fields.values.get("sliding_window", 4096) is not None
    layers, first = fields.whole("num_hidden_layers"), fields.values.get("max_window_layers", 28)
    if not isinstance(first, int):
        raise ValueError(f"{fields.path}: max_window_layers is {brief(first)}, not a whole number")
    kinds = set(map(str, _layer_types(fields)))
    if not kinds:
        kinds = {"sliding_attention"} if used and first < layers else set()
        kinds |= {"full_attention"} if first > 0 or not used else set()
    if kinds == {"full_attention"}:
        return None
    if kinds != {"sliding_attention"} or not used:
        raise ValueError(f"{fields.path}: a sliding window in some layers alone is not supported")
    return fields.whole("sliding_window", 4096)


def _write_llama(config: TransformerConfig) -> dict[str, Any]:
    if config.position_scheme is not None:
        raise ValueError(
            f"no network of Hugging Face's tells positions as {config.position_scheme.kind} does; export the model "
            "without this extension"
        )
    scaling, theta = config.rope_scaling, config.rope_theta
    if scaling is not None and scaling.kind == "ntk":  # which is another base, and nothing else
        theta, scaling = stretched_theta(config.head_width, theta, scaling), None
    rope = {"rope_type": "default"} if scaling is None else _write_scaling(scaling)
    longest = config.max_length
    if scaling is not None and scaling.kind == "dynamic":
        longest = scaling.original_max_length  # that is what the field means there
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.inner_width,
        "max_position_embeddings": longest,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # The first for transformers 5, the other two for what came before it.
        "rope_parameters": {"rope_theta": theta, **rope},
        "rope_theta": theta,
        "rope_scaling": None if scaling is None else rope,
        "attention_bias": config.bias,
        "mlp_bias": config.bias,
        "attention_dropout": config.dropout,
        "tie_word_embeddings": config.tied_embedding,
    }


def _write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    match scaling.kind:
        case "llama3":
            values |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
        case "yarn":
            values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
            if scaling.attention_factor is not None:
                values |= {"attention_factor": scaling.attention_factor}
    if scaling.kind in ("llama3", "yarn"):
        values |= {"original_max_position_embeddings": scaling.original_max_length}
    return values


def _write_mistral(config: TransformerConfig) -> dict[str, Any]:
    return {**_write_llama(config), "sliding_window": config.window}


def _write_qwen(config: TransformerConfig) -> dict[str, Any]:
    window = {"use_sliding_window": config.window is not None, "sliding_window": config.window}
    layers = 0 if config.window is not None else config.n_layers
    return {**_write_llama(config), **window, "max_window_layers": layers}


def _gpt2(fields: Fields) -> TransformerConfig:
    fields.must("scale_attn_weights", True)
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        fields.must(name, False)
    return TransformerConfig(
        vocab_size=fields.whole("vocab_size"),
        d_model=fields.whole("n_embd", 768),
        n_layers=fields.whole("n_layer", 12),
        n_heads=fields.whole("n_head", 12),
        d_ff=fields.optional_whole("n_inner"),
        max_length=fields.whole("n_positions", 1024),
        norm="layer",
        norm_eps=fields.positive("layer_norm_epsilon", 1e-5),
        position="learned",
        feed_forward=fields.activation("activation_function", "gelu_new"),
        bias=True,
        tied_embedding=fields.flag("tie_word_embeddings", True),
    )


def _write_gpt2(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.inner_width,
        "n_positions": config.max_length,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": _activation(config),
        "tie_word_embeddings": config.tied_embedding,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop"), config.dropout),
        "attn_pdrop": config.dropout,
    }


def _bert(fields: Fields) -> TransformerConfig:
    fields.must("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        fields.must(name, False)
    return TransformerConfig(
        vocab_size=fields.whole("vocab_size"),
        d_model=fields.whole("hidden_size", 768),
        n_layers=fields.whole("num_hidden_layers", 12),
        n_heads=fields.whole("num_attention_heads", 12),
        d_ff=fields.whole("intermediate_size", 3072),
        max_length=fields.whole("max_position_embeddings", 512),
        norm="layer",
        norm_placement="post",
        norm_eps=fields.positive("layer_norm_eps", 1e-12),
        position="learned",
        feed_forward=fields.activation("hidden_act", "gelu"),
        bias=True,
        embedding_norm=True,
        head_transform=True,
        output_bias=True,
        tied_embedding=fields.flag("tie_word_embeddings", True),
    )


def _write_bert(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.inner_width,
        "max_position_embeddings": config.max_length,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": _activation(config),
        "type_vocab_size": 2,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": config.tied_embedding,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }


def _marian(fields: Fields) -> TransformerConfig:
    for name in ("share_encoder_decoder_embeddings", "tie_word_embeddings", "is_encoder_decoder"):
        fields.must(name, True)
    fields.must("static_position_embeddings", True)
    for name in ("normalize_before", "normalize_embedding", "add_final_layer_norm", "is_decoder"):
        fields.must(name, False)
    vocab_size = fields.whole("vocab_size")
    fields.must("decoder_vocab_size", vocab_size)
    fields.must("decoder_start_token_id", fields.values.get("pad_token_id"))
    n_heads, d_ff = fields.whole("decoder_attention_heads", 16), fields.whole("decoder_ffn_dim", 4096)
    if (fields.whole("encoder_attention_heads", 16), fields.whole("encoder_ffn_dim", 4096)) != (n_heads, d_ff):
        raise ValueError(f"{fields.path}: an encoder of other heads or inner width than its decoder is not supported")
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=fields.whole("d_model", 1024),
        n_layers=fields.whole("decoder_layers", 12),
        n_encoder_layers=fields.whole("encoder_layers", 12),
        n_heads=n_heads,
        d_ff=d_ff,
        max_length=fields.whole("max_position_embeddings", 1024),
        norm="layer",
        norm_placement="post",
        position="sinusoidal_halves",
        feed_forward=fields.activation("activation_function", "gelu"),
        bias=True,
        output_bias=True,
        embedding_scale=fields.flag("scale_embedding", False),
    )


def _write_marian(config: TransformerConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"vocab_size": config.vocab_size, "decoder_vocab_size": config.vocab_size}
    for part, layers in (("encoder", config.n_encoder_layers), ("decoder", config.n_layers)):
        values |= {
            f"{part}_layers": layers,
            f"{part}_attention_heads": config.n_heads,
            f"{part}_ffn_dim": config.inner_width,
        }
    return {
        **values,
        "d_model": config.d_model,
        "max_position_embeddings": config.max_length,
        "activation_function": _activation(config),
        "scale_embedding": config.embedding_scale,
        "dropout": config.dropout,
        "is_encoder_decoder": True,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "static_position_embeddings": True,
    }


def _activation(config: TransformerConfig) -> str:
    return next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.feed_forward)


FAMILIES = {
    "llama": Family(architectures=("LlamaForCausalLM",), names=LLAMA, read=_llama, write=_write_llama),
    "mistral": Family(architectures=("MistralForCausalLM",), names=LLAMA, read=_mistral, write=_write_mistral),
    "qwen2": Family(architectures=("Qwen2ForCausalLM",), names=LLAMA, read=_qwen2, write=_write_qwen),
    "qwen3": Family(architectures=("Qwen3ForCausalLM",), names=LLAMA, read=_qwen3, write=_write_qwen),
    "gpt2": Family(architectures=("GPT2LMHeadModel", "GPT2Model"), names=GPT2, read=_gpt2, write=_write_gpt2),
    "bert": Family(
        architectures=("BertForMaskedLM", "BertForPreTraining"),
        names=BERT,
        read=_bert,
        write=_write_bert,
        objective="masked_lm",
    ),
    "marian": Family(architectures=("MarianMTModel",), names=MARIAN, read=_marian, write=_write_marian),
}
