"""How fast do text and ids turn into each other? Against tiktoken and rustbpe, with the same vocabulary.

python benchmarks/tokenizer_encoding.py [FOLDER] [--vocab-size 32000] [--rounds 5]

FOLDER is what benchmarks/corpus.py gathered. The vocabulary is learnt from it. All contenders run in turn on one core,
one call a document; before the clock starts, the ids of every document are compared. The last part encodes on all
cores.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rustbpe
import tiktoken

from _common import interleaved, median_ratio, write
from _corpus import load, one_core
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.splitting import Split

SPLIT = Split.named("llama3")  # GPT-4's, in the form that all three read
SIZE = 1_000_000


def single_chunks() -> dict[str, str]:
    """A million bytes or so that the split leaves in one piece, or in as many as it can."""
    draw = random.Random(0)
    return {
        "a": "a" * SIZE,
        "spaces": " " * SIZE,
        "random letters": "".join(draw.choices(string.ascii_lowercase, k=SIZE)),
        "CJK": "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(SIZE // 3)),
        "digits": "".join(draw.choices(string.digits, k=SIZE)),
    }


def twin(tokenizer: BytePairTokenizer) -> tiktoken.Encoding:
    """tiktoken with the same ranks."""
    ranks = {piece: token for token, piece in enumerate(tokenizer.ordinary) if piece}
    return tiktoken.Encoding("twin", pat_str=SPLIT.patterns[0], mergeable_ranks=ranks, special_tokens={})


def check(ours: BytePairTokenizer, theirs: tiktoken.Encoding, other: Any, texts: list[str]) -> None:
    for text in texts:
        ids = ours.encode(text).tolist()
        if not ids == theirs.encode_ordinary(text) == other.encode(text) == ours.encode_list(text):
            raise SystemExit("the ids differ; their times cannot be compared")
        if not ours.decode(ids) == theirs.decode(ids) == text:
            raise SystemExit("the texts differ; their times cannot be compared")


def survives(text_name: str, path: Path) -> bool:
    """Whether tiktoken encodes this chunk at all: its engine may overflow its stack, which ends the process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import tokenizer_encoding as b; "
        "from pathlib import Path; from diptych.tokenizers.tiktoken_file import read_ranks; "
        "b.twin(read_ranks(Path(sys.argv[2]), 'llama3')).encode_ordinary(b.single_chunks()[sys.argv[3]])"
    )
    call = [sys.executable, "-c", code, str(Path(__file__).parent), str(path), text_name]
    return subprocess.run(call, check=False, capture_output=True).returncode == 0


