"""How long does `diptych --help` take? Median of whole processes, beside a bare interpreter.

python benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from _common import interleaved, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    diptych = str(Path(sys.executable).with_name("diptych"))

    def call(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    contenders = {
        "diptych --help": lambda: call(diptych, "--help"),
        "python -c pass": lambda: call(sys.executable, "-c", "pass"),
        "diptych train --help": lambda: call(diptych, "train", "--help"),
    }
    seconds = interleaved(contenders, options.rounds)
    write("startup", {"rounds": options.rounds, "seconds": {k: statistics.median(v) for k, v in seconds.items()}})


if __name__ == "__main__":
    main()
