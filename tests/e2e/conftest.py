"""Each scenario is rehearsed once a session; the tests read what it left.

What ended only because the machine was busy (the gate `perf`, which measures it) is rehearsed once more, and
that is said at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cockpit.journal.events import AnyEvent
from tests.e2e.rehearsals import Again, EndedByLoad, Rehearsed, Running, ended_by_load, rehearse
from tests.e2e.terminals import Seats

T = TypeVar("T")

_AGAIN = pytest.StashKey[Again]()
_EXPECTED = "low-headroom"
"""The scenario that is about the gate `perf`."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was rehearsed twice."""
    again = config.stash.get(_AGAIN, None)
    if again is not None and again.said:
        terminalreporter.section("rehearsed twice")
        for line in again.said:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def again(pytestconfig: pytest.Config) -> Again:
    """Return what rehearses once more."""
    return pytestconfig.stash.setdefault(_AGAIN, Again())


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory: pytest.TempPathFactory, again: Again) -> Callable[[str], Rehearsed]:
    """Return the ended rehearsal of a scenario."""
    done: dict[str, Rehearsed] = {}

    def get(scenario: str) -> Rehearsed:
        def attempt(number: int) -> Rehearsed:
            run = rehearse(tmp_path_factory.mktemp(scenario) / "run", scenario)
            why = ended_by_load(run.events) if scenario != _EXPECTED and number == 0 else ""
            if why:
                raise EndedByLoad(why)
            return run

        if scenario not in done:
            done[scenario] = again.once(scenario, attempt)
        return done[scenario]

    return get


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start rehearsals; what is left of them ends with the test."""
    begun: list[Running] = []

    def begin(scenario: str, *flags: str) -> Running:
        running = Running(tmp_path / f"run{len(begun)}", scenario, *flags)
        begun.append(running)
        return running

    yield begin
    for running in begun:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture
def reach(
    start: Callable[..., Running], again: Again, request: pytest.FixtureRequest
) -> Callable[..., Running]:
    """Start a rehearsal and wait until its journal holds an event."""

    def get(scenario: str, wanted: Callable[[AnyEvent], bool], *flags: str, within: float = 120.0) -> Running:
        def attempt(number: int) -> Running:
            running = start(scenario, *flags)
            running.wait_for(wanted, within)
            return running

        return again.once(request.node.name, attempt)

    return get


@pytest.fixture
def play(tmp_path: Path, again: Again, request: pytest.FixtureRequest) -> Callable[[Callable[[Seats], T]], T]:
    """Act before the screens of a rehearsal; what is left of it ends with the act."""

    def run(act: Callable[[Seats], T]) -> T:
        def attempt(number: int) -> T:
            seats = Seats(tmp_path / f"run{number}")
            try:
                return act(seats)
            finally:
                seats.close()

        return again.once(request.node.name, attempt)

    return run
