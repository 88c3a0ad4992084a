"""What people decided, checked offline from a journal: as it was, and told otherwise in each way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyotp
import pytest
import pytest_asyncio
from msgspec.structs import replace

from cockpit.base.clock import iso, parse_iso
from cockpit.base.errors import CockpitError
from cockpit.evidence.approved import approvals_hold
from cockpit.evidence.checks import Check
from cockpit.journal.events import AnyEvent, EffectIntended, EvidenceSealed
from cockpit.journal.events_people import (
    ApprovalReceived,
    ApprovalRequested,
    ApprovalSettled,
    BreakGlassReviewed,
    BreakGlassUsed,
    StepUpSeen,
)
from cockpit.plan.model import Plan
from cockpit.rehearsal.sigstore import SigstoreServer
from tests.conductor.support import events as recorded
from tests.conductor.test_approvals import REVIEWED, Room, room, rule, step_up
from tests.contract.approval_support import TOTP

SEALED = "cd" * 32
Events = list[AnyEvent]
Change = Callable[[Any], Any]


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer() as running:
        yield running


def plan_for(made: Room) -> Plan:
    """Return the room's plan with the stand-in as the issuer that vouches for people."""
    targets = made.plan.targets
    signing = targets.signing.model_copy(update={"issuer": made.server.issuer})
    return made.plan.model_copy(update={"targets": targets.model_copy(update={"signing": signing})})


def hold(made: Room, told: Sequence[AnyEvent], *, root: bytes | None = None) -> Check:
    trusted = made.server.trusted_root().encode() if root is None else root
    return approvals_hold(told, plan_for(made), made.recorder.blob, trusted)


async def journal(made: Room) -> Events:
    """Return the journal once all of it is on disk."""
    await recorded(made.recorder, ApprovalRequested)
    return [event for event in made.recorder.events() if type(event).__module__.startswith("cockpit.")]


def told(events: Events, kind: type[Any], change: Change, at: int = 0) -> Events:
    """Return the journal with one event of a kind changed; None leaves it out."""
    seen = [index for index, event in enumerate(events) if isinstance(event, kind)]
    index = seen[at]
    changed = change(events[index])
    return [*events[:index], *([changed] if changed is not None else []), *events[index + 1 :]]


async def granted(made: Room, *people: str) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(made.obtain())
        request = await made.asked()
        for who in people:
            assert await made.says(who, request) == ""
        await waiting


async def test_what_was_decided_holds(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **rule(threshold=2)) as made:
        await granted(made, "ann", "cem")
        check = hold(made, await journal(made))
        assert (check.ok, check.detail) == (True, "2 statements counted, 1 requests granted")


def _later(event: Any) -> Any:
    return replace(event, valid_until=iso(parse_iso(event.valid_until) + timedelta(days=30)))


