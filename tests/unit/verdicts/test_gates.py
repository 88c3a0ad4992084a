from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from cockpit.base.clock import iso
from cockpit.journal.state import GateView, PackView, RiskView
from cockpit.rpc.messages import GoNoGo
from cockpit.verdicts.gates import evaluate_required, owing_of
from cockpit.verdicts.gonogo import compute, consistent
from tests.unit.verdicts.samples import IMAGES, NOW, facts, passing, verdict


@dataclass
class State:
    gates: list[GateView] = field(default_factory=passing)
    risks: list[RiskView] = field(default_factory=list)
    packs: list[PackView] = field(
        default_factory=lambda: [PackView("promotion", "promotion.zip", "d" * 64, 7, "e" * 64)]
    )


@dataclass(frozen=True)
class PlannedRisk:
    id: str = "R-ONE"
    likelihood: str = "medium"
    impact: str = "high"
    state: str = "mitigated"


@dataclass(frozen=True)
class PlannedException:
    id: str = "X-1"
    owner: str = "@web"
    approved_by: str = "@security"
    expires: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Planned:
    target_version: str = "v3.0.0"
    headroom_target: float = 0.2
    risks: tuple[PlannedRisk, ...] = (PlannedRisk(),)
    exceptions: tuple[PlannedException, ...] = ()


@dataclass(frozen=True)
class Line:
    id: str
    phases: tuple[str, ...]
    gates: tuple[str, ...]


def results(gates: list[GateView], **changes: object) -> dict[str, str]:
    return dict(evaluate_required(State(gates), facts(**changes), now=NOW).gates)


def test_all_pass() -> None:
    assert results(passing()) == {"slo": "pass", "perf": "pass", "policy": "pass"}
    assert evaluate_required(State(), facts(), now=NOW).all_pass


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"verdict": "fail", "outcome": "no_data"}, "no_data"),
        ({"outcome": "low_traffic"}, "says pass with"),
        ({"plan_sha256": "d" * 64}, "another plan"),
        ({"images": {**IMAGES, "web": "sha256:" + "9" * 64}}, "other images"),
        ({"images": {}}, "other images"),
        ({"env": "dev"}, "about dev"),
        ({"at": iso(NOW - timedelta(days=2))}, "old"),
        ({"at": iso(NOW - timedelta(minutes=1)), "valid_s": 30.0}, "old"),
        ({"at": iso(NOW - timedelta(days=2)), "valid_s": 1e9}, "at most"),
        ({"at": iso(NOW + timedelta(hours=1))}, "future"),
        ({"at": ""}, "no time"),
        ({"metrics": {"p95_ms": 151.0, "burn": 0}}, "p95_ms is 151"),
        ({"metrics": {"burn": 0}}, "missing"),
    ],
)
def test_a_verdict_that_does_not_count_fails(change: dict[str, object], word: str) -> None:
    gates = passing()
    gates[0] = changed(gates[0], **change)
    found = evaluate_required(State(gates), facts(), now=NOW)
    assert found.gates["slo"] == "fail"
    assert word in found.reasons["slo"]
    assert found.gates["perf"] == "pass"


def test_nobody_owing_is_not_evaluated() -> None:
    assert results(passing(), required_gates=("dr",)) == {"dr": "not evaluated"}
    assert results(passing(), required_gates=("chaos",)) == {"chaos": "not evaluated"}
    assert not evaluate_required(State(), facts(required_gates=()), now=NOW).all_pass


def test_a_new_step_needs_the_verdict_of_the_step_before() -> None:
    stepwise = frozenset({"A11"})
    assert results(passing(), step=1, stepwise=stepwise)["slo"] == "pass"
    assert results(passing(), step=2, stepwise=stepwise)["slo"] == "fail"
    gates = passing()
    gates[0] = changed(gates[0], step=1)
    assert results(gates, step=2, stepwise=stepwise)["slo"] == "pass"
    assert results(gates, step=3, stepwise=stepwise)["slo"] == "fail"


def test_a_fail_in_one_environment_binds() -> None:
    gates = [*passing(), verdict("slo", "slo", "A11", env="stage", verdict="fail", outcome="fail")]
    assert results(gates)["slo"] == "fail"


def test_who_owes_what() -> None:
    roster = [
        Line("A1", ("P6", "P8"), ("all_required_gates",)),
        Line("A11", ("P1", "canary"), ("slo",)),
        Line("A54", ("P8",), ("slo",)),
        Line("A20", ("P3", "P6"), ("audit",)),
        Line("A9", ("P0",), ("policy_ci",)),
    ]
    listed = ("A1", "A11", "A54", "A20")
    assert owing_of(roster, listed=listed, due=("P0", "P1", "P8")) == {"slo": ("A11",)}
    assert owing_of(roster, listed=listed, due=("canary", "P6")) == {
        "slo": ("A11",),
        "audit": ("A20",),
        "all_required_gates": ("A1",),
    }


