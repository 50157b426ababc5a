"""The bound of masked diffusion at equal evaluations of the network: Diptych's standard error against MDLM's.

    python benchmarks/text_diffusion_bound.py [--repetitions 400] [--rows 3] [--run FOLDER] [--out runs/text-bound]

The estimates of one row are repeated with other sample ids, and their spread is the standard error of one. Three texts:
a table of random probabilities, a Markov chain that mostly repeats its token, both with exact conditionals, and bytes
of Python's library under a small network: that of --run, or one that is trained here in a minute. MDLM's estimator
(Sahoo et al. 2024): times (u + i) / draws, each token hidden on its own, weight 1 / t. Its variance is infinite, since
the mean of 1 / t is, so its spread in a finite sample and the ratio to it say little alone; with times from 1e-3 on, as
its code draws them, it is finite and the estimate biased a little. Both are reported.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _common import write
from diptych.checkpoints.run_folder import load_language_model
from diptych.core.config import DataConfig, OptimConfig, RunConfig, TokenizerConfig, TrainConfig, TransformerConfig
from diptych.core.random import Rng, derive_seed
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.core.types import Batch, TokenPredictor
from diptych.data.sources import read_documents
from diptych.objectives.masked_diffusion import MaskedDiffusion
from diptych.objectives.masked_lm import mask_id_of
from diptych.training.run import train

sys.path.append(str(Path(__file__).parents[1]))

from tests.exact_text import NEVER, ExactText, random_text

DRAWS = (4, 16, 64)
LENGTH, CHUNK, EARLIEST = 64, 1024, 1e-3


@dataclass(frozen=True)
class Subject:
    """A network, the token that masks, and the rows (n, t + 1) whose bounds are estimated."""

    model: TokenPredictor
    mask_id: int
    rows: Tensor


class ExactChain:
    """A `TokenPredictor` of a Markov chain that keeps its token with probability `keep`, or changes to any other.

    Its logits at a hidden position are the log of the distribution given the nearest visible tokens on both sides.
    """

    output_bias = None

    def __init__(self, tokens: int, keep: float) -> None:
        self.tokens, self.vocab_size = tokens, tokens + 1
        self.eigenvalue = keep - (1.0 - keep) / (tokens - 1)
        self.unembedding = torch.eye(self.vocab_size, dtype=torch.float64)

    def states(self, x: Tensor, **_: object) -> Tensor:
        """(b, t, v + 1): logits, which the un-embedding leaves as they are. The first token must be visible."""
        at, visible = torch.arange(x.shape[1]).expand_as(x), x != self.tokens
        left = F.pad(at.masked_fill(~visible, -1).cummax(1).values, (1, -1))
        right = F.pad(at.masked_fill(~visible, x.shape[1]).flip(1).cummin(1).values.flip(1), (-1, 1), value=x.shape[1])
        backward = self.step(at - left.clamp(min=0), x.gather(1, left.clamp(min=0)))
        token = x.gather(1, right.clamp(max=x.shape[1] - 1))
        forward = self.step(right - at, token).masked_fill((right == x.shape[1])[..., None], 1.0)
        probability = backward * forward
        return F.pad((probability / probability.sum(-1, keepdim=True)).log().clamp(min=NEVER), (0, 1))

    def step(self, distance: Tensor, token: Tensor) -> Tensor:
        """Probabilities of each token so many steps from a given one; the chain reads the same backwards."""
        same = F.one_hot(token.clamp(max=self.tokens - 1), self.tokens)
        power = (self.eigenvalue ** distance.double())[..., None]
        return power * same + (1.0 - power) / self.tokens

    def drawn(self, rows: int, length: int, keep: float, generator: torch.Generator) -> Tensor:
        """Rows of the chain, (rows, length)."""
        changed = torch.rand(rows, length, generator=generator) >= keep
        steps = torch.randint(1, self.tokens, (rows, length), generator=generator) * changed
        return steps.cumsum(1) % self.tokens


def exact_text(rows: int) -> Subject:
    drawn = torch.randint(2, (rows, 8), generator=torch.Generator().manual_seed(0))
    return Subject(ExactText(random_text(2, 8), 2), 2, drawn)


def exact_chain(rows: int) -> Subject:
    model = ExactChain(8, 0.95)
    return Subject(model, 8, model.drawn(rows, LENGTH + 1, 0.95, torch.Generator().manual_seed(0)))


def network(rows: int, folder: Path) -> Subject:
    """Rows from the middles of modules of Python's library."""
    model, tokenizer = load_language_model(folder)
    modules = sorted((d.text for d in read_documents(["stdlib"], "text")), key=lambda text: derive_seed(0, text))
    ids = [tokenizer.encode(text[len(text) // 2 :][: 4 * LENGTH]) for text in modules if len(text) > 16 * LENGTH]
    return Subject(model, mask_id_of(tokenizer), torch.tensor([part[: LENGTH + 1].tolist() for part in ids[:rows]]))


def recipe(out: Path, steps: int) -> RunConfig:
    return RunConfig(
        out=str(out),
        objective="masked_diffusion",
        model=TransformerConfig(d_model=96, n_layers=3, n_heads=4, max_length=LENGTH + 1),
        data=DataConfig(source=("stdlib",), sequence_length=LENGTH, document_mask=False),
        tokenizer=TokenizerConfig(kind="byte", special_tokens=("<|mask|>",)),
        optim=OptimConfig(lr=2e-3, warmup_steps=100),
        train=TrainConfig(batch_size=32, steps=steps, eval_every=0, compile="off"),
    )


def mdlm(subject: Subject, x: Tensor, ids: Tensor, draws: int, earliest: float = 0.0) -> Tensor:
    """Estimates in nats of rows (b, t + 1), at times from `earliest` on."""
    objective, rng = MaskedDiffusion(TextDiffusionConfig(), subject.mask_id), Rng(0).fold("mdlm")
    first, total = rng.uniform("first", ids, 1), torch.zeros(len(ids), dtype=torch.float64)
    for draw in range(draws):
        time = earliest + (1.0 - earliest) * (first + draw) / draws
        hidden = rng.uniform(f"hide {draw}", ids, x.shape[1] - 1) < time
        total += (objective.hidden_nats(subject.model, x, hidden) / time).sum(1)
    return total / draws


def clipped_mdlm(subject: Subject, x: Tensor, ids: Tensor, draws: int) -> Tensor:
    return mdlm(subject, x, ids, draws, EARLIEST)


def diptych(subject: Subject, x: Tensor, ids: Tensor, draws: int) -> Tensor:
    objective = MaskedDiffusion(TextDiffusionConfig(), subject.mask_id)
    return objective.likelihood(subject.model, Batch(x=x, sample_ids=ids), Rng(0), draws=draws).nats


CONTENDERS = {"diptych": diptych, "mdlm": mdlm, "mdlm, clipped": clipped_mdlm}


def compared(subject: Subject, draws: int, repetitions: int) -> dict[str, Any]:
    """Mean over rows of the estimates, and root mean square of the standard error of one; in nats."""
    ids = torch.arange(repetitions)
    means, errors = {}, {}
    for name, estimate in CONTENDERS.items():
        rows = [
            torch.cat([
                estimate(subject, row.expand(len(part), -1), part, draws) for part in ids.split(CHUNK)
            ])
            for row in subject.rows
        ]  # fmt: skip
        means[name] = statistics.mean(float(each.mean()) for each in rows)
        errors[name] = statistics.mean(float(each.var()) for each in rows) ** 0.5
    ratios = {name: errors["diptych"] / error for name, error in errors.items() if name != "diptych"}
    return {"mean_nats": means, "standard_error": errors, "ratio_to": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of the network trained here")
    parser.add_argument("--run", type=Path, help="folder of a masked diffusion run on bytes")
    parser.add_argument("--out", type=Path, default=Path("runs/text-bound"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.run is None:
        train(recipe(options.out, options.steps))
    subjects = {
        "random table": exact_text(options.rows),
        "predictable chain": exact_chain(options.rows),
        "bytes of Python": network(options.rows, options.run or options.out),
    }
    write(
        "text-diffusion-bound",
        {
            "repetitions": options.repetitions,
            "rows": options.rows,
            "texts": {
                name: {
                    "length": subject.rows.shape[1] - 1,
                    "draws": {draws: compared(subject, draws, options.repetitions) for draws in DRAWS},
                }
                for name, subject in subjects.items()
            },
        },
    )


if __name__ == "__main__":
    main()