LIES: dict[str, tuple[type[Any], Change, str]] = {
    "another decision": (ApprovalReceived, lambda e: replace(e, decision="reject"), "says something else"),
    "another reason": (ApprovalReceived, lambda e: replace(e, reason="other words"), "says something else"),
    "another person": (ApprovalReceived, lambda e: replace(e, by="@bob"), "says something else"),
    "other groups": (ApprovalReceived, lambda e: replace(e, groups=["security"]), "says something else"),
    "a statement left out": (ApprovalReceived, lambda e: None, "other than what was counted"),
    "a lower threshold": (ApprovalRequested, lambda e: replace(e, threshold=1), "threshold"),
    "another subject": (ApprovalRequested, lambda e: replace(e, subject="0" * 64), "subject"),
    "a later expiry": (ApprovalRequested, lambda e: replace(e, expires="2099-01-01T00:00:00Z"), "expiry"),
    "nobody asked": (ApprovalRequested, lambda e: None, "nobody asked"),
    "by somebody else": (ApprovalSettled, lambda e: replace(e, by=["@bob"]), "not counted"),
    "valid for longer": (ApprovalSettled, _later, "longer than the plan"),
    "another result": (ApprovalSettled, lambda e: replace(e, result="rejected"), "other than what was"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_decision_told_otherwise_is_found(tmp_path: Path, server: SigstoreServer, lie: str) -> None:
    kind, change, said = LIES[lie]
    async with room(tmp_path, server, **rule(threshold=2)) as made:
        await granted(made, "ann", "cem")
        check = hold(made, told(await journal(made), kind, change))
        assert not check.ok
        assert said in check.detail


async def test_the_same_statement_counts_once(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **rule(threshold=2)) as made:
        await granted(made, "ann", "cem")
        events = await journal(made)
        first, second = (event for event in events if isinstance(event, ApprovalReceived))
        swapped = [first if event is second else event for event in events]
        assert "counted twice" in hold(made, swapped).detail
        assert not hold(made, events, root=b"").ok
        async with SigstoreServer() as other:
            assert not hold(made, events, root=other.trusted_root().encode()).ok


def hide(event: ApprovalReceived) -> ApprovalReceived:
    return replace(event, counted=False, problem="group: none", by="", decision="", reason="", groups=[])


async def test_a_rejection_is_not_left_out(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **rule(threshold=2)) as made:
        request = await made.approvals.ask("promote", {"promotion pack": SEALED}, "promote", "@dee")
        document = made.approvals.document(request)
        assert await made.says("bob", document, "reject") == ""
        events = await journal(made)
        assert hold(made, events).ok
        hidden = told(events, ApprovalReceived, hide)
        assert "was not counted" in hold(made, told(hidden, ApprovalSettled, lambda e: None)).detail


async def test_without_its_second_factor_an_approval_does_not_hold(
    tmp_path: Path, server: SigstoreServer
) -> None:
    async with room(tmp_path, server, **step_up()) as made:
        assert await made.desks.step_up.show("ann", pyotp.TOTP(TOTP).at(made.clock.now())) == ""
        await granted(made, "ann")
        events = await journal(made)
        assert hold(made, events).ok
        assert "second factor" in hold(made, told(events, StepUpSeen, lambda e: None)).detail


async def test_break_glass_holds_with_its_second_person_alone(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made:
        await made.failed()
        assert await made.breaks("ann") == ""
        assert await made.says("cem", await made.asked()) == ""
        events = await journal(made)
        assert hold(made, events).ok, hold(made, events).detail
        for change, said in (
            (lambda e: replace(e, second=""), "second person"),
            (lambda e: replace(e, second="@bob"), "second person"),
            (lambda e: replace(e, by="@bob"), "something else"),
            (lambda e: replace(e, gate="dr"), "something else"),
            (lambda e: replace(e, gate="tenant_isolation"), "does not allow"),
            (lambda e: replace(e, expires="2099-01-01T00:00:00Z"), "longer than the plan"),
        ):
            check = hold(made, told(events, BreakGlassUsed, change))
            assert not check.ok
            assert said in check.detail


async def test_a_review_has_to_be_signed(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server, **REVIEWED) as made:
        await made.failed()
        await made.breaks()
        assert await made.says("bob", await made.asked(), "reject") == ""
        events = await journal(made)
        assert hold(made, events).ok, hold(made, events).detail
        accepted = told(events, BreakGlassReviewed, lambda e: replace(e, accepted=True))
        assert "was not signed" in hold(made, accepted).detail
        unbound = told(events, BreakGlassUsed, lambda e: replace(e, review_by=""))
        assert "or a review" in hold(made, unbound).detail


def shift(at: str) -> EffectIntended:
    return EffectIntended(
        effect="e1",
        lane="forward",
        verb="shift",
        target="canary weight 10",
        env="prod",
        by="conductor",
        at=at,
        seq=99,
    )


async def test_traffic_moves_under_a_grant_for_this_pack(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made:
        sealed = EvidenceSealed(kind="promotion", path="p", sha256=SEALED, log_index=1, entry_id="e")
        await made.recorder.record(sealed)
        before = await journal(made)
        await granted(made, "ann")
        events = await journal(made)
        at = events[-1].at
        assert "nobody had approved" in hold(made, [*before, shift(at)]).detail
        assert hold(made, [*events, shift(at)]).ok, hold(made, [*events, shift(at)]).detail
        late = iso(parse_iso(at) + timedelta(days=2))
        assert not hold(made, [*events, shift(late)]).ok
        other = told(events, EvidenceSealed, lambda e: replace(e, sha256="ef" * 32))
        assert "this pack" in hold(made, [*other, shift(at)]).detail


async def test_a_plan_without_people_has_no_decisions(tmp_path: Path, server: SigstoreServer) -> None:
    async with room(tmp_path, server) as made:
        await granted(made, "ann")
        events = await journal(made)
        bare = made.plan.model_copy(update={"approvals": None})
        assert not approvals_hold(events, bare, made.recorder.blob, b"").ok
        assert not approvals_hold(events, None, made.recorder.blob, b"").ok
        assert approvals_hold(events[:1], bare, made.recorder.blob, b"").ok

        def gone(digest: str) -> bytes:
            raise CockpitError(f"{digest} is not in the pack")

        assert not approvals_hold(events, plan_for(made), gone, server.trusted_root().encode()).ok
