"""`diptych info MODEL`: what a model is and what it costs, before anything large is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import tyro

from diptych.cli.common import parse

DESCRIPTION = """Parameters by part, FLOPs per token, cache and memory of a model: a run folder, or a preset's name.

examples:
  diptych info runs/tiny
  diptych info llama-3 --context 131072
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych info`."""

    model: tyro.conf.Positional[str]
    """Folder of a run, or the name of a preset."""
    context: int | None = None
    """Length in tokens at which memory is stated; None: the model's max_length."""
    bytes_per_weight: int = 4
    """4 for float32, 2 for bfloat16."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: list[str]) -> int:
    """Parse, compute from the configuration, print."""
    from pathlib import Path

    from diptych.models.cost import cache_bytes_per_token, matmul_parameters, parameters_by_part
    from diptych.presets import PRESETS

    options = parse(Options, arguments, "info", DESCRIPTION)
    if Path(options.model).exists() or options.model not in PRESETS:
        from diptych.checkpoints.run_folder import load_config

        config = load_config(Path(options.model))
    else:
        config = PRESETS[options.model]
    parts = parameters_by_part(config)
    total = sum(parts.values())
    context = options.context or config.max_length
    scores = 4 * config.n_layers * config.n_heads * config.head_width * context
    cache = cache_bytes_per_token(config, options.bytes_per_weight)
    flops, memory = 2 * matmul_parameters(config) + scores, total * options.bytes_per_weight + cache * context
    record = {
        "model": options.model,
        "config": asdict(config),
        "parameters": {**parts, "total": total},
        "forward_flops_per_token": flops,
        "cache_bytes_per_token": cache,
        "context": context,
        "memory_bytes": memory,
    }
    if options.json:
        print(json.dumps(record))
        return 0
    width = max(map(len, parts)) + 2
    print(options.model)
    for name, count in [*parts.items(), ("total", total)]:
        print(f"  {name:<{width}}{count:>16,} parameters  {count / max(1, total):6.1%}")
    print(f"  {flops / 1e6:,.1f} MFLOPs a token, forward, at a context of {context:,} tokens")
    print(f"  {cache:,} bytes of key-value cache a token")
    print(f"  {memory / 1e6:,.1f} MB for weights and cache of one sequence of {context:,} tokens")
    return 0
