"""Where does training diverge?

Xiong et al. 2020 ("On Layer Normalization in the Transformer Architecture") show that with normalization after each
residual sum the gradients of the last layers are large when training begins, so that it needs a warm-up, and that with
normalization before each sublayer they are small and even. Here a small decoder is trained for every normalization,
placement of it, depth and learning rate, and the gradients at initialization are measured layer by layer.

All else is as in Vaswani et al. 2017 and in Xiong et al.: Xavier's weights, sinusoidal positions, scaled and tied
embeddings, ReLU, Adam, no clipping of gradients. Tokens are bytes. A run takes seconds, so the tokens stay in memory
and a loop of a few lines stands where `training.loop` would make a run folder of every cell; batches, objective,
optimizer and schedule are the trainer's own. Nothing is compiled: compiling takes longer than these runs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal, final

import numpy as np
import torch

from diptych.core.config import DataConfig, OptimConfig, TransformerConfig
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.recipe import differences, load_json, save_json
from diptych.data.corpus import training_documents
from diptych.data.packing import TokenStore
from diptych.data.stream import SequenceStream
from diptych.models.language_model import LanguageModel
from diptych.objectives.autoregressive import Autoregressive
from diptych.tokenizers.simple import ByteTokenizer
from diptych.training.distributed import choose_device
from diptych.training.optimizers import Optimizer, clip_and_scale
from diptych.training.schedules import lr_factor

STABILITY = "stability.json"

Norm = Literal["layer", "rms", "none"]
Placement = Literal["post", "pre"]
Outcome = Literal["learnt", "frequencies", "diverged"]

MARGIN = 0.02
"""By which share a loss lies below the unigram entropy before it counts as learnt; batches differ by about as much."""

_GRID = {"norms", "placements", "depths", "learning_rates", "seeds"}
"""Keys that a sweep may be continued with other values of: runs do not depend on each other."""


@dataclass(frozen=True, kw_only=True)
class StabilityConfig:
    """Which networks are trained, and how."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    norms: tuple[Norm, ...] = ("layer", "rms", "none")
    """Layer normalization, root-mean-square normalization, none."""
    placements: tuple[Placement, ...] = ("post", "pre")
    """After each residual sum, before each sublayer; without a normalization there is no placement."""
    depths: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of blocks, rising."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Peak learning rates of Adam, rising."""
    steps: int = 120
    """Optimizer steps of a run."""
    warmup_steps: int = 0
    """Steps of linear warm-up; the learning rate is constant afterwards."""
    seeds: int = 1
    """Runs of every cell, with seeds from `seed` on."""
    seed: int = 0
    """Seed of weights and data order; all cells of a seed read the same batches."""
    d_model: int = 64
    """Width of the residual stream."""
    n_heads: int = 4
    """Number of heads."""
    sequence_length: int = 64
    """Bytes in a sequence."""
    batch_size: int = 8
    """Sequences in a step."""
    data: DataConfig = field(default_factory=lambda: DataConfig(max_bytes=1_000_000))
    """The text."""

    def __post_init__(self) -> None:
        for name in ("norms", "depths", "learning_rates"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; give at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice; give each once")
        if not self.placements and set(self.norms) != {"none"}:
            raise ValueError("placements is empty; give post, pre or both")
        if self.depths[0] < 1 or list(self.depths) != sorted(self.depths):
            raise ValueError("depths must be at least 1 and rise")
        rates = self.learning_rates
        if not (rates[0] > 0 and rates[-1] < math.inf) or list(rates) != sorted(rates):
            raise ValueError("learning rates must be positive and rise")
        if min(self.steps, self.seeds, self.sequence_length, self.batch_size) < 1:
            raise ValueError("steps, seeds, sequence_length and batch_size must be at least 1")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must lie between 0 and the {self.steps} steps")

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every normalization in each place."""
        placed: list[Column] = []
        for norm in self.norms:
            if norm == "none":
                placed.append(Column(norm=norm, placement=None))
            else:
                placed += [Column(norm=norm, placement=placement) for placement in dict.fromkeys(self.placements)]
        return tuple(placed)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A normalization and where it stands."""

    norm: Norm
    placement: Placement | None

    @property
    def name(self) -> str:
        """As it is shown."""
        return "none" if self.placement is None else f"{self.norm}, {self.placement}"


@dataclass(frozen=True, kw_only=True)
class StabilityRun:
    """How one training ended. Losses in nats a byte, None where they were no finite number."""

    column: Column
    depth: int
    learning_rate: float
    seed: int
    steps: int
    """Steps until the end, or until the loss was no finite number."""
    first_loss: float | None
    """Loss of the first step, before anything was learnt."""
    final_loss: float | None
    """Mean loss of the last tenth of the steps."""
    outcome: Outcome
    """See `outcome`."""


@dataclass(frozen=True, kw_only=True)
class InitialGradients:
    """The gradients of one network before its first step."""

    column: Column
    depth: int
    norms: tuple[float, ...]
    """For each block, the Frobenius norm of the gradient of the mean loss a byte with respect to the second matrix of
    the feed-forward layer; the mean over the seeds and batches."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A column's depth and learning rate over all its seeds."""

    final_loss: float | None
    """Mean over the seeds; None where one of them has none."""
    outcome: Outcome
    """The worst among the seeds."""


@dataclass(frozen=True, kw_only=True)
class StabilityResult:
    """What a sweep has found so far."""

    config: StabilityConfig
    uniform: float
    """Loss of a uniform guess: ln V."""
    unigram: float
    """Loss of a guess by the bytes' frequencies: the entropy of the text's bytes one by one."""
    runs: tuple[StabilityRun, ...] = ()
    gradients: tuple[InitialGradients, ...] = ()

    def cell(self, column: Column, depth: int, learning_rate: float) -> Cell | None:
        """The runs of a cell together; None where none is done."""
        place, config = (column, depth, learning_rate), self.config
        wanted = range(config.seed, config.seed + config.seeds)
        found = [r for r in self.runs if (r.column, r.depth, r.learning_rate) == place and r.seed in wanted]
        if not found:
            return None
        losses = [r.final_loss for r in found if r.final_loss is not None]
        order: tuple[Outcome, ...] = ("learnt", "frequencies", "diverged")
        worst = max((r.outcome for r in found), key=order.index)
        return Cell(final_loss=statistics.fmean(losses) if len(losses) == len(found) else None, outcome=worst)

    def gradient(self, column: Column, depth: int) -> tuple[float, ...]:
        """The gradient norms of a network, block by block."""
        (found,) = (g.norms for g in self.gradients if (g.column, g.depth) == (column, depth))
        return found


def review_stability_config() -> StabilityConfig:
    """A sweep for the living review: half a minute on two cores."""
    return StabilityConfig(
        depths=(2, 4, 8),
        learning_rates=(3e-4, 3e-3, 3e-2, 3e-1),
        steps=40,
        d_model=32,
        data=DataConfig(max_bytes=300_000),
    )


def outcome(losses: list[float], uniform: float, unigram: float) -> Outcome:
    """What became of a training, by its losses step by step.

    `diverged`: a loss is no finite number, or the mean of the last tenth of them exceeds that of a uniform guess.
    `frequencies`: that mean is not clearly (`MARGIN`) below the unigram entropy, which needs no context. `learnt`: all
    else.
    """
    if not all(map(math.isfinite, losses)):
        return "diverged"
    final = final_loss(losses)
    if final > uniform:
        return "diverged"
    return "frequencies" if final > (1 - MARGIN) * unigram else "learnt"


def final_loss(losses: list[float]) -> float:
    """Mean of the last tenth of the losses, of at least one."""
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


def network(config: StabilityConfig, column: Column, depth: int) -> TransformerConfig:
    """The decoder of Vaswani et al. 2017 without cross-attention, under another normalization."""
    return TransformerConfig(
        vocab_size=ByteTokenizer().vocab_size,
        d_model=config.d_model,
        n_layers=depth,
        n_heads=config.n_heads,
        max_length=config.sequence_length,
        norm=column.norm,
        norm_placement=column.placement or "pre",
        position="sinusoidal",
        feed_forward="relu",
        bias=True,
        embedding_scale=True,
    )


def xavier(model: LanguageModel, generator: torch.Generator) -> None:
    """Normal weights of variance 2 / (fan in + fan out) (Glorot and Bengio 2010), embeddings of variance 1 / d_model.

    The projections to queries, keys and values count as a matrix each. Biases are zero, normalization weights one.
    """
    width = model.config.d_model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            square = "attention" in name or "embedding" in name
            fans = 2 * width if square else sum(parameter.shape)
            parameter.normal_(0.0, math.sqrt(2 / fans), generator=generator)


def run_stability(config: StabilityConfig, out: Path | None = None, on_event: Handler = ignore) -> StabilityResult:
    """Train whatever of the sweep is not trained yet; `out`/stability.json is written whole after every run.

    out: None keeps nothing. Ctrl-C (KeyboardInterrupt) loses the run of that moment alone. Raises ValueError where the
    folder holds a sweep of other settings; other norms, placements, depths, learning rates and seeds may be added.
    """
    return _Sweep(config, out, on_event).run()


@final
class _Sweep:
    def __init__(self, config: StabilityConfig, out: Path | None, on_event: Handler) -> None:
        self.config, self.out, self.on_event = config, out, on_event
        self.result = self._opened()
        self.device = choose_device("auto")

    def _opened(self) -> StabilityResult | None:
        out = self.out
        if out is None:
            return None
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; name a folder for the sweep")
        if not (out / STABILITY).is_file():
            return None
        kept = load_json(StabilityResult, out / STABILITY)
        if changed := sorted(set(differences(kept.config, self.config)) - _GRID):
            raise ValueError(
                f"{out} holds a sweep of other settings (it differs in {', '.join(changed)}); choose another --out, "
                "delete the folder, or give the same settings to go on"
            )
        return replace(kept, config=self.config)

    def run(self) -> StabilityResult:
        store = in_memory(self.config.data, self.on_event)
        self.stream = SequenceStream(store, self.config.sequence_length, seed=self.config.seed, document_mask=False)
        result = self.result or StabilityResult(
            config=self.config, uniform=math.log(ByteTokenizer().vocab_size), unigram=unigram_entropy(store.tokens)
        )
        result = replace(result, gradients=self._gradients())
        self._keep(result)
        todo = list(self._todo(result))
        work, spent, start = sum(_work(depth) for _, depth, _, _ in todo), 0.0, time.perf_counter()
        for number, (column, depth, rate, seed) in enumerate(todo, 1):
            run = self._train(column, depth, rate, seed, result)
            result = replace(result, runs=(*result.runs, run))
            self._keep(result)
            spent += _work(depth)
            left = (time.perf_counter() - start) * (work / spent - 1)
            about = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
            self.on_event(Progressed(what="training", done=number, total=len(todo), unit=f"runs, about {about} left"))
        return result

    def _keep(self, result: StabilityResult) -> None:
        if self.out is not None:
            save_json(result, self.out / STABILITY)

    def _todo(self, result: StabilityResult) -> Iterator[tuple[Column, int, float, int]]:
        """All cells of a seed before the next seed."""
        config, done = self.config, {(r.column, r.depth, r.learning_rate, r.seed) for r in result.runs}
        seeds = range(config.seed, config.seed + config.seeds)
        for seed, column, depth, rate in product(seeds, config.columns, config.depths, config.learning_rates):
            if (column, depth, rate, seed) not in done:
                yield column, depth, rate, seed

    def _network(self, column: Column, depth: int, seed: int) -> LanguageModel:
        model = LanguageModel(network(self.config, column, depth))
        xavier(model, Rng(seed).generator("weights"))
        return model.to(self.device)

    def _gradients(self) -> tuple[InitialGradients, ...]:
        """Before the first step, over `seeds` networks, at least three."""
        config, found = self.config, []
        for column, depth in product(config.columns, config.depths):
            rows = []
            for seed in range(config.seed, config.seed + max(3, config.seeds)):
                batch = self.stream.batch(seed - config.seed, config.batch_size).to(self.device)
                model = self._network(column, depth, seed)
                loss = Autoregressive().loss(model, batch, Rng(seed))
                (loss.total / loss.count).backward()
                rows.append(feed_forward_gradients(model))
            norms = tuple(map(statistics.fmean, zip(*rows, strict=True)))
            found.append(InitialGradients(column=column, depth=depth, norms=norms))
        return tuple(found)

    def _train(self, column: Column, depth: int, rate: float, seed: int, result: StabilityResult) -> StabilityRun:
        config, rng = self.config, Rng(seed)
        model = self._network(column, depth, seed)
        optim = OptimConfig(
            lr=rate, betas=(0.9, 0.98), weight_decay=0.0, schedule="constant", warmup_steps=config.warmup_steps
        )
        optimizer, objective, losses = Optimizer(model, optim), Autoregressive(), list[float]()
        parameters = list(model.parameters())
        for step in range(config.steps):
            # Seeds read different parts of the text, the cells of a seed the same.
            batch = self.stream.batch((seed - config.seed) * config.steps + step, config.batch_size).to(self.device)
            loss = objective.loss(model, batch, rng)
            losses.append(float(loss.total.detach()) / loss.count)
            if not math.isfinite(losses[-1]):
                break
            loss.total.backward()
            clip_and_scale(parameters, 1 / loss.count, 0.0)
            optimizer.step(lr_factor(step, config.steps, optim))
        whole = math.isfinite(losses[-1])
        return StabilityRun(
            column=column,
            depth=depth,
            learning_rate=rate,
            seed=seed,
            steps=len(losses),
            first_loss=losses[0] if math.isfinite(losses[0]) else None,
            final_loss=final_loss(losses) if whole else None,
            outcome=outcome(losses, result.uniform, result.unigram),
        )


def _work(depth: int) -> float:
    """Time of a run in that of a block; embedding, loss and optimizer take about as long as one and a half."""
    return depth + 1.5


def feed_forward_gradients(model: LanguageModel) -> list[float]:
    """Frobenius norm of the gradient of each block's second feed-forward matrix, the first block first."""
    named = dict(model.named_parameters())
    gradients = [named[f"blocks.{i}.feed_forward.output.weight"].grad for i in range(model.config.n_layers)]
    return [float(torch.linalg.vector_norm(g)) for g in gradients if g is not None]


def in_memory(data: DataConfig, on_event: Handler = ignore) -> TokenStore:
    """The training text as bytes, every document opened by the end-of-document token."""
    tokenizer, parts, n_bytes = ByteTokenizer(), [], 0
    end = np.array([tokenizer.eos_id], np.int32)
    for document in training_documents(data, on_event):
        ids = tokenizer.encode(document.text)
        parts += [end, ids]
        n_bytes += len(ids)
    lengths = np.ones(tokenizer.vocab_size, np.int64)
    lengths[tokenizer.eos_id] = 0
    return TokenStore(
        tokens=np.concatenate([*parts, end]).astype(np.uint16),
        token_lengths=lengths,
        eos_id=tokenizer.eos_id,
        n_documents=len(parts) // 2,
        n_bytes=n_bytes,
    )


def unigram_entropy(tokens: np.typing.NDArray[np.uint16]) -> float:
    """-sum p ln p over the tokens' frequencies, in nats."""
    counts = np.bincount(tokens)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
