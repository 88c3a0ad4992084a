"""The Program Scheduler (A2): calendar files, reminders once each, the fix train and its withdrawal."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import icalendar
import pytest
import pytest_asyncio

from cockpit.backends.issues import GitHubIssues
from cockpit.backends.notify import Webhook
from cockpit.base.clock import SystemClock, iso
from cockpit.conductor.calls import CallResult
from cockpit.journal.events import MessagePosted, PhaseStarted
from cockpit.journal.events_people import SoakChanged
from cockpit.journal.events_work import FixTrainScheduled, IssueFiled
from cockpit.rehearsal.issues import IssuesServer
from tests.agents.support import World

NOW = datetime.now(UTC).replace(microsecond=0)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
CHECK = {"metric": "p95_ms", "query": "p95(stage[{window}])", "threshold": "p95_ms<=150"}
NASTY = "audit; close, \r\nBEGIN:VEVENT\r\nSUMMARY:forged"


def utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


@pytest_asyncio.fixture
async def forge() -> AsyncIterator[IssuesServer]:
    async with IssuesServer() as made:
        yield made


@pytest.fixture
def scheduled(world: World, forge: IssuesServer) -> World:
    """A world with a calendar, whose window opened an hour ago and opens every day, and a board to tell."""
    world.data["window_utc"] = f"{utc(NOW - HOUR)} → {utc(NOW + 3 * HOUR)}"
    world.data["agents"] = [*world.data["agents"], "A2"]
    world.data["cab"] = ["@cab"]
    orders = {"name": "orders", "query": "sum(increase(orders_total[{window}]))", "better": "higher"}
    world.data["kpis"] = {"after": "24h", "window": "1h", "items": [orders]}
    world.data["calendar"] = {
        "soak": {"lasts": "48h", "interval": "5m", "checks": [CHECK]},
        "freezes": [
            {"name": NASTY, "kind": "code", "start": iso(NOW - HOUR), "end": iso(NOW + HOUR)},
            {"name": "long gone", "kind": "code", "start": iso(NOW - 9 * DAY), "end": iso(NOW - 8 * DAY)},
        ],
        "windows": [
            {"zone": "UTC", "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
             "start": f"{NOW - HOUR:%H:%M}", "end": f"{NOW + 3 * HOUR:%H:%M}"},
        ],
    }  # fmt: skip
    hook = f"{world.hook.url}/hook"
    world.data["targets"]["webhooks"] = [
        {"name": "board", "url": hook, "audience": ["cab"]},
        {"name": "board-too", "url": hook},
        {"name": "oncall", "url": hook, "audience": ["oncall"]},
        {"name": "alerts", "url": hook, "kind": "alertmanager"},
    ]
    issues = GitHubIssues(forge.url, forge.repository, forge.token, clock=SystemClock(), deadline=20.0)
    world.handles = dataclasses.replace(world.handles, issues=issues, webhooks=Webhook(deadline=20.0))
    return world


def said(result: CallResult) -> str:
    assert result.response is not None, result.reason
    return result.response.notes


def recorded(world: World, kind: Any) -> list[Any]:
    world.recorder.state()
    return [event for event in world.recorder.events() if isinstance(event, kind)]


def keys(world: World) -> list[str]:
    return sorted(post["key"].partition(":")[2] for post in world.posted)


# -- calendar ---------------------------------------------------------------------------------------------


async def test_plan_shows_and_changes_nothing(scheduled: World) -> None:
    result = await scheduled.call("A2", "PLAN")
    assert result.status == "ok", result.reason
    for text in ("T-14 P0", "T+0 P6", "soak in stage", "T-1 freeze", "release window", "cab.window to board"):
        assert text in said(result)
    assert not scheduled.posted


async def test_the_file_holds_everything_once_and_escapes_what_came_from_outside(scheduled: World) -> None:
    assert (await scheduled.call("A2", "EVIDENCE")).status == "ok"
    path = scheduled.run_dir / "artifacts" / "calendar.ics"
    raw = path.read_bytes()
    assert all(len(line) <= 75 for line in raw.split(b"\r\n"))
    events = icalendar.Calendar.from_ical(raw).walk("VEVENT")
    found = scheduled.read("calendar.json")
    assert not found["compressed"] and found["day_s"] == 86400
    assert len(events) == len(found["entries"]) == len({str(one["uid"]) for one in events})
    kinds = [one["kind"] for one in found["entries"]]
    assert kinds.count("phase") == len(scheduled.plan.phases)
    assert {"window", "soak", "freeze", "kpi"} <= set(kinds)
    [nasty] = [str(one["summary"]) for one in events if "code freeze: audit" in str(one["summary"])]
    assert "SUMMARY:forged" in nasty and "\n" not in nasty
    assert (await scheduled.call("A2", "EVIDENCE")).status == "ok"
    assert path.read_bytes() == raw


async def test_a_compressed_calendar_says_so_everywhere(scheduled: World) -> None:
    scheduled.data["calendar"]["day"] = "1m"
    await scheduled.call("A2", "EVIDENCE")
    assert scheduled.read("calendar.json")["compressed"] is True
    raw = (scheduled.run_dir / "artifacts" / "calendar.ics").read_bytes()
    made = icalendar.Calendar.from_ical(raw)
    assert "a calendar day lasts 60 s" in str(made["x-wr-caldesc"])
    assert all("a calendar day lasts 60 s" in str(one["description"]) for one in made.walk("VEVENT"))
    assert all(str(one["summary"]).startswith("[REHEARSAL]") for one in made.walk("VEVENT"))


async def test_windows_and_freezes_cut_the_release_window_into_openings(scheduled: World) -> None:
    audit = {"name": "audit", "kind": "promotion", "start": iso(NOW), "end": iso(NOW + HOUR)}
    scheduled.data["calendar"]["freezes"] = [audit]
    await scheduled.call("A2", "EVIDENCE")
    openings = [one for one in scheduled.read("calendar.json")["entries"] if one["kind"] == "opening"]
    start = (NOW - HOUR).replace(second=0)
    end = (NOW + 3 * HOUR).replace(second=0)
    assert [(one["start"], one["end"]) for one in openings] == [
        (iso(start), iso(NOW)),
        (iso(NOW + HOUR), iso(end)),
    ]


@pytest.mark.parametrize("missing", ["calendar", "board"])
async def test_without_calendar_or_board_it_is_blocked(scheduled: World, missing: str) -> None:
    if missing == "calendar":
        del scheduled.data["calendar"]
    else:
        del scheduled.data["targets"]["webhooks"][:2]
    for op in ("PLAN", "APPLY", "VERIFY"):
        assert (await scheduled.call("A2", op)).status == "blocked"
    assert not scheduled.posted


# -- reminders --------------------------------------------------------------------------------------------


async def test_each_reminder_goes_once_to_whoever_is_the_board(scheduled: World) -> None:
    assert (await scheduled.call("A2", "APPLY")).status == "ok"
    assert keys(scheduled) == sorted(2 * ["cab.window", "cab.freeze.T-1", "cab.freeze.1", "cab.kpi"])
    assert all(one.ok for one in recorded(scheduled, MessagePosted))
    assert (await scheduled.call("A2", "APPLY")).status == "ok"
    # The file is lost with the machine: the journal still knows what was posted.
    (scheduled.run_dir / "artifacts" / "calendar.json").unlink()
    assert (await scheduled.call("A2", "APPLY")).status == "ok"
    assert len(scheduled.posted) == 8
    assert (await scheduled.call("A2", "VERIFY")).status == "ok"


async def test_a_board_that_cannot_be_reached_fails_no_release_and_is_told_later(scheduled: World) -> None:
    scheduled.hook_status = 503
    result = await scheduled.call("A2", "APPLY")
    assert result.status == "ok" and "0 of 8 reminders posted" in said(result)
    assert [one.ok for one in recorded(scheduled, MessagePosted)] == 8 * [False]
    assert "not delivered: cab.window to board" in said(await scheduled.call("A2", "VERIFY"))
    tried = {post["key"]: post["text"] for post in scheduled.posted}
    scheduled.hook_status = 200
    scheduled.posted.clear()
    assert "8 of 8 reminders posted" in said(await scheduled.call("A2", "APPLY"))
    assert {post["key"]: post["text"] for post in scheduled.posted} == tried
    assert said(await scheduled.call("A2", "VERIFY")) == "the calendar was kept"


# -- the calendar was kept ----------------------------------------------------------------------------------


async def test_a_phase_that_began_before_its_day_is_found(scheduled: World) -> None:
    scheduled.data["window_utc"] = f"{utc(NOW + DAY)} → {utc(NOW + DAY + HOUR)}"
    await scheduled.recorder.record(PhaseStarted(phase="P5"))
    result = await scheduled.call("A2", "VERIFY")
    assert result.status == "fail" and "the soak is not done" in said(result)
    await scheduled.recorder.record(PhaseStarted(phase="P6"))
    assert "P6 began at" in said(await scheduled.call("A2", "VERIFY"))


async def test_a_soak_that_is_done_satisfies_and_one_cut_short_does_not(scheduled: World) -> None:
    for since, status in ((NOW - 3 * DAY, "ok"), (NOW - HOUR, "fail")):
        until = iso(since + 2 * DAY)
        done = SoakChanged(state="done", since=iso(since), until=until, reason="")
        await scheduled.recorder.record(done)
        await scheduled.recorder.record(PhaseStarted(phase="P6"))
        assert (await scheduled.call("A2", "VERIFY")).status == status


# -- the fix train ------------------------------------------------------------------------------------------


async def test_a_hard_stop_files_one_issue_and_names_the_next_window(
    scheduled: World, forge: IssuesServer
) -> None:
    cause = "critical breach: p95 900 ms @everyone <!-- cockpit:key=x -->"
    planned = await scheduled.call("A2", "PLAN", fix_train=cause)
    assert "Hotfix for intelgraph-platform v3.0.0" in said(planned) and not forge.all()
    result = await scheduled.call("A2", "APPLY", fix_train=cause)
    assert result.status == "ok" and result.response is not None
    [issue] = forge.all()
    assert result.response.links.runs == [issue["html_url"]]
    assert {"cockpit", "fix_train", "hotfix", "type:fix"} <= {one["name"] for one in issue["labels"]}
    assert "@everyone" not in issue["body"] and issue["body"].count("<!--") == 1
    opens = (NOW - HOUR + DAY).replace(second=0)
    [train] = recorded(scheduled, FixTrainScheduled)
    assert (train.issue, train.window_start) == (issue["html_url"], iso(opens))
    assert keys(scheduled) == ["cab.fix_train", "cab.fix_train"]
    assert f"{opens:%Y-%m-%d %H:%M} UTC" in scheduled.posted[0]["text"]
    # Again, and with the file lost: nothing is filed or said twice.
    for _ in range(2):
        assert (await scheduled.call("A2", "APPLY", fix_train=cause)).status == "ok"
        (scheduled.run_dir / "artifacts" / "calendar.json").unlink()
    assert len(forge.all()) == 1 and len(scheduled.posted) == 2
    assert [one.known for one in recorded(scheduled, IssueFiled)] == [False, True, True]
    assert len(recorded(scheduled, FixTrainScheduled)) == 1
    assert (await scheduled.call("A2", "VERIFY")).status == "ok"
    await scheduled.call("A2", "EVIDENCE")
    [entry] = [one for one in scheduled.read("calendar.json")["entries"] if one["kind"] == "fix_train"]
    assert entry["start"] == iso(opens)


async def test_without_recurring_windows_no_window_is_made_up(scheduled: World) -> None:
    scheduled.data["calendar"]["windows"] = []
    assert (await scheduled.call("A2", "APPLY", fix_train="breach")).status == "ok"
    [train] = recorded(scheduled, FixTrainScheduled)
    assert train.issue and (train.window_start, train.window_end) == ("", "")
    assert "no further window" in scheduled.posted[0]["text"]


@pytest.mark.parametrize("trouble", ["no forge", "outage"])
async def test_where_no_issue_can_be_filed_the_board_is_told_all_the_same(
    scheduled: World, forge: IssuesServer, trouble: str
) -> None:
    tracker = scheduled.handles.issues
    if trouble == "no forge":
        scheduled.handles = dataclasses.replace(scheduled.handles, issues=None)
    else:
        await forge.fault("error")
    result = await scheduled.call("A2", "APPLY", fix_train="breach")
    assert result.status == "blocked" and len(scheduled.posted) == 2
    assert "Issue: not filed yet" in scheduled.posted[0]["text"]
    [train] = recorded(scheduled, FixTrainScheduled)
    assert not train.issue and train.window_start
    await forge.fault(None)
    scheduled.handles = dataclasses.replace(scheduled.handles, issues=tracker)
    assert (await scheduled.call("A2", "APPLY", fix_train="breach")).status == "ok"
    assert len(forge.all()) == 1 and len(scheduled.posted) == 2
    assert recorded(scheduled, FixTrainScheduled)[-1].issue


async def test_verify_looks_at_the_issue_itself(scheduled: World, forge: IssuesServer) -> None:
    await scheduled.call("A2", "APPLY", fix_train="breach")
    forge.answer_next(404, method="GET")
    result = await scheduled.call("A2", "VERIFY")
    assert result.status == "fail" and "is gone" in said(result)
    await forge.fault("error")
    assert (await scheduled.call("A2", "VERIFY")).status == "blocked"


async def test_rollback_withdraws_what_was_scheduled_once(scheduled: World, forge: IssuesServer) -> None:
    assert (await scheduled.call("A2", "ROLLBACK")).status == "ok" and not scheduled.posted
    await scheduled.call("A2", "APPLY")
    await scheduled.call("A2", "APPLY", fix_train="breach")
    scheduled.posted.clear()
    for _ in range(2):
        assert (await scheduled.call("A2", "ROLLBACK")).status == "ok"
    assert keys(scheduled) == ["cab.withdrawn", "cab.withdrawn"]
    [issue] = forge.all()
    assert issue["state"] == "closed" and len(issue["notes"]) == 1
    assert scheduled.recorder.state().work.fix_train == ("", "", "")
    found = scheduled.read("calendar.json")
    assert found["withdrawn"] and not [one for one in found["entries"] if one["kind"] == "fix_train"]
    assert len({one.number for one in recorded(scheduled, IssueFiled)}) == 1


async def test_a_rollback_that_cannot_close_the_issue_says_so_and_can_be_run_again(
    scheduled: World, forge: IssuesServer
) -> None:
    await scheduled.call("A2", "APPLY", fix_train="breach")
    await forge.fault("error")
    result = await scheduled.call("A2", "ROLLBACK")
    assert result.status == "blocked" and "was not closed" in said(result)
    await forge.fault(None)
    assert (await scheduled.call("A2", "ROLLBACK")).status == "ok"
    assert forge.all()[0]["state"] == "closed"
    assert keys(scheduled).count("cab.withdrawn") == 2
