"""How large should a vocabulary be?

Takase et al. 2024 train one network over vocabularies of several sizes, with equally many tokens and with equally much
text, and find that larger ones serve better. Here the comparison is by default of equal compute: the un-embedding
multiplies every token, so a larger vocabulary takes fewer steps, each of which reads more text. One byte-pair
vocabulary is learnt, to the largest size; the smaller ones are its beginnings. Every (size, seed) is an ordinary run
whose last weights are scored on the held-out text in bits per byte, which compare across tokenizers. The learning rate
and the tokens in a sequence are the same for all sizes.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, final

import torch

from diptych.checkpoints.run_folder import TOKENIZER, load_language_model
from diptych.core.config import DataConfig, OptimConfig, RunConfig, TrainConfig, TransformerConfig
from diptych.core.events import Handler, Message, ignore
from diptych.core.recipe import differences, load_json, save_json
from diptych.data.corpus import training_documents
from diptych.evaluation.likelihood import TextScore, score_store
from diptych.models.cost import parameters_by_part, training_flops_per_token
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.splitting import Split
from diptych.training.distributed import World, choose_device
from diptych.training.loop import Trainer
from diptych.training.prepare import MAY_CHANGE, Experiment, prepare
from diptych.training.run import train_experiment
from diptych.training.streams import text_store

STUDY, COUNTS = "study.json", "counts.npz"

LEAST_SIZE = 257
"""256 bytes and the token that ends a document."""

_MAY_CHANGE = {"seeds", *(f"run.{key}" for key in MAY_CHANGE - {"train.steps"})}
"""Keys that a study may be continued with other values of; the steps are its budget."""


def study_run() -> RunConfig:
    """What all runs of a study share unless it is told otherwise: a small Llama-like network on Python's library."""
    return RunConfig(
        model=TransformerConfig(d_model=128, n_layers=4, n_heads=4, n_kv_heads=2, max_length=256),
        data=DataConfig(source=("stdlib",), sequence_length=256),
        optim=OptimConfig(name="muon", lr=3e-3, weight_decay=0.05, schedule="wsd", decay_fraction=0.5, warmup_steps=10),
        train=TrainConfig(steps=800, batch_size=8, save_every=100, eval_sequences=16),
    )


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Which vocabularies are compared, and what is equal among them."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    sizes: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    """Sizes of the vocabularies, rising, the special token included."""
    seeds: int = 1
    """Runs of each size, with seeds from `run.train.seed` on."""
    equal: Literal["flops", "tokens", "bytes"] = "flops"
    """What every run gets the same amount of: training FLOPs, tokens, or bytes of text."""
    flops: float | None = None
    """Training FLOPs of the smallest vocabulary; None: those of `run.train.steps` steps."""
    run: RunConfig = field(default_factory=study_run)
    """All else; `out`, the vocabulary's size and `train.eval_every` are set by the study."""

    def __post_init__(self) -> None:
        if len(self.sizes) < 2:
            raise ValueError("a study compares vocabularies of at least two sizes; give more in sizes")
        if self.sizes[0] < LEAST_SIZE:
            raise ValueError(f"a byte-pair vocabulary needs at least {LEAST_SIZE} tokens, not {self.sizes[0]}")
        for smaller, larger in pairwise(self.sizes):
            if smaller >= larger:
                what = f"size {larger} is given twice" if smaller == larger else f"size {larger} follows {smaller}"
                raise ValueError(f"{what}; give each size once, the smallest first")
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} trains nothing; give at least 1")
        if self.flops is not None and not 0 < self.flops < float("inf"):
            raise ValueError(f"flops={self.flops} is no budget; give a positive number such as 1e13")
        if min(self.run.train.steps, self.run.train.batch_size, self.run.data.sequence_length) < 1:
            raise ValueError("train.steps, train.batch_size and data.sequence_length must be at least 1")
        if self.run.tokenizer.kind != "bpe" or self.run.tokenizer.path is not None:
            raise ValueError("a study learns byte-pair vocabularies; leave out tokenizer.path, and tokenizer.kind too")
        if self.run.model.vocab_size:
            raise ValueError("the study sets the size of the vocabulary; leave out model.vocab_size")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A size: what it makes of the text and of the network, and how long its runs are."""

    size: int
    bytes_per_token: float
    """Compression of the held-out text, boundaries of documents not counted."""
    heldout_tokens: int
    train_tokens: int
    train_bytes: int
    embedding_parameters: int
    """Of the embedding, and of the un-embedding where that is not the same matrix."""
    parameters: int
    steps: int
    tokens: int
    """Tokens read in training."""
    flops: float
    """Training FLOPs (`training_flops_per_token`)."""

    @property
    def embedding_share(self) -> float:
        """Share of all parameters that belongs to the vocabulary."""
        return self.embedding_parameters / self.parameters

    @property
    def epochs(self) -> float:
        """How often training reads its text."""
        return self.tokens / self.train_tokens


@dataclass(frozen=True, kw_only=True)
class RunScore:
    """The held-out likelihood of one run."""

    size: int
    seed: int
    bits_per_byte: float
    nats_per_token: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A size over all its seeds, in bits per byte."""

    vocabulary: Vocabulary
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds, of a sample; None for a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study has found so far."""

    config: StudyConfig
    vocabularies: tuple[Vocabulary, ...] = ()
    scores: tuple[RunScore, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """The sizes that were scored, the smallest first."""
        found = {v.size: tuple(s.bits_per_byte for s in self.scores if s.size == v.size) for v in self.vocabularies}
        return tuple(Row(vocabulary=v, scores=found[v.size]) for v in self.vocabularies if found[v.size])

    @property
    def best(self) -> Row:
        """The optimum: the fewest bits per byte, of equal ones the smallest size."""
        return min(self.rows, key=lambda row: row.mean)

    @property
    def spread(self) -> float | None:
        """Standard deviation among seeds, pooled over the sizes; None where no size has two seeds."""
        deviations = [row.deviation for row in self.rows if row.deviation is not None]
        return statistics.fmean(d**2 for d in deviations) ** 0.5 if deviations else None

    @property
    def ties(self) -> tuple[tuple[int, int], ...]:
        """Neighbouring sizes whose means differ by no more than the spread among seeds."""
        if (spread := self.spread) is None:
            return ()
        near = [(a, b) for a, b in pairwise(self.rows) if abs(a.mean - b.mean) <= spread]
        return tuple((a.vocabulary.size, b.vocabulary.size) for a, b in near)


def beginning(tokenizer: BytePairTokenizer, vocab_size: int) -> BytePairTokenizer:
    """The vocabulary of `vocab_size` tokens that the same training would have stopped at.

    The tokenizer is one of `train_bpe` with one special token. Raises ValueError for a size that is not within it.
    """
    if not LEAST_SIZE <= vocab_size <= tokenizer.vocab_size or tokenizer.merges is None:
        raise ValueError(f"a vocabulary of {tokenizer.vocab_size} tokens has no beginning of {vocab_size}")
    pieces, merges = tokenizer.ordinary[: vocab_size - 1], []
    made = 256
    for left, right in tokenizer.merges:
        if made == len(pieces):
            break
        merges.append((left, right))
        # A merge whose bytes are a token already makes no new one.
        made += pieces[made] == pieces[left] + pieces[right]
    (name,) = tokenizer.special_tokens
    return BytePairTokenizer([*pieces, name.encode()], merges, tokenizer.split, {name: vocab_size - 1}, eos=name)


def network(config: StudyConfig, size: int) -> TransformerConfig:
    """The network of a size: the same body under another vocabulary."""
    return replace(config.run.model, vocab_size=size)


def step_flops(config: StudyConfig, size: int) -> float:
    """Training FLOPs of an optimizer step."""
    length = config.run.data.sequence_length
    return training_flops_per_token(network(config, size), length) * config.run.train.batch_size * length


def steps_of(config: StudyConfig, size: int, bytes_per_token: tuple[float, float]) -> int:
    """Steps of a size, to the nearest whole one; `bytes_per_token` of the training text: the smallest size's, and its.

    Raises ValueError where the budget is less than a step.
    """
    first = step_flops(config, config.sizes[0])
    steps = config.run.train.steps if config.flops is None else config.flops / first
    match config.equal:
        case "flops":
            steps *= first / step_flops(config, size)
        case "tokens":
            pass
        case "bytes":
            steps *= bytes_per_token[0] / bytes_per_token[1]
    if round(steps) < 1:
        raise ValueError(f"the budget is less than one step of {size} tokens; raise steps or flops, or leave it out")
    return round(steps)


@final
class VocabularyStudy:
    """One study in the folder `out`; `run` does whatever of it is not done yet.

    `study.json` holds what is known and is written whole after every run; `runs/vV-sS` are ordinary run folders.
    Raises ValueError where the folder holds a study of other settings, or `out` is no folder.
    """

    def __init__(self, config: StudyConfig, out: Path, on_event: Handler = ignore) -> None:
        self.config, self.out, self.on_event = config, out, on_event
        self.study = self._opened()
        self.world = World(0, 1, choose_device(config.run.train.device))
        self.seconds_per_flop: float | None = None
        self.done_seconds = self.done_flops = 0.0

    def _opened(self) -> Study:
        path = self.out / STUDY
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file; name a folder for the study")
        if not path.is_file():
            return Study(config=self.config)
        kept = load_json(Study, path)
        changed = sorted(set(differences(kept.config, self.config)) - _MAY_CHANGE)
        if self.config.seeds < kept.config.seeds:
            changed.append("fewer seeds")
        if changed:
            raise ValueError(
                f"{self.out} holds a study of other settings (it differs in {', '.join(changed)}); choose another "
                "--out, delete the folder, or give the same settings to go on"
            )
        return replace(kept, config=self.config)

    def _keep(self) -> None:
        save_json(self.study, self.out / STUDY)

    def run(self) -> Study | None:
        """The finished study, or None where the training was interrupted."""
        if not self.study.vocabularies:
            self.study = replace(self.study, vocabularies=self._vocabularies())
        self._keep()
        for epochs, size in [(v.epochs, v.size) for v in self.study.vocabularies if v.epochs > 1]:
            self.on_event(Message(text=f"{size:,} tokens: the text is read {epochs:.1f} times", level="warning"))
        while todo := self._todo():
            vocabulary, seed = todo[0]
            score = self._score(vocabulary, seed)
            if score is None:
                return None
            self.study = replace(self.study, scores=(*self.study.scores, score))
            self._keep()
            self._report(score)
        return self.study

    def _todo(self) -> list[tuple[Vocabulary, int]]:
        """Runs that are not scored yet: all sizes of a seed before the next seed."""
        done, first = {(s.size, s.seed) for s in self.study.scores}, self.config.run.train.seed
        seeds = range(first, first + self.config.seeds)
        return [(v, seed) for seed in seeds for v in self.study.vocabularies if (v.size, seed) not in done]

    def run_of(self, size: int, seed: int, steps: int) -> RunConfig:
        """The recipe of one run. Its tokenizer is the one that it would learn itself."""
        run = self.config.run
        return replace(
            run,
            out=str(self.out / "runs" / f"v{size}-s{seed}"),
            tokenizer=replace(run.tokenizer, vocab_size=size),
            train=replace(run.train, seed=seed, steps=steps, eval_every=0),
        )

    def _prepared(self, run: RunConfig) -> Experiment:
        tokenizer = Path(run.out) / TOKENIZER
        if not tokenizer.is_file():
            beginning(self._largest(), run.tokenizer.vocab_size).save(tokenizer)
        return prepare(run, self.world, self.on_event)

    def _largest(self) -> BytePairTokenizer:
        """The largest vocabulary, learnt once. Raises ValueError where the text does not give so many tokens."""
        path, size, run = self.out / TOKENIZER, self.config.sizes[-1], self.config.run
        if path.is_file():
            kept = load_tokenizer(path)
            if not isinstance(kept, BytePairTokenizer):
                raise ValueError(f"{path} is none of this study's; delete it to make it again")
            return kept
        tokenizer = train_bpe(
            (document.text for document in training_documents(run.data, self.on_event)),
            size,
            run.tokenizer.train_bytes,
            self.on_event,
            split=Split.named(run.tokenizer.split),
            checkpoint=self.out / COUNTS,
            fingerprint=repr((run.data, run.tokenizer)),
        )
        if tokenizer.vocab_size < size:
            raise ValueError(
                f"the text gives a vocabulary of {tokenizer.vocab_size} tokens at most; leave out {size}, or add text"
            )
        self._keep()  # what is in the folder from now on belongs to these settings
        tokenizer.save(path)
        return tokenizer

    def _vocabularies(self) -> tuple[Vocabulary, ...]:
        run, found = self.config.run, []
        lengths: list[float] = []
        for size in self.config.sizes:  # too small a budget is told before anything is made
            steps_of(self.config, size, (1.0, 1.0))
        for size in self.config.sizes:
            experiment = self._prepared(self.run_of(size, run.train.seed, run.train.steps))
            train, heldout = text_store(experiment.train), text_store(experiment.heldout)
            lengths.append(train.n_bytes / train.n_tokens)
            steps = steps_of(self.config, size, (lengths[0], lengths[-1]))
            parts = parameters_by_part(network(self.config, size))
            found.append(
                Vocabulary(
                    size=size,
                    bytes_per_token=heldout.n_bytes / heldout.n_text_tokens,
                    heldout_tokens=heldout.n_tokens,
                    train_tokens=train.n_tokens,
                    train_bytes=train.n_bytes,
                    embedding_parameters=parts["embedding"] + parts.get("unembedding", 0),
                    parameters=sum(parts.values()),
                    steps=steps,
                    tokens=steps * run.train.batch_size * run.data.sequence_length,
                    flops=steps * step_flops(self.config, size),
                )
            )
        return tuple(found)

    def _score(self, vocabulary: Vocabulary, seed: int) -> RunScore | None:
        """Train one run to its end and score it; None where it was interrupted."""
        run = self.run_of(vocabulary.size, seed, vocabulary.steps)
        torch.compiler.reset()  # a process compiles one code for few shapes only, and no run may depend on others
        if self.seconds_per_flop is None:
            seconds = Trainer(self._prepared(run), self.world, self.on_event).rehearse(5)
            self.seconds_per_flop = seconds / step_flops(self.config, vocabulary.size)
            n_runs, left = len(self._todo()), self._left()
            self.on_event(Message(text=f"runs to train and score: {n_runs}, about {left} on this machine"))
        trainer = Trainer(self._prepared(run), self.world, self.on_event)
        if not train_experiment(trainer):
            return None
        start = time.perf_counter()
        score = self._likelihood(trainer.experiment)
        self.done_seconds += trainer.counters.seconds + time.perf_counter() - start
        self.done_flops += self._work(vocabulary)
        self.seconds_per_flop = self.done_seconds / self.done_flops
        bits, nats = score.bits_per_byte, score.nats / score.n_tokens
        return RunScore(size=vocabulary.size, seed=seed, bits_per_byte=bits, nats_per_token=nats)

    def _likelihood(self, experiment: Experiment) -> TextScore:
        model, _ = load_language_model(experiment.out, device=self.world.device)
        context, stride = self.config.run.data.sequence_length, max(1, self.config.run.data.sequence_length // 2)
        return score_store(
            model, text_store(experiment.heldout), context=context, stride=stride, on_event=self.on_event
        )

    def _work(self, vocabulary: Vocabulary) -> float:
        """FLOPs of a run and its score, whose windows overlap by half and need a forward pass alone."""
        return vocabulary.flops + 2 * vocabulary.heldout_tokens / 3 * vocabulary.flops / vocabulary.tokens

    def _left(self) -> str:
        seconds = sum(self._work(vocabulary) for vocabulary, _ in self._todo()) * (self.seconds_per_flop or 0.0)
        return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

    def _report(self, score: RunScore) -> None:
        left = f"; runs left: {n}, about {self._left()}" if (n := len(self._todo())) else ""
        text = f"{score.size:,} tokens, seed {score.seed}: {score.bits_per_byte:.4f} bits per byte{left}"
        self.on_event(Message(text=text))
