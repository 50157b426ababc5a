"""How long does the first use of the tokenizer take on a machine, and every later start? Medians of whole processes.

python benchmarks/tokenizer_startup.py [--rounds 5]

The first use compiles the loops into an empty cache; a later start finds them there. Each process learns a small
vocabulary and encodes and decodes a text with it; beside it stand a bare interpreter, and one that imports NumPy.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from _common import interleaved, write

USE = (
    "from diptych.tokenizers.bpe_training import train_bpe; t = train_bpe(['low lower lowest'], 260); "
    "assert t.decode(t.encode('the lowest')) == 'the lowest'"
)


def call(code: str, cache: str) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as kept:
        call(USE, kept)

        def first() -> None:
            with tempfile.TemporaryDirectory() as cache:
                call(USE, cache)

        contenders = {
            "first use": first,
            "later start": lambda: call(USE, kept),
            "python -c 'import numpy'": lambda: call("import numpy", kept),
            "python -c pass": lambda: call("pass", kept),
        }
        seconds = {name: statistics.median(v) for name, v in interleaved(contenders, options.rounds).items()}
    added = seconds["later start"] - seconds["python -c pass"]
    write("tokenizer-startup", {"rounds": options.rounds, "seconds": {**seconds, "added by a later start": added}})


if __name__ == "__main__":
    main()
