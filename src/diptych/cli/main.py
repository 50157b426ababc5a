"""Which command was meant, and what does the user see when something is wrong?

Each command lives in its own module, imported only when it is called, so that `diptych --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys

from diptych import __version__

COMMANDS = {
    "review": ("the main job: train, sample and score a model on text at hand, and write the living review"),
    "train": ("train a model from a recipe, or go on where it was stopped"),
    "generate": ("continue a prompt with a trained model, or show its next-token probabilities"),
    "evaluate": ("score a model on data: bits per byte and perplexity, beside real yardsticks"),
    "info": ("parameters, FLOPs, cache and memory of a model"),
    "paper": ("the review as code: every table, equation and figure, with its reference, fast form and test"),
}


def help_text() -> str:
    """What `diptych --help` prints."""
    width = max(map(len, COMMANDS)) + 3
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: diptych COMMAND [OPTIONS]",
            "",
            "Autoregressive transformers and diffusion side by side: train, sample, measure.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            f"  {'--help':<{width}}show this help; after a command, show that command's options",
            f"  {'--version':<{width}}show the version",
            "",
            "examples:",
            "  diptych review --budget 6m",
            "  diptych train gpt2-tiny --data.source my/texts --out runs/mine",
            "  diptych generate runs/mine --prompt 'The sun' --show-probabilities",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 wrong input (one line says what), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        print(f"diptych {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        return _refuse(f"unknown command {name}; {hint}")
    return _guarded(name, rest)


def _guarded(name: str, rest: list[str]) -> int:
    try:
        command = importlib.import_module(f"diptych.cli.{name}")
        return int(command.main(rest))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left, as `| head` does; there is no one to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("DIPTYCH_TRACEBACK"):
            raise
        return _refuse(str(error))


def _refuse(message: str) -> int:
    print(f"diptych: {' '.join(message.split())}", file=sys.stderr)
    return 2