def per_call(function: Callable[[str], object], texts: list[str], rounds: int) -> list[float]:
    """Seconds a call, over many calls on texts that follow each other, in each round."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        for text in texts:
            function(text)
        seconds.append((time.perf_counter() - started) / len(texts))
    return seconds


def short_calls(ours: BytePairTokenizer, theirs: tiktoken.Encoding, rounds: int) -> dict[str, Any]:
    """Calls on short strings: all 676 pairs of letters again and again, and strings of which none comes twice."""
    pairs = ["".join(pair) for pair in itertools.product(string.ascii_lowercase, repeat=2)] * 100
    draw = random.Random(1)
    words = ["".join(draw.choices(string.ascii_lowercase, k=4)) for _ in range(8)]
    new = [" ".join([*draw.choices(words, k=7), str(index)]) for index in range(60_000)]
    result = {}
    for name, texts in {"2 characters": pairs, "about 40 characters, none twice": new}.items():
        mine = per_call(ours.encode_list, texts, rounds)
        numpy = per_call(ours.encode, texts, rounds)
        tik = per_call(theirs.encode_ordinary, texts, rounds)
        result[name] = {
            "diptych list, microseconds": 1e6 * statistics.median(mine),
            "diptych numpy, microseconds": 1e6 * statistics.median(numpy),
            "tiktoken, microseconds": 1e6 * statistics.median(tik),
            "ratio list": median_ratio(tik, mine),
            "ratio numpy": median_ratio(tik, numpy),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/corpus"))
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    one_core()
    texts, contents = load(options.folder)
    ours = train_bpe(texts, options.vocab_size, split=SPLIT, special_tokens=(), byte_order=range(256))
    theirs = twin(ours)
    other = rustbpe.Tokenizer()
    other.train_from_iterator(iter(texts), options.vocab_size, pattern=SPLIT.patterns[0])
    fresh = BytePairTokenizer(ours.pieces, ours.merges, SPLIT, {}, eos=None)
    started = time.perf_counter()
    for text in texts:
        fresh.encode(text)
    first_pass = time.perf_counter() - started
    check(ours, theirs, other, texts)

    ids = [ours.encode(text) for text in texts]
    lists = [each.tolist() for each in ids]
    contenders: dict[str, Callable[[], object]] = {
        "diptych encode, NumPy": lambda: [ours.encode(text) for text in texts] and None,
        "diptych encode, list": lambda: [ours.encode_list(text) for text in texts] and None,
        "tiktoken encode_ordinary": lambda: [theirs.encode_ordinary(text) for text in texts] and None,
        "rustbpe encode": lambda: [other.encode(text) for text in texts] and None,
        "diptych decode, NumPy": lambda: [ours.decode(each) for each in ids] and None,
        "diptych decode, list": lambda: [ours.decode(each) for each in lists] and None,
        "tiktoken decode": lambda: [theirs.decode(each) for each in lists] and None,
    }
    seconds = interleaved(contenders, options.rounds)
    numpy = seconds["diptych encode, NumPy"]
    tik, rust = seconds["tiktoken encode_ordinary"], seconds["rustbpe encode"]

    with tempfile.TemporaryDirectory() as folder:
        ours.save(Path(folder) / "ranks.tiktoken")
        alive = {name: survives(name, Path(folder) / "ranks.tiktoken") for name in single_chunks()}
    chunks: dict[str, Any] = {}
    for name, text in single_chunks().items():
        work: dict[str, Callable[[], object]] = {"diptych": lambda text=text: ours.encode_list(text)}
        if alive[name]:
            assert ours.encode_list(text) == theirs.encode_ordinary(text)
            work["tiktoken"] = lambda text=text: theirs.encode_ordinary(text)
        took = interleaved(work, options.rounds)
        chunks[name] = {each: statistics.median(values) for each, values in took.items()}
        chunks[name]["ratio"] = median_ratio(took["tiktoken"], took["diptych"]) if alive[name] else None
        chunks[name]["note"] = "" if alive[name] else "tiktoken's process dies"

    calls = short_calls(ours, theirs, options.rounds)
    os.sched_setaffinity(0, cores)
    both = interleaved(
        {
            "one core": lambda: ours.encode_batch(texts, 1) and None,
            "all cores": lambda: ours.encode_batch(texts, len(cores)) and None,
        },
        options.rounds,
    )
    n_bytes = contents["bytes"]
    write(
        "tokenizer-encoding",
        {
            "corpus": contents,
            "vocab_size": options.vocab_size,
            "rounds": options.rounds,
            "ids_equal": True,
            "megabytes_per_second": {
                **{name: n_bytes / 1e6 / statistics.median(each) for name, each in seconds.items()},
                "diptych encode, NumPy, first pass": n_bytes / 1e6 / first_pass,
            },
            "ratio": {
                "NumPy / tiktoken": median_ratio(tik, numpy),
                "NumPy / rustbpe": median_ratio(rust, numpy),
                "list / tiktoken": median_ratio(tik, seconds["diptych encode, list"]),
                "decode NumPy / tiktoken": median_ratio(seconds["tiktoken decode"], seconds["diptych decode, NumPy"]),
                "decode list / tiktoken": median_ratio(seconds["tiktoken decode"], seconds["diptych decode, list"]),
                "all cores / one core": median_ratio(both["one core"], both["all cores"]),
            },
            "cores": len(cores),
            "single chunks, seconds": chunks,
            "short calls": calls,
        },
    )


if __name__ == "__main__":
    main()
