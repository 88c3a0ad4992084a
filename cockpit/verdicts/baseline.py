"""The canary against the stable baseline: tests that are sound for the metric's kind, with a minimum effect
size.

Proportions (errors of requests): Fisher's exact test, one-sided, and the difference of the observed
proportions.

Histograms (latencies): at every bucket boundary the share of slower requests is a proportion of its own,
tested as above and corrected for the number of boundaries (Holm). A test of ranks alone would miss what this
finds: a canary that is as often faster as slower (rising variance), and a rare slow tail. How much slower is
read sideways: a boundary `b` that the canary exceeds in a share u of its requests is compared with the value
that stable exceeds equally often; the effect is the relative distance of the two.

Worse is what counts; a canary that is better passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a test found. `effect` and `canary`/`stable` are those of the most telling place.

    `worse`: significant (p ≤ alpha) and at least the minimum effect. `p` is already corrected.
    """

    worse: bool
    p: float
    effect: float
    canary: float
    stable: float
    where: str = ""


def fisher_greater(events: int, trials: int, base_events: int, base_trials: int) -> float:
    """Return the one-sided p-value of Fisher's exact test that the first proportion is greater.

    At or below what the margins let expect, 1.0 is returned instead of the exact value (≥ about one half).
    Raises ValueError for counts that cannot be.
    """
    for found, of in ((events, trials), (base_events, base_trials)):
        if found < 0 or of < 0 or found > of:
            raise ValueError(f"{found} events of {of} trials")
    successes, total = events + base_events, trials + base_trials
    if trials == 0 or base_trials == 0 or events * total <= trials * successes:
        return 1.0
    top = min(trials, successes)
    log_term = (
        _log_choose(successes, events)
        + _log_choose(total - successes, trials - events)
        - _log_choose(total, trials)
    )
    # Beyond the mean the terms fall: sum until they no longer count.
    share, ratio_sum = 1.0, 1.0
    for count in range(events, top):
        share *= (successes - count) * (trials - count)
        share /= (count + 1) * (total - successes - trials + count + 1)
        ratio_sum += share
        if share < ratio_sum * 1e-15:
            break
    return min(1.0, math.exp(log_term) * ratio_sum)


def compare_proportions(
    events: float, trials: float, base_events: float, base_trials: float, *, min_effect: float, alpha: float
) -> Comparison:
    """Compare the canary's events of trials with stable's; `min_effect` is a difference of proportions.

    Counts may be fractions (extrapolated increases); they are rounded, and events above trials count as all.
    Raises ValueError when a side has no trials or a count is negative or not finite.
    """
    canary, stable = _counts(events, trials), _counts(base_events, base_trials)
    p = fisher_greater(*canary, *stable)
    ours, theirs = canary[0] / canary[1], stable[0] / stable[1]
    effect = ours - theirs
    return Comparison(p <= alpha and effect >= min_effect, p, effect, ours, theirs)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts by upper bound, ascending; the last bound is +Inf and its count the total."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]

    @classmethod
    def of(cls, buckets: Mapping[float, float]) -> Histogram:
        """Build from upper bound → cumulative count; raises ValueError for what is no histogram.

        Counts that fall by less than a request (extrapolation) are levelled.
        """
        bounds = sorted(buckets)
        if not bounds or bounds[-1] != math.inf:
            raise ValueError("a histogram has a +Inf bucket")
        counts: list[float] = []
        for bound in bounds:
            count = buckets[bound]
            if math.isnan(bound) or not math.isfinite(count) or count < 0:
                raise ValueError("a bucket's bound or count is no number")
            if counts and count < counts[-1]:
                if counts[-1] - count > 1:
                    raise ValueError(f"the cumulative counts fall at le={bound:g}")
                count = counts[-1]
            counts.append(count)
        return cls(tuple(bounds), tuple(counts))

    @property
    def total(self) -> float:
        """Return the number of observations."""
        return self.counts[-1]

    def quantile(self, share: float) -> float:
        """Return the value that `share` of the observations do not exceed, interpolated as Prometheus does.

        In the last bucket the highest finite bound is returned.
        """
        rank = share * self.total
        below_bound, below = 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank and count > below:
                if math.isinf(bound):
                    return below_bound
                low = min(below_bound, bound)
                return low + (bound - low) * max(0.0, rank - below) / (count - below)
            below_bound, below = bound, count
        return below_bound


def compare_histograms(
    canary: Histogram, stable: Histogram, *, min_effect: float, alpha: float
) -> Comparison:
    """Compare distributions; `min_effect` is relative (0.25: a quarter slower at some quantile).

    Raises ValueError when the bounds differ or a side is empty.
    """
    if canary.bounds != stable.bounds or len(canary.bounds) < 2:
        raise ValueError("canary and stable have different buckets")
    if round(canary.total) < 1 or round(stable.total) < 1:
        raise ValueError("a histogram without observations")
    found: list[Comparison] = []
    for bound, ours, theirs in zip(canary.bounds[:-1], canary.counts, stable.counts, strict=False):
        slower, base_slower = canary.total - ours, stable.total - theirs
        if round(slower + base_slower) < 1:
            continue  # nobody was slower than this: there is nothing to test
        mine, other = _counts(slower, canary.total), _counts(base_slower, stable.total)
        p = fisher_greater(*mine, *other)
        same_share = stable.quantile(1 - slower / canary.total)
        effect = bound / same_share - 1 if same_share > 0 else math.inf
        found.append(
            Comparison(False, p, effect, mine[0] / mine[1], other[0] / other[1], f"slower than {bound:g}")
        )
    if not found:
        return Comparison(False, 1.0, 0.0, 0.0, 0.0)
    tested = [
        Comparison(p <= alpha and one.effect >= min_effect, p, one.effect, one.canary, one.stable, one.where)
        for one, p in zip(found, holm([one.p for one in found]), strict=True)
    ]
    return min(tested, key=lambda one: (not one.worse, one.p, -one.effect))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected


def _counts(events: float, trials: float) -> tuple[int, int]:
    if not (math.isfinite(events) and math.isfinite(trials)) or events < 0:
        raise ValueError("a count is negative or no number")
    of = round(trials)
    if of < 1:
        raise ValueError("no trials")
    return min(round(events), of), of


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
