"""Results of a review that never ran, with every part filled in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.context_results import RESULT, TASK

from diptych.checkpoints.run_folder import save_weights
from diptych.core.config import RecallConfig, RunConfig, TransformerConfig
from diptych.data.images import ImageSet
from diptych.data.lengths import CorpusLengths, measure_lengths
from diptych.data.recall import recall_tokenizer
from diptych.data.sources import Document
from diptych.evaluation import diffusion_likelihood, image_classifier
from diptych.evaluation.attention_cost import CostCell, CostConfig, CostResult
from diptych.evaluation.compare_curves import Curve, HeldoutAt, Overtaking
from diptych.evaluation.compare_generation import HELD_OUT, GenerationScore
from diptych.evaluation.compare_likelihood import Estimate, HeldoutScore
from diptych.evaluation.comparison import ComparisonConfig, ComparisonResult, TextOf, TrainedRun
from diptych.evaluation.context.result import AtThreshold
from diptych.evaluation.diffusion_likelihood import ImageScore
from diptych.evaluation.image_quality import ImageQuality, Measure
from diptych.evaluation.mask_work import mask_work
from diptych.evaluation.recall import RecallScore
from diptych.evaluation.stability import InitialGradients, StabilityConfig, StabilityResult, StabilityRun
from diptych.evaluation.translation import TranslationScore
from diptych.evaluation.yardsticks import Yardstick
from diptych.models.network import build_network, initialize
from diptych.report import image_diffusion, paradigms
from diptych.report.image_diffusion import image_run
from diptych.report.images import encoded
from diptych.report.results import (
    Attention,
    Candidate,
    ClassImages,
    CurvePoint,
    DataInfo,
    HeldoutPoint,
    ImageDiffusionResult,
    ImagesAtLevel,
    LevelLoss,
    MachineInfo,
    ModelInfo,
    NextTokenStep,
    ParadigmsResult,
    PartSize,
    RecallResult,
    ReviewResults,
    Sample,
    Scheme,
    Score,
    Stage,
    TokenizerInfo,
    TranslationExample,
    TranslationResult,
)
from diptych.tokenizers.simple import ByteTokenizer

PICTURE = encoded(ImageSet(pixels=np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4), levels=16))[0]


def _lengths() -> CorpusLengths:
    texts = ["sun " * n for n in (2, 3, 40)]
    return measure_lengths("a corpus", [Document(text, "") for text in texts], tokenizer=ByteTokenizer(), context=64)


def _stability() -> StabilityResult:
    config = StabilityConfig(norms=("layer", "none"), depths=(1, 2), learning_rates=(1e-3, 1e-1), steps=10)
    runs, gradients = [], []
    for column in config.columns:
        for depth in config.depths:
            gradients.append(InitialGradients(column=column, depth=depth, norms=(1.5, 0.5)[:depth]))
            for rate in config.learning_rates:
                is_lost = column.norm == "none" and rate > 1e-2
                runs.append(
                    StabilityRun(
                        column=column,
                        depth=depth,
                        learning_rate=rate,
                        seed=0,
                        steps=10,
                        first_loss=5.5,
                        final_loss=None if is_lost else 2.25,
                        outcome="diverged" if is_lost else "learnt",
                    )
                )
    return StabilityResult(config=config, uniform=5.55, unigram=3.3, runs=tuple(runs), gradients=tuple(gradients))


def _attention_cost() -> CostResult:
    config = CostConfig(forms=("naive", "full"), lengths=(64, 128, 256), repeats=1)
    cells = [
        CostCell(form=form, length=n, seconds=(1e-6 * n**power,), n_bytes=10 * n**power)
        for form, power in (("naive", 2), ("full", 1))
        for n in config.lengths
    ]
    return CostResult(config=config, machine="a machine", cells=tuple(cells))


def _recall() -> tuple[RecallResult, ...]:
    right, count = (0, 10, 20, 20, 3, 1), (0, 10, 20, 20, 20, 20)
    window = RecallScore(right=right, count=count, n_values=16, n_documents=20, reach=3)
    memory = RecallScore(right=count, count=count, n_values=16, n_documents=20, reach=3)
    return (
        RecallResult(name="window", steps=300, score=window),
        RecallResult(name="window and memory", steps=300, score=memory),
    )


def _translation() -> TranslationResult:
    return TranslationResult(
        task="German number words to English ones",
        parameters=987_654,
        steps=500,
        train_pairs=30_000,
        score=TranslationScore(
            bleu=91.5,
            chrf=97.25,
            exact=93.5,
            nats_per_token=0.25,
            n_pairs=200,
            bleu_signature="BLEU",
            chrf_signature="chrF",
        ),
        examples=(
            TranslationExample(source="elf", translation="eleven", reference="eleven"),
            TranslationExample(source="zwölf", translation="twenty", reference="twelve"),
        ),
        attention=Attention(
            source=("el", "f", "⏎"), target=("eleven", "⏎"), weights=((0.5, 0.25, 0.25), (0.0, 0.0, 1.0))
        ),
    )


def _image_diffusion() -> ImageDiffusionResult:
    values = {
        "FD(clf)": 0.75,
        "MMD(clf)": 0.125,
        "accuracy": 0.921,
        "precision": 0.764,
        "recall": 0.93,
        "nearest": 2.5,
    }
    measures = tuple(
        Measure(name=name, value=v, low=v - 0.0625, high=v + 0.0625, floor=0.5, floor_low=0.375, floor_high=0.625)
        for name, v in values.items()
    )
    return ImageDiffusionResult(
        parameters=765_432,
        steps=901,
        train_images=1449,
        schedule="edm",
        forward=tuple(ImagesAtLevel(sigma=sigma, images=(PICTURE,) * 3) for sigma in (0.0025, 0.75, 80.0)),
        loss=LevelLoss(
            sigmas=(0.005, 0.28, 2.0, 80.0),
            network=(0.00002, 0.0233, 0.122, 0.162),
            linear=(0.00003, 0.0353, 0.185, 0.254),
            memory=(0.04, 0.0653, 0.135, 0.254),
            floor=(0.0, 0.01, 0.13, 0.25),
        ),
        solver="unipc_3",
        evaluations=12,
        backward=tuple(ImagesAtLevel(sigma=sigma, images=(PICTURE,) * 4) for sigma in (1.5, 0.0)),
        generated=tuple(ClassImages(name=str(digit), images=(PICTURE,) * 2) for digit in range(10)),
        quality=ImageQuality(measures=measures, features="a classifier", n_images=348),
        bound=ImageScore(bits_per_dimension=2.0625, standard_error=0.0633, n_images=32, kind="bound"),
        flow=ImageScore(bits_per_dimension=1.9138, standard_error=0.0348, n_images=32, kind="exact"),
    )


def _paradigms() -> ParadigmsResult:
    names = ("left-to-right", "any-order", "block-by-block")
    trained, heldout, lines = [], [], []
    for place, (name, steps) in enumerate(zip(names, (801, 826, 392), strict=True)):
        bits = (1.875, 2.25, 2.0)[place]
        trained.append(
            TrainedRun(
                run=name,
                path=f"review/paradigms/{name}",
                paradigm=("autoregressive", "masked diffusion", "block diffusion, blocks of 4")[place],
                parameters=731_776,
                steps=steps,
                kept_step=steps,
                tokens=2048 * steps,
                epochs=steps / 800,
                positions=(64, 65, 129)[place],
                row_targets=64,
                flops_per_target=4.5e6,
                flops=7.36e12,
            )
        )
        heldout.append(
            HeldoutScore(
                run=name,
                kind="bound" if place else "exact",
                n_rows=256,
                n_tokens=16_384,
                n_bytes=40_000,
                nats_per_token=bits * math.log(2) * 40_000 / 16_384,
                bits_per_byte=bits,
                bits_per_byte_error=0.0078 * place,
                difference=Estimate(value=0.6347 / place, error=0.0156) if place else None,
                bits_difference=Estimate(value=0.375 / place, error=0.0092) if place else None,
                relative_gap=0.2 / place if place else None,
            )
        )
        points = [HeldoutAt(step=n, flops=1e10 * n, epochs=n / 800, bits_per_byte=bits + 9 / n) for n in (50, 100, 400)]
        lines.append(Curve(run=name, points=tuple(points), noise=0.01 * place))
    cells = [("left-to-right", 1), *((name, rate) for name in names[1:] for rate in (1, 4)), (HELD_OUT, None)]
    generation = tuple(
        GenerationScore(
            run=name,
            tokens_per_step=rate,
            evaluations=64 // rate if rate else 0,
            tokens_per_second=1234.0 * rate if rate else None,
            bits_per_byte=Estimate(value=2.75, error=0.125),
            entropy=Estimate(value=3.5, error=0.0625),
            price=None,
        )
        for name, rate in cells
    )
    return ParadigmsResult(
        vocab_size=1023,
        train_bytes=3_912_345,
        comparison=ComparisonResult(
            config=ComparisonConfig(runs=names, rows=256, tokens_per_step=(1, 4), samples=4),
            machine="a machine",
            trained=tuple(trained),
            reservations=(),
            reference="left-to-right",
            heldout=tuple(heldout),
            curves=tuple(lines),
            overtakings=(Overtaking(run="any-order", other="left-to-right", axis="flops", outcome="never"),),
            judge="review/paradigms/left-to-right",
            judge_contends=True,
            length=64,
            generation=generation,
            texts=tuple(
                TextOf(run=name, tokens_per_step=rate, texts=(f"{name} wrote {rate} at a time", "and a second text"))
                for name, rate in cells
                if rate
            ),
        ),
    )


def _tiny_digits(out: Path, seed: int) -> RunConfig:
    run = image_run(out, seed)
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, d_model=16, n_layers=1, n_heads=2),
        train=dataclasses.replace(run.train, steps=9, batch_size=4, save_every=3, compile="off", dtype="float32"),
    )


@pytest.fixture(scope="session")
def tiny_digits() -> Callable[[pytest.MonkeyPatch], Callable[[Path, int], RunConfig]]:
    """Makes the review's measurement of digits quick, and gives the run that goes with it."""

    def shrink(patch: pytest.MonkeyPatch) -> Callable[[Path, int], RunConfig]:
        patch.setattr(image_classifier, "STEPS", 5)
        patch.setattr(diffusion_likelihood, "flow_likelihood", partial(diffusion_likelihood.flow_likelihood, steps=3))
        patch.setattr(image_diffusion, "level_loss", partial(image_diffusion.level_loss, levels=3, n_images=8))
        for name, value in {"STEPS": 4, "DRAWN": 60, "SCORED": 2}.items():
            patch.setattr(image_diffusion, name, value)
        return _tiny_digits

    return shrink


