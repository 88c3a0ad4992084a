from __future__ import annotations

import math
import random
from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.verdicts.baseline import (
    Histogram,
    compare_histograms,
    compare_proportions,
    fisher_greater,
    holm,
)

BOUNDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, math.inf)


def histogram(values: list[float]) -> Histogram:
    return Histogram.of({bound: float(sum(value <= bound for value in values)) for bound in BOUNDS})


def lognormal(source: random.Random, count: int, *, median: float = 0.04, sigma: float = 0.5) -> list[float]:
    return [source.lognormvariate(math.log(median), sigma) for _ in range(count)]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_fisher_is_exact(events: int, others: int, base_events: int, base_others: int) -> None:
    trials, base_trials = events + others, base_events + base_others
    successes, total = events + base_events, trials + base_trials
    ways = sum(
        comb(successes, k) * comb(total - successes, trials - k)
        for k in range(events, min(trials, successes) + 1)
        if trials - k <= total - successes
    )
    exact = float(Fraction(ways, comb(total, trials)))
    found = fisher_greater(events, trials, base_events, base_trials)
    if trials == 0 or base_trials == 0 or events * total <= trials * successes:
        assert found == 1.0
    else:
        assert found == pytest.approx(exact, rel=1e-9)


def test_counts_that_cannot_be() -> None:
    for counts in ((-1, 5, 0, 5), (6, 5, 0, 5), (0, 5, 6, 5)):
        with pytest.raises(ValueError, match="trials"):
            fisher_greater(*counts)
    with pytest.raises(ValueError, match="no trials"):
        compare_proportions(0, 0, 0, 10, min_effect=0.01, alpha=0.01)
    with pytest.raises(ValueError, match="no number"):
        compare_proportions(math.nan, 1, 0, 10, min_effect=0.01, alpha=0.01)


def test_equal_error_rates_rarely_fail() -> None:
    source, alpha, runs = random.Random(1), 0.05, 600
    failed = 0
    for _ in range(runs):
        canary = sum(source.random() < 0.02 for _ in range(200))
        stable = sum(source.random() < 0.02 for _ in range(900))
        failed += compare_proportions(canary, 200, stable, 900, min_effect=0.0001, alpha=alpha).worse
    assert failed <= runs * alpha * 1.5


def test_a_clear_rise_of_errors_is_always_found() -> None:
    source = random.Random(2)
    for _ in range(100):
        canary = sum(source.random() < 0.15 for _ in range(200))
        stable = sum(source.random() < 0.005 for _ in range(1800))
        assert compare_proportions(canary, 200, stable, 1800, min_effect=0.02, alpha=0.01).worse


def test_a_significant_but_tiny_rise_passes() -> None:
    found = compare_proportions(1_500, 100_000, 10_000, 1_000_000, min_effect=0.02, alpha=0.01)
    assert found.p < 0.001
    assert not found.worse


def test_fewer_errors_never_fail() -> None:
    assert not compare_proportions(0, 500, 400, 500, min_effect=0.02, alpha=0.01).worse


def test_equal_latencies_rarely_fail() -> None:
    source, alpha, runs = random.Random(3), 0.05, 250
    failed = 0
    for _ in range(runs):
        canary, stable = histogram(lognormal(source, 150)), histogram(lognormal(source, 400))
        failed += compare_histograms(canary, stable, min_effect=0.0001, alpha=alpha).worse
    assert failed <= runs * alpha * 1.5


@pytest.mark.parametrize("what", ["shift", "variance", "tail"])
def test_worse_latencies_are_always_found(what: str) -> None:
    source = random.Random(4)
    for _ in range(25):
        stable = lognormal(source, 3000)
        if what == "shift":
            canary = lognormal(source, 400, median=0.08)
        elif what == "variance":  # the median stays: a test of ranks sees nothing
            canary = lognormal(source, 400, sigma=1.2)
        else:
            canary = lognormal(source, 380) + [0.7] * 20
            source.shuffle(canary)
        found = compare_histograms(histogram(canary), histogram(stable), min_effect=0.25, alpha=0.01)
        assert found.worse, found
        assert found.where


def test_a_slightly_slower_canary_passes() -> None:
    source = random.Random(5)
    canary, stable = lognormal(source, 20_000, median=0.042), lognormal(source, 20_000)
    found = compare_histograms(histogram(canary), histogram(stable), min_effect=0.25, alpha=0.01)
    assert found.p < 0.01
    assert not found.worse


def test_a_faster_canary_passes() -> None:
    source = random.Random(6)
    canary, stable = lognormal(source, 2000, median=0.02), lognormal(source, 2000)
    assert not compare_histograms(histogram(canary), histogram(stable), min_effect=0.01, alpha=0.05).worse


def test_what_is_no_histogram() -> None:
    for buckets in ({}, {1.0: 2.0}, {1.0: 5.0, math.inf: 2.0}, {1.0: -1.0, math.inf: 2.0}):
        with pytest.raises(ValueError, match=r"bucket|fall"):
            Histogram.of(buckets)
    few, other = Histogram.of({1.0: 1.0, math.inf: 2.0}), Histogram.of({2.0: 1.0, math.inf: 2.0})
    with pytest.raises(ValueError, match="different"):
        compare_histograms(few, other, min_effect=0.1, alpha=0.01)
    with pytest.raises(ValueError, match="without"):
        compare_histograms(few, Histogram.of({1.0: 0.0, math.inf: 0.0}), min_effect=0.1, alpha=0.01)


def test_quantiles_are_interpolated() -> None:
    found = Histogram.of({1.0: 10.0, 2.0: 20.0, math.inf: 21.0})
    assert found.quantile(0.0) == 0.0
    assert found.quantile(10 / 21) == pytest.approx(1.0)
    assert found.quantile(15 / 21) == pytest.approx(1.5)
    assert found.quantile(1.0) == 2.0


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_only_ever_raises_p(values: list[float]) -> None:
    for before, after in zip(values, holm(values), strict=True):
        assert before <= after <= 1
    assert min(holm(values)) == pytest.approx(min(1.0, len(values) * min(values)))
