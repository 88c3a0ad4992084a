from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cockpit.verdicts.analysis import Look, judge_look, look_of, rule_look, weight_agrees
from cockpit.verdicts.questions import (
    error_answer,
    look_document,
    look_params,
    queries_for,
    stable_names,
    window_text,
)
from tests.unit.verdicts.samples import AT, buckets, canary, cumulative, good, one, vector

NAN = float("nan")
SLOW = (0.0, 150.0, 90.0, 8.0, 2.0, 100.0, 50.0, 0.0)


def judge(changes: Mapping[str, bytes | None] | None = None, **options: Any) -> Look:
    answers = good()
    for name, raw in (changes or {}).items():
        if raw is None:
            del answers[name]
        else:
            answers[name] = raw
    values: dict[str, Any] = {"window_s": 8.0, "weight": 10, "now": AT, **options}
    return judge_look(values.pop("canary", canary()), answers, **values)


def test_a_healthy_look_passes() -> None:
    look = judge()
    assert (look.outcome, look.critical) == ("pass", False)
    assert look.requests == 400
    assert look.metrics["p95_ms"] == 80
    assert look.metrics["burn"] == 0
    assert look.burn == {"8s": 0.0, "2s": 0.0}
    assert look.thresholds == ("p95_ms<=150", "error_rate<0.01", "ingest_lag_s<60", "burn==0")


@pytest.mark.parametrize(
    ("changes", "critical", "word"),
    [
        ({"check.p95_ms": one(151)}, True, "p95_ms is 151"),
        ({"check.ingest_lag_s": one(60)}, False, "ingest_lag_s is 60"),
        ({"check.p95_ms": vector(({"s": "a"}, 10), ({"s": "b"}, 900))}, True, "p95_ms is 900"),
        ({"baseline.errors.canary": one(30)}, True, "errors is worse than on stable"),
        ({"baseline.latency.canary": buckets(cumulative(SLOW))}, True, "latency is worse"),
        ({"burn.long.0.errors": one(5), "burn.short.0.errors": one(5)}, True, "burn-rate"),
    ],
)
def test_each_look_can_fail(changes: dict[str, bytes | None], critical: bool, word: str) -> None:
    look = judge(changes)
    assert (look.outcome, look.critical) == ("fail", critical)
    assert word in look.reason


def test_one_window_alone_does_not_fire() -> None:
    assert judge({"burn.long.0.errors": one(5)}).outcome == "pass"
    assert judge({"burn.short.0.errors": one(5)}).outcome == "pass"


@pytest.mark.parametrize("name", sorted(good()))
@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (error_answer("timeout", "no answer within 2 s"), "provider_error"),
        (b"", "provider_error"),
        (b"<html>502</html>", "provider_error"),
        (b'{"status":"error","errorType":"timeout","error":"query timed out"}', "provider_error"),
        (vector(({}, 1.0), warnings=["a store did not answer"]), "provider_error"),
        (one(1.0, at=AT - 11), "provider_error"),
        (one(1.0, at=AT + 11), "provider_error"),
        (None, "provider_error"),
        (vector(), "no_data"),
        (one(NAN), "no_data"),
    ],
)
def test_no_answer_less_than_whole_can_pass(name: str, raw: bytes | None, outcome: str) -> None:
    if raw is not None and name.startswith("baseline.latency") and raw == one(NAN):
        raw = buckets({0.1: NAN, float("inf"): NAN})
    assert judge({name: raw}).outcome == outcome


def test_a_proven_breach_stands_beside_an_error() -> None:
    look = judge({"check.p95_ms": one(900), "check.error_rate": error_answer("http", "502")})
    assert (look.outcome, look.critical) == ("fail", True)
    assert "p95_ms" in look.reason


def test_a_threshold_proves_nothing_while_traffic_is_unknown() -> None:
    look = judge({"check.p95_ms": one(900), "requests": error_answer("http", "502")})
    assert look.outcome == "provider_error"


