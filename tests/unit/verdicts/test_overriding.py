"""What approvals come to, and what break-glass does to gates: it stands in for a fail and nothing else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace as changed

from cockpit.base.clock import iso
from cockpit.journal.state_people import GlassView, RequestView, StatementView
from cockpit.verdicts.approvals import glass_facts, settled
from cockpit.verdicts.gates import evaluate_required, overriding
from cockpit.verdicts.gonogo import consistent
from tests.unit.verdicts.samples import NOW, facts, passing, verdict
from tests.unit.verdicts.test_gates import State, checklist

GLASS = {"perf": "glass-1"}


def failing(agent: str, **changes: Any) -> list[Any]:
    """Return the passing verdicts with one agent's failed."""
    bad = {"verdict": "fail", "outcome": "fail", "reason": "too slow", **changes}
    return [changed(one, **bad) if one.agent == agent else one for one in passing()]


def test_a_fail_is_overridden_and_stays_a_fail() -> None:
    state = State(failing("A26"))
    assert evaluate_required(state, facts(), now=NOW).gates["perf"] == "fail"
    found = evaluate_required(state, facts(overridden=GLASS), now=NOW)
    assert found.gates["perf"] == "pass"
    assert found.reasons == {"perf": "perf overridden by break-glass glass-1"}
    assert [one.verdict for one in state.gates if one.agent == "A26"] == ["fail"]


def test_a_glass_over_one_gate_says_nothing_of_another() -> None:
    found = evaluate_required(State(failing("A9")), facts(overridden=GLASS), now=NOW)
    assert (found.gates["policy"], found.gates["perf"]) == ("fail", "pass")
    assert found.reasons.keys() == {"policy"}


@pytest.mark.parametrize(
    "gates",
    [
        [one for one in passing() if one.agent != "A26"],
        [changed(one, at=iso(NOW - timedelta(days=2))) if one.agent == "A26" else one for one in passing()],
        failing("A26", at=iso(NOW - timedelta(days=2))),
        failing("A26", plan_sha256="0" * 64),
    ],
    ids=["missing", "void pass", "void fail", "about another plan"],
)
def test_what_is_missing_or_void_is_never_overridden(gates: list[Any]) -> None:
    found = evaluate_required(State(gates), facts(overridden=GLASS), now=NOW)
    assert found.gates["perf"] == "fail"


def test_an_override_that_stands_in_for_nothing_is_no_exception() -> None:
    assert overriding(State(), facts(overridden=GLASS), now=NOW) == {}
    found = checklist(overridden=GLASS)
    assert (found.go, found.exceptions) == (True, [])


def test_go_names_what_it_was_overridden_by() -> None:
    found = checklist(State(failing("A26")), overridden=GLASS)
    assert found.go, found.reasons
    assert found.exceptions == ["break-glass glass-1 overrides perf"]
    assert not consistent(found)


def test_a_glass_over_perf_answers_for_the_headroom() -> None:
    short = failing("A27", metrics={"headroom_web": 0.11})
    assert any("headroom of web" in reason for reason in checklist(State(short)).reasons)
    found = checklist(State(short), overridden=GLASS)
    assert found.go, found.reasons
    assert found.headroom == {"web": 0.11}


def test_a_glass_over_dr_answers_for_the_drill_and_only_then() -> None:
    bad = verdict("dr", "dr", "A35", verdict="fail", outcome="fail")
    more: dict[str, Any] = {
        "owing": {**facts().owing, "dr": ("A35",)},
        "required_gates": (*facts().required_gates, "dr"),
    }
    found = checklist(State([*passing(), bad]), overridden={"dr": "glass-2"}, **more)
    assert (found.go, found.drill_recent) == (True, False)
    assert not consistent(found)
    assert consistent(found.model_copy(update={"exceptions": []}))


def test_what_was_not_reviewed_in_time_is_a_no_go() -> None:
    found = checklist(glass_problems=("break-glass glass-1 over perf was not reviewed by then",))
    assert not found.go
    assert "not reviewed" in found.reasons[0]


def glass(**changes: Any) -> GlassView:
    return changed(
        GlassView(
            glass="glass-1",
            gate="perf",
            by="@ann",
            second="@bob",
            reason="x" * 20,
            expires=iso(NOW + timedelta(hours=1)),
            review_by="",
            at=iso(NOW),
        ),
        **changes,
    )


SOON, PAST = iso(NOW + timedelta(minutes=5)), iso(NOW - timedelta(minutes=5))


@pytest.mark.parametrize(
    ("changes", "overrides", "problem"),
    [
        ({}, True, ""),
        ({"expires": PAST}, False, ""),
        ({"second": ""}, False, ""),
        ({"second": "", "review_by": SOON}, True, ""),
        ({"second": "", "review_by": PAST}, True, "not reviewed"),
        ({"second": "", "review_by": PAST, "expires": PAST}, False, "not reviewed"),
        ({"second": "", "review_by": PAST, "reviewed_by": "@bob", "accepted": True}, True, ""),
        ({"second": "", "review_by": SOON, "reviewed_by": "@bob", "accepted": False}, False, ""),
    ],
)
def test_how_long_a_glass_counts(changes: dict[str, Any], overrides: bool, problem: str) -> None:
    found = glass_facts([glass(**changes)], NOW)
    assert dict(found.overridden) == (GLASS if overrides else {})
    assert [problem in one for one in found.problems] == ([True] if problem else [])


def statement(by: str, decision: str = "approve", *groups: str, counted: bool = True) -> StatementView:
    return StatementView(by, by, decision, "said", counted, "", list(groups), "", "")


def needed(threshold: int = 1, *groups: str, from_each: bool = False) -> RequestView:
    return RequestView("r", "promote", "", "", "@dee", threshold, list(groups), from_each, "none", "", "", "")


@pytest.mark.parametrize(
    ("request_", "statements", "result"),
    [
        (needed(), [], ""),
        (needed(), [statement("@ann")], "granted"),
        (needed(), [statement("@ann", counted=False)], ""),
        (needed(2), [statement("@ann"), statement("@ann")], ""),
        (needed(2), [statement("@ann"), statement("@bob")], "granted"),
        (needed(2), [statement("@ann"), statement("@bob", "reject")], "rejected"),
        (needed(2), [statement("@bob", "reject"), statement("@ann")], "rejected"),
        (needed(), [statement("@bob", "reject", counted=False)], ""),
        (needed(2, "a", "b", from_each=True), [statement("@x", "approve", "a")] * 2, ""),
        (
            needed(2, "a", "b", from_each=True),
            [statement("@x", "approve", "a"), statement("@y", "approve", "a")],
            "",
        ),
        (
            needed(2, "a", "b", from_each=True),
            [statement("@x", "approve", "a"), statement("@y", "approve", "b")],
            "granted",
        ),
        (needed(0), [], ""),
    ],
)
def test_what_statements_come_to(request_: RequestView, statements: list[StatementView], result: str) -> None:
    assert settled(request_, statements) == result
