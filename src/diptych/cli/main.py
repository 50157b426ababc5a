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
    "review": "the main job: train, sample and score a model on text at hand, and write the living review",
    "train": "train a model from a recipe, or go on where it was stopped",
    "generate": "continue a prompt with a trained model, show its next-token probabilities, or draw images",
    "chat": "talk with a model that has learnt to",
    "translate": "translate texts with an encoder-decoder, and draw what attends to what",
    "fill": "fill masked words in with an encoder",
    "evaluate": "score a model on data: bits per byte and perplexity, beside real yardsticks; BLEU and chrF",
    "compare": "autoregression and diffusion of text or images side by side: bits, compute, speed and quality",
    "context": "how much context does a model really use? its effective context length, with a guarantee",
    "info": "parameters, FLOPs, cache and memory of a model, before anything large is loaded",
    "export": "write a model as a Hugging Face folder or a GGUF file",
    "stability": "where does training diverge? depth and learning rate, by normalization and its place",
    "tokenizer": "train, use, show, compare and study tokenizers",
    "attention": "what attends to what: draw masks, a model's heads, and what attention costs",
    "diffusion": "Gaussian diffusion drawn: noise, schedules, loss by noise level; averages of weights",
    "data": "what a corpus is like: the lengths of its documents",
    "paper": "the review as code: every table, equation and figure, with its reference, fast form and test",
}

GROUPS = {
    "tokenizer": {
        "train": "learn a tokenizer from text of any size",
        "encode": "text to token ids",
        "decode": "token ids to text",
        "show": "a text in coloured tokens, in the terminal or as a picture",
        "compare": "tokenizers side by side on a text: tokens, bytes per token, speed, cost under attention",
        "study": "how large should a vocabulary be? models of equal compute over vocabulary sizes",
    },
    "attention": {
        "show": "draw masks: who may attend to whom",
        "map": "what the heads of a trained model attend to in a text",
        "cost": "time and peak memory against the length, by form, and the exponents that they follow",
    },
    "diffusion": {
        "show": "draw the forward process, the schedules, and the loss at each noise level beside its floor",
        "average": "the weights averaged over another length, after training",
    },
    "data": {
        "lengths": "how long the documents of corpora are, and how often each distance between tokens occurs",
    },
}
"""Commands that are made of further commands."""

EXAMPLES = (
    "diptych review --budget 6m",
    "diptych train gpt2-tiny --data.source my/texts --out runs/mine",
    "diptych generate runs/mine --prompt 'The sun' --show-probabilities",
)


def help_text(group: str = "") -> str:
    """What `diptych --help` prints, or `diptych GROUP --help`."""
    commands = GROUPS[group] if group else COMMANDS
    width = max(map(len, commands)) + 3
    lines = [f"  {name:<{width}}{text}" for name, text in commands.items()]
    about = (
        f"{COMMANDS[group].capitalize()}."
        if group
        else "Autoregressive transformers and diffusion side by side: train, sample, measure."
    )
    tail = [
        "",
        "options:",
        f"  {'--help':<{width}}show this help; after a command, show that command's options",
    ]
    if not group:
        tail += [
            f"  {'--version':<{width}}show the version",
            "",
            "examples:",
            *(f"  {example}" for example in EXAMPLES),
        ]
    prefix = f"diptych {group}" if group else "diptych"
    return "\n".join([f"usage: {prefix} COMMAND [OPTIONS]", "", about, "", "commands:", *lines, *tail])


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 wrong input (one line says what), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--version"]:
        print(f"diptych {__version__}")
        return 0
    return _dispatch(arguments)


def _dispatch(arguments: list[str], group: str = "") -> int:
    commands = GROUPS[group] if group else COMMANDS
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(group))
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, 1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(commands)}"
        return _refuse(f"unknown command {f'{group} {name}'.strip()}; {hint}")
    if not group and name in GROUPS:
        return _dispatch(rest, name)
    return _guarded(f"{group}.{name}" if group else name, rest)


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
