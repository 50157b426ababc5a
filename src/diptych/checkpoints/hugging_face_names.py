"""Under which names do Hugging Face's architectures keep the tensors of our networks?

One table for each family, read on opening and on writing alike: our module (or single parameter), and theirs, several
where ours stacks them in its rows. `*` is the number of a block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from diptych.core.config import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Where a parameter of ours stands in a file."""

    names: tuple[str, ...]
    """Stacked in its rows, in this order."""
    transposed: bool = False
    """A matrix with inputs in its rows, as GPT-2's."""
    added: str | None = None
    """A tensor whose first row is added to every row (BERT's type of the first text)."""
    leading: bool = False
    """With one more dimension of length 1 before the others (Marian's bias)."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """The table of a family, and what else its files may hold."""

    modules: dict[str, Stored]
    prefix: str
    """What files of the network without its head leave out of the names."""
    roots: tuple[str, ...]
    """How a full name begins."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Other names for the tensors, used where the first does not stand in the file."""
    ignored: tuple[str, ...] = ()
    """Patterns of tensors that the network does not use."""
    tied: tuple[str, ...] = ()
    """Names that repeat the embedding where it is tied."""

    def stored(self, parameter: str) -> Stored | None:
        """Where one of our parameters stands; None where the family has none of its kind."""
        module, _, suffix = parameter.rpartition(".")
        number = re.search(r"\.(\d+)\.", parameter)
        index = number[1] if number else ""
        pattern = module.replace(f".{index}.", ".*.") if number else module
        entry = self.modules.get(pattern or suffix)
        if entry is None:
            return None
        ending = f".{suffix}" if module else ""

        def full(name: str) -> str:
            return name.replace("*", index) + ending

        return Stored(
            names=tuple(full(name) for name in entry.names),
            transposed=entry.transposed and suffix == "weight",
            added=None if entry.added is None else full(entry.added),
            leading=entry.leading,
        )


def at(*names: str, transposed: bool = False, added: str | None = None, leading: bool = False) -> Stored:
    """An entry of a table."""
    return Stored(names=names, transposed=transposed, added=added, leading=leading)


def pieces(config: TransformerConfig, count: int) -> tuple[int, ...] | None:
    """Rows of the `count` tensors that a parameter stacks: gate and value, or query, key and value; None for one."""
    if count == 1:
        return None
    if count == 2:
        return (config.inner_width, config.inner_width)
    query, key = config.n_heads * config.head_width, config.kv_heads * config.head_width
    return (query, key, key)


LLAMA = Names(
    modules={
        "embedding": at("model.embed_tokens"),
        "blocks.*.attention_norm": at("model.layers.*.input_layernorm"),
        "blocks.*.attention.input": at(*(f"model.layers.*.self_attn.{x}_proj" for x in "qkv")),
        "blocks.*.attention.query_norm": at("model.layers.*.self_attn.q_norm"),
        "blocks.*.attention.key_norm": at("model.layers.*.self_attn.k_norm"),
        "blocks.*.attention.output": at("model.layers.*.self_attn.o_proj"),
        "blocks.*.feed_forward_norm": at("model.layers.*.post_attention_layernorm"),
        "blocks.*.feed_forward.input": at("model.layers.*.mlp.gate_proj", "model.layers.*.mlp.up_proj"),
        "blocks.*.feed_forward.output": at("model.layers.*.mlp.down_proj"),
        "final_norm": at("model.norm"),
        "head": at("lm_head"),
    },
    prefix="model.",
    roots=("model.", "lm_head."),
    ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    tied=("lm_head.weight",),
)

GPT2 = Names(
    modules={
        "embedding": at("transformer.wte"),
        "position_embedding": at("transformer.wpe"),
        "blocks.*.attention_norm": at("transformer.h.*.ln_1"),
        "blocks.*.attention.input": at("transformer.h.*.attn.c_attn", transposed=True),
        "blocks.*.attention.output": at("transformer.h.*.attn.c_proj", transposed=True),
        "blocks.*.feed_forward_norm": at("transformer.h.*.ln_2"),
        "blocks.*.feed_forward.input": at("transformer.h.*.mlp.c_fc", transposed=True),
        "blocks.*.feed_forward.output": at("transformer.h.*.mlp.c_proj", transposed=True),
        "final_norm": at("transformer.ln_f"),
        "head": at("lm_head"),
    },
    prefix="transformer.",
    roots=("transformer.", "lm_head."),
    ignored=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),  # the causal mask
    tied=("lm_head.weight",),
)

BERT = Names(
    modules={
        "embedding": at("bert.embeddings.word_embeddings"),
        "position_embedding": at("bert.embeddings.position_embeddings", added="bert.embeddings.token_type_embeddings"),
        "embedding_norm": at("bert.embeddings.LayerNorm"),
        "blocks.*.attention.input": at(
            *(f"bert.encoder.layer.*.attention.self.{x}" for x in ("query", "key", "value"))
        ),
        "blocks.*.attention.output": at("bert.encoder.layer.*.attention.output.dense"),
        "blocks.*.attention_norm": at("bert.encoder.layer.*.attention.output.LayerNorm"),
        "blocks.*.feed_forward.input": at("bert.encoder.layer.*.intermediate.dense"),
        "blocks.*.feed_forward.output": at("bert.encoder.layer.*.output.dense"),
        "blocks.*.feed_forward_norm": at("bert.encoder.layer.*.output.LayerNorm"),
        "head_transform.dense": at("cls.predictions.transform.dense"),
        "head_transform.norm": at("cls.predictions.transform.LayerNorm"),
        "head": at("cls.predictions.decoder"),
        "output_bias": at("cls.predictions.bias"),
    },
    prefix="bert.",
    roots=("bert.", "cls."),
    aliases={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    ignored=(
        r"bert\.pooler\..*",
        r"cls\.seq_relationship\..*",
        r"bert\.embeddings\.position_ids",
        r"cls\.predictions\.decoder\.bias",
    ),
    tied=("cls.predictions.decoder.weight",),
)


def _marian_block(ours: str, theirs: str, *, cross: bool) -> dict[str, Stored]:
    def attention(name: str) -> Stored:
        return at(*(f"{theirs}.{name}.{x}_proj" for x in "qkv"))

    modules = {
        f"{ours}.attention.input": attention("self_attn"),
        f"{ours}.attention.output": at(f"{theirs}.self_attn.out_proj"),
        f"{ours}.attention_norm": at(f"{theirs}.self_attn_layer_norm"),
        f"{ours}.feed_forward.input": at(f"{theirs}.fc1"),
        f"{ours}.feed_forward.output": at(f"{theirs}.fc2"),
        f"{ours}.feed_forward_norm": at(f"{theirs}.final_layer_norm"),
    }
    if cross:
        modules |= {
            f"{ours}.cross_attention.input": attention("encoder_attn"),
            f"{ours}.cross_attention.output": at(f"{theirs}.encoder_attn.out_proj"),
            f"{ours}.cross_norm": at(f"{theirs}.encoder_attn_layer_norm"),
        }
    return modules


MARIAN = Names(
    modules={
        "embedding": at("model.shared"),
        **_marian_block("encoder.*", "model.encoder.layers.*", cross=False),
        **_marian_block("blocks.*", "model.decoder.layers.*", cross=True),
        "output_bias": at("final_logits_bias", leading=True),
    },
    prefix="model.",
    roots=("model.", "lm_head.", "final_logits_bias"),
    aliases={
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    },
    # The tables of positions are computed.
    ignored=(r"model\.(en|de)coder\.embed_(tokens|positions)\.weight", r"lm_head\.weight"),
)
