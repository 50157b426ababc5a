"""The loop: it learns, it resumes bit for bit, splitting a batch changes nothing, and faults lose nothing."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diptych.checkpoints.run_folder import load_model
from diptych.core.config import RunConfig
from diptych.core.events import Ended, Evaluated, Event, Saved, Stepped
from diptych.core.recipe import save_toml
from diptych.training import loop
from diptych.training.run import train

from .conftest import losses, start

Tiny = Callable[..., RunConfig]

EVERYTHING = {
    "model.dropout": 0.1,
    "optim.name": "muon",
    "train.ema_decay": 0.9,
    "train.micro_batch_size": 3,
    "train.dtype": "bfloat16",
}


def test_it_learns_reports_and_keeps_the_best(tiny: Tiny) -> None:
    events: list[Event] = []
    run = tiny(**{"train.steps": 60, "train.eval_every": 20, "train.batch_size": 16})
    assert train(run, events.append)
    values = losses(run.out)
    assert sorted(values) == list(range(1, 61))
    assert values[1] == pytest.approx(5.55, abs=0.1)  # ln 257
    assert values[60] < 2.5
    scores = [e for e in events if isinstance(e, Evaluated)]
    assert [e.step for e in scores] == [20, 40, 60] and scores[-1].best
    assert any(isinstance(e, Saved) for e in events)
    assert isinstance(events[-1], Ended) and events[-1].reason == "finished"
    stepped = [e for e in events if isinstance(e, Stepped)]
    assert all(0 < e.mfu < 1 and e.tokens_per_second > 0 for e in stepped)
    model, tokenizer = load_model(Path(run.out))
    assert tokenizer.vocab_size == 257 and not model.training


DIFFUSION = {"data.document_mask": False, "tokenizer.special_tokens": ("<|mask|>",)}
DENOISERS = [
    {**DIFFUSION, "objective": "masked_diffusion"},
    {**DIFFUSION, "objective": "masked_diffusion", "text_diffusion.block_length": 4, "train.micro_batch_size": 3},
    {**DIFFUSION, "objective": "uniform_diffusion", "text_diffusion.schedule": "square"},
]


@pytest.mark.parametrize(
    "changes", [{}, EVERYTHING, *DENOISERS], ids=["plain", "everything", "masked", "blocks", "uniform"]
)
def test_a_stopped_run_goes_on_bit_for_bit(tiny: Tiny, changes: dict[str, object]) -> None:
    whole, parts = tiny("whole", **changes), tiny("parts", **changes)
    train(whole)
    for steps in (3, 7, 12):  # 3 and 7: at a checkpoint and between two
        train(dataclasses.replace(parts, train=dataclasses.replace(parts.train, steps=12)), stop_after(steps))
    assert losses(parts.out) == losses(whole.out)
    names = ["model.safetensors", "state/step-00000012/optimizer.safetensors"]
    for name in names:
        assert (Path(whole.out) / name).read_bytes() == (Path(parts.out) / name).read_bytes()


def stop_after(steps: int) -> Callable[[Event], None]:
    """A handler that presses Ctrl-C when the run has reached a step."""

    def handle(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == steps and steps < event.steps:
            signal.raise_signal(signal.SIGINT)

    return handle


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing(tiny: Tiny, tmp_path: Path) -> None:
    changes = {**EVERYTHING, "train.steps": 60, "train.save_every": 2, "train.eval_every": 5}
    whole, killed = tiny("whole", **changes), tiny("killed", **changes)
    for run in (whole, killed):
        save_toml(run, tmp_path / f"{Path(run.out).name}.toml")
    assert start(tmp_path / "whole.toml").wait() == 0
    for pause in (0.0, 0.13, 0.31, 0.5):
        process = start(tmp_path / "killed.toml")
        deadline = time.monotonic() + 60
        before = _size(killed)
        while _size(killed) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.wait()
    assert start(tmp_path / "killed.toml").wait() == 0
    assert losses(killed.out) == losses(whole.out)
    weights = "model.safetensors"
    assert (Path(whole.out) / weights).read_bytes() == (Path(killed.out) / weights).read_bytes()


def _size(run: RunConfig) -> int:
    path = Path(run.out) / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def test_ctrl_c_saves_at_once_and_says_how_to_go_on(tiny: Tiny, tmp_path: Path) -> None:
    run = tiny(**{"train.steps": 100_000, "train.save_every": 100_000, "train.eval_every": 0})
    save_toml(run, tmp_path / "r.toml")
    process = start(tmp_path / "r.toml")
    while _size(run) < 500 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted at step" in errors and b"Traceback" not in errors
    saved = list((Path(run.out) / "state").glob("step-*"))
    assert len(saved) == 1 and int(saved[0].name[5:]) == max(losses(run.out))


def test_micro_batches_change_nothing(tiny: Tiny) -> None:
    whole, parts = tiny("whole"), tiny("parts", **{"train.micro_batch_size": 1})
    train(whole)
    train(parts)
    assert list(losses(parts.out).values()) == pytest.approx(list(losses(whole.out).values()), rel=2e-5)


def test_checkpointed_activations_change_nothing(tiny: Tiny) -> None:
    plain, frugal = tiny("plain"), tiny("frugal", **{"train.checkpoint_activations": True})
    train(plain)
    train(frugal)
    assert losses(plain.out) == losses(frugal.out)


@pytest.mark.slow
def test_compiled_training_equals_eager(tiny: Tiny) -> None:
    eager, compiled = tiny("eager"), tiny("compiled", **{"train.compile": "on"})
    train(eager)
    train(compiled)
    assert list(losses(compiled.out).values()) == pytest.approx(list(losses(eager.out).values()), rel=1e-4)


def test_without_a_compiler_training_says_so_and_goes_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.training import compilation

    monkeypatch.setattr(compilation, "why_not", lambda device: "no C++ compiler")
    events: list[object] = []
    assert train(tiny(**{"train.compile": "auto", "train.steps": 2}), events.append)
    assert [e for e in events if "torch.compile is not used (no C++ compiler)" in getattr(e, "text", "")]
    with pytest.raises(ValueError, match=r"train.compile = 'on'.*no C\+\+ compiler"):
        train(tiny("other", **{"train.compile": "on"}))


def test_a_loss_that_is_no_number_stops_and_names_the_step(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny()
    original = loop.loss_of

    def poisoned(wrapped: object, batch: object, rng: object) -> object:
        loss = original(wrapped, batch, rng)
        steps = len(losses(run.out))
        return dataclasses.replace(loss, total=loss.total * float("nan")) if steps >= 7 else loss

    monkeypatch.setattr(loop, "loss_of", poisoned)
    with pytest.raises(ValueError, match=r"the loss became nan at step 8; the last good checkpoint is that of step 6"):
        train(run)
    monkeypatch.undo()
    for tensor in load_model(Path(run.out))[0].parameters():
        assert torch.isfinite(tensor).all()
    assert train(run)
    assert max(losses(run.out)) == 12


def test_a_folder_of_another_recipe_is_not_overwritten(tiny: Tiny) -> None:
    train(tiny(**{"train.steps": 2}))
    with pytest.raises(ValueError, match=r"another recipe \(it differs in optim\.lr\)"):
        train(tiny(**{"optim.lr": 0.5}))


def test_metrics_are_json_lines(tiny: Tiny) -> None:
    run = tiny(**{"train.steps": 4})
    train(run)
    records = [json.loads(line) for line in (Path(run.out) / "metrics.jsonl").read_text().splitlines()]
    assert [r["kind"] for r in records] == ["step"] * 4 + ["eval"]
    assert {"loss", "bits_per_byte", "lr", "grad_norm", "tokens_per_second", "mfu", "seconds"} <= set(records[0])


def test_tensorboard_events_are_written(tiny: Tiny) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tiny(**{"train.steps": 4, "train.tensorboard": True})
    train(run)
    events = EventAccumulator(str(Path(run.out) / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("step/loss")] == pytest.approx(list(losses(run.out).values()))
