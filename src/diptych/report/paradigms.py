"""What do both paradigms make of the same text, with the same network and the same compute?

A network small enough for a review learns it three times: from left to right, by masked diffusion, and by block
diffusion between the two. The steps of each are chosen so that all cost the same FLOPs, and the stages of `diptych
compare` measure them side by side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from diptych.checkpoints.run_folder import TOKENIZER
from diptych.core.config import (
    DataConfig,
    ObjectiveName,
    OptimConfig,
    RunConfig,
    TokenizerConfig,
    TrainConfig,
    TransformerConfig,
)
from diptych.core.events import Handler
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.evaluation.comparison import ComparisonConfig
from diptych.report.comparison import Comparison
from diptych.report.comparison_drawings import curves
from diptych.report.results import ParadigmsResult, ReviewResults
from diptych.training.distributed import World
from diptych.training.loop import Trainer
from diptych.training.prepare import build_tokenizer, fit_vocabulary, prepare
from diptych.training.run import train_experiment
from diptych.training.work import flops_per_target

PARADIGMS: Final[dict[str, tuple[ObjectiveName, int | None]]] = {
    "left-to-right": ("autoregressive", None),
    "any-order": ("masked_diffusion", None),
    "block-by-block": ("masked_diffusion", 4),
}
"""Name of each run -> its objective, and the tokens of its blocks; the first is what the others are compared with."""

SCORES = 8
"""Held-out scores taken in each training."""

ROWS, DRAWS = 256, 8
"""Held-out rows that are scored in the end, and the network's evaluations for a row's bound."""

TOKENS_PER_STEP = 1, 4
SAMPLES, ROUNDS = 4, 3
"""Texts that each run writes at each number of tokens a step, and how often that is timed."""


def paradigms_run(out: Path, seed: int) -> RunConfig:
    """What the runs have in common; the steps are those of autoregression."""
    return RunConfig(
        out=str(out / "paradigms"),
        # So small that masked diffusion, which for long predicts no better than by frequency, gets past that in half a
        # minute.
        model=TransformerConfig(d_model=64, n_layers=2, n_heads=4, max_length=64),
        data=DataConfig(source=("stdlib",), sequence_length=64, document_mask=False, max_bytes=4_000_000),
        tokenizer=TokenizerConfig(vocab_size=512, special_tokens=("<|mask|>",)),
        optim=OptimConfig(name="muon", lr=5e-3, muon_lr=0.03, warmup_steps=20, final_lr_fraction=0.02),
        train=TrainConfig(
            seed=seed,
            steps=1500,
            batch_size=16,
            dtype="float32",
            compile="off",
            eval_sequences=128,
            save_every=400,
        ),
    )


def runs_of(common: RunConfig, on_event: Handler) -> tuple[RunConfig, ...]:
    """A recipe for each paradigm in `common`'s folder: they share a tokenizer, which is trained here if it is not there
    yet, and take as many steps as come nearest to the FLOPs of autoregression."""
    folder = Path(common.out)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(common, folder, on_event)
    config = fit_vocabulary(common.model, tokenizer, folder)
    runs = []
    for name, (objective, block) in PARADIGMS.items():
        run = replace(
            common,
            out=str(folder / name),
            objective=objective,
            text_diffusion=TextDiffusionConfig(block_length=block),
            tokenizer=replace(common.tokenizer, path=str(folder / TOKENIZER)),
        )
        share = flops_per_target(common, config) / flops_per_target(run, config)
        steps = max(1, round(common.train.steps * share))
        runs.append(replace(run, train=replace(run.train, steps=steps, eval_every=-(-steps // SCORES))))
    return tuple(runs)


def measure_paradigms(common: RunConfig, world: World, on_event: Handler) -> ParadigmsResult:
    """Train the runs one after the other, or go on with that, and compare them.

    Raises KeyboardInterrupt where a training is interrupted; each part that is finished is kept.
    """
    runs = runs_of(common, on_event)
    for run in runs:
        if not train_experiment(Trainer(prepare(run, world, on_event), world, on_event)):
            raise KeyboardInterrupt
    config = ComparisonConfig(
        runs=tuple(run.out for run in runs),
        rows=ROWS,
        draws=DRAWS,
        tokens_per_step=TOKENS_PER_STEP,
        samples=SAMPLES,
        rounds=ROUNDS,
        seed=common.train.seed,
    )
    comparison = Comparison(config, Path(common.out) / "comparison", world.device, on_event)
    first = comparison.contenders[0]
    return ParadigmsResult(
        vocab_size=first.tokenizer.vocab_size, train_bytes=first.train.n_bytes, comparison=comparison.run()
    )


def review_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Held-out scores of a review's runs against compute and epochs."""
    assert results.paradigms is not None
    return curves(results.paradigms.comparison, narrow=narrow)
