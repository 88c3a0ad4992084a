"""Laws PromQL keeps, over generated series."""

from __future__ import annotations

import math
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.errors import BackendGarbage
from cockpit.rehearsal.prometheus.exposition import Exposition, ExpositionError
from cockpit.rehearsal.prometheus.functions import bucket_quantile, quantile
from cockpit.rehearsal.prometheus.promql import Evaluator, RangeSeries
from cockpit.rehearsal.prometheus.store import Store
from cockpit.rehearsal.prometheus.syntax import parse
from cockpit.rehearsal.prometheus.wire import number
from cockpit.verdicts.answers import read_answer

END_MS = 1_000_000
VALUES = st.floats(0, 1e9, allow_nan=False)
DETERMINISTIC = settings(derandomize=True, max_examples=60, deadline=None)


def values(store: Store, query: str) -> dict[frozenset[tuple[str, str]], float]:
    out = {}
    result = Evaluator(store, 300_000, END_MS, END_MS).at(parse(query), END_MS)
    assert isinstance(result, list)
    for element in result:
        assert not isinstance(element, RangeSeries)
        out[frozenset(element.labels.items())] = element.value
    return out


def counter(points: list[tuple[int, float]]) -> Store:
    store = Store()
    t = END_MS - 300_000
    for gap, value in points:
        t += gap
        store.append({"__name__": "c"}, t, value)
    return store


POINTS = st.lists(st.tuples(st.integers(1, 15_000), VALUES), min_size=2, max_size=20)


@DETERMINISTIC
@given(POINTS)
def test_a_counters_rate_is_never_negative(points: list[tuple[int, float]]) -> None:
    store = counter(points)
    for query in ("rate(c[5m])", "increase(c[5m])", "irate(c[5m])"):
        (value,) = values(store, query).values()
        assert value >= 0 and math.isfinite(value)


@DETERMINISTIC
@given(POINTS)
def test_increase_is_rate_times_the_range(points: list[tuple[int, float]]) -> None:
    store = counter(points)
    (rate,) = values(store, "rate(c[5m])").values()
    (increase,) = values(store, "increase(c[5m])").values()
    assert math.isclose(increase, rate * 300, rel_tol=1e-9, abs_tol=1e-9)


@DETERMINISTIC
@given(POINTS, st.integers(1, 1000))
def test_a_restart_never_lowers_the_increase(points: list[tuple[int, float]], more: int) -> None:
    rising = [(gap, float(i * more)) for i, (gap, _) in enumerate(points)]
    (before,) = values(counter(rising), "increase(c[5m])").values()
    # The same work, counted from zero again after each sample, cannot look like less than nothing.
    fallen = [(gap, float(more)) for gap, _ in rising]
    (after,) = values(counter(fallen), "increase(c[5m])").values()
    assert before >= 0 and after == 0


@DETERMINISTIC
@given(st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), VALUES, min_size=1))
def test_aggregations_are_what_one_would_add_up(entries: dict[tuple[str, str], float]) -> None:
    store = Store()
    groups: dict[str, list[float]] = defaultdict(list)
    for (pod, track), value in entries.items():
        store.append({"__name__": "m", "pod": pod, "track": track}, END_MS, value)
        groups[track].append(value)
    for op, by_hand in (("sum", math.fsum), ("max", max), ("min", min), ("count", len)):
        by = values(store, f"{op} by (track) (m)")
        assert by == values(store, f"{op} without (pod) (m)")
        assert by.keys() == {frozenset({("track", track)}) for track in groups}
        for track, own in groups.items():
            assert math.isclose(by[frozenset({("track", track)})], by_hand(own), rel_tol=1e-9)


@DETERMINISTIC
@given(st.dictionaries(st.sampled_from("abcdef"), VALUES), st.dictionaries(st.sampled_from("abcdef"), VALUES))
def test_and_unless_or_divide_the_left_side(left: dict[str, float], right: dict[str, float]) -> None:
    store = Store()
    for name, side in (("l", left), ("r", right)):
        for pod, value in side.items():
            store.append({"__name__": name, "pod": pod}, END_MS, value)
    both, rest = values(store, "l and on(pod) r"), values(store, "l unless on(pod) r")
    assert both | rest == values(store, "l")
    assert not both.keys() & rest.keys()
    assert len(values(store, "l or on(pod) r")) == len(left.keys() | right.keys())


@DETERMINISTIC
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=8), st.floats(0.01, 1), st.floats(0.01, 1))
def test_histogram_quantiles_rise_with_q(steps: list[int], p: float, q: float) -> None:
    bounds = [0.1 * 2**i for i in range(len(steps) - 1)] + [math.inf]
    counts = [float(sum(steps[: i + 1])) for i in range(len(steps))]
    low, high = (bucket_quantile(x, list(zip(bounds, counts, strict=True))) for x in sorted((p, q)))
    if counts[-1] == 0:
        assert math.isnan(low) and math.isnan(high)
    else:
        assert 0 <= low <= high + 1e-9 <= bounds[-2] + 2e-9


@DETERMINISTIC
@given(st.lists(VALUES, min_size=1), st.floats(0, 1))
def test_a_quantile_lies_among_the_values(samples: list[float], q: float) -> None:
    assert min(samples) - 1e-6 <= quantile(q, samples) <= max(samples) * (1 + 1e-12) + 1e-6


@DETERMINISTIC
@given(st.floats())
def test_numbers_come_back_from_the_wire(value: float) -> None:
    text = number(value)
    raw = f'{{"status":"success","data":{{"resultType":"scalar","result":[1,"{text}"]}}}}'
    back = read_answer(raw.encode()).samples[0].value
    assert back == value or (math.isnan(back) and math.isnan(value))


@DETERMINISTIC
@given(st.text(max_size=80))
def test_any_page_is_read_or_refused(page: str) -> None:
    exposition: Exposition[str] = Exposition(lambda labels: labels["__name__"])
    try:
        exposition.read(page)
    except ExpositionError:
        pass


@DETERMINISTIC
@given(st.binary(max_size=60), st.text(max_size=60))
def test_any_bytes_are_an_answer_or_garbage(noise: bytes, text: str) -> None:
    for raw in (noise, text.encode("utf-8", "surrogatepass"), b'{"status":"success","data":' + noise + b"}"):
        try:
            read_answer(raw)
        except BackendGarbage:
            pass
