"""The main job: how is the living review made?

On text that every user has: prepare, train within a budget, score beside yardsticks, generate, and write the page. Each
stage's result is kept as JSON, and training keeps its own state, so an interrupted review goes on where it was.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from diptych import __version__
from diptych.checkpoints.run_folder import load_language_model
from diptych.core.config import DataConfig, OptimConfig, RunConfig, TokenizerConfig, TrainConfig, TransformerConfig
from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.random import Rng
from diptych.data.corpus import heldout_documents, training_documents
from diptych.data.lengths import CONTEXT, CorpusLengths, measure_lengths
from diptych.data.sources import read_documents
from diptych.evaluation.attention_cost import CostResult, measure_cost, review_cost_config
from diptych.evaluation.context.result import ContextResult
from diptych.evaluation.context.study import Study
from diptych.evaluation.likelihood import score_store
from diptych.evaluation.mask_work import REVIEWED, MaskWork, mask_work
from diptych.evaluation.ngram import NGram
from diptych.evaluation.stability import StabilityResult, review_stability_config, run_stability
from diptych.evaluation.yardsticks import Yardstick, compress_yardsticks, likelihood_yardstick
from diptych.models.cost import parameters_by_part
from diptych.report import results as measured
from diptych.report.effective_context import context_study, measure_effective_context, measure_pretrained_context
from diptych.report.image_diffusion import can_learn_images, image_run, measure_image_diffusion
from diptych.report.next_token import next_token_steps
from diptych.report.page import render
from diptych.report.paradigms import measure_paradigms, paradigms_run
from diptych.report.recall import measure_recall, recall_run
from diptych.report.schemes import SENTENCE, compare_schemes
from diptych.report.stages import Stages
from diptych.report.surroundings import machine_info, read_curves
from diptych.report.translation import can_translate, measure_translation, translation_run
from diptych.report.words import visible
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.samplers.text import generate_text
from diptych.tokenizers.streaming import StreamDecoder
from diptych.training.distributed import World, choose_device
from diptych.training.loop import Trainer
from diptych.training.prepare import Experiment, prepare
from diptych.training.run import METRICS, train_experiment
from diptych.training.streams import text_store

T = TypeVar("T")

SCHEME_BYTES = 2_000_000, 500_000
"""Text that every scheme of tokenization learns from, and is tried on."""

SCHEME_VOCABULARY = 8192
"""Tokens of every scheme that can have as many."""

MASK_LENGTH = 4096
"""Positions over which the work of masks is counted."""

PROMPTS = ("def read_lines(path):\n", "The sun rises ", "import os\n\nclass ", "Return the number of ")

OVERHEAD_SECONDS = 140.0
"""What everything but the training steps takes on two cores: compiling, tokenizing, scoring, yardsticks, drawing. The
encoder-decoder, the sweep of stability, the cost of attention and the recall come on top, about a minute and a half,
and so do the diffusion of images, a minute, and the comparison of paradigms, two."""

LEAST_SHARE = 0.25
"""Share of a small budget that goes to training all the same; the review then takes longer than its budget."""

FEWEST_STEPS, MOST_STEPS = 20, 1_000_000


def review_run(out: Path, seed: int) -> RunConfig:
    """The experiment of the review: a small Llama-like network on Python's own library."""
    return RunConfig(
        out=str(out / "run"),
        model=TransformerConfig(d_model=192, n_layers=4, n_heads=3, max_length=256),
        data=DataConfig(source=("stdlib",), sequence_length=256),
        tokenizer=TokenizerConfig(vocab_size=2048),
        optim=OptimConfig(
            name="muon",
            lr=3e-3,
            muon_lr=0.02,
            weight_decay=0.05,
            schedule="wsd",
            decay_fraction=0.5,
            final_lr_fraction=0.02,
            warmup_steps=10,
        ),
        train=TrainConfig(seed=seed, batch_size=8, eval_every=500, save_every=250, eval_sequences=64),
    )


