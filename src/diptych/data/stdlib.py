"""What text is on every user's disk? The Python standard library: its reference topics and its sources."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from diptych.data.sources import Document

LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "pydoc_data", "lib2to3"}
"""Other people's packages, and tests, which are mostly tables of cases."""


def stdlib_documents() -> Iterator[Document]:
    """The language reference's topics, then every module's source, in a fixed order for one Python version."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(topics[name], f"topic:{name}")
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if LEFT_OUT.isdisjoint(relative.parts):
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if text.strip():
                yield Document(text, f"stdlib:{relative}")
