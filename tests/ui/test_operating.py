"""The operator's tools, approvals and break-glass by keys: what goes out, what is asked first."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.widgets import Input

from cockpit.control.messages import Command, Reply
from cockpit.journal import events as ev
from cockpit.journal import events_people as people_events
from cockpit.journal.events import AnyEvent
from cockpit.screens.app import CockpitApp
from cockpit.screens.shell import Shell, shown
from cockpit.screens.tools import seconds_in
from tests.ui import people, sample
from tests.ui.helpers import Conductor, Source, live_app, loaded, says, screen_text, serving, shows, until

pytestmark = pytest.mark.ui
EVENTS = sample.halfway()
ME = "anna"


@pytest.fixture(autouse=True, scope="module")
def _operator() -> Iterator[None]:
    before = os.environ.get("COCKPIT_OPERATOR")
    os.environ["COCKPIT_OPERATOR"] = ME
    yield
    if before is None:
        del os.environ["COCKPIT_OPERATOR"]
    else:
        os.environ["COCKPIT_OPERATOR"] = before


def obeys(command: Command) -> Sequence[AnyEvent]:
    """Record what a conductor records for a command."""
    match command.kind:
        case "pause" | "unpause":
            paused = command.kind == "pause"
            return (people_events.BakePaused(paused=paused, by=command.by, reason=command.reason),)
        case "halt":
            return (ev.HaltBegan(by=command.by, trigger="key", reason="", epoch=1),)
        case _:
            return ()


async def test_the_bake_is_paused_and_let_go_on_each_with_a_reason(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor(on=obeys, source=source)) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("p")
            await shows(pilot, "Pause the bake", "The analysis goes on")
            await pilot.press("enter")
            await shows(pilot, "Something has to be typed")
            assert conductor.kinds == []
            await pilot.press(*"pager", "enter")
            await shows(pilot, "BAKE PAUSED", "bake PAUSED")
            assert (conductor.last.kind, conductor.last.reason) == ("pause", "pager")
            await pilot.press("p")
            await shows(pilot, "The bake goes on")
            await pilot.press(*"calm", "enter")
            await until(pilot, lambda: conductor.kinds == ["pause", "unpause"], what="on the wire")
            await until(pilot, lambda: "BAKE PAUSED" not in screen_text(app), what="no banner any more")


async def test_the_bake_is_extended_by_a_time_and_a_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("e", *"-5", "enter")
            await shows(pilot, "no time of more than 0")
            await pilot.press("backspace", "backspace", *"2m", "enter")
            await shows(pilot, "Extend the bake by 2m00")
            await pilot.press(*"slow", "enter")
            await until(pilot, lambda: conductor.kinds == ["extend"], what="on the wire")
            assert (conductor.last.seconds, conductor.last.reason) == (120.0, "slow")


def test_times_people_type() -> None:
    assert [seconds_in(text) for text in ("90", "90s", "2m", "1.5h", "24h")] == [90, 90, 120, 5400, 86400]
    assert [seconds_in(text) for text in ("", "x", "0", "-1", "nan", "inf", "25h", "1d", "m")] == [None] * 9


@pytest.mark.parametrize("key", ["p", "e"])
async def test_without_a_step_there_is_no_bake_and_it_is_said(key: str, tmp_path: Path) -> None:
    events = EVENTS[:20]
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await pilot.press(key)
            await says(pilot, "no canary step is under way")
            assert conductor.kinds == []


async def test_an_agent_verifies_again_chosen_from_a_list_or_on_the_screen(tmp_path: Path) -> None:
    events = people.then(
        EVENTS,
        people.failed_perf(),
        people_events.ReverifyAsked(agent="A27", phase="P1", attempt=2, by=ME, reason="again"),
    )
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await pilot.press("v")
            await shows(pilot, "1  A27 Capacity Oracle", "2 attempts")
            await pilot.press("1")
            await shows(pilot, "Attempt 3", "The newest verdict counts")
            await pilot.press(*"ok", "enter")
            await until(pilot, lambda: conductor.kinds == ["reverify"], what="on the wire")
            assert (conductor.last.agent, conductor.last.reason) == ("A27", "ok")
            await pilot.press("3", "G")
            await pilot.pause(0.2)
            await pilot.press("v")
            await shows(pilot, "Attempt")
            assert "Which agent" not in screen_text(app)
            await pilot.press("escape")
            await shows(pilot, "attempt 2: headroom")


async def test_a_hand_over_needs_the_operator_and_the_one_it_was_offered_to(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("O")
            await says(pilot, "the run is not being handed over")
            await pilot.press("o")
            await shows(pilot, "To whom?")
            await pilot.press(*"bela", "enter")
            await shows(pilot, "Hand over to bela")
            await pilot.press(*"shift", "enter")
            await until(pilot, lambda: conductor.kinds == ["handover"], what="on the wire")
            assert (conductor.last.to, conductor.last.reason) == ("bela", "shift")
            source.push(people_events.HandoverOffered(by=ME, to="bela", reason="shift"))
            await shows(pilot, "HANDED OVER to bela")
            await pilot.press("O")
            await says(pilot, "was offered to bela, not to anna")
            source.push(people_events.HandoverAccepted(by="bela", of=ME))
            await until(pilot, lambda: app.view.state.people.operator == "bela", what="taken over")
            await pilot.press("o")
            await says(pilot, "bela is the operator, not anna")
            source.push(people_events.HandoverOffered(by="bela", to=ME, reason="back"))
            await shows(pilot, "HANDED OVER to anna")
            await pilot.press("d")
            await until(pilot, lambda: conductor.kinds == ["handover", "accept"], what="taken back")


async def test_what_waits_is_acknowledged(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("A")
            await says(pilot, "Nothing waits for a decision")
            source.push(ev.Question(question="q1", text="Go on?", options=["yes", "no"]))
            await shows(pilot, "DECIDE")
            await pilot.press("A")
            await until(pilot, lambda: conductor.kinds == ["acknowledge"], what="on the wire")


async def test_a_one_time_password_is_neither_shown_nor_given_as_a_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("u")
            await shows(pilot, "neither shown nor recorded")
            await pilot.press(*"493817")
            assert "493817" not in screen_text(app)
            await pilot.press("enter")
            await until(pilot, lambda: conductor.kinds == ["step-up"], what="on the wire")
            assert (conductor.last.answer, conductor.last.reason) == ("493817", "")


def run_option(folder: Path) -> str:
    """Return the option that names the run, from any folder."""
    return f"--run={folder.resolve()}"


def command_of(app: CockpitApp) -> list[str]:
    """Return the arguments of the command a dialogue shows, as a shell would split them."""
    assert isinstance(app.screen, Shell)
    return shlex.split(shown(app.screen._variants[0].arguments))


async def test_an_approval_is_signed_by_the_command_shown(tmp_path: Path) -> None:
    text = "promote [b]v3.0.0[/b]\x1b[31m"
    events = people.with_plan(tmp_path, people.asked(text=text, step_up="totp"))
    async with serving(tmp_path, Conductor()):
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await until(pilot, lambda: app.view.plan.known, what="the plan read")
            await pilot.press("s")
            await shows(pilot, "promote: approve or reject?", "[b]v3.0.0[/b]␛[31m", "2 of cab, sre", "totp")
            await pilot.press("2")
            await shows(pilot, "Why? It is signed.")
            await pilot.press(*"it's `bad` $(x)", "enter")
            await shows(pilot, "Who signs?", "anna asked for this and cannot", "1  bela", "2  cora")
            await pilot.press("2")
            await shows(pilot, "Sign: reject", "cockpit approve", "cockpit step-up --as=cora")
            run = run_option(tmp_path)
            reason = "--reason=it's `bad` $(x)"
            assert command_of(app) == ["cockpit", "approve", run, "--as=cora", reason, "--reject", "r1"]
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.main, what="back")


async def test_a_signer_shows_their_second_factor_on_the_way(tmp_path: Path) -> None:
    asked = replace(people.asked(step_up="totp"), requester="bela")
    events = people.with_plan(tmp_path, asked)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await until(pilot, lambda: app.view.plan.known, what="the plan read")
            await pilot.press("s", "1")
            await shows(pilot, "Why? It is signed.")
            await pilot.press(*"fine", "enter")
            await shows(pilot, "One-time password of anna")
            await pilot.press(*"493817", "enter")
            await until(pilot, lambda: conductor.kinds == ["step-up"], what="on the wire")
            await shows(pilot, "Sign: approve", "cockpit approve")
            assert "second factor" not in screen_text(app).replace("The second factor was taken", "")


async def test_what_nobody_may_sign_is_said_before_anything_is_typed(tmp_path: Path) -> None:
    asked = replace(people.asked(), requester="cora", groups=["cab"])
    events = people.with_plan(tmp_path, asked)
    async with serving(tmp_path, Conductor()):
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await until(pilot, lambda: app.view.plan.known, what="the plan read")
            await pilot.press("s")
            await says(pilot, "Nobody in the plan may sign r1", "of cab", "cora")


async def test_whoever_asked_is_told_so_before_they_decide(tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, people.asked())
    async with serving(tmp_path, Conductor()):
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await pilot.press("s")
            await shows(pilot, "You (anna) asked for this", "2  Reject", "a number chooses")


async def test_a_command_run_here_shows_what_it_says_and_halt_works_beside_it(tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, people.asked(), plan="not a plan: 1\n")
    sample.write_journal(tmp_path, events)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await pilot.press("d")
            await shows(pilot, "approve or reject?")
            await pilot.press("1")
            await shows(pilot, "Why? It is signed.")
            await pilot.press(*"fine", "enter")
            await shows(pilot, "Sign: approve", "cockpit approve")
            await pilot.press("c")
            await shows(pilot, "Copied")
            assert app.clipboard.startswith("cockpit approve --run=")
            await pilot.press("x")
            await says(pilot, "x waits until this is answered")
            await pilot.press("1")
            await pilot.press("H")
            await until(pilot, lambda: conductor.kinds == ["halt"], what="halt on the wire")
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, Shell), what="the command's dialogue again")
            await until(pilot, lambda: "NOT DONE (exit" in screen_text(app), what="its end", turns=600)
            await shows(pilot, "a number tries again")


async def test_break_glass_asks_scope_reason_name_and_a_yes_before_it_signs(tmp_path: Path) -> None:
    events = people.with_plan(tmp_path, people.failed_perf())
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await until(pilot, lambda: app.view.plan.known, what="the plan read")
            await pilot.press("B")
            await shows(pilot, "BREAK-GLASS: which gate?", "1  perf: A27 in prod: fail: headroom 0.12")
            await pilot.press("enter", "B")
            await says(pilot, "B waits until this is answered")
            await pilot.press("1")
            await shows(pilot, "the reason for access")
            await pilot.press(*"too short", "enter")
            await shows(pilot, "9 of 20 characters")
            app.screen.query_one(Input).value = ""
            await pilot.press(*"the load test ran beside another", "enter")
            await shows(pilot, "Type the name of the release")
            await pilot.press(*"v3.0", "enter")
            await shows(pilot, "not the release on this screen")
            await pilot.press(*".0", "enter")
            await shows(pilot, "Lasts    30m; it counts once a second person has signed", "Signs    anna")
            await pilot.press("B")
            await says(pilot, "B waits until this is answered")
            await pilot.press("y")
            await shows(pilot, "BREAK-GLASS: sign")
            assert command_of(app) == [
                "cockpit", "break-glass", run_option(tmp_path), "--as=anna",
                "--reason=the load test ran beside another", "perf",
            ]  # fmt: skip
            assert conductor.kinds == []


@pytest.mark.parametrize(
    ("plan", "more", "why"),
    [
        (people.PLAN, (), "no gate that may be overridden has failed"),
        (people.PLAN, (people.failed_perf(), people.broken_glass()), "no gate that may be overridden has"),
        ("ga_flags: []", (people.failed_perf(),), "the plan allows none"),
        ("[", (people.failed_perf(),), "the run's plan cannot be read"),
    ],
    ids=["none failed", "in force already", "none allowed", "no plan"],
)
async def test_break_glass_says_why_there_is_nothing_to_override(
    plan: str, more: tuple[AnyEvent, ...], why: str, tmp_path: Path
) -> None:
    events = people.with_plan(tmp_path, *more, plan=plan)
    async with serving(tmp_path, Conductor()):
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await pilot.pause(0.3)
            await pilot.press("B")
            await says(pilot, "Break-glass is not possible", why)


async def test_break_glass_over_the_halt_dialogue_waits_and_says_so(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor(on=obeys, source=source)) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("H", "escape")
            await shows(pilot, "HALTED: what now?")
            await pilot.press("B")
            await says(pilot, "B waits until this is answered")
            await shows(pilot, "HALTED: what now?")
            assert conductor.kinds == ["halt"]


async def test_the_run_ends_while_a_reason_is_typed(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("p", *"late")
            source.push(ev.RunClosed(exit=20, outcome="rolled back", cause="breach"))
            await until(pilot, lambda: app.view.state.closed is not None, what="the end")
            await pilot.press("enter")
            await says(pilot, "is not possible: the run has ended")
            assert conductor.kinds == []


async def test_pasted_control_characters_are_seen_and_sent_as_seen(tmp_path: Path) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("n")
            await shows(pilot, "A remark for the journal")
            field = app.screen.query_one(Input)
            field.insert_text_at_cursor("a\x1b]0;evil\x07\u202eb\x00")
            await shows(pilot, "a␛]0;evil␇\\x202eb␀")
            await pilot.press("enter")
            await until(pilot, lambda: conductor.kinds == ["note"], what="on the wire")
            assert conductor.last.reason == "a␛]0;evil␇\\x202eb␀"


async def test_a_refused_tool_says_what_the_conductor_said(tmp_path: Path) -> None:
    refuses = Conductor(
        answer=lambda command: Reply(command.id, command.kind in ("hello", "ping"), "no [b]step[/b]")
    )
    async with serving(tmp_path, refuses):
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("p", *"why", "enter")
            await says(pilot, "PAUSE NOT DELIVERED", "refused: no [b]step[/b]")


async def test_promote_is_confirmed_and_its_command_is_shown(tmp_path: Path) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("P")
            await shows(pilot, "canary 10 %, 50 %, 100 %")
            await pilot.press("P")
            await says(pilot, "P waits until this is answered")
            await pilot.press("y")
            await shows(pilot, "Promote v2", "1  Run it here")
            assert command_of(app) == ["cockpit", "promote", run_option(tmp_path)]
            assert conductor.kinds == []


@pytest.mark.parametrize(("opening", "title"), [(("P",), "PROMOTE"), (("q",), "Leave the screen?")])
async def test_rollback_over_another_question_asks_its_own_and_drops_the_other(
    opening: tuple[str, ...], title: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press(*opening)
            await shows(pilot, title)
            await pilot.press("R")
            await shows(pilot, "ROLLBACK v3.0.0 in prod")
            await pilot.press("y")
            await until(pilot, lambda: conductor.kinds == ["rollback"], what="rollback on the wire")
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.main, what="the other question is gone")
            assert app.is_running


async def test_a_question_about_unmet_obligations_says_what_meets_them_and_asks_the_reason(
    tmp_path: Path,
) -> None:
    denied = people_events.PolicyDecided(
        decision="d1",
        action="promote",
        allow=True,
        obligations=["reason_for_access"],
        unmet=["reason_for_access"],
        reasons=[],
        engine="opa",
        blob="",
    )
    asked = ev.Question(question="q2", text="Not met. Try again?", options=["retry", "end"])
    events = people.then(EVENTS, denied, asked)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(events, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, events)
            await pilot.press("d")
            await shows(pilot, "asks for a reason for access", "1  retry")
            await pilot.press("1")
            await shows(pilot, "A reason for access", "who operates")
            await pilot.press(*"the canary looks well", "enter")
            await until(pilot, lambda: conductor.kinds == ["answer"], what="the answer on the wire")
            assert (conductor.last.answer, conductor.last.reason) == ("retry", "the canary looks well")
