"""Each sample recording verifies and replays to the final state stored beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cockpit.recordings
from cockpit.base.clock import VirtualClock
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.replay import Replay
from cockpit.journal.state import encode
from cockpit.journal.upcast import decode
from cockpit.journal.verify import verify_journal
from tests.remake_recordings import SAMPLES

FOLDER = Path(cockpit.recordings.__file__).resolve().parent
pytestmark = pytest.mark.parametrize("name", SAMPLES)


def _events(name: str) -> list[AnyEvent]:
    return [event for block in verified_events(FOLDER / name / JOURNAL_NAME, decode) for event in block]


def test_it_verifies(name: str) -> None:
    report = verify_journal(FOLDER / name)
    assert report.ok and report.closed, report.problems
    assert report.heads_checked > 3


def test_it_folds_to_its_stored_state(name: str) -> None:
    assert encode(Fold().apply_all(_events(name)).snapshot()) == (FOLDER / name / "state.json").read_bytes()


def test_it_replays_to_its_stored_state(name: str) -> None:
    replay = Replay(VirtualClock())
    replay.extend(_events(name))
    replay.seek(replay.length // 2)
    while not replay.ended:
        replay.step()
    assert encode(replay.fold.snapshot()) == (FOLDER / name / "state.json").read_bytes()


def test_it_ended_as_its_scenario_must(name: str) -> None:
    summary = json.loads((FOLDER / name / "summary.json").read_bytes())
    assert summary["exit"] == SAMPLES[name][1]
