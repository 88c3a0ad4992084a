"""Approvals and break-glass over a journal on disk, signed against the Sigstore stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyotp
import pytest
import pytest_asyncio

from cockpit.base.clock import VirtualClock, iso
from cockpit.base.tasks import alongside
from cockpit.composing import checker_of_logins
from cockpit.conductor.acts import PolicyOnPeople
from cockpit.conductor.approvals import FOLDER, ApprovalDesk, Grant
from cockpit.conductor.breakglass import BreakGlassDesk
from cockpit.conductor.checker import SigstoreChecker
from cockpit.conductor.control import ControlServer
from cockpit.conductor.desks import Desks
from cockpit.conductor.ending import (
    ApprovalExpired,
    ApprovalMissing,
    ApprovalRejected,
    exit_before_traffic,
)
from cockpit.conductor.people import People
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.step_up import StepUpDesk
from cockpit.control.client import ControlClient
from cockpit.evidence.statements import read_request
from cockpit.journal.events import GateJudged, RunOpened, ServiceImage
from cockpit.journal.events_people import (
    ApprovalReceived,
    ApprovalRequested,
    ApprovalSettled,
    BreakGlassRefused,
    BreakGlassReviewed,
    BreakGlassUsed,
    StepUpSeen,
)
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.state_people import RequestView
from cockpit.plan.model import Plan
from cockpit.plan.registry import Registry
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rehearsal.sigstore.interface import Sigstore
from cockpit.rpc.approval import ApprovalRequest, GlassPredicate, glass_statement
from tests.conductor.support import (
    RUN_ID,
    FastClock,
    ToldPolicy,
    events,
    gate_of,
    on_disk,
    plan_of,
    recording,
    until,
)
from tests.contract.approval_support import PLAN, TOTP, approvals, approve, sign

SUBJECT = {"promotion pack": "cd" * 32, "image web": "sha256:" + "a" * 64}
OTHER = {**SUBJECT, "promotion pack": "ef" * 32}
REASON = "headroom is short by one replica, which is on its way"
Decision = Literal["approve", "reject"]


class MovedClock(VirtualClock):
    """The present time, moved by the test alone: stamps are of the machine's clock, and nobody waits."""

    def __init__(self) -> None:
        super().__init__(datetime.now(UTC) - timedelta(seconds=1))

    async def sleep(self, seconds: float) -> None:
        """Give others a turn; time stands still."""
        await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer() as running:
        yield running


@dataclass
class Room:
    """The desks of a run and what they stand on."""

    plan: Plan
    desks: Desks
    recorder: Recorder
    clock: MovedClock
    server: Sigstore

    @property
    def approvals(self) -> ApprovalDesk:
        return self.desks.approvals

    @property
    def glass(self) -> BreakGlassDesk:
        return self.desks.glass

    def obtain(self, subject: dict[str, str] | None = None) -> Coroutine[Any, Any, Grant]:
        return self.approvals.obtain("promote", subject or SUBJECT, "promote v3.0.0", "@dee")

    async def asked(self) -> ApprovalRequest:
        """Wait for a request and return it as it was carried away."""

        def waiting() -> RequestView | None:
            return next(iter(self.approvals.open()), None)

        view = await until(waiting)
        path = self.recorder.run_dir / FOLDER / f"{view.request}.request.json"
        await until(path.exists)
        return read_request(path.read_bytes())

    async def says(self, who: str, request: ApprovalRequest, decision: Decision = "approve") -> str:
        bundle = await approve(self.server, request, who, decision=decision)
        return await self.desks._approve(request.request, bundle.decode())

    async def failed(self, gate: str = "perf") -> None:
        """Record a failed verdict."""
        await self.recorder.record(verdict_failed(gate))

    async def breaks(self, who: str = "ann", gate: str = "perf", **changes: Any) -> str:
        """Have somebody break the glass."""
        return await self.glass.use(gate, (await self.signed_glass(who, gate, **changes)).decode())

    async def signed_glass(self, who: str = "ann", gate: str = "perf", **changes: Any) -> bytes:
        now = datetime.now(UTC)
        said = GlassPredicate.model_validate(
            {
                "release": self.plan.target_version,
                "run_id": RUN_ID,
                "plan_sha256": PLAN,
                "gate": gate,
                "reason": REASON,
                "asker": f"@{who}",
                "signed_at": iso(now),
                "expires": iso(now + timedelta(minutes=10)),
                "nonce": f"{len(on_disk(self.recorder.run_dir, BreakGlassRefused)):032x}",
                **changes,
            }
        )
        statement = glass_statement(said, {"web": "sha256:" + "a" * 64})
        return await sign(self.server, f"{who}@example.org", statement)


