"""A training step of one Titans memory: Diptych against lucidrains' titans-pytorch at equal sizes.

    python benchmarks/titans.py [--batch-size 2] [--length 2048] [--chunk-lengths 16 32 64]
                                [--rounds 7]

The peer is not among the dev dependencies; where `titans_pytorch` cannot be imported its rows are left out. All take
float32, forward and backward, from the normalization before the memory to the projection after it, as they are
and compiled by torch.compile, as training does; but not the peer "at each chunk", which took more than four minutes to
compile. Every row has the median of its seconds, and that of its seconds / Diptych's of the same round. What the peer
(0.5.5) computes differently:

- by default every gradient of a sequence is taken at the memory before its first token, so that no chunk waits for
  another; with `batch_size` = the chunk's length (the row "at each chunk") it is taken at the memory that the chunk
  found, which is what the paper's section 3.2 and Diptych do;
- momentum and forgetting are one number a chunk, the mean of its tokens', and a token reads the memory as its chunk
  found it. Diptych keeps both to the token, and token t reads M_t;
- no short convolution, no SiLU and no unit length of queries and keys; a gate on every head's answer; its memory ends
  in a normalization and a residual sum.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable

import torch
from torch import nn

from _common import interleaved, median_ratio, write

D_MODEL, HEADS, D_HEAD, EXPANSION = 256, 4, 64, 2
AT_EACH_CHUNK = "titans-pytorch at each chunk"


def ours(depth: int, chunk_length: int) -> nn.Module:
    from diptych.core.config import NeuralMemoryConfig, TransformerConfig
    from diptych.nn.linear import Linear
    from diptych.nn.neural_memory import NeuralMemory
    from diptych.nn.normalization import RMSNorm

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            memory = NeuralMemoryConfig(depth=depth, expansion=EXPANSION, chunk_length=chunk_length)
            self.norm = RMSNorm(D_MODEL)
            self.memory = NeuralMemory(TransformerConfig(d_model=D_MODEL, n_heads=HEADS, d_head=D_HEAD, memory=memory))
            self.memory.draw(torch.Generator().manual_seed(0))
            self.output = Linear(HEADS * D_HEAD, D_MODEL, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(x)
            return self.output(self.memory(x, *self.memory.begin(x))[0])

    return Layer()


def peer(depth: int, chunk_length: int, *, at_each_chunk: bool) -> nn.Module:
    from titans_pytorch import NeuralMemory

    return NeuralMemory(
        dim=D_MODEL,
        heads=HEADS,
        dim_head=D_HEAD,
        chunk_size=chunk_length,
        batch_size=chunk_length if at_each_chunk else None,
        default_model_kwargs={"depth": depth, "expansion_factor": EXPANSION},
    )


def contenders(depth: int, chunk_length: int, *, has_peer: bool) -> dict[str, nn.Module]:
    models = {"diptych": ours(depth, chunk_length)}
    if has_peer:
        models["titans-pytorch"] = peer(depth, chunk_length, at_each_chunk=False)
        models[AT_EACH_CHUNK] = peer(depth, chunk_length, at_each_chunk=True)
    return models


def step(model: Callable[[torch.Tensor], torch.Tensor], parameters: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    def work() -> None:
        out = model(x)
        (out if isinstance(out, torch.Tensor) else out[0]).square().mean().backward()
        parameters.zero_grad(set_to_none=True)
        if x.is_cuda:
            torch.cuda.synchronize()

    return work


def steps(models: dict[str, nn.Module], x: torch.Tensor) -> dict[str, Callable[[], None]]:
    torch._dynamo.reset()
    result = {}
    for name, model in models.items():
        result[name] = step(model.to(x.device), model, x)
        if name != AT_EACH_CHUNK:
            result[f"{name} compiled"] = step(torch.compile(model, dynamic=False), model, x)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--chunk-lengths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(args.batch_size, args.length, D_MODEL, generator=torch.Generator().manual_seed(0)).to(device)
    has_peer = importlib.util.find_spec("titans_pytorch") is not None
    if not has_peer:
        print("titans_pytorch is not installed (pip install titans-pytorch): its rows are left out", file=sys.stderr)
    result: dict[str, object] = {"sizes": {**vars(args), "d_model": D_MODEL, "heads": HEADS, "d_head": D_HEAD}}
    for depth, chunk_length in itertools.product((1, 2), args.chunk_lengths):
        works = steps(contenders(depth, chunk_length, has_peer=has_peer), x)
        interleaved(works, 1)
        seconds = interleaved(works, args.rounds)
        result[f"depth {depth}, chunks of {chunk_length}"] = {
            name: {
                "median_seconds": statistics.median(times),
                "times_diptych": median_ratio(times, seconds["diptych"]),
                "times_diptych_compiled": median_ratio(times, seconds["diptych compiled"]),
            }
            for name, times in seconds.items()
        }
    write("titans", result)


if __name__ == "__main__":
    main()
