"""What is rehearsed once more: only what a busy machine ended, and only once."""

from __future__ import annotations

import pytest

from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.events_people import BreakGlassUsed
from tests.e2e.rehearsals import Again, EndedByLoad, ended_by_load

AT = "2026-01-01T00:00:00.000000Z"
SLOW = "spike: p95 of gateway is 376 ms at 36/s"


def judged(gate: str, outcome: str, reason: str = "") -> AnyEvent:
    """Return a verdict."""
    return ev.GateJudged(
        seq=0, at=AT, gate=gate, phase_gate=gate, agent="A26", phase="P1", env="prod",
        verdict="pass" if outcome == "pass" else "fail", outcome=outcome, reason=reason, metrics={},
        thresholds=[], images={}, plan_sha256="", valid_s=0, verdict_blob="",
    )  # fmt: skip


def closed(code: int = 10) -> AnyEvent:
    """Return the end of a run."""
    return ev.RunClosed(seq=0, at=AT, exit=code, outcome="", cause="")


def asked(*options: str) -> AnyEvent:
    """Return a question."""
    return ev.Question(seq=0, at=AT, question="q1", text="", options=list(options))


GLASS = BreakGlassUsed(
    seq=0,
    at=AT,
    glass="g",
    gate="policy_ci",
    by="@a",
    second="@b",
    reason="",
    expires="",
    review_by="",
    blob="",
)
STEP = ev.StepStarted(seq=0, at=AT, step=1, weight=10)


@pytest.mark.parametrize(
    ("events", "again"),
    [
        ([judged("perf", "fail", SLOW), closed()], True),
        ([judged("perf", "fail", "headroom of web is at least 0.02"), closed()], True),
        ([judged("perf", "fail", SLOW), asked("reverify", "end")], True),
        ([judged("policy_ci", "fail", "no"), GLASS, judged("perf", "fail", SLOW), closed()], True),
        ([judged("perf", "fail", SLOW)], False),
        ([judged("perf", "fail", SLOW), judged("perf", "pass"), closed()], False),
        ([judged("perf", "fail", SLOW), judged("slo", "fail", "no"), closed()], False),
        ([judged("perf", "fail", "5 % of the requests failed"), closed()], False),
        ([judged("perf", "inconclusive", SLOW), closed()], False),
        ([judged("perf", "fail", SLOW), closed(20)], False),
        ([judged("perf", "fail", SLOW), STEP, closed()], False),
        ([judged("slo", "fail", "p95 of web is 9 ms"), closed()], False),
        ([closed()], False),
        ([], False),
    ],
)
def test_only_what_a_busy_machine_ended_is_rehearsed_again(events: list[AnyEvent], again: bool) -> None:
    assert bool(ended_by_load(events)) is again


def test_it_is_rehearsed_again_once_and_said() -> None:
    again = Again()
    assert again.once("quiet", lambda number: number) == 0
    assert again.said == []

    def busy(number: int) -> int:
        if number == 0:
            raise EndedByLoad(f"fail: {SLOW}")
        return number

    assert again.once("green", busy) == 1
    (said,) = again.said
    assert "green was rehearsed twice" in said and SLOW in said

    def always(number: int) -> int:
        raise EndedByLoad(str(number))

    with pytest.raises(EndedByLoad, match="1"):
        again.once("green", always)
