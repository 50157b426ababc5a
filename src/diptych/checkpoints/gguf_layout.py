"""Which tensor of a GGUF file is which part of a network?

The names are GGML's (`gguf-py/gguf/constants.py` of llama.cpp). Files of the architecture `llama` hold the rows of
queries and keys in another order than Llama's published weights: pairs that rotate together stand side by side
(`permute` in llama.cpp's `convert_hf_to_gguf.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from diptych.core.config import TransformerConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
"""Names in `general.architecture` that are understood."""

ROPE_FACTORS = "rope_freqs.weight"
"""By what Llama 3 divides each rotary frequency."""


@final
@dataclass(frozen=True, kw_only=True)
class Part:
    """A tensor of the file, and the rows of a parameter that it holds, from row `first` on."""

    tensor: str
    shape: tuple[int, ...]
    parameter: str
    first: int = 0
    interleaved_heads: int = 0
    """Where more than 0: how many heads the rows belong to, pairs side by side in each."""

    def of(self, parameter: Float[Tensor, "r ..."]) -> Float[Tensor, "..."]:
        """What the tensor holds of `parameter`, as a view in the order of the file."""
        rows = parameter[self.first : self.first + self.shape[0]]
        heads = self.interleaved_heads
        return rows.unflatten(0, (heads, 2, self.shape[0] // heads // 2)).transpose(1, 2) if heads else rows


def layout(config: TransformerConfig, architecture: str) -> Iterator[Part]:
    """The tensors of a network, from its embedding to its head."""
    vocabulary, d, inner = config.vocab_size, config.d_model, config.inner_width
    is_gpt2 = architecture == "gpt2"
    yield Part(tensor="token_embd.weight", shape=(vocabulary, d), parameter="embedding.weight")
    if is_gpt2:
        shape = (config.max_length, d)
        yield Part(tensor="position_embd.weight", shape=shape, parameter="position_embedding.weight")
    for index in range(config.n_layers):
        block, ours = f"blk.{index}.", f"blocks.{index}."
        yield from _whole(block + "attn_norm", (d,), ours + "attention_norm", is_gpt2)
        yield from _projections(config, architecture, block, ours + "attention.")
        heads = config.n_heads * config.head_width
        yield from _whole(block + "attn_output", (d, heads), ours + "attention.output", is_gpt2)
        yield from _whole(block + "ffn_norm", (d,), ours + "feed_forward_norm", is_gpt2)
        if is_gpt2:
            yield from _whole(block + "ffn_up", (inner, d), ours + "feed_forward.input", True)
        else:
            both = ours + "feed_forward.input.weight"
            yield Part(tensor=block + "ffn_gate.weight", shape=(inner, d), parameter=both)
            yield Part(tensor=block + "ffn_up.weight", shape=(inner, d), parameter=both, first=inner)
        yield from _whole(block + "ffn_down", (d, inner), ours + "feed_forward.output", is_gpt2)
    yield from _whole("output_norm", (d,), "final_norm", is_gpt2)
    if not config.tied_embedding:
        yield Part(tensor="output.weight", shape=(vocabulary, d), parameter="head.weight")


def _whole(tensor: str, shape: tuple[int, ...], parameter: str, has_bias: bool) -> Iterator[Part]:
    """A layer's weight, and its bias where it has one."""
    yield Part(tensor=f"{tensor}.weight", shape=shape, parameter=f"{parameter}.weight")
    if has_bias:
        yield Part(tensor=f"{tensor}.bias", shape=shape[:1], parameter=f"{parameter}.bias")


def _projections(config: TransformerConfig, architecture: str, block: str, ours: str) -> Iterator[Part]:
    """To queries, keys and values."""
    d, width = config.d_model, config.head_width
    queries, keys = config.n_heads * width, config.kv_heads * width
    if architecture == "gpt2":
        yield from _whole(block + "attn_qkv", (queries + 2 * keys, d), ours + "input", True)
        return
    for suffix, columns in (("weight", (d,)), ("bias", ())) if config.qkv_bias else (("weight", (d,)),):
        first = 0
        for letter, heads in (("q", config.n_heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            yield Part(
                tensor=f"{block}attn_{letter}.{suffix}",
                shape=(heads * width, *columns),
                parameter=f"{ours}input.{suffix}",
                first=first,
                interleaved_heads=heads if architecture == "llama" and letter != "v" else 0,
            )
            first += heads * width
    if config.qk_norm:
        yield from _whole(block + "attn_q_norm", (width,), ours + "query_norm", False)
        yield from _whole(block + "attn_k_norm", (width,), ours + "key_norm", False)
