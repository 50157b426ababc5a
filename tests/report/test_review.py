"""The review from end to end on a small text: it is written, it resumes, and it refuses to mix two of them."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.cli.main import main
from diptych.core.config import DataConfig, RunConfig, TokenizerConfig, TrainConfig, TransformerConfig
from diptych.core.events import Event, Started, Stepped, ignore
from diptych.evaluation.attention_cost import CostConfig
from diptych.evaluation.attention_layers import LayerSize
from diptych.evaluation.stability import StabilityConfig
from diptych.evaluation.translation import numbers_run
from diptych.report import review
from diptych.report.effective_context import pretrained_study
from diptych.report.recall import recall_run
from diptych.report.results import ParadigmsResult, load_results


@pytest.fixture(autouse=True)
def _small(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_digits: Callable[[pytest.MonkeyPatch], Callable[[Path, int], RunConfig]],
    tiny_paradigms: Callable[[pytest.MonkeyPatch, Path], Callable[[Path, int], RunConfig]],
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    draw = random.Random(0)
    for index in range(80):
        words = draw.choices(["sun", "moon", "star", "rises", "sets", "from", "the", "east", "west"], k=200)
        (texts / f"{index}.txt").write_text(" ".join(words))

    text = DataConfig(source=(str(texts),))

    def small(out: Path, seed: int) -> RunConfig:
        return RunConfig(
            out=str(out / "run"),
            model=TransformerConfig(d_model=32, n_layers=2, n_heads=2, max_length=64),
            data=DataConfig(source=(str(texts),), sequence_length=64, heldout_fraction=0.2),
            tokenizer=TokenizerConfig(vocab_size=300),
            train=TrainConfig(seed=seed, batch_size=4, eval_every=20, save_every=10, eval_sequences=8, compile="off"),
        )

    def translation(out: Path, seed: int) -> RunConfig:
        run = numbers_run(str(out / "translation"), steps=12, max_bytes=20_000, seed=seed)
        return dataclasses.replace(
            run,
            model=dataclasses.replace(run.model, d_model=16, n_heads=2, n_layers=1, n_encoder_layers=1),
            tokenizer=dataclasses.replace(run.tokenizer, vocab_size=300),
            train=dataclasses.replace(run.train, batch_size=4, save_every=4, eval_sequences=8),
        )

    def recall(out: Path, seed: int, *, memory: bool) -> RunConfig:
        run = recall_run(out, seed, memory=memory)
        return dataclasses.replace(
            run,
            model=dataclasses.replace(run.model, d_model=16, n_layers=1),
            train=dataclasses.replace(run.train, steps=2, batch_size=2),
        )

    sweep = StabilityConfig(norms=("layer",), depths=(1, 2), learning_rates=(1e-3,), steps=3, d_model=16, n_heads=2)
    monkeypatch.setattr(review, "review_run", small)
    monkeypatch.setattr(review, "translation_run", translation)
    monkeypatch.setattr(review, "review_stability_config", lambda: dataclasses.replace(sweep, data=text))
    monkeypatch.setattr(review, "MASK_LENGTH", 600)
    cost = CostConfig(forms=("naive", "full"), lengths=(32, 64), repeats=1, size=LayerSize(d_model=16, n_heads=2))
    monkeypatch.setattr(review, "review_cost_config", lambda: cost)
    monkeypatch.setattr(review, "recall_run", recall)
    monkeypatch.setattr(review, "image_run", tiny_digits(monkeypatch))
    monkeypatch.setattr(review, "paradigms_run", tiny_paradigms(monkeypatch, texts))
    monkeypatch.setattr(review, "MOST_STEPS", 60)
    monkeypatch.setattr(review, "FEWEST_STEPS", 60)


def make(out: Path, on_event: object = lambda event: None, **changes: object) -> review.Review:
    options = {"budget_seconds": 30.0, "seed": 1, "command": "diptych review", **changes}
    return review.Review(out, on_event=on_event, **options)  # type: ignore[arg-type]


def without_speeds(result: ParadigmsResult) -> ParadigmsResult:
    """What follows from the seed, wherever the runs' folders lie."""
    comparison = result.comparison
    names = tuple(run.run for run in comparison.trained)
    comparison = dataclasses.replace(
        comparison,
        config=dataclasses.replace(comparison.config, runs=names),
        trained=tuple(dataclasses.replace(run, path=run.run) for run in comparison.trained),
        judge="",
        generation=tuple(dataclasses.replace(score, tokens_per_second=None) for score in comparison.generation),
    )
    return dataclasses.replace(result, comparison=comparison)


