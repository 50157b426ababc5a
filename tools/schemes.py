"""Make docs/figures/schemes.png and the table beside it in docs/tokenizers.md: one sentence through every scheme.

python tools/schemes.py [FOLDER]

FOLDER is what benchmarks/corpus.py gathered. Every vocabulary of up to 32,000 tokens is learnt from the same 40 MB of
it, and tried on 2 MB that were not among them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from diptych import __version__
from diptych.report.plots import save_png
from diptych.report.results import ReviewResults
from diptych.report.schemes import compare_schemes, drawing

PICTURE = Path(__file__).parent.parent / "docs" / "figures" / "schemes.png"
EVERY = 20
"""One document in so many is tried on."""


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/corpus")
    with (folder / "corpus.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    train = [text for index, text in enumerate(texts) if index % EVERY]
    schemes = compare_schemes(train, texts[::EVERY], vocab_size=32_000, train_bytes=40_000_000, heldout_bytes=2_000_000)
    save_png(drawing(ReviewResults(version=__version__, created="", command="", seed=0, schemes=schemes)), PICTURE)
    least = min(scheme.attention_pairs for scheme in schemes)
    for scheme in schemes:
        tokens = " ".join(f"`{token.replace(' ', '␣')}`" for token in scheme.sentence)
        print(
            f"| {scheme.name} | {scheme.vocab_size:,} | {len(scheme.sentence)} | {tokens} "
            f"| {scheme.bytes_per_token:.2f} | {scheme.words_whole_share:.0%} "
            f"| {scheme.attention_pairs / least:.1f}x |"
        )


if __name__ == "__main__":
    main()
