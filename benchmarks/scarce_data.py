"""Many passes through little text: does masked diffusion overtake autoregression, and after how many epochs?

    python benchmarks/scarce_data.py [--bytes 32768] [--epochs 600] [--seeds 3] [--out runs/scarce-data]

Runs of both paradigms on the same few excerpts of Python's library, scored on as much of other modules, at a constant
learning rate so that a score at any step is that of a training which ends there. Ctrl-C is safe: the same command goes
on. Two questions are answered, each with the seeds drawn again for its interval: from which epoch on the held-out curve
of masked diffusion lies below that of autoregression, which overfits; and from which on the best score of masked
diffusion up to there lies below the best of autoregression, as stopping early would keep them.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from itertools import accumulate
from pathlib import Path

from _common import write
from diptych.cli.console import ConsoleHandler
from diptych.core.config import (
    DataConfig,
    ObjectiveName,
    OptimConfig,
    RunConfig,
    TokenizerConfig,
    TrainConfig,
    TransformerConfig,
)
from diptych.core.random import derive_seed
from diptych.data.sources import read_documents
from diptych.evaluation.compare_curves import Curve, HeldoutAt, overtaking
from diptych.report.surroundings import read_curves
from diptych.training.run import METRICS, train

EXCERPT = 2048
"""Characters from the middle of a module: excerpts are many, and none is a licence."""

LENGTH, BATCH, LAYERS, HEADS = 128, 16, 3, 4

KINDS: tuple[ObjectiveName, ...] = ("autoregressive", "masked_diffusion")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=32768)
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--d-model", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("runs/scarce-data"))
    options = parser.parse_args()
    folders = written(options.out, options.bytes)
    an_epoch = options.bytes // (LENGTH * BATCH)
    curves: dict[ObjectiveName, list[Curve]] = {kind: [] for kind in KINDS}
    with ConsoleHandler() as console:
        for seed in range(options.seeds):
            for kind in KINDS:
                out = options.out / f"{kind}-{seed}"
                run = recipe(out, kind, seed, folders, (options.d_model, an_epoch))
                steps = an_epoch * options.epochs
                train(dataclasses.replace(run, train=dataclasses.replace(run.train, steps=steps)), console)
                curves[kind].append(curve(out, an_epoch))
    best = {kind: [running_best(c) for c in of] for kind, of in curves.items()}
    write("scarce-data-cpu", {
        "training_bytes": options.bytes, "epochs": options.epochs, "seeds": options.seeds,
        "d_model": options.d_model, "layers": LAYERS, "sequence_length": LENGTH,
        "overtakes": dataclasses.asdict(overtaking(curves[KINDS[1]], curves[KINDS[0]], "epochs")),
        "best_so_far_overtakes": dataclasses.asdict(overtaking(best[KINDS[1]], best[KINDS[0]], "epochs")),
        "best": {
            kind: {
                "bits_per_byte": [c.points[-1].bits_per_byte for c in of],
                "mean": statistics.mean(c.points[-1].bits_per_byte for c in of),
                "epochs": [min(c.points, key=lambda p: p.bits_per_byte).epochs for c in curves[kind]],
            }
            for kind, of in best.items()
        },
        "curves": {
            kind: [[(round(p.epochs, 2), round(p.bits_per_byte, 4)) for p in c.points] for c in of]
            for kind, of in curves.items()
        },
    })  # fmt: skip


def written(out: Path, size: int) -> tuple[Path, Path]:
    """Folders of `size` characters of excerpts each, of different modules, in an order that no name decides."""
    modules = sorted(
        (d.text for d in read_documents(["stdlib"], "text") if len(d.text) > 2 * EXCERPT and d.text.isascii()),
        key=lambda text: derive_seed(0, text),
    )
    each = size // EXCERPT
    folders = out / "texts", out / "heldout"
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        for index, text in enumerate(modules[number * each : (number + 1) * each]):
            start = (len(text) - EXCERPT) // 2
            (folder / f"{index:03}.txt").write_text(text[start : start + EXCERPT])
    return folders


def recipe(out: Path, kind: ObjectiveName, seed: int, folders: tuple[Path, Path], size: tuple[int, int]) -> RunConfig:
    """One run: everything but the objective and the seed is the same. size: d_model, and steps of an epoch."""
    (d_model, an_epoch), (texts, heldout) = size, folders
    return RunConfig(
        out=str(out),
        objective=kind,
        model=TransformerConfig(d_model=d_model, n_layers=LAYERS, n_heads=HEADS, max_length=LENGTH + 1),
        data=DataConfig(
            source=(str(texts),), heldout=str(heldout), sequence_length=LENGTH, document_mask=False
        ),
        tokenizer=TokenizerConfig(kind="byte", special_tokens=("<|mask|>",)),
        optim=OptimConfig(schedule="constant", warmup_steps=50),
        train=TrainConfig(
            batch_size=BATCH,
            seed=seed,
            eval_every=5 * an_epoch,
            eval_sequences=512,
            save_every=50 * an_epoch,
        ),
    )  # fmt: skip


def curve(out: Path, an_epoch: int) -> Curve:
    """Held-out scores against passes through the text."""
    _, heldout, _ = read_curves(out / METRICS)
    points = tuple(
        HeldoutAt(step=p.step, flops=0.0, epochs=p.step / an_epoch, bits_per_byte=p.bits_per_byte)
        for p in heldout
        if p.bits_per_byte is not None
    )
    return Curve(run=out.name, points=points)


def running_best(of: Curve) -> Curve:
    """The lowest score up to each place."""
    lowest = accumulate((p.bits_per_byte for p in of.points), min)
    points = tuple(dataclasses.replace(p, bits_per_byte=bits) for p, bits in zip(of.points, lowest, strict=True))
    return dataclasses.replace(of, points=points)


if __name__ == "__main__":
    main()