def test_an_interrupted_review_goes_on_to_the_same_figures(tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 25:
            signal.raise_signal(signal.SIGINT)

    def interrupt_translation(event: Event) -> None:
        if isinstance(event, Stepped) and (event.step, event.steps) == (6, 12):
            signal.raise_signal(signal.SIGINT)

    def interrupt_images(event: Event) -> None:
        if isinstance(event, Stepped) and (event.step, event.steps) == (5, 9):
            signal.raise_signal(signal.SIGINT)

    trainings = [0]

    def interrupt_second_paradigm(event: Event) -> None:
        trainings[0] += isinstance(event, Started) and event.run.parent.name == "paradigms"
        if isinstance(event, Stepped) and (event.step, trainings[0]) == (9, 2):
            signal.raise_signal(signal.SIGINT)

    whole = make(tmp_path / "whole").run()
    assert whole is not None and whole.is_file()
    assert make(tmp_path / "parts", interrupt).run() is None
    assert not (tmp_path / "parts" / "index.html").exists()
    for later in (interrupt_translation, interrupt_images, interrupt_second_paradigm):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "parts", later).run()
        assert not (tmp_path / "parts" / "index.html").exists()
    assert make(tmp_path / "parts").run() is not None
    results = [load_results(tmp_path / name / "results.json") for name in ("whole", "parts")]
    assert results[0].score == results[1].score
    assert results[0].translation is not None and results[0].translation == results[1].translation
    assert results[0].stability is not None and results[0].stability == results[1].stability
    assert results[0].image_diffusion is not None and results[0].image_diffusion == results[1].image_diffusion
    assert results[0].paradigms is not None and results[1].paradigms is not None
    assert without_speeds(results[0].paradigms) == without_speeds(results[1].paradigms)
    assert results[0].samples == results[1].samples and results[0].next_token == results[1].next_token
    losses = [[point.loss for point in result.training] for result in results]
    assert losses[0] == losses[1] and len(losses[0]) == 60
    names = [stage.name for stage in results[1].stages]
    assert names == [stage.name for stage in results[0].stages]
    assert {row.name for row in results[0].yardsticks} >= {"xz -9e", "primed xz -9e", "5-gram"}
    assert [corpus.documents for corpus in results[0].lengths] == [80] and results[0].lengths == results[1].lengths
    sections = ("transformer", "generation", "samples", "tokenization", "forward", "backward", "training")
    for section in (*sections, "likelihood", "paradigms", "method"):
        assert f'id="{section}"' in whole.read_text()
    assert 'id="lengths"' in whole.read_text()


def test_a_finished_review_is_only_drawn_again(tmp_path: Path, tiny_pretrained: Callable[[int], Path]) -> None:
    out, elsewhere = tmp_path / "r", tiny_pretrained(256)
    assert main(["review", "--out", str(out), "--budget", "30s", "--seed", "1", "--pretrained", str(elsewhere)]) == 0
    before = json.loads((out / "results.json").read_text())
    (task,) = before["pretrained_context"]["tasks"]
    assert (before["pretrained_context"]["model"], task["task"], task["state"]) == ("elsewhere", "single_key", "none")
    assert "elsewhere, single key: effective context length none" in (out / "index.html").read_text()
    steps: list[Event] = []
    later = {"pretrained": pretrained_study(elsewhere, 1, ignore), "command": before["command"]}
    make(out, lambda event: steps.append(event) if isinstance(event, Stepped) else None, **later).run()
    after = json.loads((out / "results.json").read_text())
    assert not steps
    assert {**before, "created": "", "machine": ""} == {**after, "created": "", "machine": ""}


def test_a_review_of_another_budget_is_refused(tmp_path: Path, tiny_pretrained: Callable[[int], Path]) -> None:
    make(tmp_path / "r")
    pretrained = pretrained_study(tiny_pretrained(256), 1, ignore)
    for changes in ({"budget_seconds": 60.0}, {"seed": 2}, {"pretrained": pretrained}):
        with pytest.raises(ValueError, match="a review of other settings"):
            make(tmp_path / "r", **changes)


def test_the_real_review_is_a_valid_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    run = review.review_run(tmp_path, 3)
    assert run.data.source == ("stdlib",) and run.data.sequence_length <= run.model.max_length
    assert dataclasses.asdict(run)["train"]["seed"] == 3
