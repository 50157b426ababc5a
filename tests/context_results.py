"""Measurements of the effective context length, made up."""

from __future__ import annotations

import dataclasses

from diptych.evaluation.context.result import (
    Cell,
    ContextResult,
    Distance,
    DistanceBin,
    Gain,
    Positions,
    Reuse,
    Saturation,
    TaskResult,
)

LENGTHS = (256, 512, 1024, 1218, 1448, 2048)


def cells(limit: float, lengths: tuple[int, ...] = LENGTHS, depths: int = 5) -> tuple[Cell, ...]:
    """A model that sees its last `limit` tokens: in each depth, by how much of it lies within them."""
    made = []
    for length in lengths:
        for depth in range(depths):
            seen = min(1.0, max(0.0, (depth + 1) / depths - (length - limit) / length) * depths)
            accuracy = 0.125 + 0.875 * 0.98 * seen
            made.append(
                Cell(
                    length=length,
                    depth=depth,
                    n=24 + depth + length // 100,
                    accuracy=accuracy,
                    score=(accuracy - 0.125) / 0.875,
                )
            )
    return tuple(made)


def bins() -> tuple[DistanceBin, ...]:
    ends = [8 * 2**k for k in range(9)]
    rights = (60, 59, 60, 58, 57, 59, 41, 9)
    return tuple(
        DistanceBin(first=first, last=2 * first - 1, right=right, count=60)
        for first, right in zip(ends, rights, strict=False)
    )


TASK = TaskResult(
    task="single_key",
    style="plain",
    n_candidates=8,
    state="certified",
    passed=1024,
    failed=1218,
    confidence=0.95,
    cells=cells(1100),
    all_depths=1448,
    relative=1024,
    distances=bins(),
    distance=Distance(value=812.4, low=640.0, high=1020.0, beyond=None),
    reuse=Reuse(rho=0.0625, answers_per_context=8.0, design_effect=1.4375),
    contexts=186,
    tokens=234_567,
    seconds=83.0,
)
WHOLE = dataclasses.replace(
    TASK,
    task="in_context_classes",
    style="chat",
    n_candidates=16,
    state="at_least",
    passed=2048,
    failed=None,
    cells=cells(4000, depths=1),
    distances=(),
    distance=None,
    reuse=None,
    all_depths=2048,
    relative=None,
)
SATURATION = Saturation(
    epsilon=0.005,
    n_documents=40,
    lengths=(128, 256, 512, 1024, 2048),
    losses=(3.2, 3.05, 2.97, 2.93, 2.928),
    gains=(
        Gain(length=256, gain=0.15, low=0.13, high=0.17),
        Gain(length=512, gain=0.08, low=0.066, high=0.094),
        Gain(length=1024, gain=0.04, low=0.028, high=0.052),
        Gain(length=2048, gain=0.002, low=-0.006, high=0.010),
    ),
    saturation=1024,
    censored=False,
)
POSITIONS = Positions(
    distances=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2047),
    shares=(1.0, 0.99, 0.98, 0.96, 0.92, 0.86, 0.75, 0.6, 0.42, 0.22, 0.07, 0.001),
)
RESULT = ContextResult(
    model="runs/small",
    extension=None,
    claimed=2048,
    tau=0.85,
    seed=7,
    tasks=(TASK, WHOLE),
    saturation=SATURATION,
    positions=POSITIONS,
)
NONE = dataclasses.replace(TASK, state="none", passed=None, failed=256, cells=cells(60, (256,)), contexts=31)
OPEN = dataclasses.replace(TASK, state="undecided", passed=512, failed=2048, cells=cells(1100, (256, 512, 2048)))
EMPTY = dataclasses.replace(
    TASK, state="undecided", passed=None, failed=None, cells=(), distances=(), distance=None, reuse=None, contexts=0
)
STOPPED = dataclasses.replace(
    RESULT,
    extension="yarn 4",
    claimed=8192,
    tasks=(OPEN, EMPTY),
    saturation=None,
    stopped="the device ran out of memory",
)
