"""On what machine, and along what curve, was a review measured?"""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path

import torch

from diptych.report.results import CurvePoint, HeldoutPoint, MachineInfo
from diptych.training.machine import matmul_peak


def machine_info(device: torch.device, dtype: str) -> MachineInfo:
    """The machine in words and numbers."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = found[0].split(":", 1)[1].strip() if found else name
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return MachineInfo(
        processor=name,
        cores=len(available),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(terse=True),
        python=platform.python_version(),
        torch=torch.__version__,
        device=device.type,
        dtype=dtype,
        peak_flops=matmul_peak(device, getattr(torch, dtype)),
    )


def read_curves(metrics: Path) -> tuple[tuple[CurvePoint, ...], tuple[HeldoutPoint, ...], float | None]:
    """Training and held-out curve of a run's metrics.jsonl, and the median share of the matmul peak."""
    training, heldout, shares = [], [], []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        common = {key: record[key] for key in ("step", "loss", "bits_per_byte")}
        if record["kind"] == "step":
            training.append(CurvePoint(**common, tokens=record["tokens"], seconds=record["seconds"]))
            shares.append(record["mfu"])
        else:
            heldout.append(HeldoutPoint(**common))
    return tuple(training), tuple(heldout), statistics.median(shares) if shares else None
