"""llama.cpp with a model in memory: one piece of work for each line on standard input. Run by smollm2.py."""

from __future__ import annotations

import json
import sys

import numpy as np
from llama_cpp import Llama


def main() -> None:
    path, threads = sys.argv[1], int(sys.argv[2])
    llama = Llama(path, n_ctx=4096, n_batch=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    for line in sys.stdin:
        order = json.loads(line)
        llama.reset()
        llama.eval(order["prompt"])
        ids = [_most_likely(llama)]
        while len(ids) < order["tokens"]:
            llama.eval(ids[-1:])
            ids.append(_most_likely(llama))
        print(json.dumps(ids), flush=True)


def _most_likely(llama: Llama) -> int:
    pointer = llama._ctx.get_logits_ith(-1)
    return int(np.ctypeslib.as_array(pointer, (llama.n_vocab(),)).argmax())


if __name__ == "__main__":
    main()
