"""`diptych train RECIPE [--dotted.overrides]`."""

from __future__ import annotations

from typing import Annotated

import tyro

from diptych.cli.console import ConsoleHandler
from diptych.core.config import RunConfig
from diptych.presets import PRESETS, load_run

DESCRIPTION = f"""Train a model from a recipe, or go on where it was stopped (Ctrl-C is safe).

RECIPE is a TOML file, or the name of a preset: {", ".join(PRESETS)}.
Every key of the recipe is an option here, with the recipe's value as its default.
Under torchrun the same command trains on many processes (train.distributed).

examples:
  diptych train gpt2-tiny
  diptych train recipes/tiny.toml --data.source my/texts notes.jsonl --out runs/mine --train.steps 2000
  diptych train recipes/finetune.toml --init SmolLM2-135M-Instruct.gguf --data.source my/texts
  diptych train recipes/chat.toml --init SmolLM2-135M-Instruct.gguf --data.source talks.jsonl
  torchrun --nproc-per-node 2 -m diptych train recipes/tiny.toml --train.distributed fsdp
"""


def main(arguments: list[str]) -> int:
    """Parse, train, report; 0 where finished, 130 where interrupted."""
    given = [a for a in arguments[:1] if not a.startswith("-")]
    default = load_run(given[0]) if given else RunConfig()
    run = tyro.cli(
        Annotated[RunConfig, tyro.conf.OmitSubcommandPrefixes],
        args=arguments[len(given) :],
        default=default,
        prog=f"diptych train {given[0] if given else 'RECIPE'}",
        description=DESCRIPTION,
        config=(tyro.conf.AvoidSubcommands,),
    )
    if not given:
        raise ValueError(f"name a recipe file or a preset ({', '.join(PRESETS)}), as in: diptych train gpt2-tiny")
    from diptych.training.run import train

    with ConsoleHandler() as console:
        finished = train(run, console)
    if finished:
        use = "fill {} --text 'The <|mask|> is'" if run.objective == "masked_lm" else "generate {} --prompt 'The'"
        use = "generate {}" if run.objective == "gaussian" or run.data.format == "pixels" else use
        use = "evaluate {}" if run.data.format in ("pairs", "recall") else use
        print(f"{run.out}  (try: diptych {use.format(run.out)})")
    return 0 if finished else 130