def verdict_failed(gate: str, plan_sha256: str = PLAN) -> GateJudged:
    """Return a failed verdict on a phase gate."""
    return GateJudged(
        gate="perf",
        phase_gate=gate,
        agent="A26",
        phase="P1",
        env="prod",
        verdict="fail",
        outcome="fail",
        reason="too little",
        metrics={},
        thresholds=[],
        images={"web": "sha256:" + "a" * 64},
        plan_sha256=plan_sha256,
        valid_s=3600,
        verdict_blob="",
        step=0,
    )


def desks_of(
    plan: Plan,
    recorder: Recorder,
    clock: MovedClock,
    server: Sigstore,
    *,
    unattended: bool = False,
    policy: PolicyOnPeople | None = None,
) -> Desks:
    policy = policy or ToldPolicy()
    assert plan.approvals is not None
    registry = Registry(plan.approvals, server.issuer)
    checker = SigstoreChecker(plan, registry, recorder.run_dir / "trusted_root.json")
    desk = ApprovalDesk(plan, PLAN, recorder, clock, checker, policy=policy, unattended=unattended)
    return Desks(
        desk,
        BreakGlassDesk(plan, PLAN, recorder, checker, desk, policy),
        StepUpDesk(registry, recorder, clock, lambda reference: TOTP, checker_of_logins(registry, clock)),
        recorder,
        clock,
    )


@asynccontextmanager
async def room(
    folder: Path,
    server: Sigstore,
    *,
    unattended: bool = False,
    policy: PolicyOnPeople | None = None,
    **changes: Any,
) -> AsyncIterator[Room]:
    clock = MovedClock()
    plan = plan_of(clock, approvals=approvals(**changes).model_dump(mode="json"))
    keep_root(folder, server)
    async with asyncio.timeout(60), recording(folder, clock) as recorder:
        if recorder.state().run is None:
            await recorder.record(opened(plan))
        desks = desks_of(plan, recorder, clock, server, unattended=unattended, policy=policy)
        yield Room(plan, desks, recorder, clock, server)


def keep_root(folder: Path, server: Sigstore) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "trusted_root.json").write_text(server.trusted_root())


def opened(plan: Plan) -> RunOpened:
    return RunOpened(
        run_id=RUN_ID,
        version=plan.target_version,
        repo="r",
        environment="prod",
        plan_sha256=PLAN,
        plan_blob="",
        rehearsal=True,
        reduced=[],
        trust_profile="embedded",
        operator="dee",
        host="h",
        run_key="",
        steps=[10],
        services=[ServiceImage("web", "sha256:" + "a" * 64)],
        phases=[],
        required_gates=[],
        window_start="",
        window_end="",
        roster=[],
        ga_flags=[],
        headroom_target=0.2,
    )


def rule(**changes: Any) -> dict[str, Any]:
    return {"rules": [{"asked": "promote", "groups": ["sre", "security"], **changes}]}


