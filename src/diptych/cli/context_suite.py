"""`diptych context MODEL --suite ruler|babilong`: published measures of long contexts, kept apart from our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.common import language_model, open_language_model
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.cli.context import Options
    from diptych.evaluation.context.suites.asking import Asking, Make
    from diptych.evaluation.context.suites.sample import Suite, Table
    from diptych.tokenizers.chat import ChatTemplate


def run_suite(options: Options) -> int:
    """Ask every task at every length, print the tables; every answer is kept, and the same command goes on."""
    from diptych.evaluation.context.subject import fingerprint
    from diptych.evaluation.context.suites.run import run

    found: list[tuple[str | None, Table]] = []
    is_server = re.match(r"https?://", options.model) is not None
    asked = _asked_of_server(options) if is_server else _asked_of_model(options)
    try:
        for extension, asking in asked:
            settings = {"extension": extension, "weights": None if is_server else fingerprint(Path(options.model))}
            with ConsoleHandler() as console:
                table = run(
                    asking.suite,
                    asking.generate,
                    options.out / _file(options.suite, extension),
                    tasks=asking.suite.tasks,
                    lengths=options.lengths,
                    samples=options.samples,
                    settings={**settings, **asking.settings},
                    on_event=console,
                )
            found.append((extension, table))
            if not options.json:
                _print(asking.suite, table, extension)
    except KeyboardInterrupt:
        print("every answer is kept; the same command goes on from here")
        return 130
    if options.json:
        print(json.dumps([{"extension": extension, **asdict(table)} for extension, table in found]))
    return 0


def _file(suite: str, extension: str | None) -> str:
    name = suite if extension is None else f"{suite}-{extension}"
    return re.sub(r"[^\w.-]+", "-", name) + ".jsonl"


def _make(options: Options) -> Make:
    from diptych.evaluation.context.suites.babilong import Babilong
    from diptych.evaluation.context.suites.ruler import Ruler
    from diptych.evaluation.context.suites.text import essay

    text = essay(options.texts or ("stdlib",))
    return lambda count: Ruler(count, text) if options.suite == "ruler" else Babilong(count, text)


def _asked_of_model(options: Options) -> Iterator[tuple[str | None, Asking]]:
    """The model as it is, then with each extension, whose name comes first; all that is wrong is said first."""
    from diptych.core.context_extension import parse_extension
    from diptych.evaluation.context.suites.asking import ask_model
    from diptych.models.extension import extend

    extensions = [parse_extension(text) for text in options.extend]
    opened = open_language_model(options.model, options.options)
    model, template = language_model(opened), _template(options, opened)
    models = [model, *(extend(model, extension) for extension in extensions)]
    make = _make(options)
    for extension, network in zip((None, *options.extend), models, strict=True):
        yield (
            extension,
            ask_model(make, network, opened.tokenizer, opens=opened.opens, template=template, stop_ids=opened.stop_ids),
        )


def _template(options: Options, opened: OpenedModel) -> ChatTemplate | None:
    from diptych.tokenizers.chat import template_of

    if options.answers != "written":
        return None
    if opened.chat_template is None:
        raise ValueError(f"{options.model} has no chat template; leave out --answers written")
    return template_of(opened.tokenizer, opened.chat_template)


def _asked_of_server(options: Options) -> Iterator[tuple[str | None, Asking]]:
    from diptych.cli.context import server_name
    from diptych.evaluation.context.server import Server
    from diptych.evaluation.context.suites.asking import ask_server

    yield None, ask_server(_make(options), Server(options.model, server_name(options)))


def _print(suite: Suite, table: Table, extension: str | None) -> None:
    from diptych.cli.compare import table as show

    rows = [
        (cell.task, f"{cell.length:,}", str(cell.n), f"{cell.mean:.1%}", f"{cell.low:.1%} to {cell.high:.1%}")
        for cell in (*table.cells, *table.means)
    ]
    name = table.suite if extension is None else f"{table.suite} with {extension}"
    show(f"{name}, {table.tokens:,} tokens", ("task", "tokens", "samples", "score", "95 % interval"), rows)
    for sentence in suite.verdict(table):
        print(sentence)
