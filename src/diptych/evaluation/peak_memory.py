"""How much memory does a layer of attention take at its peak, over what was there before?

On the processor: the high-water mark of resident memory (VmHWM of Linux's /proc), in a fresh process for every
measurement, so that nothing that was freed before stands ready. The processes are forked from one that has imported
everything and computed nothing. On a GPU the allocator keeps count itself.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import final

import torch

from diptych.evaluation.attention_layers import NAIVE, FormLayer, LayerSize

_STATUS = Path("/proc/self/status")
_ENVIRONMENT = {
    # Every larger block is mapped on its own and returned to the system when it is freed.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    # Threads that are started by an import would not survive the fork.
    "OPENBLAS_NUM_THREADS": "1",
}


@final
class PeakMemory:
    """Measures peak memory while it is open (a context manager)."""

    def __init__(self, size: LayerSize, device: torch.device) -> None:
        self.size, self.device = size, device
        self.server: subprocess.Popen[str] | None = None

    def __enter__(self) -> PeakMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGKILL)  # the process of the moment, too
            self.server.communicate()

    @property
    def possible(self) -> bool:
        """Whether this machine can tell."""
        return self.device.type == "cuda" or (self.device.type == "cpu" and _STATUS.exists())

    def measure(self, form: str, length: int) -> int | None:
        """Bytes beyond weights and input that one run of a form takes at its peak, its mask and output included.

        None where the machine cannot tell. Raises MemoryError where it ran out of memory, ValueError for other faults.
        """
        if not self.possible:
            return None
        return self._on_gpu(form, length) if self.device.type == "cuda" else self._in_process(form, length)

    def _on_gpu(self, form: str, length: int) -> int:
        layer = FormLayer(form, self.size, self.device)
        x = layer.input(length)
        before = 0
        try:
            for _ in range(2):  # the first run may compile
                torch.cuda.synchronize(self.device)
                torch.cuda.reset_peak_memory_stats(self.device)
                before = torch.cuda.memory_allocated(self.device)
                layer.run(x, layer.given(length))
        except torch.cuda.OutOfMemoryError:
            raise MemoryError(f"{form} at {length:,} positions takes more memory than the GPU has") from None
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def _in_process(self, form: str, length: int) -> int:
        if self.server is None:
            self.server = _start()
        assert self.server.stdin is not None and self.server.stdout is not None
        request = {"form": form, "length": length, "threads": torch.get_num_threads(), "size": asdict(self.size)}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        line = self.server.stdout.readline()
        answer = json.loads(line) if line else {"error": "the measuring process ended"}
        if "killed" in answer:
            raise MemoryError(f"{form} at {length:,} positions was stopped: it takes more memory than there is")
        if "error" in answer:
            raise ValueError(f"{form} at {length:,} positions could not be run: {answer['error']}")
        return int(answer["bytes"])


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "diptych.evaluation.peak_memory"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **_ENVIRONMENT},
        start_new_session=True,  # Ctrl-C is for the one who asked
    )


def serve() -> None:
    """Answer requests, a line each on the standard input, with a process each."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _answer(line)
        _, status = os.waitpid(child, 0)
        if status:
            _send({"killed": status})


def _answer(line: str) -> None:
    """Measure, answer and end this process."""
    request = json.loads(line)
    torch.set_num_threads(request["threads"])
    try:
        answer: dict[str, int | str] = {
            "bytes": _peak(request["form"], request["length"], LayerSize(**request["size"]))
        }
    except Exception:
        answer = {"error": traceback.format_exc(limit=0).strip()}
    _send(answer)
    os._exit(0)


def _send(answer: dict[str, int | str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _peak(form: str, length: int, size: LayerSize) -> int:
    layer = FormLayer(form, size, torch.device("cpu"))
    # The first run loads code and starts threads; the written-out formula needs no more of that for more positions.
    first = layer.input(min(length, 256) if form == NAIVE else length)
    layer.run(first, layer.given(first.shape[1]))
    del first
    x = layer.input(length)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the high-water mark so far
    layer.run(x, layer.given(length))
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    serve()
