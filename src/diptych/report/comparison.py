"""How are runs of both paradigms put side by side: measured stage by stage, drawn, and written as one page?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar, final

import torch
from markupsafe import Markup
from matplotlib.figure import Figure

from diptych import __version__
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.files import write_text
from diptych.core.recipe import save_json
from diptych.evaluation import compare_generation as generation
from diptych.evaluation.attention_cost import machine_of
from diptych.evaluation.compare_curves import Axis, Curve, HeldoutAt, Overtaking
from diptych.evaluation.compare_likelihood import PUBLISHED, RowScores, score_rows, training_score_noise
from diptych.evaluation.compare_runs import Contender, open_contender, short_names, weights_digest
from diptych.evaluation.comparison import (
    ComparisonConfig,
    ComparisonResult,
    TextOf,
    TrainedRun,
    all_overtakings,
    all_reservations,
    heldout_scores,
    trained_run,
)
from diptych.report import words
from diptych.report.comparison_drawings import bits_bars, curves, speed_and_quality
from diptych.report.environment import page_environment
from diptych.report.plots import save_png, svg
from diptych.report.results import CurvePoint, HeldoutPoint
from diptych.report.stages import Stages
from diptych.report.surroundings import read_curves
from diptych.training.run import METRICS

COMPARISON: Final = "compare.json"

SHOWN: Final = 3
"""Texts of each run on the page."""

T = TypeVar("T")
R_contra = TypeVar("R_contra", contravariant=True)

_PLACES: Final[dict[Axis, str]] = {"flops": "{:.3g} FLOPs", "epochs": "{:.3g} epochs"}

DRAWINGS: Final = {"bits": bits_bars, "curves": curves, "generation": speed_and_quality}


class Draw(Protocol[R_contra]):
    """A drawing of a result, for a wide page or a narrow one."""

    def __call__(self, result: R_contra, *, narrow: bool = False) -> Figure: ...


@final
class Comparison:
    """One comparison in the folder `out`; `run` measures whatever of it is not there yet.

    Raises ValueError for runs of other kinds, where no judge is at hand, and where the folder holds another comparison.
    """

    def __init__(self, config: ComparisonConfig, out: Path, device: torch.device, on_event: Handler = ignore) -> None:
        self.config, self.out, self.device, self.on_event = config, out, device, on_event
        self.contenders = [open_contender(Path(run), device, on_event) for run in config.runs]
        self.names = short_names([contender.path for contender in self.contenders])
        self.reference = next((c for c in self.contenders if c.is_autoregressive), None)
        self.length = config.length or min(contender.length for contender in self.contenders)
        self._check_length()
        self.judge_path = self._judge_path()
        self.judge = generation.open_judge(self.judge_path, device)
        settings = {
            **asdict(config),
            "weights": [weights_digest(contender.path) for contender in self.contenders],
            "machine": machine_of(device),
        }
        self.stages = Stages(out, settings, "comparison")

    def _check_length(self) -> None:
        longest = min((c.length for c in self.contenders if c.run.objective != "autoregressive"), default=self.length)
        if self.length > longest:
            raise ValueError(f"--length {self.length} is more than the {longest} tokens that a run has learnt to fill")

    def run(self) -> ComparisonResult:
        """Measure, and write `compare.json`, the drawings and the page."""
        trained = [self._trained(i) for i in range(len(self.contenders))]
        rows = [
            self.stages.stage(f"rows-{i}", RowScores, partial(self._rows, contender))
            for i, contender in enumerate(self.contenders)
        ]
        runs, lines = tuple(run for run, _ in trained), tuple(curve for _, curve in trained)
        scores, texts = self._generation()
        reference = self.reference
        result = ComparisonResult(
            config=self.config,
            machine=machine_of(self.device),
            trained=runs,
            reservations=all_reservations(self.contenders, runs),
            reference=None if reference is None else self.names[self.contenders.index(reference)],
            heldout=heldout_scores(self.contenders, self.names, rows, reference),
            curves=lines,
            overtakings=all_overtakings(self.contenders, lines, self.config.seed),
            judge=str(self.judge_path),
            judge_contends=any(self.judge_path.resolve() == c.path.resolve() for c in self.contenders),
            length=self.length,
            generation=scores,
            texts=texts,
        )
        save_json(result, self.out / COMPARISON)
        for name, draw in DRAWINGS.items():
            save_png(draw(result), self.out / f"{name}.png")
        write_text(self.out / "index.html", page(result))
        return result

    def _trained(self, number: int) -> tuple[TrainedRun, Curve]:
        contender, name = self.contenders[number], self.names[number]
        training, heldout = scored_curves(contender.path)
        tokens = {point.step: point.tokens for point in training}
        scored = [point for point in heldout if point.bits_per_byte is not None and point.step in tokens]
        best = min(heldout, key=lambda point: point.loss)
        last = training[-1]
        run = trained_run(contender, name, steps=last.step, kept_step=best.step, tokens=last.tokens)
        each = run.flops / run.tokens, run.epochs / run.tokens
        points = tuple(
            HeldoutAt(
                step=point.step,
                flops=tokens[point.step] * each[0],
                epochs=tokens[point.step] * each[1],
                bits_per_byte=point.bits_per_byte,
            )
            for point in scored
            if point.bits_per_byte is not None
        )
        noise = partial(training_score_noise, contender, seed=self.config.seed)
        return run, Curve(run=name, points=points, noise=self.stages.stage(f"noise-{number}", float, noise))

    def _rows(self, contender: Contender) -> RowScores:
        config = self.config
        return score_rows(
            contender,
            rows=config.rows,
            draws=config.draws,
            batch_size=config.batch_size,
            seed=config.seed,
            on_event=self.on_event,
        )

    def _judge_path(self) -> Path:
        if self.config.judge is not None:
            return Path(self.config.judge)
        if self.reference is None:
            raise ValueError("none of these runs continues text, so name a model that judges their texts by --judge")
        return self.reference.path

    def _generation(self) -> tuple[tuple[generation.GenerationScore, ...], tuple[TextOf, ...]]:
        config, judge = self.config, self.judge
        cells = [
            (i, contender, rate)
            for i, contender in enumerate(self.contenders)
            for rate in generation.rates_of(contender, config.tokens_per_step)
        ]
        written = []
        for number, (i, contender, rate) in enumerate(cells):
            self._progress("writing texts", number, len(cells), "kinds")
            stage = partial(self._written, contender, rate)
            written.append(self.stages.stage(f"texts-{i}-{rate}", generation.Written, stage))
        self._progress("writing texts", len(cells), len(cells), "kinds")
        rounds = []
        for number in range(config.rounds):
            # In turns, so that what slows the machine down for a while slows all alike.
            stage_times = partial(self._times, cells, written)
            rounds.append(self.stages.stage(f"times-{number}", tuple[float, ...], stage_times))
            self._progress("timing", number + 1, config.rounds, "rounds")
        scores = [
            generation.generation_score(self.names[i], contender.tokenizer, judge, kept, seconds)
            for (i, contender, _), kept, *seconds in zip(cells, written, *rounds, strict=True)
        ]
        first = self.reference or self.contenders[0]
        scores.append(generation.heldout_generation_score(first, judge, config.samples, self.length))
        texts = [
            TextOf(run=self.names[i], tokens_per_step=rate, texts=kept.texts[:SHOWN])
            for (i, _, rate), kept in zip(cells, written, strict=True)
        ]
        return tuple(scores), tuple(texts)

    def _written(self, contender: Contender, rate: int) -> generation.Written:
        config, length = self.config, self.length
        written = generation.write(
            contender, rate, samples=config.samples, length=length, unmask=config.unmask, seed=config.seed
        )
        price = generation.parallel_price(
            contender, rate, samples=config.samples, length=length, unmask=config.unmask, seed=config.seed
        )
        return replace(written, price=price)

    def _times(
        self, cells: Sequence[tuple[int, Contender, int]], written: Sequence[generation.Written]
    ) -> tuple[float, ...]:
        config = self.config
        return tuple(
            generation.time_writing(contender, kept, unmask=config.unmask, seed=config.seed)
            for (_, contender, _), kept in zip(cells, written, strict=True)
        )

    def _progress(self, what: str, done: int, total: int, unit: str) -> None:
        self.on_event(Progressed(what=what, done=done, total=total, unit=unit))


def scored_curves(folder: Path) -> tuple[tuple[CurvePoint, ...], tuple[HeldoutPoint, ...]]:
    """Training and held-out curve of a run. Raises ValueError where it has no held-out score."""
    path = folder / METRICS
    training, heldout, _ = read_curves(path) if path.is_file() else ((), (), None)
    if not training or not heldout:
        raise ValueError(f"{path} holds no held-out score; let the run's training end")
    return training, heldout


def page(result: ComparisonResult) -> str:
    """The page as HTML: a function of the result alone. It loads nothing, and texts are escaped."""
    environment = page_environment()
    plots = {name: plot_markup(result, name, draw) for name, draw in DRAWINGS.items()}
    rates = sorted({texts.tokens_per_step for texts in result.texts})
    shown = [rates[0], *rates[-1:]] if len(rates) > 1 else rates
    html = environment.get_template("comparison.html.j2").render(
        result=result,
        version=__version__,
        plots=plots,
        published=PUBLISHED,
        sentences=[sentence(found) for found in result.overtakings],
        shown=[(rate, [texts for texts in result.texts if texts.tokens_per_step == rate]) for rate in shown],
    )
    return words.readable(html)


def plot_markup(result: T, name: str, draw: Draw[T]) -> Markup:
    """A drawing for wide pages and for narrow ones, of which the page shows one."""
    return Markup('<div class="plot wide">{}</div><div class="plot narrow">{}</div>').format(
        Markup(svg(draw(result), f"{name}-wide")), Markup(svg(draw(result, narrow=True), f"{name}-narrow"))
    )


def sentence(found: Overtaking) -> str:
    """Whether and where a denoiser overtakes, in words."""
    place = _PLACES[found.axis]
    over = "compute" if found.axis == "flops" else "epochs"
    match found.outcome:
        case "overtakes":
            assert found.at is not None
            said = f"{found.run} overtakes {found.other} at {place.format(found.at)}"
        case "never":
            said = f"no crossing within the runs: {found.run} stays behind {found.other}"
        case "throughout":
            said = f"no crossing within the runs: {found.run} is ahead of {found.other}"
        case "apart":
            said = f"{found.run} and {found.other} have no range in common"
    if found.ahead is None:
        return f"over {over}, {said}"
    drawn = "seeds" if found.resampled == "seeds" else "the noise of these scores, one run of each"
    between = "" if found.interval is None else f"; crossings between {_range(found)} (95 %)"
    return f"over {over}, {said} (ahead at the end in {found.ahead:.0%} of resamples of {drawn}{between})"


def _range(found: Overtaking) -> str:
    assert found.interval is not None
    low, high = found.interval
    return f"{low:.3g} and {_PLACES[found.axis].format(high)}"
