"""How does foreign code run here without hanging the process or eating its memory?"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ONE_AT_A_TIME = threading.RLock()


class _Expired(BaseException):
    """Raised in the midst of code that runs too long; nothing but `bounded` catches it."""


@contextmanager
def bounded(seconds: float, memory: int) -> Iterator[None]:
    """Run a block of Python for at most so long and with at most so many bytes of memory beside what there is.

    One thread at a time is in such a block. The bound of memory holds on Linux, and for the whole process meanwhile.
    Raises TimeoutError or MemoryError. Code that does not come back to the interpreter is not stopped.
    """
    with _ONE_AT_A_TIME, _less_memory(memory):
        watch = _Watch(seconds)
        try:
            yield
        except _Expired:
            raise TimeoutError(f"more than {seconds} seconds") from None
        finally:
            watch.stop()


class _Watch:
    """Raises `_Expired` in the thread that made it, unless it is stopped before."""

    def __init__(self, seconds: float) -> None:
        self.thread = threading.get_ident()
        self.lock = threading.Lock()
        self.over = False
        self.timer = threading.Timer(seconds, self._expire)
        self.timer.daemon = True
        self.timer.start()

    def _expire(self) -> None:
        with self.lock:
            if not self.over:
                self.over = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(_Expired))

    def stop(self) -> None:
        """No exception comes from now on; one that was on its way is awaited here."""
        self.timer.cancel()
        try:
            with self.lock:
                raised, self.over = self.over, True
            if raised:
                time.sleep(0)
        except _Expired:
            pass


@contextmanager
def _less_memory(memory: int) -> Iterator[None]:
    """Let the process grow by so many bytes at most, where the system can say so."""
    pages = Path("/proc/self/statm")
    try:
        import resource
    except ModuleNotFoundError:  # Windows has none
        yield
        return
    if not pages.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(pages.read_text().split()[0]) * resource.getpagesize() + memory
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
