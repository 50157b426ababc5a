"""Does the measure find a window that is known? A trained model that is shown only the last W tokens, for many W.

    python benchmarks/context_window.py [--model runs/needles-long] [--windows 12]

Without --model a network is trained first, in about ten minutes.

The model must pass at all lengths that it is asked about. Cut to W tokens, it passes at every length up to W, and by
the worst fifth at none above W (1 + (1 - tau) / 5): needles out of sight are guessed, those of the rest of the first
fifth are found. So [passed, failed) must meet [W, 1.03 W].
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import write
from _needles import needles

TAU, STYLE = 0.85, "pairs"


def main() -> None:
    from diptych.evaluation.context.local import LocalScorer
    from diptych.evaluation.context.measure import first_length
    from diptych.evaluation.context.subject import open_subject
    from diptych.evaluation.context.tasks import build_task

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="run folder, Hugging Face folder or GGUF file")
    parser.add_argument("--windows", type=int, default=12)
    given = parser.parse_args()

    subject = open_subject(given.model or needles())
    task = build_task("single_key", subject.tokenizer, STYLE, opens=subject.opens)
    first, longest = first_length(task), subject.claimed
    scorer = LocalScorer(subject.model)
    rows = [one(scorer, task, window, longest, opens=subject.opens) for window in spread(first, longest, given.windows)]
    write(
        "context-window-cpu",
        {
            "model": subject.name,
            "claimed": longest,
            "uncut": one(scorer, task, None, longest, opens=subject.opens),
            "windows": rows,
            "bracketed": sum(row["bracketed"] for row in rows),
            "asked": len(rows),
        },
    )


def spread(first: int, longest: int, count: int) -> list[int]:
    """Windows at equal factors, between the first length and 9 tenths of the longest."""
    return [round(1.1 * first * (0.9 * longest / (1.1 * first)) ** (i / (count - 1))) for i in range(count)]


def one(scorer: Any, task: Any, window: int | None, longest: int, *, opens: bool) -> dict[str, Any]:
    """The bracket of one window; None: the model as it is."""
    from diptych.evaluation.context.journal import open_journal
    from diptych.evaluation.context.ladder import LadderConfig
    from diptych.evaluation.context.measure import Bench, Meter, measure_task

    start = time.perf_counter()
    asked = scorer if window is None else Cut(scorer, window, opens=opens)
    with tempfile.TemporaryDirectory() as folder:
        journal = open_journal(Path(folder), {"benchmark": "context_window"})
        config = LadderConfig(shortest=1, longest=longest, tau=TAU)
        result = measure_task(task, STYLE, config, Bench(scorer=asked, journal=journal, meter=Meter())).result
        journal.close()
    row = {
        "window": window,
        "state": result.state,
        "passed": result.passed,
        "failed": result.failed,
        "contexts": result.contexts,
        "tokens": result.tokens,
        "seconds": time.perf_counter() - start,
    }
    if window is not None:
        most = window * (1 + (1 - TAU) / 5)
        row["bracketed"] = (
            None not in (result.passed, result.failed) and result.passed <= most and window < result.failed
        )
    return row


class Cut:
    """A scorer that shows a model the last `window` tokens only, the longest question among them, behind the token that
    opens a document where a model expects one."""

    def __init__(self, scorer: Any, window: int, *, opens: bool) -> None:
        self.scorer, self.window, self.opens = scorer, window, opens

    def ask(self, context: Any) -> Any:
        """See `Scorer`."""
        longest = max(len(probe.question_ids) for probe in context.probes)
        opening, shown = context.ids[: self.opens], context.ids[self.opens :]
        ids = (*opening, *shown[-(self.window - longest) :])
        return self.scorer.ask(dataclasses.replace(context, ids=ids))


if __name__ == "__main__":
    main()
