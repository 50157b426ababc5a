"""Within which bounds does a measured share lie?"""

from __future__ import annotations

import math
from typing import Final

Z: Final = 1.959963984540054
"""A standard normal variable lies within +- this with a probability of 95 %."""


def wilson(successes: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927), which is right for shares near 0 and 1 too; everything where
    nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, z2 = successes / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    # At the ends, where rounding could leave the share outside its own interval, the bounds are exact.
    return 0.0 if successes == 0 else middle - half, 1.0 if successes == count else middle + half
