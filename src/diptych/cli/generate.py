"""`diptych generate MODEL`: continue prompts."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diptych.cli.common import ModelOptions, kind_named, language_model, one_line, open_language_model, parse

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.samplers.autoregressive import GenerationRequest
    from diptych.samplers.text import Generation

DESCRIPTION = """Continue prompts with a trained model, token by token, until the end-of-sequence token.

examples:
  diptych generate runs/tiny --prompt "The sun" --temperature 0.8 --top-p 0.95
  diptych generate runs/tiny --prompt "def " --show-probabilities --max-new-tokens 8
  diptych generate runs/tiny --prompt-file prompts.txt --samples 4 --json > texts.jsonl
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych generate`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, or a GGUF file."""
    prompt: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Text to continue; may be given several times. None: begin a new document."""
    prompt_file: Path | None = None
    """A file with a prompt on every line."""
    max_new_tokens: int = 128
    """Longest continuation in tokens."""
    temperature: float = 1.0
    """0 takes the most likely token; 1 draws from the model's own distribution."""
    top_k: int | None = None
    """Draw among the k most likely tokens."""
    top_p: float | None = None
    """Draw among the most likely tokens that together reach this probability."""
    min_p: float | None = None
    """Draw among tokens at least this share as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that have occurred become less likely."""
    beams: int = 1
    """Search for the most likely whole text with this many beams; nothing is drawn then."""
    length_penalty: float = 1.0
    """Beam search compares log-probability / length^length_penalty."""
    stop: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """End at this text; may be given several times."""
    samples: int = 1
    """Continuations of each prompt."""
    seed: int = 0
    """Seed of the draws."""
    show_probabilities: bool = False
    """Show the candidates of every step with their probabilities (the review's figure 1)."""
    candidates: int = 5
    """How many candidates are shown."""
    json: bool = False
    """One JSON object a continuation: text, ids, log-probabilities in nats, reason of its end."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, generate, print."""
    match kind_named(arguments):
        case "pixels":
            from diptych.cli.generate_pixels import main as generate
        case "gaussian":
            from diptych.cli.generate_images import main as generate
        case "masked_diffusion" | "uniform_diffusion":
            from diptych.cli.generate_canvas import main as generate
        case _:
            generate = _continue
    return generate(arguments)


def _continue(arguments: list[str]) -> int:
    """Continue prompts token by token."""
    options = parse(Options, arguments, "generate", DESCRIPTION)
    if options.samples < 1 or options.candidates < 1:
        raise ValueError("--samples and --candidates must be at least 1")
    prompts = _prompts(options)
    opened = open_language_model(options.model, options.options)
    if options.show_probabilities:
        return _show_probabilities(options, opened, prompts)
    if options.beams > 1:
        return _beams(options, opened, prompts)
    prompts = [prompt for prompt in prompts for _ in range(options.samples)]
    # Text streams to the terminal as it is drawn where there is just one; several would mix.
    live = len(prompts) == 1 and not options.json
    if live:
        print(prompts[0], end="", flush=True)
    generations = _generate(options, opened, prompts, live)
    if live:
        print()
        return 0
    for prompt, generation in zip(prompts, generations, strict=True):
        if options.json:
            print(json.dumps({"prompt": prompt, **vars(generation)}, ensure_ascii=False))
        else:
            print(f"── {one_line(prompt) or '(new document)'}\n{prompt}{generation.text}\n")
    return 0


def _prompts(options: Options) -> list[str]:
    prompts = list(options.prompt)
    if options.prompt_file is not None:
        try:
            prompts += options.prompt_file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{options.prompt_file} is not UTF-8 text ({error.reason} at {error.start})") from None
    return prompts or [""]


def _sampler(options: Options, candidates: int = 0) -> Any:
    from diptych.samplers.autoregressive import AutoregressiveSampler

    return AutoregressiveSampler(
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        candidates=candidates,
    )


def _request(options: Options, opened: OpenedModel, prompts: list[str]) -> GenerationRequest:
    from diptych.samplers.autoregressive import GenerationRequest
    from diptych.tokenizers.base import document_ids, end_of

    model, tokenizer = language_model(opened), opened.tokenizer
    whole = [document_ids(tokenizer, prompt) for prompt in prompts]
    ids = whole if opened.opens else [document[1:] or document for document in whole]
    longest = max(map(len, ids))
    room = options.max_new_tokens
    if model.config.position.startswith(("learned", "sinusoidal")):
        room = min(room, model.config.max_length - longest)
        if room < 1:
            raise ValueError(
                f"a prompt of {longest} tokens leaves no room in this model's {model.config.max_length} positions; "
                "shorten it"
            )
    eos = end_of(tokenizer)
    return GenerationRequest(prompts=ids, max_new_tokens=room, eos_id=eos, stop_ids=opened.stop_ids)


def _generate(options: Options, opened: OpenedModel, prompts: list[str], live: bool) -> list[Generation]:
    from diptych.core.random import Rng
    from diptych.samplers.text import generate_text
    from diptych.tokenizers.streaming import StreamDecoder

    def show(row: int, text: str) -> None:
        del row
        if live:
            sys.stdout.write(text)
            sys.stdout.flush()

    decoders = (StreamDecoder(opened.tokenizer, continues=bool(prompt)) for prompt in prompts)
    return generate_text(
        language_model(opened),
        _sampler(options),
        _request(options, opened, prompts),
        Rng(options.seed),
        new_decoder=lambda: next(decoders),
        stops=options.stop,
        on_text=show,
    )


def _beams(options: Options, opened: OpenedModel, prompts: list[str]) -> int:
    from diptych.samplers.beam import beam_search, power_of_length

    model, tokenizer = language_model(opened), opened.tokenizer
    for prompt in prompts:
        request = _request(options, opened, [prompt])
        found = beam_search(
            model,
            request.prompts[0],
            beams=options.beams,
            max_new_tokens=request.max_new_tokens,
            eos_id=tokenizer.eos_id,
            length_penalty=power_of_length(options.length_penalty),
        )
        for hypothesis in found[: options.samples]:
            text = tokenizer.decode([i for i in hypothesis.ids if i != tokenizer.eos_id])
            if options.json:
                record = {"prompt": prompt, "text": text, **vars(hypothesis), "ids": list(hypothesis.ids)}
                print(json.dumps(record, ensure_ascii=False))
            else:
                print(f"── {hypothesis.log_probability:.2f} nats, score {hypothesis.score:.3f}\n{prompt}{text}\n")
    return 0


def _show_probabilities(options: Options, opened: OpenedModel, prompts: list[str]) -> int:
    from rich.console import Console
    from rich.table import Table

    from diptych.core.random import Rng
    from diptych.report.next_token import steps_of

    console = Console(highlight=False)
    for prompt in prompts:
        request = _request(options, opened, [prompt])
        frames = _sampler(options, options.candidates).sample(language_model(opened), request, Rng(options.seed))
        for number, step in enumerate(steps_of(frames, opened.tokenizer, list(request.prompts[0])), 1):
            table = Table(title=f"step {number}: …{one_line(step.context[-60:])}", title_justify="left", box=None)
            for index, candidate in enumerate(step.candidates):
                bar = "█" * max(1, round(40 * candidate.probability))
                mark = "→" if index == step.chosen else " "
                style = "bold" if index == step.chosen else None
                table.add_row(mark, candidate.text, f"{candidate.probability:.3f}", bar, style=style)
            table.show_header = False
            console.print(table, markup=False)
    return 0
