"""How near does each solver come to the exact solution, and what does its loop cost? Against diffusers and k-diffusion.

    DIPTYCH_K_DIFFUSION=FOLDER python benchmarks/solvers.py [--rounds 15]

Error: root mean square over 256 starts of sigma = 80, in double precision, against the exact probability-flow solution
at sigma = 0, on Gaussian data (closed form) and two Gaussian mixtures in 8 dimensions (2,000 steps of Heun), of which
the second took no part when ours were chosen. Every solver walks the same grid, which ends at 0, with at most 5, 10,
20, 40 evaluations; peers have their own defaults otherwise, among them diffusers' lower order in its last steps and
single precision within DPM-Solver. k-diffusion is not among the dev dependencies: its wheel unpacked at FOLDER is
enough, and without it its rows are left out.

Overhead: seconds of 20 steps of a small convolutional network / seconds of its 20 bare calls, median over the rounds,
all contenders in turn in each; and microseconds a step with a network that does nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from _common import interleaved, median_ratio, write
from _solver_peers import Solve, diffusers_solvers, k_diffusion_solvers
from diptych.core.types import Denoiser
from diptych.diffusion.exact import GaussianData, MixtureData
from diptych.diffusion.grids import karras, uniform_log_snr
from diptych.samplers.solvers import SOLVERS, SolverName

BUDGETS = (5, 10, 20, 40)
GRIDS: dict[str, Callable[[int], list[float]]] = {"karras": karras, "log_snr": uniform_log_snr}


def ours(name: SolverName) -> Solve:
    def run(denoise: Denoiser, x: Tensor, sigmas: list[float]) -> Tensor:
        for state, _ in SOLVERS[name].run(denoise, x, sigmas, torch.zeros_like):
            x = state
        return x

    return run


def problems() -> dict[str, tuple[Denoiser, Tensor, Tensor]]:
    """Denoiser, starts, exact ends."""
    random = torch.Generator().manual_seed(0)
    mean = 0.3 * torch.randn(8, generator=random, dtype=torch.float64)
    deviation = torch.linspace(0.05, 0.8, 8, dtype=torch.float64)
    gauss = GaussianData(mean, deviation)
    x = 80.0 * torch.randn(256, 8, generator=random, dtype=torch.float64)
    affine = mean + deviation / (deviation**2 + 80.0**2).sqrt() * (x - mean)
    found: dict[str, tuple[Denoiser, Tensor, Tensor]] = {"gaussian": (gauss, x, affine)}
    for name in ("mixture", "second mixture"):
        centres = 0.5 * torch.randn(5, 8, generator=random, dtype=torch.float64)
        widths = torch.linspace(0.1, 0.3, 5, dtype=torch.float64)
        mixture = MixtureData(torch.ones(5, dtype=torch.float64), centres, widths)
        found[name] = (mixture, x, ours("heun")(mixture, x, karras(2000)))
    return found


def errors() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Data / grid / library and solver: the error at each budget."""
    steps = {name: [(b + solver.calls_a_step - 1) // solver.calls_a_step for b in BUDGETS]
             for name, solver in SOLVERS.items()}  # fmt: skip
    contenders = {f"Diptych {name}": (name, ours(name)) for name, s in SOLVERS.items() if not s.is_stochastic}
    contenders |= {f"diffusers {name}": (name, run) for name, run in diffusers_solvers().items()}
    contenders |= {f"k-diffusion {name}": (name, run) for name, run in k_diffusion_solvers().items()}
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for data, (denoise, x, exact) in problems().items():
        for grid, levels in GRIDS.items():
            rows = table.setdefault(data, {}).setdefault(grid, {})
            for label, (name, run) in contenders.items():
                ends = [run(denoise, x, levels(n)) for n in steps[name]]
                rows[label] = [float((end - exact).square().mean().sqrt()) for end in ends]
    return table


def verdict(rows: dict[str, list[float]]) -> dict[str, list[float] | list[str]]:
    """At each budget: the best of each side, and the largest of our error / a same-named peer's."""
    us = {label: row for label, row in rows.items() if label.startswith("Diptych")}
    them = {label: row for label, row in rows.items() if label not in us}
    pairs = [(us[f"Diptych {label.split()[1]}"], row) for label, row in them.items()]
    places = range(len(BUDGETS))
    return {
        "our best": [min(us, key=lambda label: us[label][i]) for i in places],
        "their best": [min(them, key=lambda label: them[label][i]) for i in places],
        "our best / their best": [min(r[i] for r in us.values()) / min(r[i] for r in them.values()) for i in places],
        "worst of ours / same-named": [max(our[i] / their[i] for our, their in pairs) for i in places],
    }


@torch.inference_mode()
def overhead(rounds: int) -> dict[str, dict[str, float]]:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1)]
    layers += [layer for _ in range(2) for layer in (nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1))]
    network = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1)).eval()
    x, sigmas = torch.randn(16, 3, 32, 32), karras(20, 0.05, 20.0)

    def bare() -> None:
        for _ in range(20):
            network(x)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        del sigma
        return network(x)

    def nothing(x: Tensor, sigma: Tensor) -> Tensor:
        del sigma
        return x

    names: tuple[SolverName, ...] = ("euler", "dpmpp_2m", "unipc_3")
    runs = {f"Diptych {name}": ours(name) for name in (*names, "abm_3")}
    runs |= {f"diffusers {name}": diffusers_solvers()[name] for name in names}
    runs |= {f"k-diffusion {name}": run for name, run in k_diffusion_solvers().items() if name in names}
    contenders: dict[str, Callable[[], object]] = {"bare": bare}
    contenders |= {name: lambda run=run: run(denoise, x, sigmas) for name, run in runs.items()}
    interleaved(contenders, 1)
    seconds = interleaved(contenders, rounds)
    idle = interleaved({name: lambda run=run: run(nothing, x, sigmas) for name, run in runs.items()}, rounds)
    return {
        name: {
            "seconds / bare calls": median_ratio(seconds[name], seconds["bare"]),
            "microseconds a step without a network": 1e6 * statistics.median(idle[name]) / 20,
            "of the bare call": statistics.median(idle[name]) / statistics.median(seconds["bare"]),
        }
        for name in runs
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    table = errors()
    verdicts = {data: {grid: verdict(rows) for grid, rows in grids.items()} for data, grids in table.items()}
    write("solvers", {
        "evaluations": BUDGETS, "errors": table, "verdicts": verdicts, "overhead": overhead(args.rounds),
    })  # fmt: skip


if __name__ == "__main__":
    main()
