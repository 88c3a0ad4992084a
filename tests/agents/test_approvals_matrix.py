"""A1's approvals matrix: who may decide, what was asked, what they said, and what was overridden."""

from __future__ import annotations

from datetime import timedelta

from cockpit.base.clock import iso
from cockpit.journal.events_people import (
    ApprovalReceived,
    ApprovalRequested,
    ApprovalSettled,
    BreakGlassUsed,
)
from tests.agents.support import World, recomputed
from tests.contract.approval_support import approvals


async def test_the_matrix_says_who_decided_what(world: World) -> None:
    world.data["waivers"] = [one for one in world.data["waivers"] if one["what"] != "approvals"]
    world.data["approvals"] = approvals().model_dump(mode="json")
    await world.recorder.record(
        ApprovalRequested(
            request="promote-1",
            asked="promote",
            subject="ab" * 32,
            text="promote v3.0.0",
            requester="dee",
            threshold=1,
            groups=["sre"],
            from_each=False,
            step_up="none",
            expires="2025-09-23T09:00:00.000000Z",
            blob="sha256:" + "1" * 64,
        )
    )
    await world.recorder.record(
        ApprovalReceived(
            request="promote-1",
            by="@ann",
            identity="ann@example.org",
            decision="approve",
            reason="walked through",
            counted=True,
            problem="",
            groups=["sre"],
            blob="sha256:" + "2" * 64,
        )
    )
    await world.recorder.record(
        ApprovalSettled(request="promote-1", result="granted", by=["@ann"], reason="1 of 1")
    )
    await world.call("A1")
    matrix = world.read("approvals_matrix.json")
    rules = {row["what"]: row for row in matrix["matrix"]}
    assert rules["promote"]["people"] == ["@ann", "@bob", "@cem"]
    assert rules["standby"]["state"] == "waived"
    (row,) = matrix["approvals"]
    assert (row["request"], row["result"], row["by"]) == ("promote-1", "granted", ["@ann"])
    assert [(one["by"], one["reason"]) for one in row["statements"]] == [("@ann", "walked through")]
    assert matrix["break_glass"] == []


async def test_what_is_overridden_is_in_the_checklist_and_its_facts(world: World) -> None:
    before = (await world.verdict("A1")).details.reason
    assert "not reviewed" not in before
    now = world.clock.now()
    await world.recorder.record(
        BreakGlassUsed(
            glass="glass-1",
            gate="perf",
            by="@ann",
            second="",
            reason="x" * 20,
            expires=iso(now + timedelta(hours=1)),
            review_by=iso(now - timedelta(minutes=1)),
            blob="sha256:" + "3" * 64,
        )
    )
    verdict = await world.verdict("A1")
    assert verdict.verdict == "fail"
    assert any("not reviewed" in one for one in world.read("go_no_go.json")["reasons"])
    assert [one["glass"] for one in world.read("approvals_matrix.json")["break_glass"]] == ["glass-1"]
    recomputed(world)


async def test_the_closing_matrix_tells_what_was_decided_after_the_promotion_pack(world: World) -> None:
    await world.call("A1")
    judged = world.read("approvals_matrix.json")["go_no_go"]
    await world.recorder.record(
        ApprovalRequested(
            request="promote-1",
            asked="promote",
            subject="ab" * 32,
            text="promote v3.0.0",
            requester="dee",
            threshold=1,
            groups=[],
            from_each=False,
            step_up="none",
            expires="2025-09-23T09:00:00.000000Z",
            blob="sha256:" + "1" * 64,
        )
    )
    assert (await world.call("A1", "EVIDENCE")).status == "ok"
    assert world.read("approvals_matrix.json")["approvals"] == []
    assert (await world.call("A1", "EVIDENCE", "P6", pack="closing")).status == "ok"
    matrix = world.read("approvals_matrix.json")
    assert [(row["request"], row["result"]) for row in matrix["approvals"]] == [("promote-1", "open")]
    assert matrix["go_no_go"] == judged


async def test_a_run_that_never_came_to_a_go_tells_what_was_decided(world: World) -> None:
    assert (await world.call("A1", "EVIDENCE", "P6", pack="closing")).status == "ok"
    assert world.read("approvals_matrix.json")["go_no_go"] == {}
