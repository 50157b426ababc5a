"""`diptych context MODEL`: how much context does a model really use?"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diptych.cli.common import ModelOptions, parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.core.events import Handler
    from diptych.evaluation.context.measure import Meter
    from diptych.evaluation.context.result import ContextResult
    from diptych.evaluation.context.study import Study, StudyConfig
    from diptych.evaluation.context.subject import Subject
    from diptych.models.language_model import LanguageModel

DESCRIPTION = """The effective context length of a model: the longest text at which it still finds what stands in every
fifth of it, with a bracket and its confidence, beside the length that it claims. Nothing is downloaded.

MODEL is a run folder, a Hugging Face folder, a GGUF file, or the URL of an OpenAI-compatible server, such as
http://localhost:8000/v1 (its key in OPENAI_API_KEY). Ctrl-C keeps every answer, and the same command goes on.

examples:
  diptych context runs/needles-long
  diptych context SmolLM2-135M-Instruct.gguf --budget 30m
  diptych context SmolLM2-135M-Instruct.gguf --extend yarn:factor=2 string --longest 16384
  diptych context http://localhost:8000/v1 --name my-model --longest 32768
  diptych context model.gguf --suite ruler --lengths 4096 8192 --samples 50
  diptych context http://localhost:8000/v1 --name my-model --suite ruler
"""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}

MOST_TEXTS = 24
"""Documents for the loss by context."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych context`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, a GGUF file, or a server's URL."""
    tasks: tuple[Literal["single_key", "multi_key", "chain", "frequency", "classification"], ...] = ("single_key",)
    """What is asked, each with an answer of its own: one needle in each fifth, eight in each, chains of references, the
    most frequent word, classes learnt from demonstrations."""
    style: Literal["auto", "pairs", "sentences", "question"] = "auto"
    """How it is worded; `auto` takes what the model answers best at the shortest length, in contexts of their own."""
    answers: Literal["likelihood", "written"] = "likelihood"
    """Rank the answers by their likelihood, or read what a chat model writes; a suite's prompts become its messages
    then."""
    shortest: int | None = None
    """First length in tokens; None: what the task needs."""
    longest: int | None = None
    """Last length in tokens; None: what the model claims, or what an extension is to reach."""
    extend: tuple[str, ...] = ()
    """Context extensions to measure besides the model as it is: interpolation, ntk, dynamic_ntk, yarn, llama3, string,
    rerope, self_extend, dca, streaming, with numbers as in yarn:factor=4."""
    tau: float = 0.85
    """Score, corrected for chance, at which a depth passes."""
    confidence: float = 0.95
    """Of the lower end of the bracket, and of the upper one, each for itself."""
    contexts: int = 120
    """Contexts of one length at most, each asking about every fifth; what so many do not decide is undecided."""
    budget: str | None = None
    """Stop after so much, with the bracket that is known then: 10m, 90s, or 200000tok."""
    loss_length: int = 1024
    """Longest context, at most the model's own, of the loss by context, a reading of its own; 0: leave it out."""
    texts: tuple[str, ...] = ()
    """Text for that: files, folders, hf:NAME; none: what a run held out, or Python's own library."""
    suite: Literal["own", "ruler", "babilong"] = "own"
    """Another measure instead, as its authors define it: RULER's 13 tasks, or BABILong's first five."""
    lengths: tuple[int, ...] = (4096,)
    """Lengths of a suite, in tokens; what is generated counts into them, and so does a chat template."""
    samples: int = 100
    """Samples of each task of a suite at each length; RULER takes 500."""
    name: str | None = None
    """The model's name on a server."""
    beside: tuple[Path, ...] = ()
    """Folders of other measurements to draw in the same figures."""
    out: Path = Path("runs/context")
    """Folder of answers, results and the page."""
    seed: int = 0
    """Seed of contexts and resamples."""
    json: bool = False
    """Print one JSON object instead of sentences."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, open, ask, write; 130 where interrupted."""
    options = parse(Options, arguments, "context", DESCRIPTION)
    if options.suite != "own":
        from diptych.cli.context_suite import run_suite

        return run_suite(options)
    config, meter = configured(options), budget(options.budget)
    from diptych.evaluation.context.result import load_result, sentence, threshold_words
    from diptych.report.context import write_context_report

    others = [load_result(folder) for folder in options.beside]
    results: list[ContextResult] = []
    with ConsoleHandler() as console:
        for study in _studies(options, config, console):
            results.append(_measured(study, options, config, meter, console))
            if results[-1].stopped:
                break
    page = write_context_report([*results, *others], options.out)
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        for result in results:
            for task in result.tasks:
                print(sentence(result, task))
                if more := threshold_words(task):
                    print(more)
        print(page)
    if stopped := results[-1].stopped:
        print(stopped, file=sys.stderr)
        return 130 if stopped.startswith("interrupted") else 0
    return 0


