"""Batch-1 greedy decoding: Diptych against Hugging Face `generate`, same weights, same precision, no compiler.

    python benchmarks/decode.py [--tokens 64] [--rounds 7]

The shape is SmolLM2-135M's, with random weights. In float32 both must give the same tokens before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from _common import interleaved, median_ratio, write

PROMPT = 32


def ours(dtype: torch.dtype, device: str) -> Any:
    from diptych.core.config import TransformerConfig
    from diptych.models.language_model import LanguageModel
    from diptych.models.network import initialize

    config = TransformerConfig(
        vocab_size=49_152,
        d_model=576,
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        d_ff=1536,
        max_length=2048,
        rope_theta=100_000.0,
    )
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(0)
    initialize(model, generator)
    with torch.no_grad():  # spread out, so that the most likely token is clear
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.to(device, dtype).eval().requires_grad_(False)


def hugging_face(model: Any, dtype: torch.dtype, device: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    theirs = LlamaForCausalLM(config)
    state = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.final_norm.weight}
    for i, block in enumerate(model.blocks):
        prefix = f"model.layers.{i}."
        rows = block.attention.input.weight.split((576, 192, 192))
        for name, part in zip("qkv", rows, strict=True):
            state[f"{prefix}self_attn.{name}_proj.weight"] = part
        gate, up = block.feed_forward.input.weight.chunk(2)
        state |= {
            prefix + "self_attn.o_proj.weight": block.attention.output.weight,
            prefix + "mlp.gate_proj.weight": gate,
            prefix + "mlp.up_proj.weight": up,
            prefix + "mlp.down_proj.weight": block.feed_forward.output.weight,
            prefix + "input_layernorm.weight": block.attention_norm.weight,
            prefix + "post_attention_layernorm.weight": block.feed_forward_norm.weight,
        }
    theirs.load_state_dict(state, strict=False)
    return theirs.to(device, dtype).eval()


def generators(dtype: torch.dtype, device: str, tokens: int) -> tuple[dict[str, Callable[[], list[int]]], int]:
    from diptych.core.random import Rng
    from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest

    model = ours(dtype, device)
    theirs = hugging_face(model, dtype, device)
    prompt = torch.randint(49_152, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    request = GenerationRequest(prompts=prompt.tolist(), max_new_tokens=tokens, eos_id=-1)
    sampler = AutoregressiveSampler(temperature=0)
    ids = prompt.to(device)

    def diptych() -> list[int]:
        return [int(frame.state) for frame in sampler.sample(model, request, Rng(0))]

    def transformers() -> list[int]:
        with torch.inference_mode():
            out = theirs.generate(ids, max_new_tokens=tokens, do_sample=False, attention_mask=torch.ones_like(ids))
        return list(out[0, PROMPT:].tolist())

    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"diptych": diptych, "hugging face": transformers}, size


def read_bandwidth() -> float:
    """Bytes a second of summing a buffer much larger than the caches."""
    from time import perf_counter

    buffer = torch.ones(128 * 1024 * 1024, dtype=torch.float32)
    best = min(_timed(buffer.sum, perf_counter) for _ in range(7))
    return buffer.nbytes / best


def _timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    result: dict[str, Any] = {"rounds": options.rounds, "tokens": options.tokens, "prompt": PROMPT}
    for dtype in (torch.float32, torch.bfloat16):
        contenders, size = generators(dtype, options.device, options.tokens)
        first = {name: work() for name, work in contenders.items()}
        same = sum(a == b for a, b in zip(first["diptych"], first["hugging face"], strict=True))
        if dtype == torch.float32 and same != options.tokens:
            raise SystemExit(f"the tokens differ: only {same} of {options.tokens} are equal")
        seconds = interleaved(contenders, options.rounds)
        name = str(dtype).removeprefix("torch.")
        result[name] = {
            "equal_tokens": same,
            "weights_mb": size / 1e6,
            "tokens_per_second": {k: options.tokens / statistics.median(v) for k, v in seconds.items()},
            "speedup_over_hugging_face": median_ratio(seconds["hugging face"], seconds["diptych"]),
            "weights_gb_per_second": size * options.tokens / statistics.median(seconds["diptych"]) / 1e9,
        }
    if options.device == "cpu":
        result["read_bandwidth_gb_per_second"] = read_bandwidth() / 1e9
    write(f"decode-{options.device}", result)


if __name__ == "__main__":
    main()
