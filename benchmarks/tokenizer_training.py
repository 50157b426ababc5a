"""How fast is a byte-pair vocabulary learnt, and in how much memory? Against rustbpe and Hugging Face's BpeTrainer.

python benchmarks/tokenizer_training.py [FOLDER] [--vocab-size 32000] [--rounds 5]

FOLDER is what benchmarks/corpus.py gathered. Each training runs in a process of its own on one core, in turn; the text
is in memory before the clock starts, and a small training before it has loaded the compiled loops. The tokens must be
the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import median_ratio, write
from _corpus import load

CONTENDERS = ("diptych", "rustbpe", "huggingface")


def run(folder: Path, contender: str, vocab_size: int) -> dict[str, Any]:
    worker = Path(__file__).with_name("_tokenizer_worker.py")
    command = [sys.executable, str(worker), str(folder), contender, str(vocab_size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    print(f"{contender}: {result['seconds']:.2f} s, {result['bytes_over_the_corpus'] / 1e9:.2f} GB", file=sys.stderr)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/corpus"))
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    _, contents = load(options.folder)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            results[name].append(run(options.folder, name, options.vocab_size))
    same = [{each["tokens"] for name in names for each in results[name]} for names in (CONTENDERS[:2], CONTENDERS[2:])]
    same[1].add(run(options.folder, "diptych-letters", options.vocab_size)["tokens"])
    if max(map(len, same)) > 1:
        raise SystemExit("the vocabularies differ; their times cannot be compared")
    seconds = {name: [each["seconds"] for each in runs] for name, runs in results.items()}
    write(
        "tokenizer-training",
        {
            "corpus": contents,
            "vocab_size": options.vocab_size,
            "rounds": options.rounds,
            "cores": 1,
            "tokens_equal": True,
            "seconds": {name: statistics.median(each) for name, each in seconds.items()},
            "bytes_over_the_corpus": {
                name: max(each["bytes_over_the_corpus"] for each in runs) for name, runs in results.items()
            },
            "ratio": {name: median_ratio(seconds[name], seconds["diptych"]) for name in CONTENDERS[1:]},
        },
    )


if __name__ == "__main__":
    main()