def configured(options: Options) -> StudyConfig:
    """What is asked. Raises ValueError for what is wrong with the options."""
    from diptych.evaluation.context.study import StudyConfig

    return StudyConfig(
        tasks=options.tasks,
        style=None if options.style == "auto" else options.style,
        shortest=options.shortest,
        longest=options.longest,
        tau=options.tau,
        alpha=1.0 - options.confidence,
        max_rounds=options.contexts,
        seed=options.seed,
    )


def budget(text: str | None) -> Meter:
    """Tokens or seconds. Raises ValueError for anything else."""
    from diptych.evaluation.context.measure import Meter

    if text is None:
        return Meter()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|tok)", text.strip())
    if match is None:
        raise ValueError(f"--budget {text} is neither a duration nor tokens; write it as 90s, 10m, 1h or 200000tok")
    value = float(match[1])
    return Meter(tokens=int(value)) if match[2] == "tok" else Meter(seconds=value * UNITS[match[2]])


def _measured(study: Study, options: Options, config: StudyConfig, meter: Meter, console: Handler) -> ContextResult:
    name = study.extension or "as-is"
    return study.run(config, options.out / re.sub(r"[^\w.-]+", "-", name), meter, on_event=console)


def _studies(options: Options, config: StudyConfig, console: Handler) -> Iterator[Study]:
    """The model as it is, then with each extension; what is asked takes how long is said first."""
    from diptych.evaluation.context.study import told, told_of_server

    if re.match(r"https?://", options.model):
        server = _server(options)
        console(told_of_server(server.workload(config)))
        yield server
        return
    from diptych.core.context_extension import parse_extension
    from diptych.evaluation.context.cost import estimate
    from diptych.models.extension import extend

    extensions = [parse_extension(text) for text in options.extend]
    subject = _subject(options)
    models = [extend(subject.model, extension) for extension in extensions]  # all that is wrong is said first
    for text, model in zip((None, *options.extend), (subject.model, *models), strict=True):
        study = _local(options, subject, model, text, console)
        console(told(estimate(model, study.workload(config))))
        yield study


def _subject(options: Options) -> Subject:
    import torch

    from diptych.evaluation.context.subject import open_subject
    from diptych.training.distributed import choose_device

    chosen = options.options
    dtype = None if chosen.dtype == "auto" else getattr(torch, chosen.dtype)
    return open_subject(Path(options.model), device=choose_device(chosen.device), dtype=dtype)


def _local(options: Options, subject: Subject, model: LanguageModel, text: str | None, console: Handler) -> Study:
    from diptych.evaluation.context.local_study import local_study
    from diptych.evaluation.context.readings import other_readings

    return local_study(
        subject,
        model,
        text,
        answers=options.answers,
        readings=lambda: other_readings(
            subject,
            model,
            options.texts,
            longest=options.loss_length,
            most=MOST_TEXTS,
            seed=options.seed,
            on_event=console,
        ),
    )


def _server(options: Options) -> Study:
    from diptych.evaluation.context.endpoint import EndpointScorer
    from diptych.evaluation.context.stand_in import StandInTokenizer
    from diptych.evaluation.context.study import Study
    from diptych.evaluation.context.words import SENTENCES

    name = server_name(options)
    if options.longest is None:
        raise ValueError("the length that a server's model claims is given by --longest")
    scorer = EndpointScorer(options.model, name)
    return Study(
        name=name,
        extension=None,
        claimed=options.longest,
        reach=options.longest,
        tokenizer=StandInTokenizer(scorer.calibrate([" ".join(SENTENCES)])),
        opens=False,
        scorer=scorer,
        fingerprint=options.model,
    )


def server_name(options: Options) -> str:
    """The model's name on a server. Raises ValueError without one, and for options that a server does not take."""
    if options.name is None:
        raise ValueError("a server's model is named by --name")
    if options.extend or options.answers == "written":
        raise ValueError("--extend and --answers written are for models on the disk; leave them out for a server")
    return options.name