@pytest.fixture(scope="session")
def tiny_paradigms() -> Callable[[pytest.MonkeyPatch, Path], Callable[[Path, int], RunConfig]]:
    """Makes the review's comparison of paradigms quick, and gives the run that goes with it; the text is in a folder
    of its own."""

    def shrink(patch: pytest.MonkeyPatch, texts: Path) -> Callable[[Path, int], RunConfig]:
        for name, value in {"SCORES": 3, "ROWS": 8, "DRAWS": 4, "SAMPLES": 3, "ROUNDS": 2}.items():
            patch.setattr(paradigms, name, value)

        def tiny(out: Path, seed: int) -> RunConfig:
            run = paradigms.paradigms_run(out, seed)
            return dataclasses.replace(
                run,
                model=dataclasses.replace(run.model, d_model=16, n_layers=1, n_heads=2, max_length=16),
                data=dataclasses.replace(run.data, source=(str(texts),), heldout_fraction=0.2, sequence_length=16),
                tokenizer=dataclasses.replace(run.tokenizer, vocab_size=300),
                train=dataclasses.replace(run.train, steps=40, batch_size=4, save_every=7, eval_sequences=8),
            )

        return tiny

    return shrink


@pytest.fixture
def tiny_pretrained(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a folder of random weights whose model claims so many tokens, and whose tokenizer can put a question."""

    def make(length: int) -> Path:
        tokenizer = recall_tokenizer(RecallConfig(n_keys=40, n_values=40))
        config = TransformerConfig(
            vocab_size=tokenizer.vocab_size, d_model=16, n_layers=1, n_heads=2, max_length=length
        )
        model = build_network(config)
        initialize(model, torch.Generator().manual_seed(0))
        folder = tmp_path / "elsewhere"
        save_weights(dict(model.named_parameters()), config, folder)
        tokenizer.save(folder / "tokenizer.json")
        return folder

    return make


@pytest.fixture
def full() -> ReviewResults:
    return ReviewResults(
        version="0.1.0",
        created="2024-02-29T12:00:00+00:00",
        command="diptych review --budget 60",
        seed=7,
        budget_seconds=60.0,
        mfu=0.45,
        model=ModelInfo(
            parts=(PartSize(name="Embedding", parameters=1_000_000), PartSize(name="Blocks", parameters=3_500_000)),
            config={"d_model": 320, "n_layers": 8, "bias": False, "n_kv_heads": None},
        ),
        tokenizer=TokenizerInfo(
            kind="bpe", vocab_size=4096, bytes_per_token=3.456, train_bytes=8_000_000, example=("Sun", "␣rises")
        ),
        data=DataInfo(
            name="the Python standard library",
            train_documents=4000,
            train_bytes=28_000_000,
            train_tokens=8_000_000,
            heldout_documents=200,
            heldout_bytes=1_000_000,
            heldout_tokens=290_000,
        ),
        lengths=(_lengths(),),
        schemes=(
            Scheme(
                name="Words",
                vocab_size=300,
                sentence=("Sun", " rises"),
                bytes_per_token=4.5,
                words_whole_share=0.5,
                attention_pairs=100,
                megabytes_per_second=50.0,
            ),
            Scheme(
                name="Raw bytes",
                vocab_size=257,
                sentence=tuple("Sun rises"),
                bytes_per_token=1.0,
                words_whole_share=0.125,
                attention_pairs=2025,
                megabytes_per_second=900.0,
            ),
        ),
        machine=MachineInfo(
            processor="a processor",
            cores=2,
            memory_bytes=8 * 2**30,
            system="Linux",
            python="3.11",
            torch="2.13.0",
            peak_flops=2.5e11,
        ),
        translation=_translation(),
        stability=_stability(),
        masks=(mask_work("causal", 64), mask_work("causal & window(8)", 64)),
        attention_cost=_attention_cost(),
        recall=_recall(),
        effective_context=RESULT,
        pretrained_context=dataclasses.replace(
            RESULT,
            tasks=(dataclasses.replace(TASK, thresholds=(AtThreshold(tau=0.5, passed=1218, failed=2048),)),),
            model="pretrained.gguf",
            claimed=8192,
            saturation=None,
            positions=None,
            stopped="the budget is spent",
        ),
        image_diffusion=_image_diffusion(),
        paradigms=_paradigms(),
        score=Score(nats=1.25 * math.log(2) * 1_000_000, n_tokens=290_000, n_bytes=1_000_000),
        training=tuple(
            CurvePoint(step=s, tokens=s * 1000, loss=8.0 / s, bits_per_byte=3.0 / s, seconds=0.5 * s)
            for s in range(1, 50)
        ),
        heldout=(HeldoutPoint(step=25, loss=0.4, bits_per_byte=0.15),),
        next_token=(
            NextTokenStep(
                context="The sun",
                candidates=(Candidate(text="␣rises", probability=0.75), Candidate(text="␣sets", probability=0.0004)),
                chosen=0,
            ),
        ),
        samples=(Sample(prompt="def f(x):\n", continuation="    return x\n", settings="greedy"),),
        yardsticks=(
            Yardstick(name="xz -9e", bytes=200_000, bits_per_byte=1.6, note="alone"),
            Yardstick(name="5-gram", bytes=150_000, bits_per_byte=1.2, note="after the training text", primed=True),
        ),
        stages=(Stage(name="Train the network", seconds=49.0), Stage(name="Score", seconds=3.0)),
    )


@pytest.fixture
def bare() -> ReviewResults:
    return ReviewResults(version="0.1.0", created="2024-02-29T12:00:00+00:00", command="diptych review", seed=0)
