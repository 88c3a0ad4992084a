"""HALT, ROLLBACK, questions and answers: what acts at once, what waits for a person, what happens without."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from cockpit.base.tasks import alongside
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.people import People, Stop
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import HaltBegan, HaltEnded, Question, QuestionAnswered
from cockpit.journal.state import QuestionView
from tests.conductor.support import FastClock, events, gate_of, recording, until
from tests.unit.journal.support import Disk

ROLLBACK = Stop("manual", "ROLLBACK by ann: it is wrong", "ann")


@dataclass
class Room:
    """People, and what they act on."""

    people: People
    gate: EffectsGate
    recorder: Recorder

    def halted(self) -> bool:
        """Whether a HALT is in force."""
        return self.gate.halted

    def question(self) -> QuestionView | None:
        """Return the question that waits, if there is one."""
        waiting = [q for q in self.recorder.state().questions if not q.answer]
        return waiting[-1] if waiting else None


@asynccontextmanager
async def room(
    folder: Path,
    *,
    on_halt: Literal["ask", "rollback"] = "ask",
    bound: float = 1e6,
    unattended: bool = False,
    disk: Disk | None = None,
) -> AsyncIterator[Room]:
    async with asyncio.timeout(30), recording(folder, io=disk) as recorder:
        gate = gate_of(recorder)
        people = People(
            effects=gate,
            recorder=recorder,
            clock=FastClock(),
            on_halt=on_halt,
            bound=bound,
            unattended=unattended,
        )
        yield Room(people, gate, recorder)


async def test_a_halt_acts_before_anything_is_written(tmp_path: Path) -> None:
    disk = Disk()
    async with room(tmp_path, disk=disk) as made:
        disk.gate.clear()
        made.people.halt("ann", "key", "")
        assert made.halted()
        disk.gate.set()
        (began,) = await events(made.recorder, HaltBegan)
        assert (began.by, began.trigger, began.epoch) == ("ann", "key", 1)


async def test_a_halt_acts_when_it_cannot_be_written(tmp_path: Path) -> None:
    disk = Disk()
    async with room(tmp_path, disk=disk) as made:
        disk.fail_syncs("journal.jsonl", errno.EIO)
        made.people.halt("ann", "key", "")
        assert made.halted()


async def test_a_second_halt_is_the_same_halt(tmp_path: Path) -> None:
    async with room(tmp_path) as made:
        made.people.halt("ann", "key", "")
        made.people.halt("bob", "command", "")
        assert [began.by for began in await events(made.recorder, HaltBegan)] == ["ann"]


async def test_resuming_needs_a_halt_and_a_reason(tmp_path: Path) -> None:
    async with room(tmp_path) as made:
        assert "no HALT" in made.people.resume("ann", "why not")
        made.people.halt("ann", "key", "")
        assert "reason" in made.people.resume("ann", " \n")
        assert made.halted()
        assert made.people.resume("ann", "false alarm") == ""
        assert not made.halted()
        (ended,) = await events(made.recorder, HaltEnded)
        assert (ended.by, ended.choice, ended.reason) == ("ann", "resume", "false alarm")


async def asked(made: Room) -> str:
    """Wait for a question and return its name."""
    return (await until(made.question)).question


async def test_a_halt_asks_and_rollback_is_an_answer(tmp_path: Path) -> None:
    async with room(tmp_path) as made, alongside(made.people.watch_halts()):
        made.people.attach("tui")
        made.people.halt("ann", "key", "")
        question = await asked(made)
        assert made.people.answer(question, "rollback", "ann", "") == ""
        stop = await made.people.stopped()
        assert (stop.reason, stop.by) == ("halt", "ann")
        assert made.halted()
        (ended,) = await events(made.recorder, HaltEnded)
        assert ended.choice == "rollback"


async def test_staying_asks_again_and_resuming_ends_it(tmp_path: Path) -> None:
    async with room(tmp_path) as made, alongside(made.people.watch_halts()):
        made.people.attach("tui")
        made.people.halt("ann", "key", "")
        waiting = await until(made.question)
        first = waiting.question
        assert made.people.answer(first, "stay", "ann", "") == ""
        await until(lambda: made.question() not in (None, waiting))
        second = await asked(made)
        assert "reason" in made.people.answer(second, "resume", "ann", "")
        assert made.halted()
        assert made.people.answer(second, "resume", "ann", "false alarm") == ""
        await until(lambda: made.question() is None)
        assert not made.halted()
        assert made.people.stop_decided is None
        answers = [(a.question, a.answer) for a in await events(made.recorder, QuestionAnswered)]
        assert answers == [(first, "stay"), (second, "resume")]
        # And the next HALT asks again.
        made.people.halt("ann", "key", "")
        await asked(made)


async def test_a_resume_by_command_settles_the_question(tmp_path: Path) -> None:
    async with room(tmp_path) as made, alongside(made.people.watch_halts()):
        made.people.attach("tui")
        made.people.halt("ann", "key", "")
        await asked(made)
        assert made.people.resume("bob", "false alarm") == ""
        await until(lambda: made.question() is None)
        assert made.people.stop_decided is None


async def test_answers_that_are_none_change_nothing(tmp_path: Path) -> None:
    async with room(tmp_path) as made, alongside(made.people.watch_halts()):
        made.people.attach("tui")
        assert "does not wait" in made.people.answer("q1", "rollback", "ann", "")
        made.people.halt("ann", "key", "")
        question = await asked(made)
        assert "rollback, resume, stay" in made.people.answer(question, "maybe", "ann", "")
        assert "does not wait" in made.people.answer("q99", "rollback", "ann", "")
        assert made.people.answer(question, "rollback", "ann", "") == ""
        assert "does not wait" in made.people.answer(question, "resume", "bob", "too late")
        assert (await made.people.stopped()).by == "ann"
        assert made.halted()


async def test_a_plan_may_say_that_a_halt_rolls_back(tmp_path: Path) -> None:
    async with room(tmp_path, on_halt="rollback") as made, alongside(made.people.watch_halts()):
        made.people.attach("tui")
        made.people.halt("ann", "key", "")
        assert (await made.people.stopped()).reason == "halt"
        assert await events(made.recorder, Question) == []


async def test_a_halt_with_no_front_end_rolls_back_after_the_bound(tmp_path: Path) -> None:
    async with room(tmp_path, bound=5.0) as made, alongside(made.people.watch_halts()):
        made.people.halt("ann", "key", "")
        stop = await made.people.stopped()
        assert (stop.reason, stop.by) == ("halt", "bound")


async def test_an_attached_front_end_holds_the_bound_and_its_leaving_starts_it(tmp_path: Path) -> None:
    async with room(tmp_path, bound=5.0) as made, alongside(made.people.watch_halts()):
        made.people.attach("tui")
        made.people.halt("ann", "key", "")
        await asked(made)
        await FastClock().sleep(20.0)
        assert made.people.stop_decided is None
        made.people.detach("tui")
        assert (await made.people.stopped()).by == "bound"


async def test_unattended_a_front_end_does_not_hold_the_bound(tmp_path: Path) -> None:
    async with room(tmp_path, bound=5.0, unattended=True) as made, alongside(made.people.watch_halts()):
        made.people.attach("follow")
        made.people.halt("ann", "key", "")
        assert (await made.people.stopped()).by == "bound"


async def ask(made: Room) -> asyncio.Task[tuple[str, str]]:
    return asyncio.create_task(made.people.ask("again?", ("rollback", "retry"), otherwise="rollback"))


async def test_a_question_takes_the_answer_of_a_person(tmp_path: Path) -> None:
    async with room(tmp_path) as made:
        made.people.attach("tui")
        task = await ask(made)
        question = await asked(made)
        assert "rollback, retry" in made.people.answer(question, "resume", "ann", "x")
        assert made.people.answer(question, "retry", "ann\x1b[2J", "") == ""
        answer, by = await task
        assert (answer, "\x1b" in by) == ("retry", False)


async def test_a_question_unattended_or_unheard_gets_the_safe_answer(tmp_path: Path) -> None:
    async with room(tmp_path / "a", unattended=True) as made:
        assert await (await ask(made)) == ("rollback", "--auto")
    async with room(tmp_path / "b", bound=5.0) as made:
        assert await (await ask(made)) == ("rollback", "bound")


async def test_the_first_decision_to_stop_is_kept(tmp_path: Path) -> None:
    async with room(tmp_path) as made:
        waiting = asyncio.create_task(made.people.stopped())
        await asyncio.sleep(0)
        made.people.stop(ROLLBACK)
        made.people.stop(Stop("signal", "SIGTERM received: abort", "SIGTERM"))
        assert await waiting == ROLLBACK
        assert await made.people.stopped() == ROLLBACK
        assert made.people.stop_decided == ROLLBACK


async def test_the_end_of_a_run_lets_waiters_go_but_nothing_forward(tmp_path: Path) -> None:
    async with room(tmp_path) as made:
        made.people.halt("ann", "key", "")
        waiting = asyncio.create_task(made.people.resumed())
        await asyncio.sleep(0)
        assert not waiting.done()
        made.people.over()
        await waiting
        assert made.halted()


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "a" * 100_000, "\u202eevil"])
async def test_what_people_write_is_bounded_and_shows_its_control_characters(
    tmp_path: Path, text: str
) -> None:
    async with room(tmp_path) as made:
        made.people.halt(text, "key", text)
        made.people.note(text, text)
        made.people.received(text, "halt", text, text, text)
        (began,) = await events(made.recorder, HaltBegan)
        for shown in (began.by, began.reason):
            assert len(shown) <= 4000
            assert not {"\x1b", "\x07", "\u202e"} & set(shown)
