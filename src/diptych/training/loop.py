"""How does a network learn? The training loop, the same for every paradigm.

A step: losses of all micro-batches and ranks are summed, their gradients divided once by the number of terms,
clipped, and the parameters moved. Every source of change is a function of the step (data order, noise, learning rate)
or is kept in the state, so a run that is killed and started again repeats the uninterrupted run bit for bit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import final

import torch

from diptych.checkpoints.adapter import Adapter, describe_adapter, save_adapter
from diptych.checkpoints.run_folder import save_weights
from diptych.core.events import Ended, Evaluated, Handler, Saved, Started, Stepped
from diptych.core.interrupts import interruptible
from diptych.core.random import Rng, derive_seed
from diptych.core.types import Batch
from diptych.data.stream import Stream
from diptych.models.layers import positions_of
from diptych.models.lora import learning_flops_per_token
from diptych.models.network import Network
from diptych.training.compilation import compile_blocks, worth_compiling
from diptych.training.distributed import LossModule, World, distribute, loss_of, without_sync
from diptych.training.ema import PowerAverages, build_average
from diptych.training.machine import matmul_peak
from diptych.training.optimizers import Optimizer, clip_and_scale, place, whole
from diptych.training.post_hoc import AVERAGES, save_snapshot
from diptych.training.prepare import Experiment, build_objective
from diptych.training.schedules import lr_factor
from diptych.training.state import Counters, TrainingState, collect, load_newest_state, save_state
from diptych.training.work import flops_per_target


@final
class Trainer:
    """The state of a run and what moves it on."""

    def __init__(self, experiment: Experiment, world: World, on_event: Handler) -> None:
        self.run, self.world, self.on_event = experiment.run, world, on_event
        self.experiment = experiment
        self.steps = self.run.train.steps
        self.model: Network = experiment.model.to(world.device)
        self.model.checkpoint_activations = self.run.train.checkpoint_activations
        self.counters = Counters()
        self.rng = Rng(self.run.train.seed)
        self.device, self.dtype = world.device, getattr(torch, self.run.train.dtype)
        compiled = worth_compiling(self.run.train.compile, self.device, on_event)
        if compiled:
            compile_blocks(self.model)
        objective = build_objective(experiment, compiled=compiled)
        self.adapter = self._adapter()  # while its base is whole
        self.wrapped = distribute(LossModule(self.model, objective), world, self.run.train.distributed)
        self.learnt = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.parameters: list[torch.Tensor] = list(self.learnt.values())
        self.optimizer = Optimizer(self.model, self.run.optim)
        self.average = build_average(self.model, self.run.train)
        self.rank_batch = _share(self.run.train.batch_size, world.size)
        self.micro_batch = min(self.run.train.micro_batch_size or self.rank_batch, self.rank_batch)

    def resume(self) -> None:
        """Take the newest state of the run folder, if there is one."""
        state = load_newest_state(self.experiment.out / "state", self.on_event if self.world.first else _silent)
        if state is None:
            return
        self.counters = state.counters
        with torch.no_grad():
            for name, parameter in self.learnt.items():
                place(parameter, state.model[name])
        self.optimizer.load_state(state.optimizer)
        if self.average is not None:
            self.average.load_state(state.average)

    def step(self) -> None:
        """Move the parameters once and report it. Raises ValueError where the loss is no number; nothing moves then."""
        start, step, config = time.perf_counter(), self.counters.step, self.run.train
        stream = self.experiment.train
        batch = stream.batch(step, config.batch_size, self.world.rank, self.world.size).to(self.device)
        torch.manual_seed(derive_seed(config.seed, "dropout", step, self.world.rank))
        total, count = self._backward(batch, self.rng.fold("step", step))
        sums = self.world.sums([total, count, self._bytes(batch), positions_of(self.model.config, batch.x)])
        terms = max(1.0, sums[1])  # a step of nothing to predict moves nothing
        loss = sums[0] / terms
        if not math.isfinite(loss):
            raise ValueError(self._diverged(step, loss))
        # The engines average over ranks; the sum over ranks is wanted, divided by the number of terms.
        norm = clip_and_scale(self.parameters, self.world.size / terms, self.run.optim.clip_norm)
        if not math.isfinite(norm):
            raise ValueError(self._diverged(step, norm))
        factor = lr_factor(step, self.steps, self.run.optim)
        self.optimizer.step(factor)
        if self.average is not None:
            self.average.update(step + 1)
        seconds = time.perf_counter() - start
        tokens = int(sums[3])
        self.counters = Counters(
            step=step + 1,
            tokens=self.counters.tokens + tokens,
            seconds=self.counters.seconds + seconds,
            best_loss=self.counters.best_loss,
        )
        self._report(loss, sums, factor, norm, tokens / seconds)

    def rehearse(self, steps: int) -> float:
        """Median seconds of a step, from `steps` of them after one that compiles; leaves the trainer as it was."""
        before, handler = [p.detach().clone() for p in self.parameters], self.on_event
        counters, seconds = self.counters, []
        self.on_event = _silent
        for _ in range(steps + 1):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, before)
        self.optimizer = Optimizer(self.model, self.run.optim)
        self.average = build_average(self.model, self.run.train)
        self.counters, self.on_event = counters, handler
        return statistics.median(seconds[1:])

    def _backward(self, batch: Batch, rng: Rng) -> tuple[float, int]:
        """Gradients of the loss summed over this rank's share of the step; returns the sum and its number of terms."""
        self.model.train()
        total, count, size = torch.zeros((), dtype=torch.float64, device=self.device), 0, batch.x.shape[0]
        for start in range(0, size, self.micro_batch):
            end = min(start + self.micro_batch, size)
            if isinstance(self.wrapped, torch.distributed.fsdp.FSDPModule):
                self.wrapped.set_requires_gradient_sync(end == size)
            with without_sync(self.wrapped, last=end == size):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    loss = loss_of(self.wrapped, batch.rows(start, end), rng)
                loss.total.backward()
            total += loss.total.detach()
            count += loss.count
        return float(total), count

    def _report(self, loss: float, sums: list[float], factor: float, norm: float, speed: float) -> None:
        counters = self.counters
        flops = self._flops_per_target(min(1.0, sums[1] / sums[3]))
        self.on_event(
            Stepped(
                step=counters.step,
                steps=self.steps,
                loss=loss,
                bits_per_byte=sums[0] / math.log(2) / sums[2] if sums[2] else None,
                lr=factor * self.run.optim.lr,
                grad_norm=norm,
                tokens=counters.tokens,
                tokens_per_second=speed,
                mfu=speed * flops / (self.peak() * self.world.size),
                seconds=counters.seconds,
            )
        )

    def _flops_per_target(self, counted: float) -> float:
        per_position = partial(learning_flops_per_token, self.model)
        return flops_per_target(self.run, self.model.config, per_position, counted=counted)

    def peak(self) -> float:
        """This machine's own rate of matrix products in the precision of the run, FLOP/s."""
        return matmul_peak(self.device, self.dtype)

    def _diverged(self, step: int, value: float) -> str:
        last = self._last_saved()
        return (
            f"the loss became {value} at step {step + 1}; the last good checkpoint is that of step {last}: lower "
            "optim.lr or optim.muon_lr, lengthen optim.warmup_steps, or set train.dtype = 'float32', then run again"
        )

    def _last_saved(self) -> int:
        names = sorted(path.name for path in (self.experiment.out / "state").glob("step-*"))
        return int(names[-1].removeprefix("step-")) if names else 0

    @torch.no_grad()
    def evaluate(self) -> None:
        """Score held-out sequences with the weights that would be kept; keep them if they are the best so far."""
        with self.average.swapped_in() if self.average is not None else _nothing():
            loss, bits = self._heldout_loss()
            best = self.counters.best_loss is None or loss < self.counters.best_loss
            if best:
                weights = collect((name, whole(p)) for name, p in self.learnt.items())
                self.counters = Counters(**{**vars(self.counters), "best_loss": loss})
                if self.world.first:
                    self._keep(weights)
        self.on_event(Evaluated(step=self.counters.step, loss=loss, bits_per_byte=bits, best=best))

    def _keep(self, weights: dict[str, torch.Tensor]) -> None:
        """Make these weights, or this update of those that the run began with, what the run folder offers."""
        config, out = self.model.config, self.experiment.out
        if self.adapter is None:
            save_weights(weights, config, out)
        else:
            save_adapter(weights, self.adapter, config, out)

    def _adapter(self) -> Adapter | None:
        if self.run.lora is None or self.run.init is None:
            return None
        return describe_adapter(self.model, self.run.lora, Path(self.run.init))

    def _heldout_loss(self) -> tuple[float, float | None]:
        stream, size = self.experiment.heldout, self.world.size
        rows = _share(min(len(stream), self.run.train.eval_sequences), size)
        total, count, n_bytes = 0.0, 0, 0
        self.model.eval()
        # Compiling once more for the forward pass alone would cost more than it saves.
        with torch.compiler.set_stance("force_eager"):
            for batch in _batches(stream, rows, self.micro_batch, self.world):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    loss = loss_of(self.wrapped, batch.to(self.device), self.rng.fold("evaluation"))
                total, count, n_bytes = total + float(loss.total), count + loss.count, n_bytes + self._bytes(batch)
        if isinstance(self.wrapped, torch.distributed.fsdp.FSDPModule):
            # Only a backward pass lets go of the root's gathered weights, and these may be the average's.
            self.wrapped.reshard()
        total, terms, length = self.world.sums([total, count, n_bytes])
        return total / max(1.0, terms), total / math.log(2) / length if length else None

    def _bytes(self, batch: Batch) -> int:
        """Bytes of text whose likelihood the loss is or bounds; words masked as BERT does have none."""
        return 0 if self.run.objective in ("masked_lm", "gaussian") else batch.n_bytes

    def save(self) -> None:
        """Write a checkpoint from which the run goes on exactly."""
        state = TrainingState(
            counters=self.counters,
            model=collect((name, whole(p)) for name, p in self.learnt.items()),
            optimizer=collect(self.optimizer.state()),
            average={} if self.average is None else collect(self.average.state()),
        )
        if self.world.first:
            if isinstance(self.average, PowerAverages):
                save_snapshot(state.average, self.experiment.out / AVERAGES, self.counters.step)
            path = save_state(state, self.experiment.out / "state")
            self.on_event(Saved(step=self.counters.step, path=path))
        self.world.wait()


