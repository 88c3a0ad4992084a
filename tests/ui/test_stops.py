"""HALT, ROLLBACK and the rest: what a key does, at good moments and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cockpit.control.messages import Command, Reply
from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from tests.ui import sample
from tests.ui.helpers import Conductor, Source, live_app, loaded, says, screen_text, serving, shows, until

pytestmark = pytest.mark.ui
EVENTS = sample.halfway()


def obeys(command: Command) -> Sequence[AnyEvent]:
    """Record what a conductor records for a command."""
    match command.kind:
        case "halt":
            return (ev.HaltBegan(by=command.by, trigger="key", reason="", epoch=1),)
        case "reason":
            return (ev.HaltReason(by=command.by, reason=command.reason),)
        case "resume":
            return (ev.HaltEnded(by=command.by, choice="resume", reason=command.reason),)
        case "rollback":
            return (ev.RollbackStarted(reason="manual", cause="asked by a person", by=command.by),)
        case _:
            return ()


async def test_halt_goes_out_on_one_key_press_and_its_effect_is_seen(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor(on=obeys, source=source)) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("H")
            await until(pilot, lambda: conductor.kinds == ["halt"], what="halt on the wire")
            await shows(pilot, "Why? The reason is recorded.")
            await pilot.press(*"High")
            await pilot.press("enter")
            await until(pilot, lambda: conductor.kinds == ["halt", "reason"], what="the reason on the wire")
            assert conductor.last.reason == "High"
            await shows(pilot, "HALTED: what now?", "1  Roll back")


async def test_halt_reason_can_be_skipped_and_the_question_put_off(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor(on=obeys, source=source)) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("H")
            await shows(pilot, "Why?")
            await pilot.press("escape")
            await shows(pilot, "HALTED: what now?")
            await pilot.press("escape")
            await shows(pilot, "■ HALTED", "no reason given yet", "d decides")
            await pilot.press("d")
            await shows(pilot, "HALTED: what now?")
            await pilot.press("2")
            await shows(pilot, "Why is it safe to resume?")
            await pilot.press("enter")
            assert "resume" not in conductor.kinds
            await pilot.press("o", "k", "enter")
            await until(pilot, lambda: conductor.kinds == ["halt", "resume"], what="resume on the wire")
            assert conductor.last.reason == "ok"
            await until(pilot, lambda: "■ HALTED" not in screen_text(app), what="the banner gone")


@pytest.mark.parametrize("opening", [("R",), ("question_mark",), ("5", "enter"), ("q",), ("a",)])
async def test_halt_works_over_whatever_is_open(tmp_path: Path, opening: tuple[str, ...]) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press(*opening)
            await pilot.pause(0.2)
            await pilot.press("H")
            await until(pilot, lambda: conductor.kinds == ["halt"], what="halt on the wire")


@pytest.mark.parametrize("opening", [("n",), ("slash",), ("colon",)])
async def test_in_a_text_field_letters_are_letters_and_f9_halts(
    tmp_path: Path, opening: tuple[str, ...]
) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press(*opening)
            await pilot.pause(0.3)
            await pilot.press("H", "R")
            await pilot.pause(0.1)
            assert conductor.kinds == []
            await pilot.press("f9")
            await until(pilot, lambda: conductor.kinds == ["halt"], what="halt on the wire")


async def test_a_halt_without_effect_says_so_until_the_journal_shows_one(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("H", "escape")
            await shows(pilot, "HALT sent", "waiting to see its effect")
            app.clock.advance(3.0)  # type: ignore[attr-defined]
            await shows(pilot, "NO EFFECT SEEN YET")
            assert conductor.kinds == ["halt"]
            source.push(ev.HaltBegan(by="anna", trigger="key", reason="", epoch=1))
            await shows(pilot, "■ HALTED")
            assert "HALT sent" not in screen_text(app)


async def test_no_conductor_is_said_loudly_with_what_to_do(tmp_path: Path) -> None:
    app = live_app(EVENTS, folder=tmp_path)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await loaded(pilot, app, EVENTS)
        await shows(pilot, "NO CONDUCTOR")
        app.clock.advance(9.0)  # type: ignore[attr-defined]
        await shows(pilot, "NO CONDUCTOR ANSWERS for 9 s")
        await pilot.press("H")
        await shows(pilot, "HALT NOT DELIVERED")
        await pilot.press("escape")
        await pilot.press("a")
        await shows(pilot, "cockpit status --run", "cockpit halt --run")


async def test_recorded_fallback_commands_are_shown(tmp_path: Path) -> None:
    command = "kubectl patch httproute intelgraph --type=json -p '[…]'"
    source = Source(EVENTS)
    source.push(
        ev.RollbackStarted(reason="slo_breach", cause="p95", by="conductor"),
        ev.RollbackUnfinished(reason="the API server is gone", fallback=[command]),
    )
    app = live_app(EVENTS, folder=tmp_path, source=source)
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await shows(pilot, "ROLLBACK NOT FINISHED", command)
        await pilot.press("a")
        await shows(pilot, "Do it by hand, in this order:", command)


async def test_a_refusal_is_shown_with_its_reason(tmp_path: Path) -> None:
    refuses = Conductor(
        answer=lambda command: Reply(command.id, command.kind in ("hello", "ping"), "not [b]now[/b]")
    )
    async with serving(tmp_path, refuses):
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("H")
            await shows(pilot, "HALT NOT DELIVERED", "refused: not [b]now[/b]")


async def test_rollback_shows_what_it_means_and_needs_y(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor(on=obeys, source=source)) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await until(pilot, lambda: app.view.desk.attached, what="attached")
            await pilot.press("R")
            await shows(
                pilot, "ROLLBACK v3.0.0 in prod", "50 %", "→ 0 %", "Feasibility", "the conductor answers"
            )
            await pilot.press("R")
            await shows(pilot, "does not confirm: press y")
            assert conductor.kinds == []
            await pilot.press("y")
            await until(pilot, lambda: conductor.kinds == ["rollback"], what="rollback on the wire")
            await shows(pilot, "Why? The reason is recorded.")
            await pilot.press(*"slow", "enter")
            await until(
                pilot, lambda: conductor.kinds == ["rollback", "reason"], what="the reason on the wire"
            )
            await shows(pilot, "■ ROLLING BACK")
            await pilot.press("R")
            await shows(pilot, "ROLLBACK is running already")


@pytest.mark.parametrize("key", ["escape", "n", "enter"])
async def test_rollback_can_be_cancelled_and_enter_means_cancel(tmp_path: Path, key: str) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("R")
            await shows(pilot, "ROLLBACK v3.0.0 in prod")
            await pilot.press(key)
            await until(pilot, lambda: app.screen is app.main, what="back on the main screen")
            assert conductor.kinds == []


async def test_rollback_from_the_halt_question_asks_once_more(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor(on=obeys, source=source)) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            await pilot.press("H", "escape")
            await shows(pilot, "HALTED: what now?")
            await pilot.press("1")
            await shows(pilot, "ROLLBACK v3.0.0 in prod")
            await pilot.press("y")
            await until(pilot, lambda: conductor.kinds == ["halt", "rollback"], what="rollback on the wire")


@pytest.mark.parametrize("key", ["H", "R", "n", "d", "B", "s", "A", "p", "e", "v", "o", "O", "u", "P"])
async def test_without_control_each_blocked_key_says_why(key: str) -> None:
    app = live_app(EVENTS, control=False, mode="follow")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await loaded(pilot, app, EVENTS)
        assert "READ-ONLY" in screen_text(app)
        await pilot.press(key)
        await says(pilot, "is not possible", "cockpit follow --control")


async def test_a_note_and_an_answer_go_to_the_conductor(tmp_path: Path) -> None:
    source = Source(EVENTS)
    source.push(ev.Question(question="q7", text="Traffic is low. Go on?", options=["wait", "rollback"]))
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await shows(pilot, "? DECIDE: Traffic is low.", "d answers")
            await pilot.press("d")
            await shows(pilot, "1  wait")
            await pilot.press("1")
            await until(pilot, lambda: conductor.kinds == ["answer"], what="the answer on the wire")
            assert (conductor.last.question, conductor.last.answer) == ("q7", "wait")
            await pilot.press("n", *"hello", "enter")
            await until(pilot, lambda: conductor.kinds == ["answer", "note"], what="the note on the wire")


async def test_leaving_asks_while_the_release_is_live_and_not_after(tmp_path: Path) -> None:
    app = live_app(EVENTS, folder=tmp_path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await loaded(pilot, app, EVENTS)
        await pilot.press("q")
        await shows(pilot, "The release goes on without this screen", "cockpit follow --control --run")
        await pilot.press("q")
        assert app.is_running
        await pilot.press("y")
    ended = sample.rolled_back()
    app = live_app(ended, folder=tmp_path)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await shows(pilot, "ROLLED BACK · exit 20", "q leaves")
        await pilot.press("q")
        await until(pilot, lambda: app._exit, what="leaving at once")


async def test_halt_is_heard_in_a_flood_of_events(tmp_path: Path) -> None:
    source = Source(EVENTS)
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path, source=source)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await loaded(pilot, app, EVENTS)
            source.push(*(ev.Noted(level="info", text=f"event {number}") for number in range(5000)))
            await pilot.press("H")
            await until(pilot, lambda: conductor.kinds == ["halt"], what="halt on the wire")
            await until(
                pilot, lambda: app.view.state.seq == EVENTS[-1].seq + 5000, what="every event taken in"
            )


async def test_below_80_by_24_halt_and_rollback_still_work(tmp_path: Path) -> None:
    async with serving(tmp_path, Conductor()) as conductor:
        app = live_app(EVENTS, folder=tmp_path)
        async with app.run_test(size=(60, 15), notifications=True) as pilot:
            await shows(pilot, "terminal too small (now 60×15, needs 80×24)")
            await loaded(pilot, app, EVENTS)
            await pilot.press("H")
            await until(pilot, lambda: conductor.kinds == ["halt"], what="halt on the wire")
            await pilot.press("R")
            await shows(pilot, "ROLLBACK v3.0.0 in prod")
            await pilot.press("y")
            await until(pilot, lambda: conductor.kinds == ["halt", "rollback"], what="rollback on the wire")
