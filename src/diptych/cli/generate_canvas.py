"""`diptych generate RUN` of a run that denoises text: a canvas that fills in all over."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diptych.cli.common import ModelOptions, language_model, one_line, open_model, parse

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.core.config import RunConfig
    from diptych.core.types import Frame
    from diptych.samplers.canvas import CanvasRequest
    from diptych.samplers.masked_diffusion import MaskedDiffusionSampler
    from diptych.samplers.uniform_diffusion import UniformDiffusionSampler
    from diptych.tokenizers.base import Tokenizer

DESCRIPTION = """Fill a canvas with a network that denoises text: many tokens at once, in any order.

What is given may stand anywhere: a gap of n tokens is written <|gap:n|> in the prompt; without one, --length tokens
follow the prompt. In a terminal the canvas is shown as it fills in.

examples:
  diptych generate runs/masked-diffusion --prompt "def " --length 64 --steps 16
  diptych generate runs/masked-diffusion --prompt "for i in <|gap:8|>: print(i)" --unmask confidence
  diptych generate runs/block-diffusion --length 256 --unmask threshold --threshold 0.9 --film text.gif --page text.html
"""

GAP = re.compile(r"<\|gap:(\d+)\|>")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych generate` for networks that denoise text."""

    model: tyro.conf.Positional[str]
    """A run folder."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Given text, with gaps anywhere; may be given several times. None: a new document."""
    length: int = 128
    """Tokens that follow a prompt without a gap."""
    steps: int | None = None
    """Steps from noise to text (with random or confidence, and of a block); None: one a token."""
    unmask: Literal["random", "confidence", "threshold", "entropy"] = "random"
    """Which hidden tokens a step reveals: any; the surest; all that are surer than --threshold; or the surest whose
    joint uncertainty stays below --entropy-bound."""
    threshold: float = 0.9
    """Sureness from which `threshold` reveals a token."""
    entropy_bound: float = 0.1
    """Nats that `entropy` allows a step."""
    temperature: float = 1.0
    """0 takes the most likely token; 1 draws from the network's own distribution."""
    samples: int = 1
    """Texts for each prompt."""
    seed: int = 0
    """Seed of the draws."""
    film: Path | None = None
    """Write the first canvas's steps as an animation, .gif or .apng."""
    page: Path | None = None
    """Write the first canvas's steps as a page with a slider, .html."""
    live: bool | None = None
    """Show the canvas as it fills in; None: in a terminal, where there is one text."""
    json: bool = False
    """One JSON object a text."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, fill, print."""
    options = parse(Options, arguments, "generate", DESCRIPTION)
    if options.samples < 1 or options.length < 1:
        raise ValueError("--samples and --length must be at least 1")
    if options.film is not None and options.film.suffix.lower() not in (".gif", ".apng"):
        raise ValueError(f"--film {options.film} must end in .gif or .apng")
    from diptych.checkpoints.run_folder import load_recipe
    from diptych.core.random import Rng

    run, opened = load_recipe(Path(options.model)), open_model(options.model, options.options)
    prompts = [prompt for prompt in options.prompt or ("",) for _ in range(options.samples)]
    live = options.live if options.live is not None else sys.stdout.isatty() and len(prompts) == 1 and not options.json
    films = options.film is not None or options.page is not None
    sampler = _sampler(options, run, opened.tokenizer)
    for number, prompt in enumerate(prompts):
        request = _request(options, run, opened, prompt, number)
        frames = sampler.sample(language_model(opened), request, Rng(options.seed))
        if number == 0 and (live or films):
            frames = _watched(options, frames, request, opened.tokenizer, live)
        ids: list[int] = []
        steps = 0
        for frame in frames:
            ids, steps = frame.state[0].tolist(), steps + 1
        filled = [token for token in ids[1:] if token != request.mask_id]  # a row may have ended before its canvas
        _show(options, opened.tokenizer, prompt, filled, steps, is_shown=live)
    return 0


