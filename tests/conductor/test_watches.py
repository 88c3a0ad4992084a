"""An operator who is lost: under one conductor, and over the killing of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cockpit.base.clock import VirtualClock
from cockpit.base.tasks import alongside
from cockpit.conductor.people import People
from cockpit.conductor.tools import BakeClock
from cockpit.conductor.watches import operator_lost
from cockpit.journal.base import Event
from cockpit.journal.events import FrontEndSeen, RunResumed
from cockpit.journal.events_people import OperatorLost, RunReopened
from tests.conductor.support import events, gate_of, plan_of, recording

CAME, LEFT = (FrontEndSeen(name="tui", attached=attached) for attached in (True, False))
KILLED = RunResumed(reason="killed", into="continue")
AGAIN = RunReopened(sitting=2, why="go on", operator="ann", host="here", kind="run")
TOLD = OperatorLost(seconds=61.0, then="continue")


async def lost_after(
    folder: Path, before: list[Event], *, attached: bool = False, awaited: bool = False, away: float = 0.0
) -> list[float]:
    """Watch a run with this journal for five minutes; return after how many seconds an operator was lost.

    Where that is `awaited` it is watched for as long as it takes: the journal is read in a thread, and the
    clock does not wait for that.
    """
    clock = VirtualClock(auto=True)
    plan = plan_of(clock, on_operator_lost="continue", operator_lost_after="60s")
    async with asyncio.timeout(30), recording(folder, clock) as recorder:
        for event in before:
            await recorder.record(event)
        clock.advance(away)
        people = People(
            effects=gate_of(recorder), recorder=recorder, clock=clock, on_halt="ask", bound=60.0,
            unattended=False,
        )  # fmt: skip
        if attached:
            people.attach("tui")
        already = len([event for event in before if isinstance(event, OperatorLost)])
        async with alongside(operator_lost(plan, people, recorder, clock, BakeClock(recorder))):
            began = clock.monotonic()
            while clock.monotonic() - began < 300.0:
                await clock.sleep(1.0)
            while awaited and not (await events(recorder, OperatorLost))[already:]:
                await clock.sleep(1.0)
        return [event.seconds for event in (await events(recorder, OperatorLost))[already:]]


@pytest.mark.parametrize(
    "before",
    [[], [KILLED], [CAME, LEFT, AGAIN], [CAME, LEFT, AGAIN, KILLED], [CAME, LEFT, TOLD, KILLED]],
    ids=["new", "nobody before", "a sitting later", "a sitting later, killed", "told before"],
)
async def test_whom_nobody_misses_is_not_lost(tmp_path: Path, before: list[Any]) -> None:
    assert await lost_after(tmp_path, before) == []


@pytest.mark.parametrize(
    "before", [[CAME, KILLED], [CAME, LEFT, KILLED], [CAME, LEFT, TOLD, CAME, KILLED, KILLED]]
)
async def test_an_operator_lost_before_the_conductor_was_killed_is_missed(
    tmp_path: Path, before: list[Any]
) -> None:
    (seconds,) = await lost_after(tmp_path, before, awaited=True)
    assert seconds >= 60


async def test_how_long_nobody_was_there_before_counts(tmp_path: Path) -> None:
    (seconds,) = await lost_after(tmp_path, [CAME, LEFT, KILLED], away=500.0, awaited=True)
    assert seconds >= 500


async def test_who_attached_again_is_not_lost(tmp_path: Path) -> None:
    assert await lost_after(tmp_path, [CAME, LEFT, KILLED], attached=True, away=500.0) == []
