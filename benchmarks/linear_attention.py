"""Layers whose cost a token does not grow, a training step: Diptych's against its full attention and Qwen3-Next's.

    python benchmarks/linear_attention.py [--length 8192] [--rounds 7] [--d-model 256] [--heads 4] [--no-compile]

One layer each, forward and backward, one row in float32. `full`, `linear` and `gated delta` are Diptych's layers, also
compiled as in its training; `qwen3-next` is the gated delta layer of transformers, of the same widths, on its own torch
path. `rule` and `qwen3-next rule` are the two gated delta rules alone, without projections.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from _common import interleaved, median_ratio, write


def training_step(run: Callable[[], torch.Tensor], upstream: torch.Tensor) -> Callable[[], None]:
    def step() -> None:
        run().backward(upstream)
        if upstream.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def layers(d_model: int, heads: int, x: torch.Tensor, *, compiled: bool) -> dict[str, Callable[[], torch.Tensor]]:
    from diptych.core.config import TransformerConfig
    from diptych.nn.block import build_mixer
    from diptych.nn.lowering import Lowered
    from diptych.nn.mixer import Passage

    runs = {}
    for name, kind in (("full", "softmax"), ("linear", "linear"), ("gated delta", "gated_delta")):
        layer = start(build_mixer(TransformerConfig(d_model=d_model, n_heads=heads, attention=(kind,)), 0), x)
        if kind != "softmax":
            layer.start(torch.Generator().manual_seed(0))
        mask = Lowered(causal=True) if kind == "softmax" else Passage()
        runs[name] = lambda layer=layer, mask=mask: layer(x, mask)
        if compiled:
            quick = torch.compile(layer, dynamic=False)
            runs[f"{name} compiled"] = lambda layer=quick, mask=mask: layer(x, mask)
    return runs


def qwen3_next(d_model: int, heads: int, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    width = d_model // heads
    config = Qwen3NextConfig(
        hidden_size=d_model,
        linear_num_value_heads=heads,
        linear_num_key_heads=heads,
        linear_key_head_dim=width,
        linear_value_head_dim=width,
        num_hidden_layers=4,
    )
    layer = start(Qwen3NextGatedDeltaNet(config, 0), x)
    return lambda: layer(x)


def start(layer: nn.Module, x: torch.Tensor) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
    return layer.to(x.device)


def rules(d_model: int, heads: int, x: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    from diptych.nn.delta_rule import gated_delta_rule
    from diptych.nn.mixer import Passage

    generator = torch.Generator().manual_seed(0)
    shape = (1, x.shape[1], heads)
    query, key, value = (torch.randn(*shape, d_model // heads, generator=generator).to(x.device) for _ in range(3))
    query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
    beta, decay = (
        torch.rand(shape, generator=generator).to(x.device),
        -torch.rand(shape, generator=generator).to(x.device),
    )
    given = [part.requires_grad_() for part in (query, key, value, beta, decay)]
    query, key, value, beta, decay = given
    return {
        "rule": lambda: gated_delta_rule(query, key, value, Passage(), strength=beta, log_decay=decay)[0],
        "qwen3-next rule": lambda: torch_chunk_gated_delta_rule(query, key, value, g=decay, beta=beta)[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    shape = (1, options.length, options.d_model)
    x = torch.randn(shape, generator=generator).to(options.device).requires_grad_()
    upstream = torch.randn(shape, generator=generator).to(options.device)
    heads = upstream.unflatten(-1, (options.heads, -1))
    of_layers = layers(options.d_model, options.heads, x, compiled=not options.no_compile)
    of_layers["qwen3-next"] = qwen3_next(options.d_model, options.heads, x)
    contenders = {name: training_step(run, upstream) for name, run in of_layers.items()}
    of_rules = rules(options.d_model, options.heads, x)
    contenders |= {name: training_step(run, heads) for name, run in of_rules.items()}
    interleaved(contenders, 2)  # compiles and warms up
    seconds = interleaved(contenders, options.rounds)

    def faster(peer: str, *ours: str) -> dict[str, float]:
        return {name: median_ratio(seconds[peer], seconds[name]) for name in ours if name in seconds}

    write(
        f"linear-attention-{options.device}-{options.length}",
        {
            "shape": {"batch": 1, "length": options.length, "d_model": options.d_model, "heads": options.heads},
            "rounds": options.rounds,
            "seconds": {name: statistics.median(times) for name, times in seconds.items()},
            "speedup_over_full": faster("full", "linear", "gated delta"),
            "speedup_over_full_compiled": faster("full compiled", "linear compiled", "gated delta compiled")
            if not options.no_compile
            else {},
            "speedup_over_qwen3_next": faster("qwen3-next", "gated delta", "gated delta compiled"),
            "speedup_of_the_rule_over_qwen3_next": faster("qwen3-next rule", "rule"),
        },
    )


if __name__ == "__main__":
    main()
