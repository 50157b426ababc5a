"""`diptych info MODEL`: what a model is and what it costs, before anything large is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from diptych.cli.common import parse

if TYPE_CHECKING:
    from diptych.core.config import TransformerConfig

DESCRIPTION = """Parameters by part, FLOPs per token, key-value cache and memory of a model, from its configuration
alone.

MODEL is a run folder, a Hugging Face folder, a GGUF file, or a preset's name.

examples:
  diptych info runs/tiny
  diptych info SmolLM2-135M-Instruct.Q4_1.gguf --context 8192
  diptych info llama-3 --context 131072 --dtype bfloat16
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych info`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, a GGUF file, or the name of a preset."""
    context: int | None = None
    """Length in tokens at which FLOPs and memory are stated; None: the model's max_length."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of weights and cache."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: list[str]) -> int:
    """Parse, compute from the configuration, print."""
    from diptych.models.cost import cost_of

    options = parse(Options, arguments, "info", DESCRIPTION)
    if options.context is not None and options.context < 1:
        raise ValueError(f"--context {options.context} must be at least 1")
    kind, config, file_bytes, is_encoder = _open(options.model)
    context = options.context or config.max_length
    cost = cost_of(config, context, 4 if options.dtype == "float32" else 2, cached=not is_encoder)
    if options.json:
        record = {
            "model": options.model,
            "kind": kind,
            "file_bytes": file_bytes,
            "config": asdict(config),
            "parameters": {**cost.parameters, "total": cost.total},
            "forward_flops_per_token": cost.forward_flops_per_token,
            "cache_bytes_per_token": cost.cache_bytes_per_token,
            "cache_bytes_fixed": cost.cache_bytes_fixed,
            "context": context,
            "dtype": options.dtype,
            "memory_bytes": cost.memory_bytes,
        }
        print(json.dumps(record))
        return 0
    size = "" if file_bytes is None else f", {file_bytes / 1e6:,.1f} MB on the disk"
    print(f"{options.model} ({kind}{size})")
    print(f"  {_shape(config)}")
    width = max(map(len, cost.parameters)) + 2
    for name, count in [*cost.parameters.items(), ("total", cost.total)]:
        print(f"  {name.replace('_', ' '):<{width}}{count:>16,} parameters  {count / max(1, cost.total):6.1%}")
    print(f"  {cost.forward_flops_per_token / 1e6:,.1f} MFLOPs a token, forward, at a context of {context:,} tokens")
    if not is_encoder:
        print(f"  {cost.cache_bytes_per_token:,} bytes of key-value cache a token in {options.dtype}")
        if cost.cache_bytes_fixed:
            print(f"  {cost.cache_bytes_fixed:,} bytes of cache in {options.dtype} that do not grow with the text")
    what = "weights" if is_encoder else f"weights and the cache of one sequence of {context:,} tokens"
    print(f"  {cost.memory_bytes / 1e6:,.1f} MB in {options.dtype} for {what}")
    return 0


def _open(name: str) -> tuple[str, TransformerConfig, int | None, bool]:
    """What MODEL is, its configuration, the bytes that its weights take on the disk, and whether it is an encoder."""
    from diptych.presets import PRESETS

    path = Path(name)
    if name in PRESETS and not path.exists():
        return "preset", PRESETS[name], None, PRESETS[name].head_transform
    from diptych.checkpoints.open import find, objective_of, open_config

    kind, place = find(path)
    files = [place] if place.is_file() else [*place.glob("*.safetensors")]
    return kind, open_config(path), sum(file.stat().st_size for file in files), objective_of(path) == "masked_lm"


def _shape(config: TransformerConfig) -> str:
    """The network in a line."""
    layers = f"{config.n_layers} layers"
    if config.n_encoder_layers:
        layers = f"{config.n_encoder_layers} encoder and {config.n_layers} decoder layers"
    heads = f"{config.n_heads} heads"
    if config.kv_heads != config.n_heads:
        heads = f"{config.n_heads} query and {config.kv_heads} key-value heads"
    window = f", a window of {config.window:,}" if config.window else ""
    window += f", masks {', '.join(config.mask)} in turn" if config.mask else ""
    if config.attention != ("softmax",):
        window += f", layers of {', '.join(config.attention)} in turn"
    return (
        f"{layers}, d_model {config.d_model:,}, {heads} of {config.head_width}, {config.feed_forward} of "
        f"{config.inner_width:,}, {config.norm} normalization ({config.norm_placement}), {config.position} positions, "
        f"vocabulary {config.vocab_size:,}, {config.max_length:,} tokens{window}"
    )