def fit(trainer: Trainer) -> bool:
    """Train until the last step from wherever the trainer is; Ctrl-C saves and stops. Returns whether it finished."""
    config, on_event, steps = trainer.run.train, trainer.on_event, trainer.steps
    parameters = sum(p.numel() for p in trainer.parameters)
    step = trainer.counters.step
    started = Started(
        run=trainer.experiment.out,
        step=step,
        steps=steps,
        parameters=parameters,
        peak_flops=trainer.peak(),
        unit="dimension" if trainer.run.data.format == "pixels" else "byte",
    )
    on_event(started)
    with interruptible() as interrupted:
        while step < steps:
            trainer.step()
            step = trainer.counters.step
            # Any rank's Ctrl-C stops all of them at the same step.
            stop = bool(trainer.world.sums([float(interrupted.is_set())])[0])
            last = step == steps
            if last or (config.eval_every and step % config.eval_every == 0):
                trainer.evaluate()
            if last or stop or step % config.save_every == 0:
                trainer.save()
            if stop and not last:
                on_event(Ended(step=step, steps=steps, reason="interrupted"))
                return False
    on_event(Ended(step=step, steps=steps, reason="finished"))
    return True


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _silent(event: object) -> None:
    del event


def _share(count: int, ranks: int) -> int:
    """How many of `count` fall to each rank; every rank gets at least one and all get the same number."""
    return max(1, count // ranks)


def _batches(stream: Stream, rows: int, size: int, world: World) -> Iterator[Batch]:
    """This rank's `rows` sequences from the start of the stream, in batches of one fixed size where they divide."""
    size = math.gcd(rows, size) if rows % size else size
    for index in range(rows // size):
        yield stream.batch(index, size * world.size, world.rank, world.size)