class Review:
    """One review in the folder `out`; `run` makes whatever of it is not there yet. pretrained: a model whose context is
    measured besides, as `pretrained_study` opens it; not within the budget."""

    def __init__(
        self,
        out: Path,
        *,
        budget_seconds: float,
        seed: int,
        command: str,
        pretrained: Study | None = None,
        on_event: Handler = ignore,
    ) -> None:
        self.out, self.budget, self.seed = out, budget_seconds, seed
        self.command, self.pretrained, self.on_event = command, pretrained, on_event
        settings: dict[str, Any] = {"budget_seconds": budget_seconds, "seed": seed}
        if pretrained is not None:
            settings["pretrained"] = f"{pretrained.name} {pretrained.fingerprint}"
        self.stages = Stages(out, settings, "review")
        self.stage = self.stages.stage

    def run(self) -> Path | None:
        """The finished page's path, or None where the training was interrupted."""
        world = World(0, 1, choose_device("auto"))
        start = time.perf_counter()
        experiment = prepare(review_run(self.out, self.seed), world, self.on_event)
        self.stages.took("prepare", time.perf_counter() - start)
        if not self._train(experiment, world):
            return None
        return self._report(experiment, world)

    def _train(self, experiment: Experiment, world: World) -> bool:
        """Train for as many steps as fit into the budget; the number is decided once and kept."""
        if self.stages.has("train"):
            self.stage("plan", int, lambda: 0)
            self.stages.took("train", 0.0)
            return True
        start = time.perf_counter()
        trainer = Trainer(experiment, world, self.on_event)
        self.on_event(Message(text="compiling, and measuring how long a step takes"))
        steps = self.stage("plan", int, lambda: self._steps(trainer))
        trainer.run = replace(experiment.run, train=replace(experiment.run.train, steps=steps))
        trainer.steps = steps
        if not train_experiment(trainer):
            return False
        self.stages.took("train", max(trainer.counters.seconds, time.perf_counter() - start))
        return True

    def _steps(self, trainer: Trainer) -> int:
        seconds = trainer.rehearse(30)
        left = max(self.budget - OVERHEAD_SECONDS, self.budget * LEAST_SHARE)
        return int(min(MOST_STEPS, max(FEWEST_STEPS, left / seconds)))

    def _report(self, experiment: Experiment, world: World) -> Path:
        model, tokenizer = load_language_model(experiment.out, device=world.device)
        heldout = text_store(experiment.heldout)
        context = experiment.run.data.sequence_length
        score = self.stage(
            "score",
            measured.Score,
            lambda: measured.Score(
                **vars(score_store(model, heldout, context=context, stride=context // 2, on_event=self.on_event))
            ),
        )
        yardsticks = self.stage("yardsticks", tuple[Yardstick, ...], lambda: self._yardsticks(experiment))
        next_token = self.stage(
            "next-token",
            tuple[measured.NextTokenStep, ...],
            lambda: next_token_steps(model, tokenizer, "import ", n_steps=6, n_candidates=6, rng=Rng(self.seed)),
        )
        lengths = self.stage("lengths", tuple[CorpusLengths, ...], lambda: self._lengths(experiment))
        schemes = self.stage("schemes", tuple[measured.Scheme, ...], lambda: self._schemes(experiment))
        samples = self.stage("samples", tuple[measured.Sample, ...], lambda: self._samples(model, tokenizer))
        translation = self._translation(world)
        stability = self.stage("stability", StabilityResult, self._stability)
        masks = self.stage("masks", tuple[MaskWork, ...], self._masks)
        attention_cost = self.stage("attention-cost", CostResult, self._attention_cost)
        recall = tuple(self._recall(world, memory=memory) for memory in (False, True))
        effective_context = self._context(experiment)
        pretrained_context = self._pretrained_context()
        image_diffusion = self._image_diffusion(world)
        paradigms = self._paradigms(world)
        training, held, mfu = read_curves(experiment.out / METRICS)
        results = measured.ReviewResults(
            version=__version__,
            created=datetime.now().astimezone().isoformat(timespec="seconds"),
            command=self.command,
            seed=self.seed,
            budget_seconds=self.budget,
            mfu=mfu,
            model=model_info(model.config),
            tokenizer=tokenizer_info(experiment),
            schemes=schemes,
            data=data_info(experiment),
            lengths=lengths,
            machine=machine_info(world.device, experiment.run.train.dtype),
            score=score,
            translation=translation,
            stability=stability,
            masks=masks,
            attention_cost=attention_cost,
            recall=recall,
            effective_context=effective_context,
            pretrained_context=pretrained_context,
            image_diffusion=image_diffusion,
            paradigms=paradigms,
            training=training,
            heldout=held,
            next_token=next_token,
            samples=samples,
            yardsticks=yardsticks,
            stages=tuple(measured.Stage(name=name, seconds=seconds) for name, seconds in self.stages.seconds.items()),
        )
        measured.save_results(results, self.out / "results.json")
        self.on_event(Message(text="drawing the page"))
        return render(results, self.out / "index.html")

    def _yardsticks(self, experiment: Experiment) -> tuple[Yardstick, ...]:
        data = experiment.run.data
        heldout = "".join(d.text for d in heldout_documents(data)).encode()
        train = "".join(d.text for d in training_documents(data)).encode()
        self.on_event(Progressed(what="compressing with xz and brotli", done=0, total=None, unit="bytes"))
        rows = compress_yardsticks(heldout, train, on_event=self.on_event)
        store, held = text_store(experiment.train), text_store(experiment.heldout)
        vocab_size = experiment.tokenizer.vocab_size
        model = NGram.fit(
            np.asarray(store.tokens[:-1]), 5, vocab_size=vocab_size, eos_id=store.eos_id, on_event=self.on_event
        )
        nats = float(model.nats(np.asarray(held.tokens)).sum())
        return (*rows, likelihood_yardstick("5-gram", nats, held.n_bytes))

    def _schemes(self, experiment: Experiment) -> tuple[measured.Scheme, ...]:
        data = experiment.run.data
        train_bytes, heldout_bytes = SCHEME_BYTES
        return compare_schemes(
            [d.text for d in training_documents(replace(data, max_bytes=train_bytes))],
            (d.text for d in heldout_documents(data)),
            vocab_size=SCHEME_VOCABULARY,
            train_bytes=train_bytes,
            heldout_bytes=heldout_bytes,
            on_event=self.on_event,
        )

    def _lengths(self, experiment: Experiment) -> tuple[CorpusLengths, ...]:
        data = experiment.run.data
        documents = read_documents(data.source, data.text_field)
        lengths = measure_lengths(
            data_info(experiment).name,
            documents,
            tokenizer=experiment.tokenizer,
            context=max(CONTEXT, data.sequence_length),
            on_event=self.on_event,
        )
        return (lengths,)

    def _translation(self, world: World) -> measured.TranslationResult | None:
        if not can_translate():
            self.on_event(Message(text="translation is left out: it needs pip install 'diptych[translate]'"))
            return None
        run = translation_run(self.out, self.seed)
        return self.stage(
            "translation", measured.TranslationResult, lambda: measure_translation(run, world, self.on_event)
        )

    def _stability(self) -> StabilityResult:
        config = replace(review_stability_config(), seed=self.seed)
        return run_stability(config, self.out / "stability", self.on_event)

    def _masks(self) -> tuple[MaskWork, ...]:
        self.on_event(Message(text="counting what masks leave to compute"))
        return tuple(mask_work(text, MASK_LENGTH) for text in REVIEWED)

    def _attention_cost(self) -> CostResult:
        return measure_cost(review_cost_config(), self.out / "attention-cost", self.on_event)

    def _recall(self, world: World, *, memory: bool) -> measured.RecallResult:
        run = recall_run(self.out, self.seed, memory=memory)
        name = "recall-memory" if memory else "recall-window"
        return self.stage(name, measured.RecallResult, lambda: measure_recall(run, world, self.on_event))

    def _context(self, experiment: Experiment) -> ContextResult | None:
        study, out = context_study(experiment.out, self.seed, self.on_event), self.out / "effective-context"
        if study is None:
            return None
        return self.stage(
            "effective-context",
            ContextResult,
            lambda: measure_effective_context(study, out, self.seed, self.on_event),
        )

    def _pretrained_context(self) -> ContextResult | None:
        study, name = self.pretrained, "pretrained-context"
        if study is None:
            return None
        return self.stage(
            name,
            ContextResult,
            lambda: measure_pretrained_context(study, self.out / name, self.seed, self.on_event),
        )

    def _image_diffusion(self, world: World) -> measured.ImageDiffusionResult | None:
        if not can_learn_images():
            self.on_event(Message(text="diffusion of images is left out: it needs pip install 'diptych[images]'"))
            return None
        run = image_run(self.out, self.seed)
        return self.stage(
            "image-diffusion", measured.ImageDiffusionResult, lambda: measure_image_diffusion(run, world, self.on_event)
        )

    def _paradigms(self, world: World) -> measured.ParadigmsResult:
        run = paradigms_run(self.out, self.seed)
        return self.stage("paradigms", measured.ParadigmsResult, lambda: measure_paradigms(run, world, self.on_event))

    def _samples(self, model: Any, tokenizer: Any) -> tuple[measured.Sample, ...]:
        sampler = AutoregressiveSampler(temperature=0.8, top_p=0.95)
        prompts = [[tokenizer.eos_id, *tokenizer.encode(prompt).tolist()] for prompt in PROMPTS]
        request = GenerationRequest(prompts=prompts, max_new_tokens=120, eos_id=tokenizer.eos_id)
        texts = generate_text(model, sampler, request, Rng(self.seed), new_decoder=lambda: StreamDecoder(tokenizer))
        return tuple(
            measured.Sample(prompt=prompt, continuation=text.text, settings="temperature 0.8, top-p 0.95")
            for prompt, text in zip(PROMPTS, texts, strict=True)
        )


def model_info(config: TransformerConfig) -> measured.ModelInfo:
    """The network as the page shows it."""
    parts = parameters_by_part(config).items()
    return measured.ModelInfo(
        parts=tuple(measured.PartSize(name=name.replace("_", "-"), parameters=count) for name, count in parts),
        config={key: _one_value(value) for key, value in asdict(config).items() if not isinstance(value, dict)},
    )


def _one_value(value: Any) -> Any:
    """What takes turns from layer to layer, in a line."""
    return ", ".join(value) if isinstance(value, tuple) else value


def tokenizer_info(experiment: Experiment) -> measured.TokenizerInfo:
    """The tokenizer, what it makes of the held-out text, and of the review's sentence."""
    tokenizer, heldout = experiment.tokenizer, text_store(experiment.heldout)
    return measured.TokenizerInfo(
        kind=experiment.run.tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        bytes_per_token=heldout.n_bytes / heldout.n_text_tokens,
        train_bytes=min(experiment.run.tokenizer.train_bytes, text_store(experiment.train).n_bytes),
        example=tuple(visible(tokenizer.token_bytes(int(i))) for i in tokenizer.encode(SENTENCE)),
    )


def data_info(experiment: Experiment) -> measured.DataInfo:
    """The text on both sides of the split."""
    train, heldout = text_store(experiment.train), text_store(experiment.heldout)
    return measured.DataInfo(
        name="Python's standard library",
        train_documents=train.n_documents,
        train_bytes=train.n_bytes,
        train_tokens=train.n_tokens,
        heldout_documents=heldout.n_documents,
        heldout_bytes=heldout.n_bytes,
        heldout_tokens=heldout.n_tokens,
    )
