"""A run that did not keep its calendar is found in its journal, whatever the journal says of it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace as changed

from cockpit.base.clock import iso
from cockpit.base.errors import EvidenceError
from cockpit.evidence.calendar_check import calendar_kept
from cockpit.journal.base import Event
from cockpit.journal.events import EffectIntended, PhaseStarted
from cockpit.journal.events_people import SoakChanged
from cockpit.plan.model import Plan
from cockpit.verdicts.rules.soak import soak as rule
from tests.unit.plan.test_refuse import data

T0 = datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
SINCE = T0 - 5 * DAY
CHECK = {"metric": "p95_ms", "query": "p95(stage[{window}])", "threshold": "p95_ms<=150"}


class Stored:
    """Blobs by digest."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def keep(self, raw: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.blobs[digest] = raw
        return digest

    def get(self, digest: str) -> bytes:
        if digest not in self.blobs:
            raise EvidenceError(f"{digest} is not there")
        return self.blobs[digest]


def planned(**calendar: Any) -> Plan:
    soak = {"lasts": "4h", "interval": "1h", "checks": [CHECK]}
    given = {"soak": soak, **calendar}
    phases = ["P0", "P1", "P2", "P3", "P4", "P5", "P6"]
    change = {"calendar": given, "phases": phases, "window_utc": "2025-09-23 08:00 → 12:00"}
    return Plan.model_validate({**data(), **change})


def seen(event: Event, at: datetime) -> Any:
    return changed(event, at=iso(at))


def soaked(
    stored: Stored, state: str = "done", *, value: float = 80.0, hours: int = 4, lasts: float = 4 * 3600.0
) -> list[Any]:
    """Return the events of a soak, with the answers it rests on."""
    since, now = SINCE.timestamp(), (SINCE + hours * HOUR).timestamp()
    values = [[since + 3600.0 * (number + 1), str(value)] for number in range(hours)]
    answer = {"resultType": "matrix", "result": [{"metric": {}, "values": values}]}
    raw = json.dumps({"status": "success", "data": answer}).encode()
    checks = [{"metric": "p95_ms", "threshold": "p95_ms<=150"}]
    params = {"checks": checks, "since": since, "now": now, "step": 3600.0, "lasts": lasts}
    judged = rule({"check.p95_ms": raw}, params)
    made = {"name": "soak", "params": params, "answers": {"check.p95_ms": stored.keep(raw)}}
    blob = stored.keep(json.dumps({"format": 1, "rule": made}).encode())
    since_text, until = iso(SINCE), iso(SINCE + 4 * HOUR)
    running = SoakChanged(state="running", since=since_text, until=until, reason="")
    ended = SoakChanged(state=state, since=since_text, until=until, reason=judged.reason, blob=blob)
    return [seen(running, SINCE), seen(ended, SINCE + hours * HOUR)]


def shift(at: datetime) -> Any:
    event = EffectIntended(
        effect="e1", lane="forward", verb="shift", target="canary weight 10", env="prod", by="A1", detail=""
    )
    return seen(event, at)


def phase(name: str, at: datetime) -> Any:
    return seen(PhaseStarted(phase=name), at)


def test_a_run_that_kept_its_calendar_holds() -> None:
    stored = Stored()
    events = [
        phase("P0", T0 - 14 * DAY),
        *soaked(stored, "broken", value=900.0, hours=2),
        *soaked(stored),
        phase("P5", T0 - 3 * DAY),
        phase("P6", T0),
        shift(T0 + HOUR),
        shift(T0 + 5 * HOUR),  # what is under way may be finished, where the plan says so
    ]
    found = calendar_kept(events, planned(), stored.get)
    assert found.ok, found.detail


def test_a_plan_without_calendar_says_so() -> None:
    plan = Plan.model_validate({**data(), "calendar": None})
    assert calendar_kept([phase("P8", T0 - 99 * DAY)], plan, Stored().get).detail.endswith("no calendar")
    assert calendar_kept([], None, Stored().get).ok


def test_a_phase_before_its_day_is_found() -> None:
    found = calendar_kept([phase("P2", T0 - 11 * DAY)], planned(), Stored().get)
    assert not found.ok and "P2 began at" in found.detail


@pytest.mark.parametrize("state", ["", "running", "broken"])
def test_what_follows_the_soak_before_it_was_done_is_found(state: str) -> None:
    stored = Stored()
    events = {"": [], "running": soaked(stored)[:1], "broken": soaked(stored, "broken", value=900.0)}[state]
    found = calendar_kept([*events, phase("P5", T0)], planned(), stored.get)
    assert not found.ok and "before the soak was done" in found.detail


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"value": 900.0}, "it comes out as broken"),
        ({"value": float("nan")}, "cannot be judged|comes out as"),
        ({"hours": 3}, "it comes out as no_data"),
        ({"lasts": 3 * 3600.0}, "not judged by the plan's soak"),
    ],
)
def test_a_soak_that_was_not_done_does_not_become_done_by_saying_so(
    change: dict[str, Any], problem: str
) -> None:
    stored = Stored()
    found = calendar_kept([*soaked(stored, **change), phase("P5", T0)], planned(), stored.get)
    assert not found.ok and any(one in found.detail for one in problem.split("|"))


def test_a_soak_about_another_time_or_without_its_answers_is_found() -> None:
    stored = Stored()
    running, done = soaked(stored)
    for events, problem in (
        ([done], "not about the soak that was running"),
        ([changed(running, since=iso(SINCE + HOUR)), done], "not about the soak that was running"),
        ([running, changed(done, at=iso(SINCE + HOUR))], "a time that had not come"),
        ([running, changed(done, blob="sha256:" + "0" * 64)], "is not there"),
        ([running, changed(done, blob=stored.keep(b"[]"))], "cannot be read"),
        ([running, changed(done, reason="all good")], "it comes out as done"),
    ):
        found = calendar_kept(events, planned(), stored.get)
        assert not found.ok and problem in found.detail


def test_prod_traffic_outside_of_window_freeze_or_hours_is_found() -> None:
    freeze = {"name": "audit", "kind": "promotion", "start": iso(T0), "end": iso(T0 + HOUR)}
    hours = {"zone": "Europe/Berlin", "days": ["tue"], "start": "10:00", "end": "12:00"}
    plan = planned(soak=None, freezes=[freeze], windows=[hours])
    for at, problem in (
        (T0 - HOUR, "outside the release window"),
        (T0 + 30 * timedelta(minutes=1), "in the promotion freeze"),
        (T0 + 3 * HOUR, "outside every recurring window"),
        (T0 + HOUR, ""),
        (T0 + 2 * HOUR + timedelta(seconds=3), ""),  # permitted in time, recorded a moment after
    ):
        found = calendar_kept([shift(at)], plan, Stored().get)
        assert found.ok is not bool(problem) and problem in found.detail
