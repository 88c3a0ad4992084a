"""Expressions made by rule: every function, operator and modifier with many arguments, and at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from itertools import product
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cockpit.agents.capacity import BUSY, WORKERS
from cockpit.rehearsal.pace import pace
from cockpit.rehearsal.release_plan import Endpoints, ImageTrust, build
from cockpit.rehearsal.scenarios import scenario
from cockpit.rehearsal.topology import NAMESPACES, PROD, SERVICES
from tests.contract.promql_cases import START_S

RANDOM = 600
"""How many are drawn at random; always the same ones."""

_COUNTERS = ("http_requests_total", 'http_requests_total{pod=~"b|c"}', "falling_total")
_GAUGES = ("temperature", 'temperature{pod!="d"}', "awkward")
_RATES = ("rate", "increase", "delta", "irate", "idelta", "changes", "resets")
_OVER = ("sum", "avg", "min", "max", "count", "last", "present", "stddev", "stdvar")
_RANGES = ("20s", "1m", "100s", "5m", "17m")
_OFFSETS = ("", " offset 90s", " offset -45s", f" @ {START_S + 600}", " @ start()", " @ end() offset 2m")
_AGGREGATIONS = ("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar")
_GROUPINGS = ("", " by (track)", " by (pod, code)", " without (pod)", " by (nothing)", " without ()")
_ARITHMETIC = ("+", "-", "*", "/", "%", "^")
_BASIC = ("+", "-", "*", "/")
"""Those that do not turn the last bit of a power or a logarithm into another number."""
_COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
_MATH = ("abs", "ceil", "floor", "round", "sqrt", "ln", "log2", "log10", "exp", "sgn")
_ERRORS = 'http_requests_total{code="500"}'
_GOOD = 'http_requests_total{code="200"}'


def systematic() -> tuple[str, ...]:
    """Return every function, operator and modifier with many arguments, each expression once."""
    return tuple(
        dict.fromkeys((*_over_ranges(), *_aggregated(), *_combined(), *_mapped(), *_histograms(), *_odd()))
    )


def _over_ranges() -> Iterator[str]:
    for function, selector, window in product(_RATES, (*_COUNTERS, "temperature"), ("1m", "5m", "17m")):
        yield f"{function}({selector}[{window}])"
    for function, selector, window in product(_OVER, _GAUGES, ("20s", "5m", "17m")):
        yield f"{function}_over_time({selector}[{window}])"
    for function, offset in product(("rate", "changes", "max_over_time", "count_over_time"), _OFFSETS):
        yield f"{function}(http_requests_total[5m]{offset})"
    for q, window in product(("-0.1", "0", "0.3", "0.95", "1", "1.5", "NaN"), ("1m", "17m")):
        yield f"quantile_over_time({q}, temperature[{window}])"
    for function, step in product(("max", "min", "count", "sum", "avg", "last"), ("7s", "30s", "2m")):
        yield f"{function}_over_time(rate(http_requests_total[1m])[5m:{step}])"
    yield "count_over_time(temperature[20s:])"  # the step is the server's own interval
    for offset in _OFFSETS:
        yield f"temperature{offset}"
        yield f"sum_over_time((temperature > 2)[5m:40s]{offset})"


def _aggregated() -> Iterator[str]:
    inner = ("temperature", "rate(http_requests_total[5m])", "awkward", "http_requests_total > 100")
    for op, grouping, vector in product(_AGGREGATIONS, _GROUPINGS, inner):
        yield f"{op}{grouping} ({vector})"
    for op, count, grouping in product(("topk", "bottomk"), ("0", "1", "3", "-1", "2.9"), _GROUPINGS[:4]):
        yield f"{op}{grouping} ({count}, temperature)"
    for q, grouping in product(("0", "0.25", "0.9", "1", "-1", "7"), _GROUPINGS[:4]):
        yield f"quantile{grouping} ({q}, temperature)"


def _combined() -> Iterator[str]:
    for op in (*_ARITHMETIC, *_COMPARISONS, *(f"{op} bool" for op in _COMPARISONS)):
        yield f"temperature {op} 2"
        yield f"2 {op} temperature"
        yield f"awkward {op} awkward"
        yield f"{_ERRORS} {op} ignoring (code) {_GOOD}"
        yield f"{_ERRORS} {op} on (pod) {_GOOD}"
        yield f"http_requests_total {op} on (pod) group_left () {_GOOD}"
        yield f"info {op} on (pod) group_right (version) http_requests_total"
        yield f"sum by (track) (temperature) {op} on (track) avg by (track) (temperature)"
    for op, scalars in product(
        _ARITHMETIC, ("7 {} 2", "-7 {} 2", "7 {} -2", "0 {} 0", "Inf {} NaN", "2 {} 0.5")
    ):
        yield scalars.format(op)
    for op, left, right in product(_COMPARISONS, ("1", "NaN", "Inf", "-0"), ("0", "NaN", "Inf")):
        yield f"{left} {op} bool {right}"
    sides = (("temperature", "info"), ("temperature > 3", "http_requests_total"), ("info", "missing"))
    for op, how in product(
        ("and", "or", "unless"), ("", "on (pod)", "ignoring (version)", "on ()", "ignoring ()")
    ):
        for left, right in sides:
            yield f"{left} {op} {how} {right}"
            yield f"{right} {op} {how} ({left})"


def _mapped() -> Iterator[str]:
    for function, vector in product(_MATH, ("temperature", "awkward", "-temperature", "temperature * 1e300")):
        yield f"{function}({vector})"
    for vector, bounds in product(
        ("temperature", "awkward"), ("0, 4", "4, 0", "-Inf, 2", "NaN, 2", "2, NaN")
    ):
        yield f"clamp({vector}, {bounds})"
    for vector, bound in product(("temperature", "awkward"), ("0", "-2.5", "Inf", "NaN")):
        yield f"clamp_min({vector}, {bound})"
        yield f"clamp_max({vector}, {bound})"
    for vector, nearest in product(("temperature", "awkward"), ("0.1", "3", "-2", "0", "1e-9", "NaN")):
        yield f"round({vector}, {nearest})"
    for replacement, pattern in product(
        ("$1", "x-$1-$2", "${1}y", "", "$0", "$$", "$name", "$9", "plain"),
        ("(.*)", "(c)(.*)", "can.*", "(?P<name>s.+)", "", "zzz", ".+|x"),
    ):
        yield f'label_replace(temperature, "made", "{replacement}", "track", "{pattern}")'
    for target, source in (("track", "track"), ("pod", "missing"), ("__name__", "pod"), ("track", "pod")):
        yield f'label_replace(temperature, "{target}", "n$1", "{source}", "(.*)")'
    for inner in (
        "missing",
        'missing{a="b"}',
        "temperature",
        'missing{a="b",a="c"}',
        'missing{a=~"b"}',
        "1 < bool 2",
    ):
        yield f"absent({inner if ' ' not in inner else f'vector({inner})'})"
    for inner in ("missing[5m]", 'missing{a="b",c!="d"}[5m]', "temperature[5m]", "rate(missing[1m])[5m:1m]"):
        yield f"absent_over_time({inner})"
    for inner in (
        "temperature",
        "temperature + 1",
        "(temperature)",
        "info @ end()",
        "http_requests_total offset 1m",
    ):
        yield f"timestamp({inner})"
    for inner in ("vector(3)", "temperature", 'temperature{pod="a"}', "missing", "sum(temperature)"):
        yield f"scalar({inner})"
        yield f"vector(scalar({inner}) + time())"
        yield f"sort({inner})"
        yield f"sort_desc({inner})"


def _histograms() -> Iterator[str]:
    buckets = (
        "latency_seconds_bucket",
        "rate(latency_seconds_bucket[5m])",
        "sum by (le) (rate(latency_seconds_bucket[5m]))",
        "sum by (le, track) (increase(latency_seconds_bucket[17m]))",
        "odd_bucket",
        "sum without (pod, track) (latency_seconds_bucket)",
        'latency_seconds_bucket{le!="+Inf"}',
        'latency_seconds_bucket{le=~"[+]Inf|1"}',
    )
    for q, inner in product(("-1", "0", "0.01", "0.5", "0.9", "0.95", "0.999", "1", "2", "NaN"), buckets):
        yield f"histogram_quantile({q}, {inner})"


def _odd() -> Iterator[str]:
    """Yield what is seldom written: precedence, nesting, escapes, spellings of numbers."""
    yield from ("-1 ^ 2", "2 ^ -1", "1 + 2 * 3", "(1 + 2) * 3", "10 - 4 - 3", "2 * 3 % 4", "-temperature ^ 2")
    yield from (
        "1 == bool 1 == bool 1",
        "3 > bool 2 > bool 1",
        "temperature > 1 < 5",
        "- -temperature",
        "-(-1)",
    )
    yield from ("0x1F", "1e3", ".5", "5.", "Inf", "+Inf", "-Inf", "NaN", "nan", "inf", "1e-300 * 1e-300")
    yield from ("temperature > 1 and temperature < 5 or info", "temperature or info unless temperature")
    yield from (
        '{__name__="temperature"}',
        '{__name__=~"info|temperature", pod="a"}',
        '{pod="a",__name__!="x"}',
    )
    yield from (
        'info{version="1.0"}',
        "info{version='2.0'}",
        "info{version=~`2[.]0`}",
        'info{version=~"2\\\\.0"}',
    )
    yield from ('info{pod=~"A"}', 'info{pod=~"(?i)A"}', 'info{pod=~"^a$"}', 'info{pod=~"[[:alpha:]]"}')
    yield from (
        'strange{text="quote\\"slash\\\\line\\n"}',
        'strange{text=~".*ü.*"}',
        'strange{text=~"(?s).*line.*"}',
    )
    yield from (
        "count by (text) (strange)",
        'strange{text=~".*line.*"}',
        'strange{text=~"a.b"}',
        "sum(strange) # end",
    )
    yield from (
        "sum(sum by (pod) (sum by (pod, track) (temperature)))",
        "avg(max by (pod) (rate(http_requests_total[5m])))",
    )
    yield from (
        "max_over_time(max_over_time(temperature[1m])[5m:1m])[10m:2m]",
        "temperature[5m:30s] offset 1m",
    )
    yield from (
        "SUM(temperature)",
        "sum(temperature) BY (pod)",
        "temperature AND info",
        "sum by(pod,)(temperature)",
    )


def of_the_cockpit(
    windows: tuple[str, ...] = ("1m", "2m30s", "8m"), *, bake: float | None = None
) -> tuple[str, ...]:
    """Return every query a rehearsal's plan holds or an agent makes, with its windows filled in.

    `bake`: seconds, other than the rehearsal's own.
    """
    texts = [field.name for field in dataclasses.fields(Endpoints) if field.type == "str"]
    given_to: dict[str, Any] = dict.fromkeys(texts, "http://127.0.0.1:1")
    endpoints = Endpoints(**given_to, stages=dict.fromkeys(NAMESPACES, "http://127.0.0.1:1"))
    images = {service: f"registry.example/{service}@sha256:{'a' * 64}" for service in SERVICES}
    trust = ImageTrust(identity="i", issuer="https://i", builder="b", source="s")
    quick = pace("fast") if bake is None else dataclasses.replace(pace("fast"), bake=bake)
    plan = build(endpoints, images, trust, quick, datetime(2025, 9, 23, tzinfo=UTC), scenario("green"))
    found = {text: None for text in _texts(plan) if "http_" in text or "_total" in text or "_seconds" in text}
    for track in ("stable", "canary"):
        for query in (BUSY, WORKERS):
            found[query.format(namespace=PROD, track=track, window="{window}")] = None
    return tuple(dict.fromkeys(text.replace("{window}", window) for text in found for window in windows))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            # Everything of a canary, a check, a KPI or a trigger that is asked of Prometheus.
            if name not in ("name", "metric", "threshold", "reason"):
                yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)


def _vectors() -> st.SearchStrategy[str]:
    pick = st.sampled_from
    selectors = pick((*_COUNTERS, *_GAUGES, _GOOD, _ERRORS, "info", "missing", "latency_seconds_bucket"))
    leaves = st.one_of(
        st.builds("{}{}".format, selectors, pick(_OFFSETS)),
        st.builds("{}({}[{}]{})".format, pick(_RATES), selectors, pick(_RANGES), pick(_OFFSETS)),
        st.builds("{}_over_time({}[{}])".format, pick(_OVER), selectors, pick(_RANGES)),
    )
    numbers = pick(
        ("0", "1", "-2.5", "100", "0.05", "Inf", "NaN", "(time() % 60)", "scalar(sum(temperature))")
    )
    matchings = pick(
        ("", "on (pod)", "ignoring (code)", "on (track)", "on (pod) group_left ()", "ignoring (le, code)")
    )

    def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.builds("{}{} ({})".format, pick(_AGGREGATIONS), pick(_GROUPINGS), inner),
            st.builds("({} {} {})".format, inner, pick((*_BASIC, *_COMPARISONS)), numbers),
            st.builds("({} {} bool {})".format, inner, pick(_COMPARISONS), numbers),
            st.builds("({} {} {})".format, numbers, pick(_BASIC), inner),
            st.builds("({} {} {} {})".format, inner, pick((*_BASIC, *_COMPARISONS)), matchings, inner),
            st.builds("({} {} bool {} {})".format, inner, pick(_COMPARISONS), matchings, inner),
            st.builds(
                "({} {} {} {})".format,
                inner,
                pick(("and", "or", "unless")),
                pick(("", "on (pod)", "on ()")),
                inner,
            ),
            st.builds("{}({})".format, pick((*_MATH, "-", "absent", "sort", "timestamp")), inner),
            st.builds("clamp({}, {}, {})".format, inner, numbers, numbers),
            st.builds("quantile{} ({}, {})".format, pick(_GROUPINGS), pick(("0.1", "0.5", "1")), inner),
            st.builds("histogram_quantile({}, {})".format, pick(("0.5", "0.95")), inner),
            st.builds('label_replace({}, "code", "x$1", "pod", "(.*)")'.format, inner),
            st.builds(
                "{}_over_time(({})[{}:{}])".format, pick(_OVER), inner, pick(_RANGES[1:]), pick(("25s", "1m"))
            ),
            st.builds("vector(scalar({}))".format, inner),
        )

    return st.recursive(leaves, grown, max_leaves=4)


@cache
def drawn() -> tuple[str, ...]:
    """Return expressions drawn at random, always the same ones."""
    found: dict[str, None] = {}

    @settings(
        derandomize=True,
        database=None,
        max_examples=RANDOM,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_vectors())
    def collect(expression: str) -> None:
        found.setdefault(expression)

    collect()
    return tuple(found)
