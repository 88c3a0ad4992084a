"""PromQL with answers worked out by hand."""

from __future__ import annotations

import math

import pytest

from cockpit.rehearsal.prometheus.promql import Evaluator, RangeSeries, Value
from cockpit.rehearsal.prometheus.store import STALE, Store, is_stale
from cockpit.rehearsal.prometheus.syntax import parse
from cockpit.rehearsal.prometheus.vectors import QueryFailed

Results = dict[str, float]


def store(**series: list[tuple[float, float]]) -> Store:
    """Make a store from metric name → (seconds, value)."""
    made = Store()
    for name, points in series.items():
        for t, value in points:
            made.append({"__name__": name}, round(t * 1000), value)
    return made


def labelled(*entries: tuple[str, dict[str, str], float], at: float = 100) -> Store:
    """Make a store with one sample a series."""
    made = Store()
    for name, labels, value in entries:
        made.append({"__name__": name, **labels}, round(at * 1000), value)
    return made


def evaluate(data: Store, query: str, at: float = 100, lookback: float = 300) -> Value:
    t = round(at * 1000)
    return Evaluator(data, round(lookback * 1000), t, t).at(parse(query), t)


def vector(data: Store, query: str, at: float = 100, lookback: float = 300) -> Results:
    """Evaluate to label text → value."""
    value = evaluate(data, query, at, lookback)
    assert isinstance(value, list)
    out: Results = {}
    for element in value:
        assert not isinstance(element, RangeSeries)
        out[",".join(f"{k}={v}" for k, v in sorted(element.labels.items()))] = element.value
    return out


def only(data: Store, query: str, at: float = 100, lookback: float = 300) -> float:
    """Evaluate to the one value there is."""
    (value,) = vector(data, query, at, lookback).values()
    return value


EVERY_TEN = [(10.0 * i, 30.0 * i) for i in range(11)]  # 3/s from 0 to 100 s


class TestRates:
    def test_a_steady_counter_has_its_rate(self) -> None:
        assert only(store(c=EVERY_TEN), "rate(c[50s])") == pytest.approx(3.0)
        assert only(store(c=EVERY_TEN), "increase(c[50s])") == pytest.approx(150.0)

    def test_the_range_is_closed_at_both_ends(self) -> None:
        assert only(store(c=EVERY_TEN), "count_over_time(c[50s])") == 6.0

    def test_the_edges_are_extrapolated_when_near(self) -> None:
        # In [45, 95] lie 50…90: 120 over 40 s; 5 s on each side are less than 1.1 spacings: factor 50/40.
        assert only(store(c=EVERY_TEN), "increase(c[50s])", at=95) == pytest.approx(150.0)

    def test_far_edges_are_extrapolated_by_half_a_spacing(self) -> None:
        # Samples at 40 and 50 in [0, 100]: 20 s from 40 (half of 10 each side), so 10 * 20 / 10.
        data = store(c=[(40, 100), (50, 110)])
        assert only(data, "increase(c[100s])") == pytest.approx(20.0)

    def test_a_counter_is_not_extrapolated_below_zero(self) -> None:
        # It would have been zero 2 s before the first sample: only these 2 s count, not half a spacing.
        data = store(c=[(40, 2), (50, 12)])
        assert only(data, "increase(c[100s])") == pytest.approx(10 * (10 + 2 + 5) / 10)
        assert only(data, "delta(c[100s])") == pytest.approx(20.0)

    def test_a_reset_adds_what_was_lost(self) -> None:
        # 0 20 | 5 25: 20 before, 5 + 20 after the reset.
        data = store(c=[(70, 0), (80, 20), (90, 5), (100, 25)])
        assert only(data, "increase(c[30s])") == pytest.approx(45.0)
        assert only(data, "delta(c[30s])") == pytest.approx(25.0)
        assert only(data, "resets(c[30s])") == 1.0

    def test_one_sample_is_no_rate(self) -> None:
        assert vector(store(c=[(95, 5)]), "rate(c[50s])") == {}

    def test_irate_takes_the_last_two(self) -> None:
        assert only(store(c=[(80, 0), (90, 10), (95, 40)]), "irate(c[50s])") == pytest.approx(6.0)
        # After a reset the counter began at zero: 5 in 10 s.
        assert only(store(c=[(90, 100), (100, 5)]), "irate(c[50s])") == pytest.approx(0.5)

    def test_offset_moves_the_window(self) -> None:
        data = store(c=[(0, 0), (10, 10), (20, 20), (90, 500), (100, 900)])
        assert only(data, "increase(c[20s] offset 80s)") == pytest.approx(20.0)


