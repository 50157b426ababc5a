"""A training step of the transformer denoiser: Diptych against diffusers' DiTTransformer2DModel in a plain tuned loop.

    python benchmarks/diffusion_step.py [--rounds 15] [--precision auto|float32|bfloat16]

Both train the same shape on the same images: draw noise levels, noise and dropped classes, the loss of the network's
own output, backward, clipping, fused AdamW, the blocks or the network compiled. Ours takes the step that `diptych
train` takes, keyed random numbers included; the peer's loop draws from torch's generator.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from _common import interleaved, median_ratio, write

SIZES = {
    "digits": {"side": 8, "channels": 1, "d_model": 96, "n_layers": 3, "n_heads": 4, "batch": 128},
    "28x28": {"side": 28, "channels": 1, "d_model": 128, "n_layers": 4, "n_heads": 4, "batch": 32},
}
CLASSES = 10


def ours(
    size: dict[str, int], x: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype, compiled: bool
) -> tuple[Callable[[], None], int]:
    from diptych.core.config import OptimConfig, TransformerConfig
    from diptych.core.diffusion_config import DiffusionConfig, PatchConfig
    from diptych.core.random import Rng
    from diptych.core.types import Batch
    from diptych.models.network import build_network, initialize
    from diptych.objectives.gaussian import GaussianDiffusion
    from diptych.training.compilation import compile_blocks
    from diptych.training.optimizers import Optimizer, clip_and_scale

    side, channels = size["side"], size["channels"]
    config = TransformerConfig(
        d_model=size["d_model"],
        n_layers=size["n_layers"],
        n_heads=size["n_heads"],
        norm="layer",
        position="sinusoidal",
        feed_forward="gelu_tanh",
        bias=True,
        patches=PatchConfig(size=2, channels=channels, height=side, width=side, n_classes=CLASSES),
    )
    model = build_network(config)
    initialize(model, torch.Generator().manual_seed(0))
    model.to(x.device)
    if compiled:
        compile_blocks(model)
    objective, optimizer = GaussianDiffusion(DiffusionConfig(), 256, CLASSES), Optimizer(model, OptimConfig())
    batch = Batch(x=x, sample_ids=torch.arange(len(x), device=x.device), cond=labels)
    parameters, steps = list(model.parameters()), iter(range(1 << 40))

    def step() -> None:
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            loss = objective.loss(model, batch, Rng(0).fold("step", next(steps)))
        loss.total.backward()
        clip_and_scale(parameters, 1 / loss.count, 1.0)
        optimizer.step(1.0)
        if x.is_cuda:
            torch.cuda.synchronize()

    return step, sum(parameter.numel() for parameter in parameters)


def diffusers(
    size: dict[str, int], x: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype, compiled: bool
) -> tuple[Callable[[], None], int]:
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=size["n_heads"],
        attention_head_dim=size["d_model"] // size["n_heads"],
        in_channels=size["channels"],
        num_layers=size["n_layers"],
        sample_size=size["side"],
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    ).to(x.device)  # drops a tenth of the classes itself
    run = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> None:
        sigma = (1.2 * torch.randn(len(x), 1, 1, 1, device=x.device) - 1.2).exp()
        spread = x + (torch.rand_like(x) - 0.5) * (2 / 256)
        noisy = spread + sigma * torch.randn_like(x)
        skip, scale = 0.25 / (sigma.square() + 0.25), (sigma.square() + 0.25).rsqrt()
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            output = run(scale * noisy, timestep=250 * sigma.log().flatten(), class_labels=labels).sample
        target = (spread - skip * noisy) / (0.5 * sigma * scale)
        (output.float() - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if x.is_cuda:
            torch.cuda.synchronize()

    return step, sum(parameter.numel() for parameter in model.parameters())


def measure(size: dict[str, int], device: str, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    """Medians of one size."""
    x = torch.rand(size["batch"], size["channels"], size["side"], size["side"]).to(device) * 2 - 1
    labels = torch.randint(CLASSES, (size["batch"],)).to(device)
    made = {
        "diptych compiled": ours(size, x, labels, dtype, compiled=True),
        "diffusers compiled": diffusers(size, x, labels, dtype, compiled=True),
        "diptych eager": ours(size, x, labels, dtype, compiled=False),
        "diffusers eager": diffusers(size, x, labels, dtype, compiled=False),
    }
    contenders = {name: step for name, (step, _) in made.items()}
    interleaved(contenders, 3)  # compiles and warms up
    seconds = interleaved(contenders, rounds)
    return {
        "shape": size,
        "parameters": {name: count for name, (_, count) in made.items()},
        "milliseconds": {name: 1e3 * statistics.median(times) for name, times in seconds.items()},
        "diptych_speedup_over_diffusers": {
            kind: median_ratio(seconds[f"diffusers {kind}"], seconds[f"diptych {kind}"])
            for kind in ("compiled", "eager")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    options = parser.parse_args()
    is_fast = options.device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    name = options.precision
    if name == "auto":
        name = "bfloat16" if is_fast else "float32"
    results = {
        size: measure(shape, options.device, getattr(torch, name), options.rounds) for size, shape in SIZES.items()
    }
    write(f"diffusion_step-{options.device}-{name}", {"rounds": options.rounds, "precision": name, **results})


if __name__ == "__main__":
    main()