async def test_an_approval_grants_and_is_used_again_for_the_same_subject_only(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(made.obtain())
        request = await made.asked()
        assert request.about == SUBJECT
        assert await made.approvals.recheck("promote", SUBJECT)
        assert await made.says("ann", request) == ""
        grant = await waiting
        assert (grant.by, grant.request) == (("@ann",), "promote-1")
        assert await made.obtain() == grant
        assert await made.approvals.recheck("promote", SUBJECT) == ""
        assert "not approved" in await made.approvals.recheck("promote", OTHER)
        again = group.create_task(made.obtain(OTHER))
        await made.says("bob", await made.asked())
        assert (await again).request == "promote-2"
        assert [one.counted for one in on_disk(tmp_path, ApprovalReceived)] == [True, True]


async def test_a_grant_ends(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **rule(valid=60)) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(made.obtain())
        await made.says("ann", await made.asked())
        await waiting
        made.clock.advance(61)
        assert "counted until" in await made.approvals.recheck("promote", SUBJECT)
        again = group.create_task(made.obtain())
        assert (await made.asked()).request == "promote-2"
        again.cancel()


async def test_a_threshold_takes_different_people_of_every_group(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with (
        room(tmp_path, server, **rule(threshold=2, from_each=True)) as made,
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(made.obtain())
        request = await made.asked()
        assert await made.says("ann", request) == ""
        assert (await made.says("ann", request)).startswith("twice:")
        assert await made.says("bob", request) == ""
        assert made.approvals.open()  # nobody of security yet
        assert await made.says("cem", request) == ""
        assert (await waiting).by == ("@ann", "@bob", "@cem")


async def test_a_rejection_binds(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **rule(threshold=2)) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(_outcome(made.obtain()))
        request = await made.asked()
        await made.says("ann", request)
        assert await made.says("cem", request, "reject") == ""
        error = await waiting
        assert isinstance(error, ApprovalRejected)
        assert exit_before_traffic(error) == 10
        assert (await made.says("bob", request)).startswith("rejected:")
        with pytest.raises(ApprovalRejected):
            await made.obtain()
        assert await made.approvals.recheck("promote", SUBJECT)


async def test_somebody_who_is_not_asked_rejects_nothing(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(made.obtain())
        request = await made.asked()
        for who, step in (("dee", "requester"), ("eve", "identity")):
            assert (await made.says(who, request, "reject")).startswith(f"{step}:")
        await made.says("ann", request)
        assert (await waiting).by == ("@ann",)
        recorded = on_disk(tmp_path, ApprovalReceived)
        assert [one.counted for one in recorded] == [False, False, True]
        assert all(made.recorder.blob(one.blob) for one in recorded)


async def _outcome(work: Coroutine[Any, Any, Any]) -> BaseException | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error
    return None


async def test_a_time_out_never_approves(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **rule(threshold=2, expires=600)) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(_outcome(made.obtain()))
        request = await made.asked()
        await made.says("ann", request)
        made.clock.advance(601)
        error = await waiting
        assert isinstance(error, ApprovalExpired)
        assert exit_before_traffic(error) == 40
        assert (await made.says("bob", request)).startswith("expired:")
        (settled,) = on_disk(tmp_path, ApprovalSettled)
        assert (settled.result, settled.reason.split()[:3]) == ("expired", ["1", "of", "2"])


async def test_setting_the_clock_back_lengthens_nothing(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **rule(expires=600)) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(_outcome(made.obtain()))
        request = await made.asked()
        made.clock.advance(601)
        made.clock._start -= timedelta(hours=1)
        assert (await made.says("ann", request)).startswith("expired:")
        assert isinstance(await waiting, ApprovalExpired)


async def test_unattended_nobody_is_waited_for_beyond_the_bound(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server, unattended=True) as made:
        with pytest.raises(ApprovalMissing) as caught:
            await made.obtain()
        assert exit_before_traffic(caught.value) == 40
        assert "cockpit approve" in str(caught.value)
        assert [one.result for one in made.recorder.state().people.requests] == [""]


async def test_what_is_not_in_the_plan_is_not_granted(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made:
        with pytest.raises(ApprovalMissing):
            await made.approvals.obtain("flip", SUBJECT, "flip", "@dee")
    plan = plan_of(MovedClock())
    assert plan.approvals is None


async def test_another_sitting_goes_on_where_the_last_one_was(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, unattended=True, **rule(threshold=2)) as made:
        with pytest.raises(ApprovalMissing):
            await made.obtain()
        (view,) = made.approvals.open()
        request = made.approvals.document(view.request)
        assert await made.says("ann", request) == ""
        # Signed while nobody listened: it lies in the run folder.
        left = await approve(server, request, "bob")
    (tmp_path / FOLDER / f"{request.request}.bob.sigstore.json").write_bytes(left)
    async with room(tmp_path, server, unattended=True, **rule(threshold=2)) as made:
        grant = await made.obtain()
        assert (grant.request, grant.by) == (request.request, ("@ann", "@bob"))
        assert await made.approvals.recheck("promote", SUBJECT) == ""
    async with room(tmp_path, server) as made:
        assert await made.obtain() == grant
        assert len(on_disk(tmp_path, ApprovalRequested)) == 1


async def test_statements_of_another_run_never_count(tmp_path: Path, server: SigstoreServer) -> None:
    async with (
        room(tmp_path / "a", server) as one,
        room(tmp_path / "b", server) as two,
        asyncio.TaskGroup() as group,
    ):
        first, second = group.create_task(one.obtain()), group.create_task(two.obtain())
        bundle = await approve(server, await one.asked())
        await two.asked()
        # The same run id, plan and request: the nonce alone tells them apart.
        assert (await two.approvals.submit("promote-1", bundle.decode())).startswith("request:")
        assert await one.approvals.submit("promote-1", bundle.decode()) == ""
        await first
        second.cancel()


@pytest.mark.parametrize("raw", ["", "{}", "x" * 60_000, "\ud800"])
async def test_nonsense_never_counts(tmp_path: Path, server: SigstoreServer, raw: str) -> None:
    async with room(tmp_path, server) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(made.obtain())
        await made.asked()
        assert await made.approvals.submit("promote-1", raw)
        assert "no request" in await made.approvals.submit("promote-7", raw)
        waiting.cancel()


async def test_without_a_root_of_trust_nothing_counts(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(made.obtain())
        request = await made.asked()
        (tmp_path / "trusted_root.json").unlink()
        assert "trusted root" in await made.says("ann", request)
        assert made.approvals.open()
        waiting.cancel()


# -- step-up ------------------------------------------------------------------------------------------

_TOTP_PEOPLE = [
    {"id": f"@{name}", "identity": f"{name}@example.org", "groups": ["sre"], "totp": f"file:totp-{name}"}
    for name in ("ann", "bob")
]


def step_up() -> dict[str, Any]:
    return {
        "people": _TOTP_PEOPLE,
        "rules": [{"asked": "promote", "step_up": "totp"}],
        "break_glass": None,
    }


async def test_a_second_factor_is_needed_where_the_plan_asks_for_it(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server, **step_up()) as made, asyncio.TaskGroup() as group:
        waiting = group.create_task(made.obtain())
        request = await made.asked()
        assert (await made.says("ann", request)).startswith("step-up:")
        code = pyotp.TOTP(TOTP).at(made.clock.now())
        assert await made.desks.step_up.show("bob", code) == ""
        assert (await made.says("ann", request)).startswith("step-up:")  # bob's is not ann's
        assert await made.desks.step_up.show("ann", code) == ""
        made.clock.advance(400)
        assert (await made.says("ann", request)).startswith("step-up:")  # it counted for five minutes
        assert await made.desks.step_up.show("@ann", pyotp.TOTP(TOTP).at(made.clock.now())) == ""
        assert await made.says("ann", request) == ""
        await waiting
        journal = (tmp_path / JOURNAL_NAME).read_text()
        assert TOTP not in journal
        assert code not in journal


async def test_a_one_time_password_is_taken_once_and_guessing_ends(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server, **step_up()) as made:
        desk, totp = made.desks.step_up, pyotp.TOTP(TOTP)
        code = totp.at(made.clock.now())
        assert await desk.show("ann", code) == ""
        assert "used before" in await desk.show("ann", code)
        assert "nobody" in await desk.show("eve", code)
        again = desks_of(made.plan, made.recorder, made.clock, server).step_up
        assert "used before" in await again.show("ann", code)  # nor after a restart
        old, early = (totp.at(made.clock.now() + timedelta(seconds=by)) for by in (-60, 60))
        for wrong in (old, early, "", "000000x"):
            assert "wrong" in await desk.show("bob", wrong)
        made.clock.advance(1)
        assert "wrong" in await desk.show("bob", "12")
        assert "too many" in await desk.show("bob", totp.at(made.clock.now()))
        made.clock.advance(400)
        assert await desk.show("bob", totp.at(made.clock.now() - timedelta(seconds=30))) == ""
        seen = await events(made.recorder, StepUpSeen)
        assert [one.ok for one in seen if one.by == "@bob"] == [False] * 5 + [True]


# -- break-glass --------------------------------------------------------------------------------------


async def test_break_glass_takes_a_second_person(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made:
        await made.failed()
        assert await made.breaks("ann") == ""
        assert dict(made.glass.facts().overridden) == {}
        request = await made.asked()
        assert (request.asked, request.about["gate"], request.about["reason"]) == (
            "break-glass",
            "perf",
            REASON,
        )
        assert (await made.says("ann", request)).startswith("requester:")
        assert await made.says("cem", request) == ""
        assert dict(made.glass.facts().overridden) == {"perf": "glass-1"}
        (used,) = await events(made.recorder, BreakGlassUsed)
        assert (used.by, used.second, used.reason, used.review_by) == ("@ann", "@cem", REASON, "")
        assert [one.verdict for one in made.recorder.state().gates] == ["fail"]
        made.clock.advance(3601)
        assert dict(made.glass.facts().overridden) == {}


async def test_a_refused_or_expired_second_person_overrides_nothing(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server) as made, alongside(made.desks.watch()):
        await made.failed()
        assert await made.breaks() == ""
        assert await made.says("bob", await made.asked(), "reject") == ""
        assert await made.breaks() == ""
        made.clock.advance(3601)
        await until(lambda: len(on_disk(tmp_path, BreakGlassRefused)) == 2)
        refused = on_disk(tmp_path, BreakGlassRefused)
        assert ["rejected by @bob" in refused[0].problem, "expired" in refused[1].problem] == [True, True]
        assert dict(made.glass.facts().overridden) == {}


async def test_break_glass_is_for_what_the_plan_lists_and_has_failed(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server) as made:
        await made.failed("slo")
        assert "can not be overridden" in await made.breaks(gate="slo")
        assert "can not be overridden" in await made.breaks(gate="tenant_isolation")
        assert "nothing to override" in await made.breaks()
        await made.failed()
        for changes, step in (
            ({"reason": "because"}, "reason:"),
            ({"run_id": "another"}, "run:"),
            ({"asker": "@bob"}, "approver:"),
        ):
            assert (await made.breaks(**changes)).startswith(step)
        signed_for_another = (await made.signed_glass(gate="dr")).decode()
        assert "signed over dr" in await made.glass.use("perf", signed_for_another)
        bundle = (await made.signed_glass()).decode()
        assert await made.glass.use("perf", bundle) == ""
        assert "second person already" in await made.breaks(nonce="f" * 32)
        await made.says("bob", await made.asked())
        made.clock.advance(3601)
        assert await made.glass.use("perf", bundle)
        assert dict(made.glass.facts().overridden) == {}
        assert len(await events(made.recorder, BreakGlassUsed)) == 1


REVIEWED: dict[str, Any] = {
    "break_glass": {"overridable": ["perf"], "second_person": False, "review_within": 600}
}


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_where_the_plan_allows_it_the_review_comes_after(
    tmp_path: Path, server: SigstoreServer, decision: Decision
) -> None:
    async with room(tmp_path, server, **REVIEWED) as made:
        await made.failed()
        assert await made.breaks() == ""
        assert dict(made.glass.facts().overridden) == {"perf": "glass-1"}
        request = await made.asked()
        assert made.glass.review_request("glass-1") == request.request
        assert (await made.says("ann", request, decision)).startswith("requester:")
        assert await made.says("bob", request, decision) == ""
        (reviewed,) = await events(made.recorder, BreakGlassReviewed)
        assert (reviewed.by, reviewed.accepted) == ("@bob", decision == "approve")
        assert bool(made.glass.facts().overridden) == (decision == "approve")
        made.clock.advance(601)
        assert made.glass.facts().problems == ()


async def test_an_unreviewed_break_glass_is_an_open_problem_until_somebody_looks(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server, **REVIEWED) as made, alongside(made.desks.watch()):
        await made.failed()
        await made.breaks()
        first = await made.asked()
        made.clock.advance(601)
        assert "not reviewed" in made.glass.facts().problems[0]
        await until(lambda: made.glass.review_request("glass-1") not in ("", first.request))
    async with room(tmp_path, server, **REVIEWED) as made:
        made.clock.advance(1300)
        assert "not reviewed" in made.glass.facts().problems[0]


async def test_a_granted_break_glass_survives_a_crash(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made:
        await made.failed()
        await made.breaks()
        request = await made.asked()
        bundle = await approve(server, request, "bob")
        # Counted, and the process ends before the glass is.
        assert await made.approvals.submit(request.request, bundle.decode()) == ""
    async with room(tmp_path, server) as made:
        await made.glass.settle()
        await made.glass.settle()
        assert dict(made.glass.facts().overridden) == {"perf": "glass-1"}
        assert len(await events(made.recorder, BreakGlassUsed)) == 1


# -- the control socket -------------------------------------------------------------------------------


async def test_decisions_come_in_by_the_control_socket(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made:
        gate = gate_of(made.recorder)
        people = People(
            effects=gate,
            recorder=made.recorder,
            clock=FastClock(),
            on_halt="ask",
            bound=1e6,
            unattended=False,
        )
        control = ControlServer(tmp_path, people, desks=made.desks, may_resume=ToldPolicy().resume)
        await control.start()
        client = ControlClient(tmp_path, source="shell", by="ann")
        try:
            await client.connect(hello=False)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(made.obtain())
                request = await made.asked()
                bundle = (await approve(server, request)).decode()
                no = await client.send("approve", question="promote-9", statement=bundle, deadline=30)
                assert (no.ok, "no request" in no.text) == (False, True)
                yes = await client.send("approve", question=request.request, statement=bundle, deadline=30)
                assert (yes.ok, yes.text) == (True, "")
                assert (await waiting).by == ("@ann",)
            refused = await client.send("break-glass", gate="perf", statement="{}", deadline=30)
            assert not refused.ok
            assert not (await client.send("step-up", answer="123456")).ok
            assert "123456" not in (tmp_path / JOURNAL_NAME).read_text()
        finally:
            await client.close()
            await control.stop()
