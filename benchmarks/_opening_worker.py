"""One process that opens a model, for `opening.py`: WHAT PATH DTYPE. Its last line says in JSON how it went.

WHAT: `diptych` or `transformers` give the first token of an answer; `memory` only opens, by Diptych: the weights, then
the tokenizer.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)


def peak() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def diptych(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    from diptych.checkpoints.open import open_model
    from diptych.core.random import Rng
    from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest

    imported = time.time()
    opened = open_model(path, dtype=dtype)
    ids = opened.tokenizer.encode(PROMPT, allowed_special="all").tolist()
    request = GenerationRequest(prompts=[ids], max_new_tokens=1, eos_id=-1)
    frame = next(iter(AutoregressiveSampler(temperature=0).sample(opened.model, request, Rng(0))))
    return {"imported": imported, "done": time.time(), "ids": len(ids), "token": int(frame.state)}


def transformers(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The classes themselves are imported at their first use, which is not the opening's fault.
    from transformers.models.gpt2.tokenization_gpt2 import GPT2Tokenizer
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    del GPT2Tokenizer, LlamaForCausalLM
    imported = time.time()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()
    ids = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(**ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
    count = ids["input_ids"].shape[1]
    return {"imported": imported, "done": time.time(), "ids": count, "token": int(out[0, count])}


def memory(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    from diptych.checkpoints.gguf import open_gguf
    from diptych.checkpoints.hugging_face import open_hugging_face
    from diptych.tokenizers.gguf import read_gguf
    from diptych.tokenizers.load import load_tokenizer

    del read_gguf  # imported for what it imports
    before = peak()
    is_file = path.is_file()
    model = open_gguf(path, dtype=dtype)[0] if is_file else open_hugging_face(path, device="cpu", dtype=dtype)
    after = peak()
    tokenizer = load_tokenizer(path)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    extra = peak() - after
    return {"weights": weights, "ratio": (after - before) / weights, "tokenizer": extra, "size": tokenizer.vocab_size}


def main() -> None:
    what, path, dtype = sys.argv[1:]
    result = {"diptych": diptych, "transformers": transformers, "memory": memory}[what](
        Path(path), getattr(torch, dtype)
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
