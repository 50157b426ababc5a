"""How is an effective context length told in a few words and numbers, on its page and in its drawings?"""

from __future__ import annotations

from collections.abc import Mapping

from diptych.evaluation.context.result import Distance, Saturation, TaskResult
from diptych.evaluation.context.types import N_DEPTHS


def task_name(task: TaskResult) -> str:
    """A task and the style in which it is asked."""
    return f"{task.task.replace('_', ' ')} ({task.style})"


def depth_names(task: TaskResult) -> tuple[str, ...]:
    """The depths that a task tells apart, the farthest from the question first."""
    if all(cell.depth == 0 for cell in task.cells):
        return ("whole",)
    return tuple(f"{100 * k // N_DEPTHS}–{100 * (k + 1) // N_DEPTHS} %" for k in range(N_DEPTHS))


def worst_scores(task: TaskResult) -> Mapping[int, float]:
    """Length in tokens -> the least score, corrected for chance, of any depth that was asked there."""
    lengths = sorted({cell.length for cell in task.cells})
    return {n: min(cell.score for cell in task.cells if cell.length == n) for n in lengths}


def bracket_words(task: TaskResult) -> str:
    """The effective length in a few words, without the claim that `sentence` compares it with."""
    if task.state == "none":
        return "none" if task.failed is None else f"none: fails at {task.failed:,}"
    if task.passed is None:
        return "undecided" if task.failed is None else f"below {task.failed:,}, undecided"
    undecided = ", undecided" if task.state == "undecided" else ""
    if task.failed is None:
        return f"at least {task.passed:,}{undecided}"
    return f"{task.passed:,} to {task.failed:,}{undecided}"


def distance_words(distance: Distance | None) -> str:
    """An effective distance and its interval in words."""
    if distance is None:
        return "not fitted"
    if distance.value is None:
        ends = {True: "above τ as far as was asked", False: "below τ from the nearest on", None: "not fitted"}
        return ends[distance.beyond]
    value, low, high = f"{distance.value:,.0f} tokens", distance.low, distance.high
    if low is None:
        return f"{value} (95 %: not bounded)" if high is None else f"{value} (95 %: up to {high:,.0f})"
    return f"{value} (95 %: {low:,.0f} or more)" if high is None else f"{value} (95 %: {low:,.0f} to {high:,.0f})"


def saturation_words(saturation: Saturation) -> str:
    """Where the loss saturates, in words."""
    if saturation.saturation is None:
        return "no doubling surely saves more than ε"
    if saturation.censored:
        return f"at least {saturation.saturation:,} tokens, the longest asked"
    return f"{saturation.saturation:,} tokens"
