"""Multi-window, multi-burn-rate alerts over windows scaled to the canary's length (gates.md, reading 3).

The burn rate of a window is its error ratio over the error budget, (errors / total) / (1 - objective): 1
spends the budget exactly as fast as the objective allows. A pair fires when its long and its short window
both burn faster than its factor: the long window says it matters, the short one that it is still going on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """The burn rates of one pair of windows, None where it could not be measured."""

    long: float | None
    short: float | None
    factor: float

    @property
    def measured(self) -> bool:
        """Tell whether both windows could be measured."""
        return self.long is not None and self.short is not None

    @property
    def fires(self) -> bool:
        """Tell whether both windows burn faster than the factor."""
        return (
            self.long is not None
            and self.short is not None
            and self.long > self.factor
            and self.short > self.factor
        )


def burn_rate(errors: float | None, total: float | None, objective: float) -> float | None:
    """Return the burn rate of one window; None when there was no traffic or a value is not a number.

    `objective` is the share of good requests promised, between 0 and 1 exclusive.
    """
    if not 0 < objective < 1:
        raise ValueError(f"an objective lies between 0 and 1, not {objective}")
    if errors is None or total is None or not math.isfinite(errors) or not math.isfinite(total):
        return None
    if total <= 0 or errors < 0:
        return None
    return (errors / total) / (1 - objective)


def firing(pairs: Sequence[Pair]) -> int | None:
    """Return how many pairs fire: the metric `burn`. None when none fires and not every pair was measured."""
    count = sum(pair.fires for pair in pairs)
    if count == 0 and (not pairs or not all(pair.measured for pair in pairs)):
        return None
    return count
