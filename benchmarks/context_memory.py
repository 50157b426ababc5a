"""Peak memory of reading a long text into the cache: does it grow in line with the text, as is and extended?

    python benchmarks/context_memory.py [--lengths 2048 4096 8192 16384 32768] [--extension string]

A small model (4 layers, d_model 128) with random weights on the processor; every reading in a process of its own, as
what was freed before would stand ready. Peak memory is the high-water mark (VmHWM of Linux's /proc) over what was
resident after a short text was read, so that loaded code does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from _common import write

LENGTHS = (2048, 4096, 8192, 16384, 32768)

LINEAR = (0.9, 1.1)
"""The goal: the exponent of growth lies between these."""

WARM = 64
"""Tokens of the short text."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--extension", default="string")
    parser.add_argument("--reading", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--extended", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reading is not None:
        text = given.extension if given.extended else None
        print(json.dumps(reading(given.reading, max(given.lengths), text)))
        return

    lengths = sorted(given.lengths)
    models = {}
    for name in ("plain", given.extension):
        found = [in_process(given, length, extended=name != "plain") for length in lengths]
        peaks, caches = [of["peak"] for of in found], [of["cache"] for of in found]
        models[name] = {
            "peak_bytes": peaks,
            "cache_bytes": caches,
            "bytes_a_token": [peak / length for peak, length in zip(peaks, lengths, strict=True)],
            "exponent": exponent(lengths, peaks),
            "exponent_over_the_shortest": exponent(
                [length - lengths[0] for length in lengths[1:]], [peak - peaks[0] for peak in peaks[1:]]
            ),
        }
    low, high = LINEAR
    write(
        "context-memory-cpu",
        {
            "lengths": lengths,
            "n_layers": SIZE["n_layers"],
            "d_model": SIZE["d_model"],
            "models": models,
            "goals": {
                f"{name}: exponent of growth from {low} to {high}": low <= of["exponent_over_the_shortest"] <= high
                for name, of in models.items()
            },
        },
    )


SIZE = {"d_model": 128, "n_layers": 4, "n_heads": 4, "vocab_size": 512}


def in_process(given: argparse.Namespace, length: int, *, extended: bool) -> dict[str, int]:
    """What `reading` says in a fresh process."""
    lengths = [str(of) for of in given.lengths]
    command = [sys.executable, __file__, "--reading", str(length), "--extension", given.extension]
    command += ["--lengths", *lengths, *(["--extended"] if extended else [])]
    # Every larger block is mapped on its own and returned to the system when it is freed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def reading(length: int, longest: int, extension: str | None) -> dict[str, int]:
    """Bytes over what was resident before, of reading so many tokens, and those of the cache alone."""
    import torch

    from diptych.core.config import TransformerConfig
    from diptych.core.context_extension import parse_extension
    from diptych.evaluation.context.local import read
    from diptych.models.extension import extend
    from diptych.models.language_model import LanguageModel

    model = LanguageModel(TransformerConfig(**SIZE, position="rope", max_length=longest)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
    if extension is not None:
        model = extend(model, parse_extension(extension))
    ids = [i % SIZE["vocab_size"] for i in range(length)]
    with torch.inference_mode():
        read(model, ids[:WARM], WARM)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the high-water mark so far
        cache = read(model, ids, length)
        return {"peak": resident("VmHWM") - before, "cache": cache.n_bytes}


def resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def exponent(lengths: Sequence[int], sizes: Sequence[int]) -> float:
    """Slope of the least-squares line through the logarithms."""
    slope, _ = statistics.linear_regression([math.log(of) for of in lengths], [math.log(of) for of in sizes])
    return slope


if __name__ == "__main__":
    main()
