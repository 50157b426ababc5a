"""How does a text grow, token by token, and between what did the model choose?

The review's figure 1: at every step the probabilities of the likeliest next tokens, the one chosen, and the text so
far. `next_token_steps` takes them from a model, `drawing` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diptych.report.plots import PALETTE, style
from diptych.report.results import Candidate, NextTokenStep, ReviewResults
from diptych.report.words import percent, readable, visible

if TYPE_CHECKING:
    from diptych.core.random import Rng
    from diptych.core.types import Frame, TokenPredictor
    from diptych.tokenizers.base import Tokenizer

_COLUMNS = 3
_KEPT = 200
"""Characters of the text so far that a step keeps."""
_LINE = 34
"""Characters of a line of the growing text that fit above a panel."""


def next_token_steps(
    model: TokenPredictor, tokenizer: Tokenizer, prompt: str, *, n_steps: int, n_candidates: int, rng: Rng
) -> tuple[NextTokenStep, ...]:
    """Let the model write up to `n_steps` tokens after `prompt`, and keep what it chose from at each.

    Tokens are drawn from the model's own distribution, neither sharpened nor cut, so that the probabilities are those
    by which they were chosen. Fewer steps come back where the text ends.
    """
    from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest

    ids = [tokenizer.eos_id, *tokenizer.encode(prompt).tolist()]
    sampler = AutoregressiveSampler(temperature=1.0, candidates=n_candidates)
    request = GenerationRequest(prompts=[ids], max_new_tokens=n_steps, eos_id=tokenizer.eos_id)
    return steps_of(sampler.sample(model, request, rng), tokenizer, ids)


def steps_of(frames: Iterable[Frame], tokenizer: Tokenizer, prompt: list[int]) -> tuple[NextTokenStep, ...]:
    """The steps of row 0 of a generation after the tokens `prompt`, from frames that carry their candidates."""
    ids = list(prompt)
    steps: list[NextTokenStep] = []
    for frame in frames:
        chosen = int(frame.state[0])
        options = frame.info["candidates"][0].tolist()
        probabilities = frame.info["candidate_probabilities"][0].tolist()
        if chosen not in options:
            options.append(chosen)
            probabilities.append(math.exp(float(frame.info["log_probability"][0])))
        text = tokenizer.decode([token for token in ids if token != tokenizer.eos_id])
        candidates = tuple(
            Candidate(text=visible(tokenizer.token_bytes(token)), probability=probability)
            for token, probability in zip(options, probabilities, strict=True)
        )
        steps.append(NextTokenStep(context=text[-_KEPT:], candidates=candidates, chosen=options.index(chosen)))
        ids.append(chosen)
        if bool(frame.info["finished"][0]):
            break
    return tuple(steps)


def drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """One panel a step: the text so far, and a bar a candidate with the chosen one in colour."""
    steps = results.next_token
    columns = 1 if narrow else min(_COLUMNS, len(steps))
    rows = math.ceil(len(steps) / columns)
    height = 0.95 + 0.19 * max(len(step.candidates) for step in steps)
    with style():
        figure = Figure(figsize=(3.3 * columns, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for number, (panel, step) in enumerate(zip(panels, steps, strict=False), start=1):
            _draw_step(panel, step, number)
        for panel in panels[len(steps) :]:
            panel.set_axis_off()
    return figure


def _draw_step(axes: Axes, step: NextTokenStep, number: int) -> None:
    shown = step.candidates[::-1]
    colours = [PALETTE["model" if candidate is step.candidates[step.chosen] else "other"] for candidate in shown]
    axes.barh(range(len(shown)), [candidate.probability for candidate in shown], height=0.6, color=colours)
    for place, candidate in enumerate(shown):
        chosen = candidate is step.candidates[step.chosen]
        axes.annotate(
            percent(candidate.probability),
            (candidate.probability, place),
            (3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight="bold" if chosen else "normal",
            color=PALETTE["model" if chosen else "muted"],
        )
    axes.set_yticks(
        range(len(shown)), [_cut(visible(c.text), 14).rjust(14) for c in shown], family="DejaVu Sans Mono", fontsize=8
    )
    axes.tick_params(length=0, labelcolor=PALETTE["ink"])
    axes.set_xlim(0, 1.15)
    axes.xaxis.set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    text = _growing(step.context)
    axes.set_title(f"{number}  {text}", loc="left", family="DejaVu Sans Mono", fontsize=7.5, color=PALETTE["muted"])


def _growing(context: str) -> str:
    """The last two lines of the text so far, each cut to the width of a panel."""
    lines = ["", *readable(context).expandtabs(4).split("\n")][-2:]
    return "\n   ".join(line if len(line) <= _LINE else "…" + line[1 - _LINE :] for line in lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
