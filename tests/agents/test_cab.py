"""The CAB Secretary (A46): what was approved, excepted and overridden, and what stands in the way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cockpit.base.clock import iso
from cockpit.journal.events import WaiverRecorded
from cockpit.journal.events_people import (
    ApprovalReceived,
    ApprovalRequested,
    ApprovalSettled,
    BreakGlassReviewed,
    BreakGlassUsed,
)
from cockpit.plan.exceptions import about
from cockpit.rpc.approval import digest_of
from cockpit.verdicts.rules import find
from tests.agents.support import World, recomputed

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
LATER, BEFORE = iso(NOW + DAY), iso(NOW - DAY)
BLOB = "sha256:" + "b" * 64


def exception(**changes: Any) -> dict[str, Any]:
    return {
        "id": "X-1",
        "owner": "@web",
        "reason": "base image is 40 days old",
        "expires": iso(NOW + 7 * DAY),
        "approved_by": "@security",
        **changes,
    }


def person(name: str, *groups: str) -> dict[str, Any]:
    return {"id": name, "identity": f"{name.removeprefix('@')}@example.org", "groups": list(groups)}


async def waive(world: World) -> None:
    for one in world.plan.waivers:
        event = WaiverRecorded(what=one.what, owner=one.owner, reason=one.reason)
        await world.recorder.record(event)


def configure(world: World, *rules: dict[str, Any]) -> None:
    """Have the plan ask people instead of waiving approvals."""
    people = [person("@ann", "platform"), person("@bob", "security"), person("@cem", "security")]
    world.data["approvals"] = {"people": people, "rules": list(rules)}
    world.data["waivers"] = [one for one in world.data["waivers"] if one["what"] != "approvals"]


async def ask(
    world: World,
    asked: str,
    *,
    result: str = "",
    by: tuple[str, ...] = (),
    subject: str = "s" * 64,
    requester: str = "@rel",
    threshold: int = 1,
    request: str = "",
    expires: str = LATER,
    valid_until: str = LATER,
) -> None:
    """Record a request with the statements that lead to its result."""
    name = request or f"{asked}-1"
    opened = ApprovalRequested(
        request=name, asked=asked, subject=subject, text=f"may we {asked}?", requester=requester,
        threshold=threshold, groups=[], from_each=False, step_up="none", expires=expires, blob=BLOB,
    )  # fmt: skip
    await world.recorder.record(opened)
    decision = "reject" if result == "rejected" else "approve"
    for one in by:
        said = ApprovalReceived(
            request=name, by=one, identity=f"{one}@example.org", decision=decision, reason="looked at it",
            counted=True, problem="", groups=["security"], blob=BLOB,
        )  # fmt: skip
        await world.recorder.record(said)
    if result:
        until = valid_until if result == "granted" else ""
        settled = ApprovalSettled(
            request=name, result=result, by=list(by), reason="looked at it", valid_until=until
        )
        await world.recorder.record(settled)


async def judged(world: World) -> tuple[str, str]:
    verdict = await world.verdict("A46")
    assert (verdict.gate, verdict.details.phase_gate) == ("policy", "policy_ci")
    recomputed(world)
    return verdict.verdict, verdict.details.reason


# -- waivers ----------------------------------------------------------------------------------------------


async def test_a_waiver_in_the_journal_is_enough_and_one_that_is_not_there_is_none(world: World) -> None:
    found, reason = await judged(world)
    assert found == "fail" and "the waiver of approvals is not in the journal" in reason
    await waive(world)
    found, reason = await judged(world)
    assert found == "pass" and "approvals: waived" in reason


async def test_a_plan_that_neither_asks_nor_waives_fails(world: World) -> None:
    world.data["waivers"] = []
    found, reason = await judged(world)
    assert found == "fail" and "neither says who approves nor waives" in reason


# -- exceptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"expires": iso(NOW - DAY)}, "exception X-1 has expired"),
        ({"expires": f"{NOW + DAY:%Y-%m-%d %H:%M}"}, "exception X-1 has expired"),  # of no time zone
        ({"approved_by": ""}, "exception X-1 is not approved"),
        ({"approved_by": " "}, "exception X-1 is not approved"),
        ({"approved_by": "@web"}, "exception X-1 was approved by its own owner"),
        ({"owner": " "}, "exception X-1 has no owner"),
    ],
)
async def test_an_exception_counts_with_owner_approval_and_time_left(
    world: World, changes: dict[str, Any], reason: str
) -> None:
    await waive(world)
    world.data["exceptions"] = [exception(**changes)]
    found, said = await judged(world)
    assert found == ("fail" if reason else "pass") and reason in said
    [row] = world.read("approvals/decisions.json")["exceptions"]
    assert row["counts"] is not bool(reason) and row["problem"] in said


async def test_a_clock_set_back_does_not_revive_an_exception(world: World) -> None:
    await waive(world)
    world.data["exceptions"] = [exception(expires=iso(NOW - timedelta(minutes=1)))]
    world.clock = _Behind()  # type: ignore[assignment]
    found, reason = await judged(world)
    assert found == "fail" and "has expired" in reason


async def test_where_the_plan_asks_for_it_an_exception_needs_a_grant_about_exactly_it(world: World) -> None:
    configure(world, {"asked": "exception"}, {"asked": "promote"})
    await waive(world)
    world.data["exceptions"] = [exception()]
    subject = digest_of(about(world.plan.exceptions[0]))
    assert "none was asked for" in (await judged(world))[1]
    await ask(world, "exception", result="granted", by=("@bob",), request="exception-0")
    assert "none was asked for" in (await judged(world))[1], "a grant about something else does not count"
    await ask(world, "exception", subject=subject)
    assert "waits for its signed approval" in (await judged(world))[1]
    await ask(
        world, "exception", subject=subject, request="exception-2", result="granted", by=("@bob",),
    )  # fmt: skip
    assert (await judged(world))[0] == "pass"
    world.data["exceptions"] = [exception(expires=iso(NOW + 30 * DAY))]
    assert "none was asked for" in (await judged(world))[1], "it was granted for a shorter time"


async def test_a_grant_of_an_exception_lapses_and_a_rejection_binds(world: World) -> None:
    configure(world, {"asked": "exception"})
    await waive(world)
    world.data["exceptions"] = [exception(owner="@bob")]
    subject = digest_of(about(world.plan.exceptions[0]))
    for number, (settings, reason) in enumerate(
        (
            ({"result": "granted", "by": ("@ann",), "valid_until": BEFORE}, "which is over"),
            ({"result": "granted", "by": ("@bob",)}, "by its own owner alone"),
            ({"result": "rejected", "by": ("@cem",)}, "was rejected by @cem: looked at it"),
            ({"result": "expired"}, "nobody answered in time"),
        )
    ):
        await ask(world, "exception", subject=subject, request=f"exception-{number}", **settings)  # type: ignore[arg-type]
        found, said = await judged(world)
        assert found == "fail" and reason in said


# -- the promotion ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["promote", "flip"])
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, ""),
        ({"result": "granted", "by": ("@ann",)}, ""),
        ({"result": "rejected", "by": ("@bob",)}, "was rejected by @bob"),
        ({"result": "expired"}, "nobody answered in time"),
        ({"expires": BEFORE}, "nobody answered in time"),
        ({"result": "granted", "by": ("@ann",), "valid_until": BEFORE}, "which is over"),
        ({"result": "granted", "by": ("@ann",), "threshold": 2}, "do not come to that"),
        ({"result": "granted", "by": ("@ann", "@ann"), "threshold": 2}, "do not come to that"),
        ({"result": "granted", "by": ("@ann",), "requester": "@ann"}, "counts its own requester"),
        ({"result": "whatever"}, "ended in no way there is"),
    ],
)
async def test_what_was_asked_must_not_have_been_refused(
    world: World, asked: str, settings: dict[str, Any], reason: str
) -> None:
    configure(world, {"asked": "promote"}, {"asked": "flip"})
    await waive(world)
    assert (await judged(world))[0] == "pass", "what is not asked yet is no problem"
    await ask(world, asked, **settings)
    found, said = await judged(world)
    assert found == ("fail" if reason else "pass") and reason in said


async def test_the_last_request_counts_and_a_refused_purge_only_was_not_done(world: World) -> None:
    configure(world, {"asked": "promote"}, {"asked": "irreversible"})
    await waive(world)
    await ask(world, "irreversible", result="rejected", by=("@bob",))
    await ask(world, "promote", result="expired")
    await ask(world, "promote", result="granted", by=("@bob",), request="promote-2")
    assert (await judged(world))[0] == "pass"
    await ask(world, "flip")
    assert "the plan has no rule for it" in (await judged(world))[1]


# -- break-glass ------------------------------------------------------------------------------------------


async def glass(world: World, *, second: str = "@bob", review_by: str = "") -> None:
    used = BreakGlassUsed(
        glass="g1", gate="policy_ci", by="@ann", second=second, reason="outage", expires=LATER,
        review_by=review_by, blob=BLOB,
    )  # fmt: skip
    await world.recorder.record(used)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"second": "", "review_by": LATER}, ""),
        ({"second": "", "review_by": BEFORE}, "was not reviewed by"),
        ({"second": ""}, "neither a second person nor a review"),
        ({"second": "@ann"}, "one person twice"),
    ],
)
async def test_broken_glass_has_a_second_person_or_a_review_in_time(
    world: World, changes: dict[str, str], reason: str
) -> None:
    await waive(world)
    await glass(world, **changes)
    found, said = await judged(world)
    assert found == ("fail" if reason else "pass") and reason in said


async def test_nobody_reviews_their_own_break_glass(world: World) -> None:
    await waive(world)
    await glass(world, second="", review_by=LATER)
    for by, found in (("@ann", "fail"), ("@bob", "pass")):
        await world.recorder.record(BreakGlassReviewed(glass="g1", by=by, reason="seen", accepted=True))
        assert (await judged(world))[0] == found


# -- the log ----------------------------------------------------------------------------------------------


async def test_the_log_tells_who_decided_what_in_order_and_evidence_vouches_for_it(world: World) -> None:
    configure(world, {"asked": "promote", "threshold": 2})
    await waive(world)
    await ask(world, "promote", result="granted", by=("@ann", "@bob"), threshold=2)
    await glass(world)
    assert (await judged(world))[0] == "pass"
    found = world.read("approvals/decisions.json")
    assert [(row["decision"], row["by"]) for row in found["log"]] == [
        ("asked", "@rel"),
        ("approve", "@ann"),
        ("approve", "@bob"),
        ("break-glass", "@ann and @bob"),
    ]
    assert found["requests"][0]["result"] == "granted" and found["verdict"]["verdict"] == "pass"
    assert (await world.call("A46", "EVIDENCE")).status == "ok"
    path = world.run_dir / "artifacts" / "approvals" / "decisions.json"
    path.write_bytes(path.read_bytes().replace(b"granted", b"rejected"))
    assert (await world.call("A46", "EVIDENCE")).status == "fail"


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"requests": 1}', b"\xff"])
def test_a_record_that_cannot_be_read_is_no_pass(raw: bytes) -> None:
    found = find("cab_record")({"record": raw}, {"now": iso(NOW)})
    assert found.outcome in ("fail", "provider_error")


class _Behind:
    """The machine's clock, an hour behind what the journal has recorded."""

    def now(self) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)

    def monotonic(self) -> float:
        return (datetime.now(UTC) - NOW).total_seconds()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")
