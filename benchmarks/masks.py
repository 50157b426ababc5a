"""Masks that skip work: a sliding window against full attention, and the chosen form against every other one.

    python benchmarks/masks.py [--rounds 7] [--dtype float32]

One operation of 4 heads of 64, batch 1. `window`: forward, and forward with backward, of a window of 512 and of full
causal attention, with the exponent of time over the lengths. `forms`: for several masks and lengths, every form that
can express the mask, and the one that `diptych.nn.lowering` chooses; a ratio above 1 says that another was faster.
FlexAttention is compiled before it is timed, and on a processor it has no backward pass. On a GPU the same script
times what there is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from _common import interleaved, median_ratio, write
from diptych.evaluation.power_law import fit_power_law
from diptych.nn.attention import attention
from diptych.nn.lowering import Form, Scope, choose, in_form
from diptych.nn.mask_text import parse_mask

LENGTHS = (1024, 2048, 4096, 8192, 16_384)
FORM_LENGTHS = (512, 2048, 4096)
MASKS = (
    "causal & window(64)",
    "causal & window(512)",
    "causal & (window(512) | sinks(4))",
    "causal & (window(128) | strided(128))",
    "causal & fixed(128, 8)",
    "causal & documents(300, 500, 200, 1000)",
    "bigbird(64)",
    "prefix(256)",
)
HEADS, WIDTH = 4, 64


def inputs(n: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(1, HEADS, n, WIDTH, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)]


def forward(form: Form, mask: str, n: int, device: str, dtype: torch.dtype) -> Callable[[], object]:
    lowered, qkv = in_form(form, parse_mask(mask), Scope(n, n, device=device)), inputs(n, device, dtype)
    qkv = [x.detach() for x in qkv]

    def run() -> None:
        with torch.no_grad():
            attention(*qkv, lowered)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def training(form: Form, mask: str, n: int, device: str, dtype: torch.dtype) -> Callable[[], object]:
    lowered, qkv = in_form(form, parse_mask(mask), Scope(n, n, device=device)), inputs(n, device, dtype)
    probe = torch.ones_like(qkv[0])

    def run() -> None:
        torch.autograd.grad(attention(*qkv, lowered), qkv, probe)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def lower_each_time(mask: str, n: int) -> Callable[[], object]:
    """What the choice itself costs, for a mask that was never seen."""
    from diptych.nn.block_sparse import cut

    return lambda: cut(parse_mask(mask), queries=n, keys=n, offset=0)


def window_against_full(rounds: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, make in (("forward", forward), ("forward and backward", training)):
        seconds: dict[str, list[float]] = {"full": [], "window": []}
        ratios = {}
        for n in LENGTHS:
            chosen = choose(parse_mask("causal & window(512)"), Scope(n, n, device=device))
            work = {
                "full": make("causal", "causal", n, device, dtype),
                "window": make(chosen, "causal & window(512)", n, device, dtype),
            }
            for run in work.values():
                run()
            times = interleaved(work, rounds)
            ratios[n] = median_ratio(times["full"], times["window"])
            for kind, all_of_them in times.items():
                seconds[kind].append(statistics.median(all_of_them))
        result[name] = {
            "lengths": LENGTHS,
            "seconds": seconds,
            "full / window": ratios,
            "exponent": {kind: vars(fit_power_law(LENGTHS[1:], times[1:])) for kind, times in seconds.items()},
        }
    return result


def forms_against_the_chosen(rounds: int, device: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    rows = []
    for text in MASKS:
        for n in FORM_LENGTHS:
            for name, make in (("forward", forward), ("forward and backward", training)):
                forms: list[Form] = ["dense", "pieces"] if device == "cpu" else ["dense"]
                if device == "cuda" or name == "forward":
                    forms.append("flex")
                work = {form: make(form, text, n, device, dtype) for form in forms}
                for run in work.values():  # FlexAttention compiles
                    run()
                    run()
                times = interleaved(work, rounds)
                chosen = choose(parse_mask(text), Scope(n, n, device=device))
                rows.append(
                    {
                        "mask": text,
                        "length": n,
                        "work": name,
                        "chosen": chosen,
                        "seconds": {form: statistics.median(t) for form, t in times.items()},
                        "chosen / fastest": max(median_ratio(times[chosen], times[form]) for form in forms),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, options.dtype)
    torch._dynamo.config.cache_size_limit = 1000  # every mask and length is compiled once
    start = time.perf_counter()
    forms = forms_against_the_chosen(options.rounds, device, dtype)
    write(
        "masks" if options.dtype == "float32" else f"masks_{options.dtype}",
        {
            "shape": {"heads": HEADS, "d_head": WIDTH, "batch": 1, "dtype": options.dtype},
            "window of 512 against full": window_against_full(options.rounds, device, dtype),
            "seconds to cut": {text: _seconds(lower_each_time(text, 16_384)) for text in MASKS},
            "forms": forms,
            "worst chosen / fastest": max(row["chosen / fastest"] for row in forms),
            "took": time.perf_counter() - start,
        },
    )


def _seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
