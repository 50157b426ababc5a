"""How is a run kept so that it goes on exactly where it was?

`state/step-N/` holds the parameters that learn, the optimizer, the moving average and the counters, written as a whole
or not at all, with a digest of every file. The two newest are kept: should the newest be damaged, the one before it
serves. Noise, data order and learning rate are functions of the step and need no keeping.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from diptych.checkpoints.weights import load_tensors, save_tensors
from diptych.core.events import Handler, Message
from diptych.core.files import write_folder, write_text

KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a run counts."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Everything that a run needs to go on; each mapping is name -> whole tensor, `model` of what learns."""

    counters: Counters
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor]


def save_state(state: TrainingState, folder: Path) -> Path:
    """Write `folder`/step-N and drop all but the two newest. Raises OSError where the disk is full; nothing is lost."""
    path = folder / f"step-{state.counters.step:08d}"

    def fill(temporary: Path) -> None:
        for name in ("model", "optimizer", "average"):
            save_tensors(getattr(state, name), temporary / f"{name}.safetensors")
        digests = {file.name: _digest(file) for file in sorted(temporary.glob("*.safetensors"))}
        write_text(temporary / "state.json", json.dumps({"counters": asdict(state.counters), "files": digests}))

    try:
        write_folder(path, fill)
    except OSError as error:
        kept = ", ".join(p.name for p in _newest_first(folder)) or "none"
        reason = error.strerror or str(error)
        raise OSError(
            f"checkpoint {path} could not be written ({reason}); older checkpoints are intact ({kept}): free some "
            "space, then run the same command again"
        ) from error
    for old in _newest_first(folder)[KEPT:]:
        shutil.rmtree(old)
    return path


def has_state(folder: Path) -> bool:
    """Whether `folder` holds a state to go on from, damaged or not."""
    return bool(_newest_first(folder))


def load_newest_state(folder: Path, on_event: Handler) -> TrainingState | None:
    """The newest undamaged state in `folder`, or None where there is none at all.

    Raises ValueError where all of them are damaged.
    """
    found = _newest_first(folder)
    for path in found:
        try:
            return _load(path)
        except (ValueError, OSError, KeyError) as error:
            on_event(
                Message(text=f"checkpoint {path} is damaged ({error}); the one before it is used", level="warning")
            )
    if found:
        raise ValueError(f"all checkpoints in {folder} are damaged; delete the folder to start anew")
    return None


def _load(path: Path) -> TrainingState:
    record = json.loads((path / "state.json").read_bytes())
    for name, digest in record["files"].items():
        if _digest(path / name) != digest:
            raise ValueError(f"{name} does not match its digest")
    parts = {name: load_tensors(path / f"{name}.safetensors") for name in ("model", "optimizer", "average")}
    return TrainingState(counters=Counters(**record["counters"]), **parts)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def collect(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Named tensors on the CPU; every rank must call this, since gathering shards takes all of them."""
    return {name: tensor.detach().cpu() for name, tensor in pairs}
