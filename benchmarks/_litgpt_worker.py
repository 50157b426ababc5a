"""litgpt's model in a plain tuned loop: one step for each line on standard input. Run by train_step.py."""

from __future__ import annotations

import sys

import torch
from litgpt import GPT, Config


def main() -> None:
    rows, length, vocab, d_model, layers, heads, d_ff = (int(a) for a in sys.argv[1:8])
    config = Config(
        block_size=length,
        vocab_size=vocab,
        padded_vocab_size=vocab,
        n_layer=layers,
        n_head=heads,
        n_embd=d_model,
        intermediate_size=d_ff,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    torch.manual_seed(0)
    model = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    x = torch.randint(vocab, (rows, length + 1))
    run = torch.compile(model, dynamic=False) if "compiled" in sys.argv else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for _ in sys.stdin:
        with torch.autocast("cpu", torch.bfloat16):
            logits = run(x[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), x[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print("done", flush=True)


if __name__ == "__main__":
    main()
