"""Calendars that can never fail, or in which nothing could ever be promoted, are refused when loaded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.plan.test_refuse import problems

CHECK = {"metric": "p95_ms", "query": "p95(stage[{window}])", "threshold": "p95_ms<=150"}


def refused(**calendar: Any) -> list[str]:
    change = {"calendar": calendar, "window_utc": "2025-09-23 08:00 → 12:00"}
    return [field for field in problems(change) if field.startswith("calendar")]


def soak(**changes: Any) -> dict[str, Any]:
    return {"lasts": "48h", "interval": "5m", "checks": [CHECK], **changes}


def freeze(start: str, end: str, kind: str = "promotion") -> dict[str, str]:
    return {"name": "audit", "kind": kind, "start": start, "end": end}


def test_the_calendar_of_the_seed_is_taken() -> None:
    assert not [field for field in problems() if field.startswith("calendar")]
    assert refused(soak=soak()) == []


@pytest.mark.parametrize(
    ("threshold", "metric"),
    [("p95_ms", "p95_ms"), ("p95_ms>=0", "p95_ms"), ("p99_ms<=1", "p95_ms"), ("error_rate<2", "error_rate")],
)
def test_a_soak_that_cannot_fail_is_refused(threshold: str, metric: str) -> None:
    checks = [{**CHECK, "metric": metric, "threshold": threshold}]
    assert refused(soak=soak(checks=checks)) == ["calendar.soak.checks[0].threshold"]


def test_a_soak_without_a_look_or_with_one_check_twice_is_refused() -> None:
    assert refused(soak=soak(interval="49h")) == ["calendar.soak.interval"]
    assert refused(soak=soak(checks=[CHECK, CHECK])) == ["calendar.soak.checks"]


def test_a_soak_without_p4_is_refused() -> None:
    change = {"calendar": {"soak": soak()}, "phases": ["P0", "P6"]}
    assert "calendar.soak" in problems(change)


def test_a_window_in_which_prod_never_opens_is_refused() -> None:
    assert refused(freezes=[freeze("2025-09-23T07:00Z", "2025-09-23T12:00Z")]) == ["calendar"]
    assert refused(freezes=[freeze("2025-09-23T07:00Z", "2025-09-23T11:59Z")]) == []
    assert refused(freezes=[freeze("2025-09-23T07:00Z", "2025-09-23T12:00Z", "code")]) == []
    monday = {"zone": "Europe/Berlin", "days": ["mon"], "start": "10:00", "end": "12:00"}
    assert refused(windows=[monday]) == ["calendar"]
    assert refused(windows=[monday, {**monday, "days": ["tue"]}]) == []