def test_too_little_traffic_holds() -> None:
    few = {"requests": one(49), "check.p95_ms": one(900), "check.error_rate": one(NAN)}
    look = judge(few)
    assert (look.outcome, look.critical) == ("low_traffic", False)
    assert "49 requests" in look.reason
    quiet = {name: one(NAN) for name in ("check.p95_ms", "check.error_rate")}
    assert judge({**quiet, "requests": one(0), "burn.long.0.total": one(0)}).outcome == "low_traffic"


def test_a_baseline_proves_a_breach_at_any_traffic() -> None:
    look = judge(
        {
            "requests": one(20),
            "baseline.errors.canary": one(20),
            "baseline.errors.canary_total": one(20),
        }
    )
    assert (look.outcome, look.critical) == ("fail", True)


def test_too_little_traffic_on_stable_holds() -> None:
    look = judge({"baseline.errors.stable_total": one(10), "baseline.errors.stable": one(0)})
    assert look.outcome == "low_traffic"
    assert "stable" in look.reason


def test_a_series_that_vanished_is_a_fail() -> None:
    look = judge({"check.p95_ms": vector()}, seen_before=("check.p95_ms",))
    assert (look.outcome, look.critical) == ("fail", False)
    assert "vanished" in look.reason


def test_at_100_percent_stable_is_compared_as_it_last_was() -> None:
    old = {
        name: good()[name].replace(str(AT).encode(), str(AT - 100).encode())
        for name in stable_names(canary())
    }
    assert judge(old, weight=100, carried=stable_names(canary())).outcome == "pass"
    assert judge(old, weight=100).outcome == "provider_error"
    assert judge(old, weight=50, carried=stable_names(canary())).outcome == "provider_error"
    assert (
        judge({"check.p95_ms": one(1, at=AT - 100)}, weight=100, carried=("check.p95_ms",)).outcome != "pass"
    )


def test_more_than_one_number_is_not_guessed_at() -> None:
    assert judge({"requests": vector(({"a": "1"}, 400), ({"a": "2"}, 1))}).outcome == "provider_error"
    assert judge({"baseline.latency.canary": one(3)}).outcome == "provider_error"


@given(st.dictionaries(st.sampled_from(sorted(good())), st.binary(max_size=60), min_size=1))
def test_garbage_never_passes_and_never_raises(garbage: dict[str, bytes]) -> None:
    assert judge(garbage).outcome in ("fail", "provider_error")


def test_queries_have_their_window() -> None:
    queries = queries_for(canary(), 7.5)
    assert queries["requests"] == "sum(increase(requests[7500ms]))"
    assert queries["burn.short.0.total"] == "bt[2s]"
    assert set(queries) == set(good())
    assert set(queries_for(canary(), 8, weight=100)) == set(good()) - set(stable_names(canary()))
    assert not any("{window}" in text for text in queries.values())


@pytest.mark.parametrize(("seconds", "text"), [(8, "8s"), (0.5, "500ms"), (90.0, "90s"), (1.2345, "1234ms")])
def test_windows_are_promql(seconds: float, text: str) -> None:
    assert window_text(seconds) == text


def test_a_stored_look_is_judged_again() -> None:
    params = look_params(canary(), window_s=8, weight=10, now=AT)
    stored = json.loads(look_document(params, dict.fromkeys(good(), "sha256:" + "0" * 64), {}))
    assert look_of(good(), stored["rule"]["params"]) == judge()
    judgement = rule_look(good(), stored["rule"]["params"])
    assert judgement.passed
    assert judgement.metrics["burn_8s"] == 0.0


@pytest.mark.parametrize(
    ("share", "weight", "agrees"),
    [
        (0.1, 10, True), (0.06, 10, True), (0.0, 10, False), (0.04, 10, False), (0.21, 10, False),
        (0.55, 50, True), (0.39, 50, False), (1.0, 100, True), (0.0, 0, True), (0.01, 0, False),
        (None, 10, False), (NAN, 10, False),
    ],
)  # fmt: skip
def test_the_observed_weight(share: float | None, weight: int, agrees: bool) -> None:
    assert weight_agrees(share, weight, 0.1) is agrees
