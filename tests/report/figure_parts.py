"""What a drawing shows, read from its figure."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def panel(figure: Figure, k: int = 0) -> Axes:
    return figure.axes[k]


def marked(figure: Figure, word: str) -> float:
    (text,) = (t for t in panel(figure).texts if t.get_text().startswith(word))
    return float(text.get_position()[0])


def upright(axes: Axes) -> list[float]:
    """Places of the lines from bottom to top."""
    return [float(line.get_xdata()[0]) for line in axes.lines if list(line.get_ydata()) == [0, 1]]  # type: ignore[index,arg-type]