def _sampler(
    options: Options, run: RunConfig, tokenizer: Tokenizer
) -> MaskedDiffusionSampler | UniformDiffusionSampler:
    if run.objective == "uniform_diffusion":
        from diptych.samplers.uniform_diffusion import UniformDiffusionSampler

        if options.unmask != "random":
            raise ValueError("uniform diffusion hides nothing, so there is nothing to unmask; leave --unmask out")
        return UniformDiffusionSampler(
            steps=options.steps or options.length, temperature=options.temperature, schedule=run.text_diffusion.schedule
        )
    from diptych.samplers.masked_diffusion import MaskedDiffusionSampler

    return MaskedDiffusionSampler(
        steps=options.steps,
        unmask=options.unmask,
        temperature=options.temperature,
        threshold=options.threshold if options.unmask == "threshold" else None,
        entropy_bound=options.entropy_bound if options.unmask == "entropy" else None,
        schedule=run.text_diffusion.schedule,
        block_length=run.text_diffusion.block_length,
        eos_id=None if run.text_diffusion.block_length is None else tokenizer.eos_id,
    )


def _request(options: Options, run: RunConfig, opened: OpenedModel, prompt: str, number: int) -> CanvasRequest:
    from diptych.objectives.masked_lm import mask_id_of
    from diptych.samplers.canvas import CanvasRequest

    tokenizer, config = opened.tokenizer, language_model(opened).config
    hidden = -1 if run.objective == "uniform_diffusion" else mask_id_of(tokenizer, run.text_diffusion.mask_token)
    canvas = canvas_of(prompt, tokenizer, hidden, options.length)
    longest = run.data.sequence_length + 1
    if run.text_diffusion.block_length is None and len(canvas) > longest:
        raise ValueError(
            f"a canvas of {len(canvas)} tokens is longer than the {longest} of which this run has learnt; give a "
            "shorter prompt or a smaller --length"
        )
    if config.position in ("learned", "sinusoidal", "sinusoidal_halves") and len(canvas) > config.max_length:
        raise ValueError(f"a canvas of {len(canvas)} tokens outgrows this network's {config.max_length} positions")
    return CanvasRequest(canvas=[canvas], mask_id=hidden, sample_ids=[number])


def canvas_of(prompt: str, tokenizer: Tokenizer, hidden: int, length: int) -> list[int]:
    """The tokens of a prompt, `hidden` in its gaps. Raises ValueError for a gap of no tokens."""
    first, *rest = GAP.split(prompt)
    ids = [tokenizer.opening_id, *tokenizer.encode(first).tolist()]
    if not rest:
        return [*ids, *[hidden] * length]
    for size, text in zip(rest[::2], rest[1::2], strict=True):
        if int(size) < 1:
            raise ValueError(f"<|gap:{size}|> holds no token; give it at least one")
        ids += [hidden] * int(size) + tokenizer.encode(text).tolist()
    return ids


def _watched(
    options: Options, frames: Iterator[Frame], request: CanvasRequest, tokenizer: Tokenizer, live: bool
) -> Iterator[Frame]:
    """The same frames, shown as they pass, and written when all have passed."""
    import torch
    from rich.live import Live

    from diptych.report.canvas import Canvas, canvases, save_film, save_page, terminal_text

    kept: list[Canvas] = []
    given = torch.tensor(request.canvas[0]) != request.mask_id
    passing: list[Frame] = []

    def passed() -> Iterator[Frame]:
        for frame in frames:
            passing.append(frame)
            yield frame

    hidden = request.mask_id if request.mask_id >= 0 else None
    with Live(auto_refresh=False, transient=False) as screen:
        for canvas in canvases(passed(), tokenizer, given=given, mask_id=hidden):
            kept.append(canvas)
            if live:
                screen.update(terminal_text(canvas), refresh=True)
            yield passing.pop()
    if options.film is not None:
        save_film(kept, options.film)
    if options.page is not None:
        save_page(kept, options.page, title=f"{options.model}: {len(kept)} steps")


def _show(options: Options, tokenizer: Tokenizer, prompt: str, ids: list[int], steps: int, *, is_shown: bool) -> None:
    text = tokenizer.decode([token for token in ids if token != tokenizer.eos_id])
    if options.json:
        print(json.dumps({"prompt": prompt, "text": text, "ids": ids, "steps": steps}, ensure_ascii=False))
    elif not is_shown:
        head = one_line(prompt) or "(new document)"
        print(f"── {head}\n{text}\n" if options.samples > 1 or len(options.prompt) > 1 else text)
