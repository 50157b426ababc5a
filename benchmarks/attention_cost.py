"""Time and peak memory of a layer of every form of attention against the length, and their exponents.

    python benchmarks/attention_cost.py [--lengths 1024 2048 4096 8192 16384] [--repeats 3]

`naive` is the formula written out, with all its scores; everything else is measured against it or against `full`, the
tiled form. What `diptych attention cost` measures, as one result file; the drawing is
`docs/figures/attention-cost.png`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _common import write
from diptych.evaluation.attention_cost import CostConfig, measure_cost
from diptych.report.attention_cost import cost_figure, exponents_from
from diptych.report.plots import save_png

FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "attention-cost.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16_384])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    result = measure_cost(CostConfig(lengths=tuple(options.lengths), repeats=options.repeats))
    start, longest = exponents_from(result), result.config.lengths[-1]
    forms = {}
    for form in result.config.forms:
        cells = result.timed(form)
        time, memory = result.time_law(form, start), result.memory_law(form, start)
        forms[form] = {
            "seconds": {cell.length: cell.median for cell in cells},
            "bytes": {cell.length: cell.n_bytes for cell in cells},
            "exponent of time": time and time.text,
            "exponent of memory": memory and memory.text,
        }
    full, naive = result.cell("full", longest), result.cell("naive", longest)
    ratio = naive.n_bytes / full.n_bytes if full and naive and full.n_bytes and naive.n_bytes else None
    write("attention-cost", {"exponents from": start, "forms": forms, f"naive / full memory at {longest}": ratio})
    save_png(cost_figure(result, start=start), FIGURE)


if __name__ == "__main__":
    main()
