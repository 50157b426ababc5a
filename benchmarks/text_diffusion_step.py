"""A training step of masked and of block diffusion: Diptych against a plain tuned loop over Hugging Face's Llama.

    python benchmarks/text_diffusion_step.py [--sequence-length 256] [--batch-size 16] [--block-length 4] [--rounds 7]

All train the same shape (13.8 M parameters) on the same random tokens with bf16 autocast, fused AdamW and clipping,
compiled. The peer does what dLLM's trainers of MDLM and BD3-LM do, its attention bidirectional: it draws a time
a row (a block), hides tokens, takes logits of all positions and weighs their cross-entropies; for blocks it reads noisy
and clean copies under a dense mask made once.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from _common import interleaved, median_ratio, write
from train_step import D_FF, D_MODEL, HEADS, LAYERS, VOCAB, llama, plain_step

MASK = VOCAB - 1


def ours(x: torch.Tensor, device: str, block: int | None) -> Callable[[], None]:
    from diptych.core.config import OptimConfig, TransformerConfig
    from diptych.core.random import Rng
    from diptych.core.text_diffusion_config import TextDiffusionConfig
    from diptych.core.types import Batch
    from diptych.models.language_model import LanguageModel
    from diptych.models.network import initialize
    from diptych.objectives.masked_diffusion import MaskedDiffusion
    from diptych.training.compilation import compile_blocks
    from diptych.training.optimizers import Optimizer, clip_and_scale

    model = LanguageModel(
        TransformerConfig(
            vocab_size=VOCAB, d_model=D_MODEL, n_layers=LAYERS, n_heads=HEADS, d_ff=D_FF, max_length=x.shape[1]
        )
    )
    initialize(model, torch.Generator().manual_seed(0))
    model.to(device)
    compile_blocks(model)
    objective = MaskedDiffusion(TextDiffusionConfig(block_length=block), MASK)
    optimizer, parameters, steps = Optimizer(model, OptimConfig()), list(model.parameters()), iter(range(1 << 40))
    batch = Batch(x=x, sample_ids=torch.arange(len(x), device=device), places=torch.arange(len(x), device=device))

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = objective.loss(model, batch, Rng(0).fold("step", next(steps)))
        loss.total.backward()
        clip_and_scale(parameters, 1 / loss.count, 1.0)
        optimizer.step(1.0)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def plain(x: torch.Tensor, device: str, block: int | None) -> Callable[[], None]:
    from diptych.nn.patterns import BlockDiffusion

    model = llama(x.shape[1], device)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    run = torch.compile(model, dynamic=False)
    rows, length = x.shape[0], x.shape[1] - 1
    size = block or length
    clean, index = torch.arange(length + 1, device=device), torch.arange(2 * length + 1, device=device)
    positions = torch.cat((clean[1:], clean))[None].expand(rows, -1)
    allowed = BlockDiffusion(size, length, given=1).allowed(index[None, :, None], index[None, None])[None]
    mask = torch.zeros(allowed.shape, device=device).masked_fill(~allowed, float("-inf"))

    def loss() -> torch.Tensor:
        time = torch.rand(rows, -(-length // size), device=device).clamp(min=1e-3)
        time = time.repeat_interleave(size, 1)[:, :length]
        hidden = torch.rand(rows, length, device=device) < time
        noisy = x[:, 1:].masked_fill(hidden, MASK)
        if block is None:
            logits = run(input_ids=torch.cat((x[:, :1], noisy), dim=1)).logits[:, 1:]
        else:
            both = torch.cat((noisy, x), dim=1)
            logits = run(input_ids=both, attention_mask=mask, position_ids=positions).logits[:, :length]
        each = F.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten(), reduction="none").view(rows, length)
        return (each * hidden / time).sum() / hidden.numel()

    return plain_step(model, loss, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--block-length", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device, length, rows, block = options.device, options.sequence_length, options.batch_size, options.block_length
    x = torch.randint(VOCAB - 1, (rows, length + 1), generator=torch.Generator().manual_seed(0)).to(device)
    contenders = {
        "masked, diptych": ours(x, device, None),
        "masked, plain loop": plain(x, device, None),
        "block, diptych": ours(x, device, block),
        "block, plain loop": plain(x, device, block),
    }
    interleaved(contenders, 2)  # compiles and warms up
    seconds = interleaved(contenders, options.rounds)
    write(
        f"text-diffusion-step-{device}",
        {
            "shape": {"batch": rows, "sequence_length": length, "block_length": block, "parameters": 13_767_552},
            "rounds": options.rounds,
            "milliseconds": {name: 1e3 * statistics.median(times) for name, times in seconds.items()},
            "diptych_speedup": {
                kind: median_ratio(seconds[f"{kind}, plain loop"], seconds[f"{kind}, diptych"])
                for kind in ("masked", "block")
            },
        },
    )


if __name__ == "__main__":
    main()
