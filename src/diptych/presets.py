"""Which shapes have names?

Published networks and small ones of their kind, as values of `TransformerConfig`. A recipe starts from one by
`model.preset`; `diptych train NAME` trains one on the default text.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from pathlib import Path
from typing import Any

from diptych.core.config import RopeScaling, RunConfig, TransformerConfig
from diptych.core.recipe import load_toml, parse


def gpt2(n_layers: int, d_model: int, n_heads: int, max_length: int = 1024, vocab_size: int = 0) -> TransformerConfig:
    """GPT-2's family (Radford et al. 2019): layer normalization before each sublayer, learned positions, GELU."""
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        max_length=max_length,
        norm="layer",
        position="learned",
        feed_forward="gelu_tanh",
        bias=True,
    )


def bert(n_layers: int, d_model: int, n_heads: int, max_length: int = 512, vocab_size: int = 0) -> TransformerConfig:
    """BERT's family (Devlin et al. 2019): an encoder with layer normalization after each sum, learned positions,
    GELU."""
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        max_length=max_length,
        norm="layer",
        norm_placement="post",
        norm_eps=1e-12,
        position="learned",
        feed_forward="gelu",
        bias=True,
        embedding_norm=True,
        head_transform=True,
        output_bias=True,
        dropout=0.1,
    )


def vanilla(n_layers: int, d_model: int, n_heads: int, max_length: int = 512) -> TransformerConfig:
    """The encoder-decoder of Vaswani et al. 2017: layer normalization after each sum, sinusoids, ReLU, one embedding
    for source, target and un-embedding, scaled by sqrt(d_model)."""
    return TransformerConfig(
        d_model=d_model,
        n_layers=n_layers,
        n_encoder_layers=n_layers,
        n_heads=n_heads,
        max_length=max_length,
        norm="layer",
        norm_placement="post",
        position="sinusoidal",
        feed_forward="relu",
        bias=True,
        embedding_scale=True,
        dropout=0.1,
    )


def llama(
    n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, *, max_length: int = 1024, d_ff: int | None = None
) -> TransformerConfig:
    """Llama's family: root-mean-square normalization, rotary positions, SwiGLU, grouped queries, no biases."""
    return TransformerConfig(
        d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, d_ff=d_ff, max_length=max_length
    )


PRESETS: dict[str, TransformerConfig] = {
    # Vaswani et al. 2017, table 3: the base model, and one of its kind for small tasks.
    "vanilla-2017": vanilla(6, 512, 8),
    "vanilla-2017-tiny": vanilla(2, 128, 4, max_length=128),
    "bert": bert(12, 768, 12, vocab_size=30_522),
    "bert-tiny": bert(4, 128, 4, max_length=256),
    "gpt2-tiny": gpt2(4, 128, 4, max_length=256),
    "gpt2-mini": gpt2(6, 384, 6, max_length=512),
    "gpt2": gpt2(12, 768, 12, vocab_size=50_257),
    "llama-tiny": llama(4, 128, 4, 2, max_length=256),
    "llama-mini": llama(6, 384, 6, 2, max_length=512),
    "llama-small": llama(12, 768, 12, 4),
    # Grattafiori et al. 2024, table 3, with the released checkpoints' vocabulary and rotary stretching (Llama 3.1).
    "llama-3": dataclasses.replace(
        llama(32, 4096, 32, 8, max_length=131_072, d_ff=14_336),
        vocab_size=128_256,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(),
        tied_embedding=False,
    ),
    # Llama 3.2 1B as released.
    "llama-3-1b": dataclasses.replace(
        llama(16, 2048, 32, 8, max_length=131_072, d_ff=8192),
        vocab_size=128_256,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=32.0),
    ),
}


def preset(name: str) -> TransformerConfig:
    """The network of a name. Raises ValueError naming the nearest valid one."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(PRESETS)}"
        raise ValueError(f"unknown preset {name}; {hint}")
    return PRESETS[name]


def load_run(name: str) -> RunConfig:
    """A recipe file, or the default experiment on a preset's network: text, or numbers to translate, or masked words.

    Raises ValueError for a faulty recipe, FileNotFoundError for a name that is neither file nor preset.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return _from_file(path)
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {near[0]}?" if near else f"presets: {', '.join(PRESETS)}"
        raise FileNotFoundError(f"{name} is neither a recipe file (.toml) nor a preset; {hint}")
    model = PRESETS[name]
    length = min(model.max_length, RunConfig().data.sequence_length)
    run = RunConfig(out=f"runs/{name}", model=model)
    data = dataclasses.replace(run.data, sequence_length=length)
    if model.n_encoder_layers:
        pairs = dataclasses.replace(data, format="pairs", source=("numbers:de-en",), sequence_length=min(length, 64))
        return dataclasses.replace(run, data=pairs)
    if model.head_transform:
        tokenizer = dataclasses.replace(run.tokenizer, special_tokens=("<|mask|>",))
        return dataclasses.replace(run, data=data, objective="masked_lm", tokenizer=tokenizer)
    return dataclasses.replace(run, data=data)


def _from_file(path: Path) -> RunConfig:
    """Read a recipe; `model.preset` names the network that its other keys change."""
    values = _model_table(path)
    if "preset" not in values:
        return load_toml(RunConfig, path)
    whole = tomllib.loads(path.read_text(encoding="utf-8"))
    name = values.pop("preset")
    base = dataclasses.asdict(preset(str(name)))
    return parse(RunConfig, {**whole, "model": {**base, **values}}, str(path))


def _model_table(path: Path) -> dict[str, Any]:
    """The [model] table of a readable recipe; faults are left for the strict reader to name."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("model", {})
    except (OSError, ValueError):
        return {}
    return dict(table) if isinstance(table, dict) else {}
