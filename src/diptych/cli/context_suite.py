"""`diptych context MODEL --suite ruler|babilong`: published measures of long contexts, kept apart from our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from diptych.cli.common import open_language_model
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.cli.context import Options
    from diptych.evaluation.context.suites.sample import Suite, Table


def run_suite(options: Options) -> int:
    """Ask every task at every length, print the table; every answer is kept, and the same command goes on."""
    from diptych.evaluation.context.subject import fingerprint
    from diptych.evaluation.context.suites.run import run

    if options.extend or options.model.startswith(("http://", "https://")):
        raise ValueError("--suite asks a model on the disk as it is; leave out --extend, and name no server")
    opened = open_language_model(options.model, options.options)
    suite = _suite(options, opened)
    try:
        with ConsoleHandler() as console:
            table = run(
                suite,
                _generating(opened),
                options.out / f"{options.suite}.jsonl",
                tasks=suite.tasks,
                lengths=options.lengths,
                samples=options.samples,
                settings={"weights": fingerprint(Path(options.model))},
                on_event=console,
            )
    except KeyboardInterrupt:
        print("every answer is kept; the same command goes on from here")
        return 130
    if options.json:
        print(json.dumps(asdict(table)))
    else:
        _print(suite, table)
    return 0


def _suite(options: Options, opened: OpenedModel) -> Suite:
    from diptych.evaluation.context.suites.babilong import Babilong
    from diptych.evaluation.context.suites.ruler import Ruler
    from diptych.evaluation.context.suites.text import essay

    def count(text: str) -> int:
        return int(opened.opens) + len(opened.tokenizer.encode_list(text))

    text = essay(options.texts or ("stdlib",))
    return Ruler(count, text) if options.suite == "ruler" else Babilong(count, text)


def _generating(opened: OpenedModel) -> Callable[[str, int], str]:
    """The likeliest continuation, token by token."""
    from diptych.cli.common import language_model
    from diptych.core.random import Rng
    from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
    from diptych.samplers.text import generate_text
    from diptych.tokenizers.base import end_of
    from diptych.tokenizers.streaming import StreamDecoder

    model, tokenizer = language_model(opened), opened.tokenizer
    sampler = AutoregressiveSampler(temperature=0.0)

    def generate(prompt: str, most: int) -> str:
        ids = tokenizer.encode_list(prompt)
        request = GenerationRequest(
            prompts=[[tokenizer.opening_id, *ids] if opened.opens else ids],
            max_new_tokens=most,
            eos_id=end_of(tokenizer),
            stop_ids=opened.stop_ids,
        )
        return generate_text(model, sampler, request, Rng(0), new_decoder=lambda: StreamDecoder(tokenizer))[0].text

    return generate


def _print(suite: Suite, table: Table) -> None:
    from diptych.cli.compare import table as show

    rows = [
        (cell.task, f"{cell.length:,}", str(cell.n), f"{cell.mean:.1%}", f"{cell.low:.1%} to {cell.high:.1%}")
        for cell in (*table.cells, *table.means)
    ]
    show(f"{table.suite}, {table.tokens:,} tokens", ("task", "tokens", "samples", "score", "95 % interval"), rows)
    for sentence in suite.verdict(table):
        print(sentence)