class TestStaleness:
    def test_the_marker_is_a_nan_of_its_own(self) -> None:
        assert is_stale(STALE) and math.isnan(STALE)
        assert not is_stale(math.nan) and not is_stale(1.0)

    def test_a_marked_series_is_gone_at_once(self) -> None:
        data = store(g=[(90, 5), (95, STALE)])
        assert vector(data, "g", at=94.999) == {"__name__=g": 5.0}
        assert vector(data, "g", at=95) == {}
        assert only(data, "absent(g)") == 1.0

    def test_a_series_comes_back_after_the_marker(self) -> None:
        assert only(store(g=[(90, 5), (95, STALE), (99, 7)]), "g") == 7.0

    def test_markers_are_not_in_ranges(self) -> None:
        data = store(g=[(90, 5), (95, STALE), (99, 7)])
        assert only(data, "count_over_time(g[1m])") == 2.0
        assert only(data, "sum_over_time(g[1m])") == 12.0

    def test_an_ordinary_nan_is_a_value(self) -> None:
        assert math.isnan(only(store(g=[(90, math.nan)]), "g"))

    def test_lookback_ends_a_series_without_marker(self) -> None:
        data = store(g=[(50, 5)])
        assert only(data, "g", at=60, lookback=10) == 5.0
        assert vector(data, "g", at=60.001, lookback=10) == {}

    def test_retention_forgets(self) -> None:
        data = Store(retention_s=10)
        data.append({"__name__": "old"}, 1_000, 1)
        data.append({"__name__": "new"}, 95_000, 1)
        data.compact(100_000)
        assert [one.labels["__name__"] for one in data] == ["new"]

    def test_a_late_sample_is_dropped(self) -> None:
        data = store(g=[(90, 5)])
        assert not data.append({"__name__": "g"}, 90_000, 6)
        assert not data.append({"__name__": "g"}, 80_000, 6)
        assert only(data, "g") == 5.0


def buckets(**counts: float) -> Store:
    names = {"inf": "+Inf", "half": "0.5", "one": "1", "two": "2", "minus": "-1", "bad": "x"}
    return labelled(*(("h_bucket", {"le": names[name]}, count) for name, count in counts.items()))


class TestHistogramQuantile:
    def test_linear_inside_a_bucket(self) -> None:
        # 100 observations; the 90th lies in (1, 2], as the 30th of its 40: 1 + 30/40.
        data = buckets(half=20, one=60, two=100, inf=100)
        assert only(data, "histogram_quantile(0.9, h_bucket)") == pytest.approx(1.75)

    def test_the_first_bucket_begins_at_zero(self) -> None:
        data = buckets(half=20, one=60, two=100, inf=100)
        assert only(data, "histogram_quantile(0.1, h_bucket)") == pytest.approx(0.25)

    def test_a_bucket_below_zero_gives_its_bound(self) -> None:
        assert only(buckets(minus=5, one=6, inf=6), "histogram_quantile(0.5, h_bucket)") == -1.0

    def test_beyond_the_last_bound_it_is_the_last_bound(self) -> None:
        assert only(buckets(half=1, one=2, inf=10), "histogram_quantile(0.99, h_bucket)") == 1.0

    @pytest.mark.parametrize(
        "counts", [{"half": 1, "one": 2}, {"inf": 3}, {"half": 0, "inf": 0}], ids=["no +Inf", "one", "empty"]
    )
    def test_no_quantile_is_nan(self, counts: dict[str, float]) -> None:
        assert math.isnan(only(buckets(**counts), "histogram_quantile(0.5, h_bucket)"))

    def test_outside_zero_to_one_it_is_infinite(self) -> None:
        data = buckets(half=1, inf=2)
        assert only(data, "histogram_quantile(-0.1, h_bucket)") == -math.inf
        assert only(data, "histogram_quantile(1.1, h_bucket)") == math.inf

    def test_falling_counts_are_raised(self) -> None:
        # 10, 8, 20 counts as 10, 10, 20: the median is the end of the first bucket.
        assert only(buckets(half=10, one=8, inf=20), "histogram_quantile(0.5, h_bucket)") == pytest.approx(
            0.5
        )

    def test_a_bound_that_is_no_number_is_left_out(self) -> None:
        data = buckets(half=10, bad=99, one=20, inf=20)
        assert only(data, "histogram_quantile(0.5, h_bucket)") == pytest.approx(0.5)

    def test_grouped_by_the_other_labels(self) -> None:
        data = labelled(
            ("h_bucket", {"le": "1", "pod": "a"}, 10),
            ("h_bucket", {"le": "+Inf", "pod": "a"}, 10),
            ("h_bucket", {"le": "1", "pod": "b"}, 0),
            ("h_bucket", {"le": "+Inf", "pod": "b"}, 4),
        )
        assert vector(data, "histogram_quantile(0.5, h_bucket)") == {"pod=a": 0.5, "pod=b": 1.0}


PODS = labelled(
    ("m", {"pod": "a", "track": "stable"}, 1),
    ("m", {"pod": "b", "track": "stable"}, 3),
    ("m", {"pod": "c", "track": "canary"}, 10),
    ("n", {"pod": "a"}, 100),
    ("n", {"pod": "c"}, 200),
    ("odd", {"pod": "a"}, math.nan),
    ("odd", {"pod": "b"}, 2),
)


