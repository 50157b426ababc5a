"""What does each extension buy past the length that a model claims? One table, the same contexts for all of them.

    python benchmarks/context_extensions.py --model SmolLM2-135M-Instruct.Q4_1.gguf [--lengths 4096 8192 12288]

`diptych context --extend` decides where a model passes; where it fails everywhere, extensions differ only in what they
still find. So here every extension, and the model as it is, reads the same few contexts of `single_key` at each length,
and the same documents, of whose last tokens the loss is taken (`diptych.evaluation.context.saturation`). Answers are
kept line by line; the same command goes on. The factor stays just below 2, which STRING cannot reach.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import write

AS_IS = "as it is"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One text read by one model. right: by fifth, of a context of needles; loss: in nats a token, of a document."""

    extension: str
    length: int
    kind: str
    number: int
    right: tuple[bool, ...]
    loss: float | None
    seconds: float


def main() -> None:
    import torch

    from diptych.core.context_extension import METHODS, parse_extension
    from diptych.core.events import ignore
    from diptych.evaluation.context.kept_lines import KeptLines
    from diptych.evaluation.context.local import LocalScorer
    from diptych.evaluation.context.saturation import TARGETS, last_loss
    from diptych.evaluation.context.subject import held_out_texts, open_subject
    from diptych.evaluation.context.tasks import build_task
    from diptych.models.extension import extend

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="run folder, Hugging Face folder or GGUF file")
    parser.add_argument("--style", default="question")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 12288])
    parser.add_argument("--contexts", type=int, nargs="+", default=[4, 3, 2], help="of each length")
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--factor", type=float, default=1.9375, help="of every extension")
    parser.add_argument("--extensions", nargs="+", default=list(METHODS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--answers", type=Path, default=Path("runs/context-extensions.jsonl"))
    given = parser.parse_args()
    if given.model is None:
        print("nothing is measured: give a pretrained model with --model")
        return

    subject = open_subject(given.model, dtype=getattr(torch, given.dtype))
    task = build_task("single_key", subject.tokenizer, given.style, opens=subject.opens)
    settings = {"model": subject.fingerprint, "style": given.style, "dtype": given.dtype, "factor": given.factor}

    def place(one: Reading) -> tuple[Any, ...]:
        return one.extension, one.length, one.kind, one.number

    kept = KeptLines(given.answers, Reading, place, settings=settings)
    longest = max(given.lengths)
    texts = held_out_texts(subject, (), longest + TARGETS, given.documents, ignore)
    opening = subject.tokenizer.opening_id if subject.opens else None

    def read(name: str, model: Any, length: int, kind: str, number: int) -> None:
        if (name, length, kind, number) in kept.kept:
            return
        start, right, loss = time.perf_counter(), (), None
        if kind == "needles":
            context = task.context(length, number)
            right = LocalScorer(model).ask(context).right
        else:
            loss = last_loss(model, texts[number][-(length + TARGETS) :], length, opening)
        seconds = time.perf_counter() - start
        kept.add(
            Reading(extension=name, length=length, kind=kind, number=number, right=right, loss=loss, seconds=seconds)
        )
        print(f"{name}, {length:,} tokens, {kind} {number}: {sum(right)} of {len(right)}, loss {loss}", flush=True)

    models = {AS_IS: subject.model}
    for text in given.extensions:
        full = text if "factor=" in text else f"{text}{',' if ':' in text else ':'}factor={given.factor:g}"
        models[text] = extend(subject.model, parse_extension(full))
    for length, contexts in zip(given.lengths, given.contexts, strict=True):
        for name, model in models.items():
            for number in range(contexts):
                read(name, model, length, "needles", number)
            for number in range(len(texts)):
                read(name, model, length, "loss", number)
    kept.close()
    asked = [one for one in kept.kept.values() if one.extension in models and one.length in given.lengths]
    write(
        "context-extensions-cpu",
        {
            "model": subject.name,
            "claimed": subject.claimed,
            "factor": given.factor,
            "dtype": given.dtype,
            "task": f"single_key, {given.style}",
            "rows": [row(name, length, asked) for length in given.lengths for name in models],
        },
    )


def row(name: str, length: int, asked: list[Reading]) -> dict[str, Any]:
    """What one model did at one length. found: share of the needles; by_fifth: the first is the farthest."""
    of = [one for one in asked if (one.extension, one.length) == (name, length)]
    right, losses = [one.right for one in of if one.right], [one.loss for one in of if one.loss is not None]
    fifths = [sum(column) for column in zip(*right, strict=True)]
    return {
        "extension": name,
        "length": length,
        "contexts": len(right),
        "found": sum(fifths) / sum(map(len, right)) if right else None,
        "by_fifth": [count / len(right) for count in fifths],
        "loss": statistics.fmean(losses) if losses else None,
        "seconds_a_context": statistics.median(one.seconds for one in of if one.right) if right else None,
    }


if __name__ == "__main__":
    main()
