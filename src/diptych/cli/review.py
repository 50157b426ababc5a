"""`diptych review`: the main job."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from diptych.cli.common import parse
from diptych.cli.console import ConsoleHandler

DESCRIPTION = """Train a transformer on Python's own library, sample it, score it beside xz, brotli and a 5-gram model,
and write the living review as one page. Needs no download. Ctrl-C is safe: the same command goes on.

examples:
  diptych review
  diptych review --budget 30m --out review-long
  diptych review --pretrained SmolLM2-135M-Instruct.gguf --out review-smol
"""

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych review`."""

    out: Path = Path("review")
    """Folder of the page, its figures and the trained run."""
    budget: str = "6m"
    """Time for the whole job, as in 2m, 6m or 1h. Training takes what the rest leaves, which needs about 95 seconds on
    two cores; a budget much smaller than two minutes cannot be kept."""
    seed: int = 0
    """Seed of weights, data order and samples."""
    pretrained: Path | None = None
    """A run folder, a Hugging Face folder or a GGUF file whose effective context length is measured besides, in ten
    minutes on top of the budget."""


def main(arguments: list[str]) -> int:
    """Parse, run the review, print where the page lies; 130 where interrupted."""
    options = parse(Options, arguments, "review", DESCRIPTION)
    budget = seconds(options.budget)
    from diptych.report.effective_context import pretrained_study
    from diptych.report.review import Review

    with ConsoleHandler() as console:
        path = options.pretrained
        review = Review(
            options.out,
            budget_seconds=budget,
            seed=options.seed,
            command=shlex.join(["diptych", "review", *arguments]),
            pretrained=None if path is None else pretrained_study(path, options.seed, console),
            on_event=console,
        )
        page = review.run()
    if page is None:
        print("the same command goes on from here", file=sys.stderr)
        return 130
    print(f"the review is written: {page.resolve().as_uri()}")
    return 0


def seconds(text: str) -> float:
    """A duration such as 90s, 6m, 1.5h in seconds. Raises ValueError for anything else, or under half a minute."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise ValueError(f"--budget {text} is no duration; write it as 90s, 6m or 1h")
    value = float(match[1]) * _UNITS[match[2]]
    if value < 30:
        raise ValueError(f"--budget {text} is too short for anything to be learnt; give at least 30s")
    return value
