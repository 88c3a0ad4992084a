"""Stops, signals and crashes in the middle of a canary: always aborted, always a closed recording."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from tests.e2e.rehearsals import Rehearsed, Running, cockpit
from tests.e2e.shells import baking, halt_and_roll_back, released, take_back

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]
Reach = Callable[..., Running]


def _first_agent(event: AnyEvent) -> bool:
    return isinstance(event, ev.AgentCalled)


def _closed(run: Rehearsed) -> None:
    assert isinstance(run.events[-1], ev.RunClosed)
    verified = cockpit("journal", "verify", str(run.folder))
    assert verified.returncode == 0, verified.stdout
    assert cockpit("evidence", "verify", str(run.folder / "evidence.zip")).returncode == 0
    canary_after = [
        r
        for r in run.requests
        if r["env"] == "prod" and r["track"] == "canary" and r["at"] > run.events[-1].at
    ]
    assert canary_after == []
    assert "Traceback" not in run.out + run.err + (run.folder / "conductor.log").read_text()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
    ],
    ids=lambda number: number.name,
)
def test_a_signal_to_auto_in_mid_canary_aborts(reach: Reach, number: signal.Signals) -> None:
    running = reach("green", baking)
    running.process.send_signal(number)
    run = running.end()
    assert run.code == 20, run.out + run.err
    assert run.of(ev.RollbackVerified)
    _closed(run)


@pytest.mark.long
def test_a_signal_to_the_conductor_in_mid_canary_aborts(reach: Reach) -> None:
    running = reach("green", baking)
    os.kill(running.conductor_pid(), signal.SIGTERM)
    run = running.end()
    assert run.code == 20
    _closed(run)


@pytest.mark.long
def test_a_signal_before_traffic_moves_ends_as_halted(reach: Reach) -> None:
    running = reach("green", _first_agent)
    running.process.send_signal(signal.SIGTERM)
    run = running.end()
    assert run.code == 30
    assert run.summary["traffic_moved"] is False
    _closed(run)


@pytest.mark.long
def test_a_killed_conductor_is_resumed_into_an_abort(reach: Reach) -> None:
    running = reach("green", baking)
    os.kill(running.conductor_pid(), signal.SIGKILL)
    run = running.end()
    assert run.code == 20
    assert run.of(ev.RunResumed)
    assert run.of(ev.RollbackVerified)
    _closed(run)


def test_a_killed_conductor_goes_on_and_then_takes_halt_and_rollback_from_another_shell(reach: Reach) -> None:
    running = reach("operator-lost", baking)
    os.kill(running.conductor_pid(), signal.SIGKILL)
    resumed = running.wait_for(lambda event: isinstance(event, ev.RunResumed))
    assert isinstance(resumed, ev.RunResumed) and resumed.into == "continue"
    running.wait_for(lambda event: baking(event) and event.seq > resumed.seq)
    run = halt_and_roll_back(running)
    _closed(run)


@pytest.mark.long
def test_a_killed_conductor_goes_on_where_it_was_when_the_plan_says_so(reach: Reach) -> None:
    running = reach("operator-lost", baking)
    os.kill(running.conductor_pid(), signal.SIGKILL)
    run = running.end()
    assert run.code == 0, run.out[-3000:] + run.err
    (resumed,) = run.of(ev.RunResumed)
    assert resumed.into == "continue"
    assert [e.step for e in run.of(ev.StepDecided)] == [1, 2, 3]
    _closed(run)


@pytest.mark.long
def test_a_release_that_is_out_is_rolled_back_in_another_sitting(reach: Reach) -> None:
    running = reach("green", released, "--keep", "60", within=240.0)
    run = take_back(running)
    running.end_world()
    _closed(run)


@pytest.mark.long
def test_the_release_goes_on_without_its_front_end(reach: Reach) -> None:
    running = reach("unsigned-image", _first_agent)
    running.process.kill()
    running.close()
    while not any(isinstance(event, ev.RunClosed) for event in running.events()):
        time.sleep(0.2)  # bounded by the test's time-out
    assert (running.folder / "journal.jsonl").exists()


@pytest.mark.long
def test_halt_then_rollback_from_another_shell(reach: Reach) -> None:
    running = reach("green", baking)
    _closed(halt_and_roll_back(running))


@pytest.mark.long
def test_a_frozen_conductor_that_does_not_take_a_halt_is_replaced(reach: Reach) -> None:
    running = reach("green", baking)
    os.kill(running.conductor_pid(), signal.SIGSTOP)
    cockpit("halt", "--run", str(running.folder), "--reason", "frozen")
    run = running.end()
    assert run.code == 20
    assert run.of(ev.RunResumed)
    _closed(run)


def test_a_second_run_in_the_same_folder_is_refused(rehearsed: Callable[[str], Rehearsed]) -> None:
    run = rehearsed("unsigned-image")
    assert run.summary["run_id"] == (run.folder / "run.id").read_text(encoding="ascii")
    again = cockpit("rehearse", "--auto", "--out", str(run.folder))
    assert again.returncode == 64
    assert "already" in again.stderr
