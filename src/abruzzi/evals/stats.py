"""Confidence intervals of success rates."""

from __future__ import annotations

import math

Z95 = 1.959963984540054


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a success rate: (low, high), within [0, 1].

    Unlike p +- z sqrt(p(1-p)/n) it stays sensible at 0 and 1 and for few trials (E. B. Wilson,
    1927). Raises ValueError when successes is not within 0..trials or there are no trials."""
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials; expected 0 <= successes <= trials, trials >= 1")
    p = successes / trials
    centre = p + z * z / (2 * trials)
    spread = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
