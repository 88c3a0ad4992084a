"""`cockpit status`: where a run stands, in words, as JSON, and how to abort it by hand."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cockpit.base.clock import iso, parse_iso
from cockpit.journal import events as ev
from cockpit.journal.blobs import BlobStore
from cockpit.journal.events import AnyEvent
from cockpit.journal.events_people import (
    ApprovalRequested,
    BakePaused,
    CalendarSet,
    HandoverAccepted,
    HandoverOffered,
    NotDue,
)
from cockpit.journal.fold import Fold
from cockpit.journal.standing import Standing, standing
from tests.cli.test_commands import plan_text, say
from tests.ui.sample import START, Scribe, green, halfway, opened, rolled_back, write_journal

Capture = pytest.CaptureFixture[str]
LATER = START + timedelta(minutes=30)


def stands(events: list[AnyEvent]) -> Standing:
    fold = Fold()
    fold.apply_all(events)
    return standing(fold.snapshot(), LATER)


def more(events: list[AnyEvent], *added: AnyEvent) -> list[AnyEvent]:
    """Add events behind others."""
    scribe = Scribe(parse_iso(events[-1].at))
    for event in added:
        scribe.add(event)
    return [
        *events,
        *(
            msgspec.structs.replace(event, seq=len(events) + number)
            for number, event in enumerate(scribe.events)
        ),
    ]


def test_nothing_recorded_stands_nowhere() -> None:
    found = standing(Fold().snapshot(), LATER)
    assert (found.version, found.exit, found.waits, found.window) == ("", None, [], None)


def test_a_run_under_way_says_step_weights_passes_and_window() -> None:
    events = halfway()
    found = stands(events)
    looks = [event for event in events if isinstance(event, ev.LookTaken)]
    assert found.phase == ["P6"]
    assert found.canary.last is not None and found.canary.last.outcome == looks[-1].outcome
    assert (found.canary.passes, found.canary.required) == (looks[-1].passes, looks[-1].required)
    assert found.canary.desired > 0 and found.exit is None
    run = next(event for event in events if isinstance(event, ev.RunOpened))
    assert found.window is not None
    left = (parse_iso(run.window_end) - LATER).total_seconds()
    assert (found.window.open, found.window.left_s) == (left > 0, max(0.0, left))


def test_what_waits_is_named_with_its_choices() -> None:
    ask = ApprovalRequested(
        request="r1", asked="promote", subject="v3.0.0", text="into prod", requester="ann", threshold=2,
        groups=["sre"], from_each=False, step_up="", expires=iso(LATER), blob="",
    )  # fmt: skip
    found = stands(
        more(
            halfway(),
            ev.HaltBegan(by="ann", trigger="key", reason="", epoch=1),
            ev.Question(question="q9", text="Roll back?", options=["rollback", "stay"]),
            ask,
            HandoverOffered(by="ann", to="bob", reason="night"),
            NotDue(what="P8", due=iso(LATER + timedelta(hours=1)), reason="T+1"),
        )
    )
    assert found.halted
    waits = {wait.kind: wait for wait in found.waits}
    assert list(waits) == ["halt", "question", "approval", "handover", "due"]
    assert waits["question"].options == ["rollback", "stay"]
    assert "0 of 2 approvals of sre" in waits["approval"].text and waits["approval"].until == iso(LATER)
    assert found.next_due is not None and found.next_due.id == "P8"


def test_what_has_been_settled_waits_no_more() -> None:
    found = stands(
        more(
            halfway(),
            ev.HaltBegan(by="ann", trigger="key", reason="", epoch=1),
            ev.Question(question="q9", text="Roll back?", options=["rollback", "stay"]),
            ev.QuestionAnswered(question="q9", answer="stay", by="ann"),
            ev.HaltEnded(by="ann", choice="resume", reason="fine"),
        )
    )
    assert (found.waits, found.halted) == ([], False)


def test_the_calendar_says_what_is_due_next() -> None:
    due = {"P0": iso(START), "P7": iso(LATER + timedelta(days=2)), "P8": iso(LATER + timedelta(days=1))}
    found = stands(more(halfway(), CalendarSet(day_s=86400.0, phases=due, compressed=False)))
    assert found.next_due is not None and (found.next_due.id, found.next_due.until) == ("P8", due["P8"])


def test_the_operator_is_who_took_the_run_last_and_a_pause_shows() -> None:
    before = stands(halfway())
    run = next(event for event in halfway() if isinstance(event, ev.RunOpened))
    assert (before.operator, before.paused) == (run.operator, False)
    found = stands(
        more(
            halfway(),
            HandoverOffered(by="ann", to="bob", reason="night"),
            HandoverAccepted(by="bob", of="ann"),
            BakePaused(paused=True, by="bob", reason="look closer"),
        )
    )
    assert (found.operator, found.paused, found.waits) == ("bob", True, [])


def test_a_breach_and_its_rollback_are_told() -> None:
    found = stands(rolled_back())
    assert found.breach
    assert found.rollback is not None and found.rollback.status == "verified"
    assert (found.exit, found.next_due, found.waits) == (20, None, [])


# -- the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [green, halfway, rolled_back])
def test_text_and_json_say_the_same(capsys: Capture, tmp_path: Path, make: object) -> None:
    events: list[AnyEvent] = make()  # type: ignore[operator]
    write_journal(tmp_path, events)
    code, text, _ = say(capsys, "status", "--run", tmp_path)
    assert code == 0
    code, out, _ = say(capsys, "status", "--run", tmp_path, "--json")
    found = json.loads(out)["standing"]
    assert code == 0 and json.loads(out)["seq"] == len(events) - 1
    assert f"desired {found['canary']['desired']} %" in text
    assert f"operator  {found['operator']}" in text
    assert all(f"{phase}:{status}" in text for phase, status in found["phases"].items())
    assert ("rollback  " in text) == (found["rollback"] is not None)
    assert ("closed    " in text) == (found["exit"] is not None)


def test_text_from_outside_cannot_drive_the_terminal(capsys: Capture, tmp_path: Path) -> None:
    question = ev.Question(question="q1", text="\x1b[2J [bold]?", options=["a"])
    write_journal(tmp_path, more(halfway(), question))
    _, text, _ = say(capsys, "status", "--run", tmp_path)
    assert "\x1b" not in text


def test_the_commands_by_hand_are_those_of_the_plan(capsys: Capture, tmp_path: Path) -> None:
    blob = BlobStore(tmp_path / "blobs").put(plan_text().encode()).digest
    run = opened(plan_blob=blob)
    stable = ev.StableRecorded(replicas={"web-stable": 2}, images={"web-stable": "r/web@sha256:" + "1" * 64})
    scribe = Scribe()
    for event in (run, stable):
        scribe.add(event)
    write_journal(tmp_path, scribe.events)
    code, text, _ = say(capsys, "status", "--run", tmp_path, "--fallback")
    lines = text.splitlines()
    assert code == 0 and all(line.startswith("kubectl --server ") for line in lines)
    assert any("get httproute" in line for line in lines)
    assert any(
        line.endswith("set image deployment/web-stable app=r/web@sha256:" + "1" * 64) for line in lines
    )
    assert any("scale deployment/web-canary --replicas 0" in line for line in lines)


def test_commands_that_were_recorded_are_shown_again(capsys: Capture, tmp_path: Path) -> None:
    events = more(
        halfway(),
        ev.RollbackStarted(reason="manual", cause="x", by="ann"),
        ev.RollbackUnfinished(reason="gone", fallback=["kubectl one", "kubectl two"]),
    )
    write_journal(tmp_path, events)
    code, text, _ = say(capsys, "status", "--run", tmp_path, "--fallback")
    assert (code, text.splitlines()) == (0, ["kubectl one", "kubectl two"])


def test_a_run_whose_plan_is_lost_says_so(capsys: Capture, tmp_path: Path) -> None:
    write_journal(tmp_path, halfway())
    code, out, err = say(capsys, "status", "--run", tmp_path, "--fallback")
    assert code != 0 and out == "" and "blob" in err
