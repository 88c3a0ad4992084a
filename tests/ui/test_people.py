"""What waits, who decides, what was done in the world: at every size, in every look, and in a replay."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from cockpit.base.clock import VirtualClock, parse_iso
from cockpit.journal import events as ev
from cockpit.journal import events_people as people_events
from cockpit.screens.planned import Planned, planned
from tests.ui import people, sample
from tests.ui.helpers import (
    Conductor,
    Source,
    live_app,
    loaded,
    replay_app,
    screen_text,
    serving,
    shows,
    until,
)
from tests.ui.test_panes import compare

pytestmark = pytest.mark.ui

PAGES = {
    "w": ("Who operates", "ESCALATED", "1 of 2 of cab, sre", "does not count: not a person of the plan"),
    "i": ("Stages before prod", "INC-7", "#77", "search", "REGRESSED", "kill-switch", "v3.0.0-rc.1"),
    "c": ("What is in this release", "web", "Feature flags", "Release notes"),
    "l": ("rolled back after 2 failures", "2 of cab, sre", "A15", "six images signed"),
    "F": ("without the cockpit", "$ kubectl", "fallback.txt"),
}


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_what_waits_is_seen_at_once(size: tuple[int, int], tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, *people.busy())
    app = live_app(events, control=False)
    app.take_factors((6.0,))
    async with app.run_test(size=size) as pilot:
        await loaded(pilot, app, events)
        compare(f"people-{size[0]}x{size[1]}", screen_text(app))


async def test_the_page_of_what_waits(tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, *people.busy())
    app = live_app(events, control=False)
    app.take_plan(planned(people.PLAN.encode()))
    async with app.run_test(size=(120, 80)) as pilot:
        await loaded(pilot, app, events)
        await pilot.press("w")
        await shows(pilot, "A27: 2 attempts")
        compare("waits-120x80", screen_text(app))


@pytest.mark.parametrize("key", list(PAGES))
@pytest.mark.parametrize("how", ["live", "ascii", "replay"])
async def test_every_page_in_every_mode(key: str, how: str, tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, *people.busy())
    folder = sample.write_journal(tmp_path, events)
    (folder / "fallback.txt").write_text("kubectl scale deployment/web-canary --replicas 0\n")
    mode = "replay" if how == "replay" else "live"
    app = live_app(events, folder=folder, control=False, mode=mode, ascii=how == "ascii")  # type: ignore[arg-type]
    async with app.run_test(size=(120, 80)) as pilot:
        await loaded(pilot, app, events)
        await until(pilot, lambda: app.view.plan.known, what="the plan read")
        await pilot.press(key)
        await shows(pilot, *PAGES[key])
        if how == "ascii":
            assert screen_text(app).isascii()
        await pilot.press(key)
        await until(pilot, lambda: app.screen is app.main, what="the same key goes back")


async def test_a_replay_shows_what_waited_then_and_rings_no_bell(tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, people.asked(), people.said("cora"), people.said("bela"))
    events = people.then(
        events,
        people_events.ApprovalSettled(
            request="r1",
            result="granted",
            by=["cora", "bela"],
            reason="2 of 2",
            valid_until=people.later(3600),
        ),
    )
    app, replay = replay_app(events, VirtualClock())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        replay.seek(len(events) - 2)
        await shows(pilot, "APPROVAL WAITS", "promote 1/2")
        await pilot.press("s")
        await shows(pilot, "this is a recording")
        replay.seek(len(events))
        await until(pilot, lambda: "APPROVAL WAITS" not in screen_text(app), what="nothing waits")
        await pilot.press("w")
        await shows(pilot, "granted by cora, bela")
        assert not app.rung


async def test_the_bell_rings_once_a_decision_and_once_more_when_it_is_escalated(tmp_path: Path) -> None:
    source = Source(sample.halfway())
    app = live_app(sample.halfway(), source=source, control=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await loaded(pilot, app, sample.halfway())
        assert not app.rung
        source.push(people.asked())
        await until(pilot, lambda: app.rung == {"approval:r1"}, what="the first bell")
        source.push(people_events.DecisionWaits(what="request:r1", level="page", text=""))
        source.push(people_events.DecisionWaits(what="request:r1", level="escalate", text=""))
        await shows(pilot, "ESCALATED")
        assert app.rung == {"approval:r1", "escalated:approval:r1"}
        source.push(people_events.DecisionAcknowledged(what="request:r1", by="bela"))
        await until(pilot, lambda: "ESCALATED" not in screen_text(app), what="no badge any more")
        await shows(pilot, "APPROVAL WAITS")
        source.push(ev.Question(question="q1", text="Go on?", options=["yes", "no"]))
        await until(pilot, lambda: "question:q1" in app.rung, what="the bell for a question")
        source.push(ev.QuestionAnswered(question="q1", answer="yes", by="bela"))
        await until(pilot, lambda: "DECIDE" not in screen_text(app), what="answered")
        assert len(app.rung) == 3


async def test_what_was_settled_before_the_screen_was_opened_rings_no_bell() -> None:
    events = people.then(
        sample.halfway(),
        ev.Question(question="q1", text="Go on?", options=["yes", "no"]),
        ev.QuestionAnswered(question="q1", answer="yes", by="bela"),
        people.asked(),
    )
    app = live_app(events, control=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.rung == {"approval:r1"}, what="the bell for what waits now")


async def test_the_glass_ends_by_itself(tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, people.failed_perf(), people.broken_glass())
    clock = VirtualClock(parse_iso(people.later(2)))
    app = live_app(events, control=False, clock=clock)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "BREAK-GLASS over perf, ends in 29m", "READ-ONLY   GLASS")
        await pilot.press("3")
        await shows(pilot, "OVERRIDDEN: headroom 0.12", "✗ FAIL")
        clock.advance(1800)
        await until(pilot, lambda: "GLASS" not in screen_text(app), what="the glass over")
        await pilot.press("w")
        await shows(pilot, "○ perf", "ended")


async def test_a_hard_stop_shows_each_stage_and_what_was_not_done() -> None:
    events = people.stopped()
    app = live_app(events, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, events)
        await shows(pilot, "■ HARD STOP  ✓ incident  ✗ evidence  · notify  · fix_train  (i)")
        await pilot.press("i")
        await shows(pilot, "✓ incident", "✗ evidence", "could not be frozen", "· notify", "#78, window")
        await pilot.press("a")
        await shows(pilot, "hard stop: evidence NOT DONE")


async def test_contents_are_the_release_notes_and_it_is_said_when_they_are_others(tmp_path: Path) -> None:
    notes = "# v3.0.0\n- Commits: 13\n- Pull requests: #401\n- Migration files: 9 \x1b[31m\n"
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "release_notes.md").write_text(notes)
    written = ev.ArtifactWritten(path="release_notes.md", sha256="0" * 64, agent="A41", kind="notes")
    events = people.with_plan(tmp_path, written)
    app = live_app(events, folder=tmp_path, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, events)
        await pilot.press("c")
        await shows(pilot, "Pull requests: #401", "NOT AS RECORDED", "␛[31m")


async def test_recorded_commands_by_hand_win_over_those_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "fallback.txt").write_text("kubectl old\n")
    source = Source(sample.halfway())
    source.push(
        ev.RollbackStarted(reason="slo_breach", cause="p95", by="conductor"),
        ev.RollbackUnfinished(reason="gone", fallback=["kubectl new"]),
    )
    app = live_app(sample.halfway(), source=source, folder=tmp_path, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "ROLLBACK NOT FINISHED")
        await pilot.press("F")
        await shows(pilot, "kubectl new", "in this order")
        assert "kubectl old" not in screen_text(app)


async def test_without_a_run_folder_each_page_says_what_it_lacks() -> None:
    app = live_app(sample.halfway(), control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, sample.halfway())
        for key, text in (
            ("F", "not in this folder"),
            ("l", "no run folder"),
            ("c", "Not written yet"),
            ("i", "Nothing was done"),
            ("w", "Nothing waits for a decision"),
        ):
            await pilot.press(key)
            await shows(pilot, text)


def test_a_plan_that_is_no_plan_gives_no_facts() -> None:
    for raw in (b"\xff", b"[1, 2", b"- 1", b"x" * (2 << 20), b"canary: [1]\napprovals: {people: [1, {}]}"):
        facts = planned(raw)
        assert facts.factors == () and facts.people == () and facts.overridable == ()
    assert planned(b"[") == Planned()


async def test_the_next_operator_is_shown_after_a_hand_over(tmp_path: Path) -> None:
    events = people.then(
        sample.halfway(),
        people_events.HandoverOffered(by="anna", to="bela", reason="end of shift"),
        people_events.HandoverAccepted(by="bela", of="anna"),
    )
    app = live_app(events, control=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await loaded(pilot, app, events)
        await shows(pilot, "bela@bastion-1")


async def test_banners_never_push_the_keys_off_a_small_screen(tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, *people.busy())
    async with serving(tmp_path, Conductor()):
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(80, 24)) as pilot:
            await loaded(pilot, app, events)
            await _attached(pilot)
            lines = screen_text(app).split("\n")
            assert lines[2].startswith(" ! ESCALATED: APPROVAL WAITS (s signs, A acknowledges): promote 1/2")
            assert lines[-1].startswith(" H HALT")
            assert all(len(line) <= 80 for line in lines)


async def _attached(pilot: Pilot[None]) -> None:
    await shows(pilot, "GLASS", "PAUSED")
