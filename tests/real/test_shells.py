"""A release on real servers, stopped and taken back from another shell as the README says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cockpit.journal.events import AnyEvent
from cockpit.rehearsal.real.provided import NEEDED
from tests.e2e.invariants import assert_no_traceback, assert_record_verifies, assert_stable_is, held_by
from tests.e2e.rehearsals import Again, Running, cockpit
from tests.e2e.shells import baking, halt_and_roll_back, released, take_back
from tests.real.fixtures import need

pytestmark = [pytest.mark.real, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(600)]
Reach = Callable[[Callable[[AnyEvent], bool]], Running]


@pytest.fixture
def reach(tmp_path: Path, again: Again, request: pytest.FixtureRequest) -> Iterator[Reach]:
    """Return what starts a good release and waits for an event; its world lives on until the test is over."""
    need(*NEEDED)
    begun: list[Running] = []

    def get(wanted: Callable[[AnyEvent], bool]) -> Running:
        def attempt(number: int) -> Running:
            running = Running(tmp_path / f"run{number}", "green", "--real", "--keep", "120")
            begun.append(running)
            running.wait_for(wanted, 300)
            return running

        return again.once(request.node.name, attempt)

    yield get
    for running in begun:
        if running.process.poll() is None:
            running.stop()
        if (running.folder / "world" / "world.json").exists():
            running.end_world()


def test_halt_and_then_rollback(reach: Reach) -> None:
    running = reach(baking)
    run = halt_and_roll_back(running)
    assert_stable_is(run, held_by(run.folder), new=False)
    assert_record_verifies(run)
    assert_no_traceback(run)


def test_what_is_out_is_taken_back(reach: Reach) -> None:
    running = reach(released)
    run = take_back(running)
    assert_stable_is(run, held_by(run.folder), new=False)
    said = cockpit("status", "--run", str(run.folder))
    assert said.returncode == 0 and "rolled back" in said.stdout, said.stdout + said.stderr
    assert_record_verifies(run)
    assert_no_traceback(run)
