"""Train one tokenizer in a process of its own, so that its memory can be told: prints one JSON object.

python benchmarks/_tokenizer_worker.py CORPUS diptych|diptych-letters|rustbpe|huggingface VOCAB_SIZE

Of pairs that are equally frequent all take the smallest ids. rustbpe gives byte i the id i, Hugging Face orders bytes
by their letters: so diptych is compared with the first, and diptych-letters, which is the same in the other order,
with the second.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from pathlib import Path

from _corpus import load, one_core


def main() -> None:
    folder, contender, vocab_size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    one_core()
    from diptych.tokenizers.splitting import PATTERNS

    pattern = PATTERNS["llama3"]  # GPT-4's, in the form that all three read
    if contender.startswith("diptych"):
        from diptych.tokenizers.bpe_training import train_bpe
        from diptych.tokenizers.letters import BYTE_ORDER
        from diptych.tokenizers.splitting import Split

        order = BYTE_ORDER if contender == "diptych-letters" else range(256)

        def train(texts: list[str], size: int) -> list[bytes]:
            trained = train_bpe(texts, size, split=Split.named("llama3"), special_tokens=(), byte_order=order)
            return trained.pieces
    elif contender == "rustbpe":
        import rustbpe

        def train(texts: list[str], size: int) -> list[bytes]:
            tokenizer = rustbpe.Tokenizer()
            tokenizer.train_from_iterator(iter(texts), size, pattern=pattern)
            return [bytes(piece) for piece, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])]
    else:
        import tokenizers as hf
        from diptych.tokenizers.letters import from_letters

        def train(texts: list[str], size: int) -> list[bytes]:
            tokenizer = hf.Tokenizer(hf.models.BPE())
            split = hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated")
            letters = hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence([split, letters])
            alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
            trainer = hf.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
            tokenizer.train_from_iterator(texts, trainer)
            vocabulary = tokenizer.get_vocab()
            return [from_letters(name) for name in sorted(vocabulary, key=vocabulary.__getitem__)]

    texts, _ = load(folder)
    train(["the first call loads, or compiles, what it needs; " * 3], 260)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    pieces = train(texts, vocab_size)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest = hashlib.sha256(b"\0".join(pieces[256:])).hexdigest()
    print(json.dumps({"seconds": seconds, "bytes_over_the_corpus": (peak - before) * 1024, "tokens": digest}))


if __name__ == "__main__":
    main()
