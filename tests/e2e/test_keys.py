"""HALT, ROLLBACK, approvals and break-glass by keys, in real terminals, on real rehearsals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cockpit.journal import events as ev
from cockpit.journal import events_people as people
from cockpit.rehearsal.plan_people import PLATFORM, PRODUCT, SECURITY, SRE, Persona
from tests.e2e.rehearsals import cockpit
from tests.e2e.terminals import Seats, Terminal, one_time_password

pytestmark = [
    pytest.mark.tmux,
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]
Play = Callable[[Callable[[Seats], None]], None]

WHY = "the ingest backlog endangers a customer's deadline"


def _sign(
    seats: Seats, terminal: Terminal, person: Persona, request: str, reason: str, *, number: str = "1"
) -> people.ApprovalReceived:
    """Sign the one request that waits, 1 approving and 2 rejecting; a second factor is shown where asked."""
    seats.wait(people.ApprovalRequested, lambda event: event.request == request)
    terminal.wait_for("APPROVAL WAITS")
    terminal.press("s")
    terminal.choose("approve or reject?", number)
    terminal.answer("Why? It is signed.", reason)
    asked = next(one for one in seats.of(people.ApprovalRequested) if one.request == request)
    if asked.step_up != "none":
        terminal.answer(f"One-time password of {person.id}", one_time_password(seats.folder, person))
    terminal.wait_for("Sign: ")
    terminal.press("1")
    terminal.wait_for("done · Esc goes back")
    terminal.leave("Sign: ")
    return seats.wait(
        people.ApprovalReceived, lambda event: event.request == request and event.by == person.id, within=15
    )


def _given(said: people.ApprovalReceived) -> tuple[str, str, str, str, bool]:
    return said.by, said.identity, said.decision, said.reason, said.counted


def _settled(seats: Seats, request: str) -> people.ApprovalSettled:
    return seats.wait(people.ApprovalSettled, lambda event: event.request == request, within=15)


def _verified(folder: Path) -> None:
    """Hold the recording and the pack a run left against what a stranger checks."""
    journal = cockpit("journal", "verify", str(folder))
    assert journal.returncode == 0, journal.stdout
    evidence = cockpit("evidence", "verify", str(folder / "evidence.zip"))
    assert evidence.returncode == 0, evidence.stdout


def _rolled_back_by_keys(seats: Seats, terminal: Terminal) -> None:
    """HALT in the canary, give a reason, and roll back."""
    seats.wait(ev.LookTaken)
    terminal.press("H")
    halted = seats.wait(ev.HaltBegan, within=15)
    assert halted.trigger == "key"
    terminal.answer("Why? The reason is recorded.", "latency looks odd")
    assert seats.wait(ev.HaltReason, within=15).reason == "latency looks odd"
    terminal.wait_for("HALTED: what now?")
    terminal.press("R")
    terminal.wait_for("Consequence")
    terminal.press("y")
    seats.wait(ev.RollbackStarted, within=15)
    seats.wait(ev.RollbackVerified, within=60)
    assert seats.wait(ev.RunClosed, within=60).exit == 20


@pytest.mark.long
def test_halt_and_rollback_by_keys(play: Play) -> None:
    def act(seats: Seats) -> None:
        _rolled_back_by_keys(seats, seats.rehearse())

    play(act)


def test_an_approval_by_two_people_then_halt_and_rollback_by_keys(play: Play) -> None:
    def act(seats: Seats) -> None:
        operator = seats.rehearse("--scenario", "approval-rejected", "--people", "none", person=SRE)
        asked = seats.wait(people.ApprovalRequested)
        assert (asked.asked, asked.requester, asked.threshold) == ("promote", "@sre", 2)
        first = _sign(seats, seats.follow(PLATFORM), PLATFORM, asked.request, "read the plan and the pack")
        assert _given(first) == (
            "@platform",
            PLATFORM.identity,
            "approve",
            "read the plan and the pack",
            True,
        )
        operator.wait_for("promote 1/2")
        assert not seats.of(people.ApprovalSettled) and not seats.of(ev.LookTaken)
        second = _sign(seats, seats.follow(SECURITY), SECURITY, asked.request, "the images are signed")
        assert _given(second) == ("@security", SECURITY.identity, "approve", "the images are signed", True)
        settled = _settled(seats, asked.request)
        assert (settled.result, set(settled.by)) == ("granted", {"@platform", "@security"})
        _rolled_back_by_keys(seats, operator)
        _verified(seats.folder)

    play(act)


def _break_glass(seats: Seats) -> tuple[Terminal, Terminal]:
    """Ask for break-glass as @sre and approve it as @security; returns both screens."""
    operator = seats.rehearse("--scenario", "break-glass", "--people", "none", person=SRE)
    seats.wait(ev.Question)
    operator.wait_for("DECIDE")
    operator.press("u")
    operator.answer(f"One-time password of {SRE.id}", one_time_password(seats.folder, SRE))
    operator.wait_for("The second factor was taken")
    operator.press("B")
    operator.choose("BREAK-GLASS: which gate?", "1")
    operator.answer("BREAK-GLASS: the reason for access", WHY)
    operator.answer("Type the name of the release", "v3.0.0")
    operator.wait_for("it counts once a second person has signed")
    operator.press("y")
    operator.wait_for("BREAK-GLASS: sign")
    operator.press("1")
    operator.wait_for("waits for its second person")
    operator.leave("BREAK-GLASS: sign")
    asked = seats.wait(people.ApprovalRequested, within=15)
    assert (asked.asked, asked.requester) == ("break-glass", "@sre")

    # Whoever asked cannot sign: not as who they are, and not as somebody else.
    operator.press("s")
    operator.wait_for("You (@sre) asked for this: somebody else has to sign it.")
    operator.choose("approve or reject?", "1")
    operator.answer("Why? It is signed.", "I say so myself")
    operator.choose("@sre asked for this and cannot sign it.", "1")
    operator.wait_for("It needs a second factor of @security")
    operator.press("1")
    operator.wait_for("NOT DONE")
    assert "403" in operator.screen()
    operator.leave("Sign: ")
    mine = cockpit("approve", asked.request, "--as", SRE.id, "--reason", "me", "--run", str(seats.folder))
    assert mine.returncode == 64 and "@sre asked for this and cannot decide it" in mine.stderr
    assert not seats.of(people.ApprovalReceived) and not seats.of(people.BreakGlassUsed)

    second = seats.follow(SECURITY)
    said = _sign(seats, second, SECURITY, asked.request, "looked at the Deployment with @sre")
    assert _given(said) == (
        "@security",
        SECURITY.identity,
        "approve",
        "looked at the Deployment with @sre",
        True,
    )
    settled = _settled(seats, asked.request)
    assert (settled.result, settled.by) == ("granted", ["@security"])
    used = seats.wait(people.BreakGlassUsed, within=15)
    assert (used.gate, used.by, used.second, used.reason) == ("policy_ci", "@sre", "@security", WHY)
    operator.wait_for("BREAK-GLASS over policy_ci")
    return operator, second


def test_break_glass_by_two_people_and_then_a_rejection_by_keys(play: Play) -> None:
    def act(seats: Seats) -> None:
        operator, second = _break_glass(seats)
        asked = seats.wait(people.ApprovalRequested, lambda event: event.asked == "promote")
        reason = "a dependency still waits for its review"
        said = _sign(seats, second, SECURITY, asked.request, reason, number="2")
        assert _given(said) == ("@security", SECURITY.identity, "reject", reason, True)
        settled = _settled(seats, asked.request)
        assert (settled.result, settled.by) == ("rejected", ["@security"])
        closed = seats.wait(ev.RunClosed, within=60)
        assert closed.exit == 10 and "@security" in closed.cause
        assert not [
            e for e in seats.of(ev.EffectIntended) if e.env == "prod" and e.verb in ("shift", "scale")
        ]
        operator.wait_for("@security", within=15)
        verdicts = [e.verdict for e in seats.of(ev.GateJudged) if e.phase_gate == "policy_ci"]
        assert "fail" in verdicts
        _verified(seats.folder)

    play(act)


@pytest.mark.long
def test_a_release_under_broken_glass_signed_to_its_end_by_keys(play: Play) -> None:
    def act(seats: Seats) -> None:
        operator, second = _break_glass(seats)
        asked = seats.wait(people.ApprovalRequested, lambda event: event.asked == "promote")
        _sign(seats, second, SECURITY, asked.request, "the images are signed")
        _sign(seats, seats.follow(PLATFORM), PLATFORM, asked.request, "read the plan and the pack")
        assert _settled(seats, asked.request).result == "granted"
        operator.close()  # the release goes on
        flip = seats.wait(people.ApprovalRequested, lambda event: event.asked == "flip", within=200)
        _sign(seats, seats.follow(PRODUCT), PRODUCT, flip.request, "its flags may go on now")
        closed = seats.wait(ev.RunClosed, within=60)
        assert closed.exit == 0, closed
        assert seats.of(ev.Released)
        _verified(seats.folder)

    play(act)


@pytest.mark.long
def test_closing_the_terminal_changes_nothing_for_the_release(play: Play) -> None:
    def act(seats: Seats) -> None:
        terminal = seats.rehearse(width=80, height=24)
        seats.wait(ev.AgentCalled)
        before = len(seats.events())
        terminal.close()
        closed = seats.wait(ev.RunClosed, within=200)
        assert closed.exit == 0, closed
        assert len(seats.events()) > before

    play(act)
