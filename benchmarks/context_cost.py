"""What a decision at one length costs: Diptych's measure of context against RULER's own procedure, on the same model.

    python benchmarks/context_cost.py [--model runs/needles-long] [--length 1024] [--style pairs] [--rounds 5]

Ours: eight needles in every fifth, each asked for (or another --task), until the length is passed or failed. RULER's
(Hsieh et al. 2024): 13 tasks, 500 samples of each, the text read anew for each and an answer generated greedily. Tokens
of the full procedure follow from its own rule, by which prompt and answer together fill the length; its time is that of
a sample of one needle task, run here in every round beside our whole decision, times 500. Without --model a network is
trained first, in about ten minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import write
from _needles import needles

if TYPE_CHECKING:
    from diptych.evaluation.context.measure import Measured
    from diptych.evaluation.context.subject import Subject
    from diptych.evaluation.context.types import Task

SAMPLES = 500
"""Of each of RULER's tasks at each length."""

TOKENS, TIME = 50.0, 10.0
"""The goals: at least so many times fewer tokens than all of RULER, and less time than one of its needle tasks."""


def main() -> None:
    from diptych.evaluation.context.ladder import LadderConfig
    from diptych.evaluation.context.subject import open_subject
    from diptych.evaluation.context.suites.ruler import TOKENS_TO_GENERATE
    from diptych.evaluation.context.tasks import TASKS, build_task

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="run folder, Hugging Face folder or GGUF file")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--task", default="multi_key", choices=TASKS, help="ours")
    parser.add_argument("--style", default="pairs", help="wording of ours: pairs, sentences or question")
    parser.add_argument("--ruler-task", default="niah_single_2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", type=int, default=2, help="contexts whose questions are also asked without reuse")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    subject = open_subject(given.model or needles(), device=given.device)
    task = build_task(given.task, subject.tokenizer, given.style, opens=subject.opens)
    if task.shortest > given.length:
        parser.error(f"{task.name} needs {task.shortest} tokens; give a longer --length")
    rounds = [(ours(subject, task, given), ruler(subject, given, index)) for index in range(given.rounds)]
    measured, theirs = rounds[0][0], [sample for _, sample in rounds]

    result = measured.result
    most = LadderConfig(shortest=given.length, longest=given.length).max_rounds
    tokens = len(TOKENS_TO_GENERATE) * SAMPLES * given.length
    token_ratio = tokens / result.tokens
    time_ratio = statistics.median(SAMPLES * sample["seconds"] / mine.result.seconds for mine, sample in rounds)
    write(
        f"context-cost-{subject.name.lower()}-{given.device}",
        {
            "model": subject.name,
            "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
            "length": given.length,
            "ours": {
                "task": result.task,
                "style": result.style,
                "state": result.state,
                "contexts": result.contexts,
                "contexts_at_most": most,
                "forward_tokens": result.tokens,
                "seconds": statistics.median(mine.result.seconds for mine, _ in rounds),
                "worst_score": min(cell.score for cell in result.cells),
            },
            "ruler": {
                "tasks": len(TOKENS_TO_GENERATE),
                "samples": SAMPLES,
                "forward_tokens": tokens,
                "forward_tokens_of_one_task": SAMPLES * given.length,
                "seconds_of_one_task_extrapolated": SAMPLES * statistics.median(one["seconds"] for one in theirs),
                "run_here": {"task": given.ruler_task, "samples": theirs},
            },
            "ratios": {
                "forward_tokens_all_of_ruler": token_ratio,
                "forward_tokens_all_of_ruler_were_it_never_decided": token_ratio * result.contexts / most,
                "forward_tokens_one_task": SAMPLES * given.length / result.tokens,
                "seconds_one_task": time_ratio,
            },
            "factors": factors(subject, task, measured, given),
            "goals": {
                f"at least {TOKENS:g} times fewer tokens than all of RULER": token_ratio >= TOKENS,
                f"at least {TIME:g} times less time than one of its tasks": time_ratio >= TIME,
            },
        },
    )


def ours(subject: Subject, task: Task, given: argparse.Namespace) -> Measured:
    """The decision at this one length."""
    from diptych.evaluation.context.journal import open_journal
    from diptych.evaluation.context.ladder import LadderConfig
    from diptych.evaluation.context.local import LocalScorer
    from diptych.evaluation.context.measure import Bench, Meter, measure_task

    scorer = LocalScorer(subject.model)
    scorer.ask(task.context(task.shortest, 0))  # what runs first prepares kernels
    with tempfile.TemporaryDirectory() as folder:
        journal = open_journal(Path(folder), {"benchmark": "context_cost"})
        bench = Bench(scorer=scorer, journal=journal, meter=Meter())
        config = LadderConfig(shortest=given.length, longest=given.length)
        measured = measure_task(task, given.style, config, bench)
        journal.close()
    return measured


def ruler(subject: Subject, given: argparse.Namespace, index: int) -> dict[str, Any]:
    """One sample of RULER's procedure, run: its prompt read anew, and an answer generated greedily."""
    from diptych.evaluation.context.suites.asking import ask_model
    from diptych.evaluation.context.suites.ruler import Ruler
    from diptych.evaluation.context.suites.text import essay

    text = essay(("stdlib",))
    asking = ask_model(
        lambda count: Ruler(count, text),
        subject.model,
        subject.tokenizer,
        opens=subject.opens,
        stop_ids=subject.stop_ids,
    )
    sample = asking.suite.sample(given.ruler_task, given.length, index)
    start = time.perf_counter()
    answer = asking.generate(sample.prompt, sample.tokens_to_generate)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "forward_tokens": sample.tokens + len(subject.tokenizer.encode_list(answer)),
        "score": asking.suite.score(sample, answer),
    }


def factors(subject: Subject, task: Task, measured: Measured, given: argparse.Namespace) -> dict[str, Any]:
    """What stopping early brings, and what reading a context once for all its questions."""
    from diptych.evaluation.context.local import LocalScorer
    from diptych.evaluation.context.suites.ruler import TOKENS_TO_GENERATE

    result, context = measured.result, task.context(given.length, 0)
    questions = sum(len(probe.question_ids) for probe in context.probes)
    once, alone = LocalScorer(subject.model), LocalScorer(subject.model, reuse=False)
    seconds = {"once": 0.0, "alone": 0.0}
    for number in range(given.alone):
        another = task.context(given.length, number)
        for name, scorer in (("once", once), ("alone", alone)):
            start = time.perf_counter()
            scorer.ask(another)
            seconds[name] += time.perf_counter() - start
    reuse = result.reuse
    # Answers that repel each other in a few contexts do so by chance: none counts more than once.
    worth = None if reuse is None else reuse.answers_per_context / max(1.0, reuse.design_effect)
    depths = len({probe.depth for probe in context.probes})
    return {
        "sequential_stopping": SAMPLES / result.contexts,
        "fewer_tasks": len(TOKENS_TO_GENERATE),
        "probes_a_context": len(context.probes),
        "tokens_a_context": result.tokens / result.contexts,
        "tokens_of_questions": questions,
        "reuse": None if reuse is None else dataclasses.asdict(reuse),
        "independent_answers_a_depth": worth,
        "prefix_reuse": None if worth is None else depths * worth,
        "seconds_without_reuse_over_with": seconds["alone"] / seconds["once"] if given.alone else None,
        "answers_a_depth": {
            "ours": result.contexts * len(context.probes) / depths,
            "ruler, one task": SAMPLES / depths,
        },
    }


if __name__ == "__main__":
    main()
