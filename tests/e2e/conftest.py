"""Each scenario is rehearsed once a session; the tests read what it left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.rehearsals import Rehearsed, Running, rehearse


@pytest.fixture(scope="session")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rehearsed]:
    """Return the ended rehearsal of a scenario."""
    done: dict[str, Rehearsed] = {}

    def get(scenario: str) -> Rehearsed:
        if scenario not in done:
            done[scenario] = rehearse(tmp_path_factory.mktemp(scenario) / "run", scenario)
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
