"""How does a page's template see the world? Strictly: what is undefined is an error, and texts are escaped."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from diptych.report import words


def page_environment() -> Environment:
    """A new environment over the package's templates, with the words for numbers as filters."""
    environment = Environment(
        loader=PackageLoader("diptych.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=words.number,
        compact=words.compact,
        size=words.size,
        memory=words.memory,
        duration=words.duration,
        percent=words.percent,
        visible=words.visible,
    )
    return environment
