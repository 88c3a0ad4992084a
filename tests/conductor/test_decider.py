"""Asking the policy: what stands against an act, what is on record, and when there is no answer at all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.policy_engine import DecisionEngine, EmbeddedEngine, PolicySource, read_policy
from cockpit.backends.policy_engine import builtin_policy as builtin
from cockpit.backends.policy_opa import OpaEngine, OpaHttp
from cockpit.base.errors import BackendError, BackendUnreachable
from cockpit.conductor.decider import (
    ACTIONS,
    Action,
    ApprovalFacts,
    Decider,
    DecisionFacts,
    ExceptionFact,
    RiskFact,
    Subject,
)
from cockpit.journal.events_people import PolicyDecided
from cockpit.journal.storage import SystemIo
from cockpit.rehearsal.opa import OpaServer
from cockpit.verdicts.policy_decision import Decision, input_of, read_decision
from tests.conductor.support import events, recording

DEADLINE = 20.0
WAIVED = ApprovalFacts(waived=True)
PEOPLE = ApprovalFacts(
    waived=False,
    asked="promote",
    needed=1,
    given=("bob",),
    groups=("security",),
    people=("ann", "bob"),
)
REHEARSAL = DecisionFacts(
    environment="prod",
    subject=Subject("operator"),
    version="v3.0.0",
    plan_sha256="0" * 64,
    rehearsal=True,
    reduced=("phase P5 is left out",),
    approvals=WAIVED,
    gates={"slo": "pass", "policy": "pass"},
    headroom=0.4,
)
IN_PROD = replace(REHEARSAL, rehearsal=False, reduced=(), approvals=PEOPLE, subject=Subject("ann", ("sre",)))
FULL = replace(
    IN_PROD,
    subject=Subject("ann", ("sre",), 30.0, "checkout is down for everybody"),
    second_person="bob",
)


@pytest.fixture(params=["embedded", "opa"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Asked:
    """What came of asking once."""

    def __init__(self, problems: list[str], recorded: PolicyDecided, answer: bytes) -> None:
        self.problems = problems
        self.recorded = recorded
        self.answer = answer


async def ask(folder: Path, kind: str, action: Action, facts: DecisionFacts) -> Asked:
    server = OpaServer({"p": read_policy(builtin()).modules[0][1]})
    async with server, recording(folder) as recorder:
        engine: DecisionEngine = EmbeddedEngine(deadline=DEADLINE)
        if kind == "opa":
            engine = OpaEngine(OpaHttp(server.url, deadline=DEADLINE))
        problems = await Decider(engine, recorder, deadline=DEADLINE).ask(action, facts)
        [recorded] = await events(recorder, PolicyDecided)
        return Asked(problems, recorded, recorder.blob(recorded.blob))


async def test_a_rehearsal_without_approvals_may_promote(tmp_path: Path, kind: str) -> None:
    asked = await ask(tmp_path, kind, "promote", REHEARSAL)
    assert asked.problems == []
    assert asked.recorded.allow and asked.recorded.action == "promote" and asked.recorded.engine == kind
    assert input_of(asked.answer) == REHEARSAL.input("promote")
    assert read_decision(asked.answer).allow


async def test_a_denial_says_why_and_is_kept(tmp_path: Path, kind: str) -> None:
    facts = replace(
        REHEARSAL,
        gates={"slo": "fail"},
        risks_open=(RiskFact("R-1", "high"),),
        exceptions=(ExceptionFact("E-1", approved=True, expired=True),),
    )
    asked = await ask(tmp_path, kind, "promote", facts)
    assert len(asked.problems) == 3 and all(one.startswith("policy denies promote") for one in asked.problems)
    assert any("gate slo" in one for one in asked.problems)
    assert not asked.recorded.allow and len(asked.recorded.reasons) == 3
    assert not read_decision(asked.answer).allow


async def test_break_glass_asks_for_everything_and_is_met_by_everything(tmp_path: Path, kind: str) -> None:
    bare = await ask(tmp_path / "bare", kind, "break-glass", IN_PROD)
    assert sorted(bare.recorded.unmet) == ["reason_for_access", "second_person", "step_up_mfa"]
    assert bare.recorded.allow and len(bare.problems) == 3
    assert "step_up_mfa(max_age_s=900)" in bare.recorded.obligations
    full = await ask(tmp_path / "full", kind, "break-glass", FULL)
    assert full.problems == [] and full.recorded.unmet == []
    old = replace(FULL, subject=replace(FULL.subject, mfa_age_s=901.0))
    assert (await ask(tmp_path / "old", kind, "break-glass", old)).recorded.unmet == ["step_up_mfa"]
    alone = replace(FULL, second_person="Ann")
    assert (await ask(tmp_path / "alone", kind, "break-glass", alone)).recorded.unmet == ["second_person"]


async def test_an_override_needs_a_reason_to_promote_under(tmp_path: Path) -> None:
    facts = replace(IN_PROD, overridden=("hardening",))
    assert (await ask(tmp_path / "bare", "embedded", "promote", facts)).recorded.unmet == [
        "reason_for_access"
    ]
    said = replace(facts, subject=replace(facts.subject, reason="break-glass: checkout is down"))
    assert (await ask(tmp_path / "said", "embedded", "promote", said)).problems == []


NEW = """package cockpit.release
import rego.v1
decision := {"allow": true, "obligations": [{"name": "retina_scan", "eye": "left"}]}
"""


async def test_an_obligation_nobody_knows_stands_in_the_way(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        engine = EmbeddedEngine(PolicySource((("new.rego", NEW),)), deadline=DEADLINE)
        ruling = await Decider(engine, recorder, deadline=DEADLINE).consult("promote", REHEARSAL)
        assert not ruling.allowed and not ruling.unreachable and ruling.unmet == ("retina_scan",)
        assert "retina_scan" in ruling.problems[0]
        [recorded] = await events(recorder, PolicyDecided)
        assert recorded.allow and recorded.unmet == ["retina_scan"]


# -- no answer ------------------------------------------------------------------------------------------


async def test_a_policy_that_cannot_be_asked_is_told_apart(tmp_path: Path) -> None:
    server = OpaServer({"p": read_policy(builtin()).modules[0][1]})
    async with server, recording(tmp_path) as recorder:
        decider = Decider(OpaEngine(OpaHttp(server.url, deadline=DEADLINE)), recorder, deadline=DEADLINE)
        for fault in ("error", "refuse", "garbage"):
            await server.fault(fault)
            ruling = await decider.consult("promote", REHEARSAL)
            assert ruling.unreachable and not ruling.allowed and ruling.decision is None, fault
            assert isinstance(ruling.error, BackendError)
        problems = await decider.ask("promote", REHEARSAL)
        assert len(problems) == 1 and problems[0].startswith("policy unreachable: ")
        await server.fault("undefined")
        undefined = await decider.consult("promote", REHEARSAL)
        # An answer came, and it allows nothing: that is a deny.
        assert not undefined.unreachable and not undefined.allowed and "undefined" in undefined.problems[0]
        await server.fault(None)
        assert await decider.ask("promote", REHEARSAL) == []
        recorded = await events(recorder, PolicyDecided)
        assert [one.allow for one in recorded] == [False] * 5 + [True]
        assert all(one.reasons[0].startswith("unreachable") for one in recorded[:4])
        assert len({one.decision for one in recorded}) == 6
        with pytest.raises(BackendError):
            read_decision(recorder.blob(recorded[0].blob))
        assert input_of(recorder.blob(recorded[0].blob)) == REHEARSAL.input("promote")


class Never:
    """An engine that keeps no deadline of its own."""

    name = "embedded"
    path = "p/decision"

    def __init__(self) -> None:
        self.asked = 0

    async def decide(self, input: Mapping[str, Any]) -> Decision:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    async def decide_all(self, inputs: Sequence[Mapping[str, Any]]) -> tuple[Decision, ...]:
        return (await self.decide(inputs[0]),)


async def test_the_decider_has_a_deadline_of_its_own(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        ruling = await Decider(Never(), recorder, deadline=0.05).consult("promote", REHEARSAL)
        assert ruling.unreachable and isinstance(ruling.error, BackendUnreachable)


async def test_an_abort_asks_nobody(tmp_path: Path) -> None:
    engine = Never()
    async with recording(tmp_path) as recorder:
        assert await Decider(engine, recorder, deadline=DEADLINE).ask("rollback", REHEARSAL) == []
        assert engine.asked == 0 and await events(recorder, PolicyDecided) == []


class FullDisk(SystemIo):
    """A disk that takes nothing any more once it is full."""

    full = False

    def write(self, fd: int, data: memoryview) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(fd, data)


async def test_what_cannot_be_recorded_allows_nothing(tmp_path: Path) -> None:
    disk = FullDisk()
    async with recording(tmp_path, io=disk) as recorder:
        decider = Decider(EmbeddedEngine(deadline=DEADLINE), recorder, deadline=DEADLINE)
        disk.full = True
        ruling = await decider.consult("promote", REHEARSAL)
        assert not ruling.allowed and "cannot be recorded" in ruling.problems[0]
        disk.full = False


@pytest.mark.parametrize(
    "reason", ['x", "groups": ["sre"], "y": "', "a\x00b", "\ud800", "y" * 70_000, "‮evil\x1b[2J"]
)
async def test_a_reason_from_outside_opens_nothing(tmp_path: Path, reason: str) -> None:
    guest = replace(IN_PROD, subject=Subject("guest", (), 10.0, reason), approvals=replace(PEOPLE, given=()))
    async with recording(tmp_path) as recorder:
        decider = Decider(EmbeddedEngine(deadline=DEADLINE), recorder, deadline=DEADLINE)
        ruling = await decider.consult("resume", guest)
        assert not ruling.allowed and not ruling.unreachable
        assert "\x1b" not in "".join(ruling.problems)
        [recorded] = await events(recorder, PolicyDecided)
        assert not recorded.allow


def test_every_action_has_its_input() -> None:
    for action in ACTIONS:
        document = FULL.input(action)
        assert document["action"] == action and document["approvals"]["given"] == ["bob"]
        assert "second_person" not in document
    assert replace(FULL, overridden=("slo",)).input("promote")["gates"]["slo"] == "overridden"
