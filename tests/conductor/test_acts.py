"""Policy over what people do: asked before it counts, recorded, and in the way when it says no or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio

from cockpit.backends.policy_engine import EmbeddedEngine
from cockpit.base.errors import BackendUnreachable
from cockpit.conductor.acts import ActPolicy
from cockpit.conductor.control import ControlServer
from cockpit.conductor.decider import Decider
from cockpit.conductor.facts import FactsOfRelease
from cockpit.conductor.people import People
from cockpit.conductor.recorder import Recorder
from cockpit.control.client import ControlClient
from cockpit.journal.events import HaltEnded, Question
from cockpit.journal.events_people import (
    ApprovalReceived,
    ApprovalSettled,
    BreakGlassRefused,
    BreakGlassUsed,
    PolicyDecided,
    StepUpSeen,
)
from cockpit.journal.state_people import RequestView
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.verdicts.policy_decision import Decision
from tests.conductor.support import FastClock, ToldPolicy, events, gate_of, plan_of, recording, until
from tests.conductor.test_approvals import REASON, desks_of, room
from tests.contract.approval_support import PLAN, approvals

RESUMES: tuple[Literal["resume", "answer"], ...] = ("resume", "answer")
WHY = "the error budget is whole again"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer() as running:
        yield running


class Dead:
    """An engine nobody reaches."""

    name, path = "opa", "p/decision"

    async def decide(self, document: Any) -> Decision:
        """Do not answer."""
        raise BackendUnreachable("connection refused", where="policy")


def policy_of(recorder: Recorder, engine: Any = None, **plan: Any) -> ActPolicy:
    clock = FastClock()
    made = plan_of(clock, approvals=approvals().model_dump(mode="json"), rehearsal=False, **plan)
    decider = Decider(engine or EmbeddedEngine(deadline=20.0), recorder, deadline=20.0)
    return ActPolicy(decider, FactsOfRelease(made, PLAN, recorder, clock))


async def shown(recorder: Recorder, who: str) -> None:
    """Record a second factor somebody has just shown."""
    await recorder.record(StepUpSeen(by=who, method="totp", ok=True, reason=""))


# -- what is asked -------------------------------------------------------------------------------------


async def test_the_built_in_policy_decides_who_may_end_a_halt(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        policy = policy_of(recorder)
        assert "cem may not resume" in (await policy.resume("cem", WHY)).replace("@", "")
        assert "somebody may not resume" in await policy.resume("somebody", WHY)
        assert "step_up_mfa" in await policy.resume("ann", WHY)
        await shown(recorder, "@ann")
        assert "reason_for_access" in await policy.resume("ann", "why")
        assert await policy.resume("@ann", WHY) == ""
        decided = [(e.action, e.allow, e.unmet) for e in await events(recorder, PolicyDecided)]
        assert decided == [
            ("resume", False, []),
            ("resume", False, []),
            ("resume", True, ["step_up_mfa"]),
            ("resume", True, ["reason_for_access"]),
            ("resume", True, []),
        ]


async def test_break_glass_waits_for_its_second_person_and_no_longer(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        policy = policy_of(recorder)
        assert "dee may not break-glass" in (await policy.break_glass("@dee", WHY)).replace("@", "")
        assert "step_up_mfa" in await policy.break_glass("@ann", WHY)
        at = FastClock(1).now()
        assert "no second factor" in await policy.glass_broken("@ann", WHY, second="@cem", at=at)
        await shown(recorder, "@ann")
        assert await policy.break_glass("@ann", WHY) == ""
        # Shown again since they asked, which they could not have without one: fresher than what is asked for.
        assert await policy.glass_broken("@ann", WHY, second="@cem", at=at) == ""
        now = FastClock(1).now()
        assert "second_person" in await policy.glass_broken("@ann", WHY, second="", at=now)
        assert "second_person" in await policy.glass_broken("@ann", WHY, second="@ann", at=now)
        assert await policy.glass_broken("@ann", WHY, second="@cem", at=now) == ""


def waiting(asked: str) -> RequestView:
    """Return a request nobody has signed yet."""
    return RequestView(
        request=f"{asked}-1", asked=asked, subject="", text="", requester="@dee", threshold=1, groups=[],
        from_each=False, step_up="none", expires="", blob="", at="",
    )  # fmt: skip


async def test_the_built_in_policy_decides_who_may_approve_what(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        policy = policy_of(recorder)
        assert await policy.approve(waiting("promote"), "@ann", "") == ""
        assert "may not approve" in await policy.approve(waiting("promote"), "@dee", WHY)
        assert "may not approve" in await policy.approve(waiting("promote"), "@eve", WHY)
        # Approving break-glass is elevated: a reason, and a second factor besides.
        elevated = await policy.approve(waiting("break-glass"), "@cem", "yes")
        assert "step_up_mfa" in elevated and "reason_for_access" in elevated and "cockpit step-up" in elevated
        await shown(recorder, "@cem")
        assert await policy.approve(waiting("break-glass"), "@cem", WHY) == ""


async def test_an_engine_that_does_not_answer_stands_in_the_way_of_each(tmp_path: Path) -> None:
    async with recording(tmp_path) as recorder:
        policy = policy_of(recorder, Dead())
        now = FastClock(1).now()
        for said in (
            await policy.resume("ann", WHY),
            await policy.approve(waiting("promote"), "@ann", WHY),
            await policy.break_glass("@ann", WHY),
            await policy.glass_broken("@ann", WHY, second="@cem", at=now),
        ):
            assert said == "policy: policy unreachable: policy: connection refused"
        decided = await events(recorder, PolicyDecided)
        assert [(e.action, e.allow) for e in decided] == [
            ("resume", False),
            ("approve", False),
            ("break-glass", False),
            ("break-glass", False),
        ]


# -- ending a HALT -------------------------------------------------------------------------------------


class Slow(ToldPolicy):
    """A policy that takes its time over a resume."""

    def __init__(self) -> None:
        super().__init__()
        self.may = asyncio.Event()

    async def resume(self, by: str, reason: str) -> str:
        """Wait, then say nothing against it."""
        said = await super().resume(by, reason)
        await self.may.wait()
        return said


async def halted(
    folder: Path, policy: ToldPolicy, do: Callable[[ControlClient, People, Recorder], Any]
) -> Any:
    """Halt a run over its control socket, and do something to it."""
    async with asyncio.timeout(30), recording(folder) as recorder:
        people = People(
            effects=gate_of(recorder), recorder=recorder, clock=FastClock(), on_halt="ask", bound=1e6,
            unattended=False,
        )  # fmt: skip
        control = ControlServer(folder, people, may_resume=policy.resume)
        await control.start()
        client = ControlClient(folder, source="tui", by="ann")
        try:
            await client.connect()
            await client.send("halt")
            watching = asyncio.ensure_future(people.watch_halts())
            try:
                return await do(client, people, recorder)
            finally:
                watching.cancel()
                await asyncio.wait((watching,))
        finally:
            await client.close()
            await control.stop()


def question(recorder: Recorder) -> str:
    waiting = [one.question for one in recorder.state().questions if not one.answer]
    return waiting[-1] if waiting else ""


@pytest.mark.parametrize("kind", RESUMES)
@pytest.mark.parametrize("against", ["", "policy: policy denies resume: ann may not resume in prod"])
async def test_a_halt_ends_only_where_policy_allows_it(
    tmp_path: Path, kind: Literal["resume", "answer"], against: str
) -> None:
    policy = ToldPolicy({"resume": against})

    async def go_on(client: ControlClient, people: People, recorder: Recorder) -> None:
        asked = await until(lambda: question(recorder))
        reply = await client.send(kind, question=asked, answer="resume", reason=WHY)
        assert (reply.ok, people.halted) == (not against, bool(against))
        assert against in reply.text
        assert policy.asked == [("resume", "ann", WHY)]
        assert len(await events(recorder, HaltEnded)) == (0 if against else 1)
        if against:  # the way back is never barred
            asked = await until(lambda: question(recorder))
            assert (await client.send("answer", question=asked, answer="rollback", reason="")).ok
            assert len(policy.asked) == 1

    await halted(tmp_path, policy, go_on)


async def test_nobody_is_asked_about_what_is_no_resume(tmp_path: Path) -> None:
    policy = ToldPolicy()

    async def others(client: ControlClient, people: People, recorder: Recorder) -> None:
        assert "reason" in (await client.send("resume", reason=" ")).text
        asked = await until(lambda: question(recorder))
        assert (await client.send("answer", question=asked, answer="stay", reason=WHY)).ok
        assert (await client.send("rollback", reason=WHY)).ok
        assert policy.asked == [] and len(await events(recorder, Question)) >= 1

    await halted(tmp_path, policy, others)


async def test_a_halt_that_comes_while_policy_is_asked_holds(tmp_path: Path) -> None:
    policy = Slow()

    async def again(client: ControlClient, people: People, recorder: Recorder) -> None:
        resuming = asyncio.ensure_future(client.send("resume", reason=WHY))
        await until(lambda: policy.asked)
        people.halt("bob", "key", "not yet")
        policy.may.set()
        reply = await resuming
        assert (reply.ok, people.halted, "another HALT" in reply.text) == (False, True, True)

    await halted(tmp_path, policy, again)


# -- approving, and breaking the glass -----------------------------------------------------------------

NO = "policy: policy denies approve: it is Friday"


async def test_an_approval_policy_denies_does_not_count_and_is_on_record(
    tmp_path: Path, server: SigstoreServer
) -> None:
    policy = ToldPolicy({"approve": NO})
    async with room(tmp_path, server, policy=policy) as made:
        await made.approvals.ask("promote", {"promotion pack": "cd" * 32}, "promote", "@dee")
        request = await made.asked()
        assert await made.says("ann", request) == NO
        (received,) = await events(made.recorder, ApprovalReceived)
        assert (received.counted, received.problem, received.by) == (False, NO, "@ann")
        assert await events(made.recorder, ApprovalSettled) == []
        policy.against.clear()
        assert await made.says("ann", request) == ""
        (settled,) = await events(made.recorder, ApprovalSettled)
        assert (settled.result, settled.by) == ("granted", ["@ann"])


async def test_a_rejection_asks_nobody(tmp_path: Path, server: SigstoreServer) -> None:
    policy = ToldPolicy({"approve": NO})
    async with room(tmp_path, server, policy=policy) as made:
        await made.approvals.ask("promote", {"promotion pack": "cd" * 32}, "promote", "@dee")
        assert await made.says("ann", await made.asked(), "reject") == ""
        assert policy.asked == []


async def test_break_glass_counts_only_where_policy_allows_it(tmp_path: Path, server: SigstoreServer) -> None:
    policy = ToldPolicy({"break_glass": NO})
    async with room(tmp_path, server, policy=policy) as made:
        await made.failed()
        assert await made.breaks() == NO
        (refused,) = await events(made.recorder, BreakGlassRefused)
        assert (refused.problem, made.approvals.open()) == (NO, ())
        policy.against = {"glass_broken": NO}
        assert await made.breaks() == ""
        assert await made.says("cem", await made.asked()) == ""
        assert [e.problem for e in await events(made.recorder, BreakGlassRefused)] == [NO, NO]
        assert await events(made.recorder, BreakGlassUsed) == []
        assert not made.glass.facts().overridden
        policy.against = {}
        assert await made.breaks() == ""
        assert await made.says("cem", await made.asked()) == ""
        assert len(await events(made.recorder, BreakGlassUsed)) == 1
        assert policy.asked[-1] == ("glass_broken", "@ann", REASON, "@cem")


async def test_break_glass_under_the_built_in_policy_from_asking_to_use(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server) as bare:
        facts = FactsOfRelease(bare.plan, PLAN, bare.recorder, bare.clock)
        decider = Decider(EmbeddedEngine(deadline=20.0), bare.recorder, deadline=20.0)
        desks = desks_of(bare.plan, bare.recorder, bare.clock, server, policy=ActPolicy(decider, facts))
        made = replace(bare, desks=desks)
        await made.failed()
        assert "no second factor" in await made.breaks()
        for who in ("@ann", "@cem"):
            await shown(made.recorder, who)
        made.clock.advance(2)
        assert await made.breaks() == ""
        assert await made.says("cem", await made.asked()) == ""
        (used,) = await events(made.recorder, BreakGlassUsed)
        assert (used.by, used.second) == ("@ann", "@cem")
        decided = [(e.action, e.allow, sorted(e.unmet)) for e in await events(made.recorder, PolicyDecided)]
        assert decided == [
            ("break-glass", True, ["second_person", "step_up_mfa"]),
            ("break-glass", True, ["second_person"]),
            ("approve", True, []),
            ("break-glass", True, []),
        ]