@given(st.data())
def test_less_or_older_or_worse_never_turns_into_a_pass(data: st.DataObject) -> None:
    agents = [("slo", "slo", "A11"), ("perf", "perf", "A26"), ("policy", "policy_ci", "A9")]
    agents += [("perf", "perf", "A27"), ("policy", "audit", "A20")]
    gates = [
        verdict(
            *agent,
            verdict=data.draw(st.sampled_from(["pass", "pass", "pass", "fail"])),
            at=iso(NOW - timedelta(hours=data.draw(st.integers(0, 30)))),
        )
        for agent in agents
        if data.draw(st.integers(0, 9))
    ]
    before = results(gates)
    removed = [one for one in gates if data.draw(st.booleans())]
    aged = [
        changed(one, at=iso(NOW - timedelta(hours=data.draw(st.integers(0, 60))) - timedelta(hours=30)))
        if data.draw(st.booleans())
        else one
        for one in gates
    ]
    agent = data.draw(st.sampled_from(agents))
    worse = [*gates, verdict(*agent, env="stage", verdict="fail", outcome="fail")]
    for after in (results(removed), results(aged), results(worse)):
        for gate, result in after.items():
            assert result != "pass" or before[gate] == "pass"
    failed = next(
        gate for gate, parts in (("slo", "slo"), ("perf", "perf"), ("policy", "policy")) if parts == agent[0]
    )
    assert results(worse)[failed] == "fail"


def checklist(state: State | None = None, plan: Planned | None = None, **changes: object) -> GoNoGo:
    return compute(state or State(), plan or Planned(), facts(**changes), now=NOW)


def test_go() -> None:
    found = checklist()
    assert found.go, found.reasons
    assert found.headroom == {"api": 0.27, "web": 0.31}
    assert found.drill_recent is None
    assert found.evidence_signed
    assert not consistent(found)


@pytest.mark.parametrize(
    ("state", "plan", "word"),
    [
        (State(gates=[]), Planned(), "gate slo"),
        (State(packs=[]), Planned(), "not sealed"),
        (State(packs=[PackView("promotion", "p", "d" * 64, -1, "")]), Planned(), "not sealed"),
        (State(packs=[PackView("closing", "p", "d" * 64, 1, "e")]), Planned(), "not sealed"),
        (State(), Planned(headroom_target=0.3), "headroom of api"),
        (State(risks=[RiskView("R-ONE", "open", "high", "", "")]), Planned(), "R-ONE"),
        (State(risks=[RiskView("R-TWO", "open", "", "", "")]), Planned(), "R-TWO"),
        (State(), Planned(risks=(PlannedRisk(state="open"),)), "R-ONE"),
        (State(), Planned(exceptions=(PlannedException(approved_by=""),)), "not approved"),
        (State(), Planned(exceptions=(PlannedException(approved_by="@web"),)), "own owner"),
        (State(), Planned(exceptions=(PlannedException(expires=NOW),)), "expired"),
    ],
)
def test_no_go(state: State, plan: Planned, word: str) -> None:
    found = checklist(state, plan)
    assert not found.go
    assert any(word in reason for reason in found.reasons), found.reasons
    assert not consistent(found)


def test_an_open_low_risk_is_listed() -> None:
    found = checklist(State(risks=[RiskView("R-ONE", "open", "medium", "", "")]))
    assert found.go
    assert found.risk_open == ["R-ONE"]


def test_unknown_headroom_is_a_no_go() -> None:
    gates = [changed(one, metrics={}) if one.agent == "A27" else one for one in passing()]
    assert "the headroom is not known" in checklist(State(gates)).reasons


def test_a_required_drill_must_be_proven() -> None:
    drill = verdict("dr", "dr", "A35", metrics={"drill_age_s": 3 * 86400.0})
    owing = {**facts().owing, "dr": ("A35",)}
    required = (*facts().required_gates, "dr")
    found = checklist(State([*passing(), drill]), owing=owing, required_gates=required)
    assert found.go, found.reasons
    assert found.drill_recent is True
    old = changed(drill, metrics={"drill_age_s": 15 * 86400.0})
    for gates in ([*passing(), old], [*passing(), changed(drill, metrics={})]):
        found = checklist(State(gates), owing=owing, required_gates=required)
        assert (found.go, found.drill_recent) == (False, False)


def test_a_checklist_that_contradicts_itself() -> None:
    found = checklist(State(packs=[]))
    assert consistent(found.model_copy(update={"go": True}))
    assert consistent(found.model_copy(update={"reasons": []}))
