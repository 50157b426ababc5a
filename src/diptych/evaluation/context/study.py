"""How is one model measured, as it is or with an extension: which tasks, in which wording, up to which length?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

from diptych.core.events import Handler, Message, ignore
from diptych.core.recipe import save_json
from diptych.evaluation.context.cost import CONTEXTS, Estimate, Workload
from diptych.evaluation.context.journal import open_journal
from diptych.evaluation.context.ladder import LadderConfig, coarse_lengths
from diptych.evaluation.context.measure import Bench, Meter, choose_style, first_length, measure_task
from diptych.evaluation.context.result import RESULT, ContextResult, Positions, Saturation, TaskResult
from diptych.evaluation.context.tasks import TASKS, TaskName, build_task
from diptych.evaluation.context.types import Scorer, Task
from diptych.evaluation.context.wording import STYLES, Style
from diptych.tokenizers.base import Tokenizer

STOPPED: Final = {
    "budget": "the budget is spent; the same command with a larger --budget goes on",
    "interrupted": "interrupted; the same command goes on from here",
}


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What is asked. style: None chooses by a pilot. shortest, longest: in tokens; None: what a task needs, and what
    the model claims. Raises ValueError for what there is not."""

    tasks: tuple[TaskName, ...] = ("single_key",)
    style: Style | None = None
    shortest: int | None = None
    longest: int | None = None
    tau: float = 0.85
    alpha: float = 0.05
    max_rounds: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"name each task once; there are {', '.join(TASKS)}")
        LadderConfig(shortest=1, longest=1, tau=self.tau, alpha=self.alpha, max_rounds=self.max_rounds)
        if self.longest is not None and self.longest < max(2, self.shortest or 2):
            raise ValueError(f"the longest length, {self.longest}, must be no less than the shortest, and at least 2")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """One model ready to be asked. claimed: its own length in tokens; reach: how far an extension is to take it.
    overhead: tokens that the scorer adds to every context. fingerprint: what tells the weights from others. readings:
    the loss by context and the positions seen in training, taken last, where nothing stopped the tasks."""

    name: str
    extension: str | None
    claimed: int
    reach: int
    tokenizer: Tokenizer
    opens: bool
    scorer: Scorer
    fingerprint: str
    overhead: int = 0
    readings: Callable[[], tuple[Saturation | None, Positions | None]] = lambda: (None, None)

    def run(self, config: StudyConfig, out: Path, meter: Meter, *, on_event: Handler = ignore) -> ContextResult:
        """Measure all tasks, as far as the meter allows, and keep the result in `out`, whose answers are not asked for
        again."""
        journal = open_journal(out, self._settings(config))
        bench = Bench(
            scorer=self.scorer,
            journal=journal,
            meter=meter,
            seed=config.seed,
            overhead=self.overhead,
            on_event=on_event,
        )
        results = list[TaskResult]()
        stopped: str | None = None
        saturation: Saturation | None = None
        positions: Positions | None = None
        try:
            for name in config.tasks:
                measured = measure_task(*self._task(name, config, bench), self._ladder(config), bench)
                results.append(measured.result)
                if measured.ended is not None:
                    stopped = STOPPED[measured.ended]
                    break
            else:
                saturation, positions = self.readings()
        except KeyboardInterrupt:
            stopped = STOPPED["interrupted"]
        finally:
            journal.close()
        result = ContextResult(
            model=self.name,
            extension=self.extension,
            claimed=self.claimed,
            tau=config.tau,
            seed=config.seed,
            tasks=tuple(results),
            saturation=saturation,
            positions=positions,
            stopped=stopped,
        )
        save_json(result, out / RESULT)
        return result

    def lengths(self, config: StudyConfig) -> tuple[int, ...]:
        """The lengths that double, of the first task in the first wording that fits."""
        task, ladder = self.example(config), self._ladder(config)
        first = max(ladder.shortest, first_length(task, self.overhead))
        return coarse_lengths(min(ladder.longest, first), ladder.longest)

    def example(self, config: StudyConfig) -> Task:
        """The first task, for an estimate. Raises ValueError where any task does not fit."""
        tasks = [self._fitting(name, config)[0][1] for name in config.tasks]
        return tasks[0]

    def workload(self, config: StudyConfig) -> Workload:
        """What the first task asks in the first wording that fits. Raises ValueError where any task does not fit."""
        task, lengths = self.example(config), self.lengths(config)
        probes = task.context(max(lengths) - self.overhead, 0).probes
        # Contexts that ask about some of the depths are as many times more.
        contexts = CONTEXTS * task.n_depths // len({probe.depth for probe in probes})
        return Workload(
            lengths=lengths,
            questions=len(probes),
            question_tokens=sum(len(probe.question_ids) for probe in probes),
            contexts=contexts,
        )

    def _settings(self, config: StudyConfig) -> dict[str, Any]:
        kept = asdict(config)
        # How far and which tasks are asked changes none of the answers.
        for free in ("tasks", "shortest", "longest", "tau", "alpha", "max_rounds"):
            kept.pop(free)
        return {**kept, "model": self.name, "weights": self.fingerprint, "extension": self.extension}

    def _ladder(self, config: StudyConfig) -> LadderConfig:
        longest = config.longest or self.reach
        return LadderConfig(
            shortest=min(config.shortest or 1, longest),
            longest=longest,
            tau=config.tau,
            alpha=config.alpha,
            max_rounds=config.max_rounds,
        )

    def _task(self, name: TaskName, config: StudyConfig, bench: Bench) -> tuple[Task, str]:
        fitting = self._fitting(name, config)
        style = fitting[0][0] if len(fitting) == 1 else choose_style(fitting, self._ladder(config).longest, bench)
        return dict(fitting)[style], style

    def _fitting(self, name: TaskName, config: StudyConfig) -> list[tuple[str, Task]]:
        """The task in every wording that the longest length can hold. Raises ValueError where that is none."""
        variants, longest = self._variants(name, config), self._ladder(config).longest
        fitting = [(style, task) for style, task in variants if task.shortest + self.overhead <= longest]
        if not fitting:
            least = min(task.shortest for _, task in variants) + self.overhead
            raise ValueError(
                f"{name} needs at least {least:,} tokens with this tokenizer, more than the {longest:,} that are asked "
                "for; give a larger --longest, or another of --tasks"
            )
        return fitting

    def _variants(self, name: TaskName, config: StudyConfig) -> list[tuple[str, Task]]:
        """The task in every wording that the tokenizer can express. Raises ValueError where that is none."""
        found, first = list[tuple[str, Task]](), None
        for style in STYLES if config.style is None else (config.style,):
            try:
                task = build_task(name, self.tokenizer, style, config.seed, self.opens)
            except ValueError as error:
                first = first or error
            else:
                found.append((style, task))
        if not found:
            assert first is not None
            raise first
        return found


def told(estimate: Estimate) -> Message:
    """An estimate in words."""
    minutes = estimate.seconds / 60
    time = f"{estimate.seconds:,.0f} seconds" if minutes < 2 else f"{minutes:,.0f} minutes"
    text = (
        f"to certify all lengths takes about {estimate.tokens:,} tokens, {time} and "
        f"{estimate.memory / 2**20:,.0f} MiB; less where a length fails early"
    )
    return Message(text=text)


def told_of_server(work: Workload) -> Message:
    """A workload in words, for a server, of whose speed and memory nothing is known."""
    text = (
        f"to certify all lengths takes about {work.requests:,} requests and {work.tokens_sent:,} tokens, of which a "
        f"server that keeps what it has read reads {work.tokens:,}; less where a length fails early"
    )
    return Message(text=text)
