"""Writing by block diffusion with its cache against masked diffusion of the whole canvas, in tokens a second.

    python benchmarks/text_diffusion_decode.py [--length 512] [--block-length 4] [--rounds 5]

One network of 13.8 M parameters writes one text both ways, at 1, 2 and 4 tokens a step, with the random unmasker. The
weights are drawn, not learnt: speed does not depend on them. At equal tokens a step a block-diffusion run of the same
training has the lower bound (`diptych compare`), so the ratio at equal bits per byte is no smaller.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from _common import interleaved, median_ratio, write
from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler
from train_step import D_FF, D_MODEL, HEADS, LAYERS, VOCAB

MASK = VOCAB - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--block-length", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    length, block = options.length, options.block_length
    config = TransformerConfig(vocab_size=VOCAB, d_model=D_MODEL, n_layers=LAYERS, n_heads=HEADS, d_ff=D_FF)
    model = LanguageModel(config)
    initialize(model, torch.Generator().manual_seed(0))
    model.to(options.device).eval()
    request = CanvasRequest(canvas=[[0, *[MASK] * length]], mask_id=MASK)

    def writing(sampler: MaskedDiffusionSampler) -> Callable[[], None]:
        def run() -> None:
            for _ in sampler.sample(model, request, Rng(0)):
                pass

        return run

    contenders: dict[str, Callable[[], None]] = {}
    for tokens in (1, 2, 4):
        whole = MaskedDiffusionSampler(unmask="random", steps=length // tokens)
        blocks = MaskedDiffusionSampler(unmask="random", steps=max(1, block // tokens), block_length=block)
        contenders |= {f"whole canvas, {tokens} a step": writing(whole), f"blocks, {tokens} a step": writing(blocks)}
    interleaved(contenders, 1)
    seconds = interleaved(contenders, options.rounds)
    write(f"text-diffusion-decode-{options.device}-{length}", {
        "length": length, "block_length": block, "rounds": options.rounds,
        "tokens_per_second": {name: length / statistics.median(times) for name, times in seconds.items()},
        "blocks_speedup": {
            tokens: median_ratio(seconds[f"whole canvas, {tokens} a step"], seconds[f"blocks, {tokens} a step"])
            for tokens in (1, 2, 4)
        },
    })  # fmt: skip


if __name__ == "__main__":
    main()