class TestVectors:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ('m{track="stable"}', {"__name__=m,pod=a,track=stable": 1, "__name__=m,pod=b,track=stable": 3}),
            ('m{track!="stable"}', {"__name__=m,pod=c,track=canary": 10}),
            ('m{pod=~"a|c",track!~"st.*"}', {"__name__=m,pod=c,track=canary": 10}),
            ('m{pod=~"tracka"}', {}),
            ('n{track=""}', {"__name__=n,pod=a": 100, "__name__=n,pod=c": 200}),
            ("sum by (track) (m)", {"track=stable": 4, "track=canary": 10}),
            ("sum without (pod) (m)", {"track=stable": 4, "track=canary": 10}),
            ("avg(m)", {"": 14 / 3}),
            ("count by (track) (m)", {"track=stable": 2, "track=canary": 1}),
            ("max(odd)", {"": 2}),
            ("min(odd)", {"": 2}),
            ("topk(1, m)", {"__name__=m,pod=c,track=canary": 10}),
            ("bottomk(1, odd)", {"__name__=odd,pod=b": 2}),
            ("m * on(pod) n", {"pod=a": 100, "pod=c": 2000}),
            ("m * on(pod) group_left n", {"pod=a,track=stable": 100, "pod=c,track=canary": 2000}),
            ("m > 2", {"__name__=m,pod=b,track=stable": 3, "__name__=m,pod=c,track=canary": 10}),
            ("2 < m", {"__name__=m,pod=b,track=stable": 3, "__name__=m,pod=c,track=canary": 10}),
            (
                "m > bool 2",
                {"pod=a,track=stable": 0, "pod=b,track=stable": 1, "pod=c,track=canary": 1},
            ),
            ("m and on(pod) n", {"__name__=m,pod=a,track=stable": 1, "__name__=m,pod=c,track=canary": 10}),
            ("m unless on(pod) n", {"__name__=m,pod=b,track=stable": 3}),
            (
                "n or on(pod) m",
                {"__name__=n,pod=a": 100, "__name__=n,pod=c": 200, "__name__=m,pod=b,track=stable": 3},
            ),
            ("sum(missing) or vector(0)", {"": 0}),
            ("absent(missing{pod='x'})", {"pod=x": 1}),
            (
                "clamp_min(m, 2) - 2",
                {"pod=a,track=stable": 0, "pod=b,track=stable": 1, "pod=c,track=canary": 8},
            ),
            ("missing / m", {}),
        ],
    )
    def test_by_hand(self, query: str, expected: Results) -> None:
        assert vector(PODS, query) == pytest.approx(expected)

    def test_zero_over_zero_is_nan(self) -> None:
        data = labelled(("a", {}, 0), ("b", {}, 0))
        assert math.isnan(only(data, "a / b"))
        assert only(data, "1 / b") == math.inf

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("1 + 2 * 3", 7.0),
            ("2 ^ 3 ^ 2", 512.0),
            ("-2 ^ 2", -4.0),
            ("-7 % 3", -1.0),
            ("3 > bool 2", 1.0),
            ("time()", 100.0),
        ],
    )
    def test_scalars(self, query: str, expected: float) -> None:
        assert evaluate(Store(), query) == expected

    def test_a_range_query_has_a_value_a_step(self) -> None:
        expression = parse("sum(c)")
        (series,) = Evaluator(store(c=EVERY_TEN), 15_000, 85_000, 120_000).over(expression, 10_000)
        assert list(zip(series.times, series.values, strict=True)) == [
            (85_000, 240.0),
            (95_000, 270.0),
            (105_000, 300.0),
            (115_000, 300.0),
        ]


class TestRefusals:
    @pytest.mark.parametrize(
        "query", ["", "sum(", "foo(m)", "rate(m)", "m{", '{pod=""}', "1 > 2", 'm{a=~"["}']
    )
    def test_what_is_no_promql_is_bad_data(self, query: str) -> None:
        with pytest.raises(QueryFailed) as caught:
            evaluate(PODS, query)
        assert caught.value.kind == "bad_data"

    @pytest.mark.parametrize(
        "query",
        [
            'count_values("x", m)',
            "predict_linear(m[5m], 60)",
            "deriv(m[5m])",
            "hour()",
            "m atan2 m",
            "label_join(m, 'x', '-', 'pod')",
            "m * on(track) n",
            "m * on(track) m",
            "m + on() n",
            'abs({__name__=~"n|odd",pod="a"})',
        ],
    )
    def test_what_it_cannot_do_is_an_execution_error(self, query: str) -> None:
        with pytest.raises(QueryFailed) as caught:
            evaluate(PODS, query)
        assert caught.value.kind == "execution"

    def test_a_query_that_would_read_too_much_is_refused(self) -> None:
        with pytest.raises(QueryFailed, match="too many"):
            evaluate(PODS, "sum_over_time(vector(1)[1000h:1s])")
