"""A training step: Diptych against Hugging Face's Llama in a plain tuned loop, and litgpt's model.

    python benchmarks/train_step.py [--sequence-length 256] [--batch-size 16] [--rounds 7] [--litgpt-python PATH]

All train the same shape (13.8 M parameters) on the same random tokens with bf16 autocast, fused AdamW and clipping,
each in its best settings. litgpt pins other versions of shared packages, so it runs as a worker of the interpreter that
--litgpt-python names.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from _common import interleaved, median_ratio, write

D_MODEL, LAYERS, HEADS, D_FF, VOCAB = 384, 6, 6, 1024, 8192


def optimizer_for(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def plain_step(model: torch.nn.Module, loss_of: Callable[[], torch.Tensor], device: str) -> Callable[[], None]:
    """A plain tuned loop: autocast, backward, clip, fused AdamW."""
    optimizer = optimizer_for(model)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def ours(x: torch.Tensor, device: str, compiled: bool) -> Callable[[], None]:
    from diptych.core.config import OptimConfig, TransformerConfig
    from diptych.core.random import Rng
    from diptych.core.types import Batch
    from diptych.models.language_model import LanguageModel
    from diptych.models.network import initialize
    from diptych.objectives.autoregressive import Autoregressive
    from diptych.objectives.cross_entropy import slice_loss
    from diptych.training.optimizers import Optimizer, clip_and_scale

    config = TransformerConfig(
        vocab_size=VOCAB, d_model=D_MODEL, n_layers=LAYERS, n_heads=HEADS, d_ff=D_FF, max_length=x.shape[1]
    )
    model = LanguageModel(config)
    initialize(model, torch.Generator().manual_seed(0))
    model.to(device)
    if compiled:
        for block in model.blocks:
            block.compile(dynamic=False)
    kernel = torch.compile(slice_loss, dynamic=False) if compiled else slice_loss
    objective, optimizer = Autoregressive(kernel), Optimizer(model, OptimConfig())
    batch = Batch(x=x, sample_ids=torch.arange(len(x), device=device))
    parameters = list(model.parameters())

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = objective.loss(model, batch, Rng(0))
        loss.total.backward()
        clip_and_scale(parameters, 1 / loss.count, 1.0)
        optimizer.step(1.0)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def llama(length: int, device: str) -> torch.nn.Module:
    """Hugging Face's Llama of the shape that is timed, for inputs of `length` tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=D_FF,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(device)


def hugging_face(x: torch.Tensor, device: str, compiled: bool) -> Callable[[], None]:
    model = llama(x.shape[1], device)
    run = torch.compile(model, dynamic=False) if compiled else model
    inputs, targets = x[:, :-1].contiguous(), x[:, 1:].contiguous()
    return plain_step(model, lambda: run(input_ids=inputs, shift_labels=targets, labels=targets).loss, device)


class Worker:
    """Another interpreter that takes one step each time it is told to."""

    def __init__(self, python: str, x: torch.Tensor, compiled: bool) -> None:
        arguments = [python, str(Path(__file__).with_name("_litgpt_worker.py")), str(x.shape[0]), str(x.shape[1] - 1)]
        arguments += [str(v) for v in (VOCAB, D_MODEL, LAYERS, HEADS, D_FF)] + (["compiled"] if compiled else [])
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __call__(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if answer != "done\n":
            raise SystemExit(f"the litgpt worker failed: {answer!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--litgpt-python", help="interpreter of an environment that holds litgpt")
    options = parser.parse_args()
    device, length, rows = options.device, options.sequence_length, options.batch_size
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(VOCAB, (rows, length + 1), generator=generator).to(device)
    contenders: dict[str, Callable[[], None]] = {
        "diptych compiled": ours(x, device, compiled=True),
        "hugging face compiled": hugging_face(x, device, compiled=True),
        "diptych eager": ours(x, device, compiled=False),
        "hugging face eager": hugging_face(x, device, compiled=False),
    }
    if options.litgpt_python:
        contenders["litgpt compiled"] = Worker(options.litgpt_python, x, compiled=True)
        contenders["litgpt eager"] = Worker(options.litgpt_python, x, compiled=False)
    interleaved(contenders, 2)  # compiles and warms up
    seconds = interleaved(contenders, options.rounds)

    from diptych.core.config import TransformerConfig
    from diptych.models.cost import training_flops_per_token
    from diptych.training.machine import matmul_peak

    config = TransformerConfig(vocab_size=VOCAB, d_model=D_MODEL, n_layers=LAYERS, n_heads=HEADS, d_ff=D_FF)
    flops = training_flops_per_token(config, length) * rows * length
    peak = matmul_peak(torch.device(device), torch.bfloat16, repeats=15)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = seconds["diptych compiled"]
    write(
        f"train-step-{device}-{length}",
        {
            "shape": {"batch": rows, "sequence_length": length, "parameters": 13_767_552},
            "rounds": options.rounds,
            "tokens_per_second": {name: rows * length / value for name, value in medians.items()},
            "bf16_matmul_peak_gflops": peak / 1e9,
            "share_of_peak": {name: flops / value / peak for name, value in medians.items()},
            "diptych_compiled_speedup_over": {
                name: median_ratio(times, best) for name, times in seconds.items() if name != "diptych compiled"
            },
        },
    )


if __name__ == "__main__":
    main()
