"""Replaying in the screens: the keys, the badge, the break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cockpit.base.clock import VirtualClock
from cockpit.journal.fold import Fold
from cockpit.journal.replay import Replay
from cockpit.journal.state import encode
from cockpit.screens.app import CockpitApp
from cockpit.screens.feed import ReplayFeed
from tests.ui import sample
from tests.ui.helpers import replay_app, screen_text, shows, until

pytestmark = pytest.mark.ui
EVENTS = sample.rolled_back()


def recording_app(folder: Path) -> tuple[CockpitApp, Replay]:
    """Make an app that loads and verifies a recording."""
    clock = VirtualClock()
    replay = Replay(clock)
    app = CockpitApp(ReplayFeed(replay, run_dir=folder), clock, mode="replay", run_dir=folder, load=True)
    return app, replay


async def test_keys_step_seek_and_play() -> None:
    clock = VirtualClock()
    app, replay = replay_app(EVENTS, clock)
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "REPLAY", "UNVERIFIED", "paused", f"/{len(EVENTS) - 1}")
        await pilot.press("full_stop", "full_stop", "full_stop", "comma")
        assert replay.position == 2
        await pilot.press("end")
        await shows(pilot, "at end", f"#{len(EVENTS) - 1}/{len(EVENTS) - 1}", "ROLLED BACK · exit 20")
        assert encode(app.view.state) == encode(Fold().apply_all(EVENTS).snapshot())
        await pilot.press("left")
        assert replay.finish - replay.now == pytest.approx(10.0)
        await pilot.press("home", "right")
        assert replay.now - replay.begin == pytest.approx(10.0)
        await pilot.press("home", "plus", "plus", "space")
        assert (replay.playing, replay.speed) == (True, 4.0)
        clock.advance(3.0)
        await until(pilot, lambda: replay.now - replay.begin >= 12.0, what="twelve seconds played")
        await pilot.press("space", "minus")
        assert (replay.playing, replay.speed) == (False, 2.0)


@pytest.mark.parametrize("key", ["H", "R", "x"])
async def test_what_a_recording_cannot_do_is_said(key: str) -> None:
    app, _ = replay_app(EVENTS, VirtualClock())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await pilot.press(key)
        await shows(pilot, "No break is known" if key == "x" else "this is a recording")


async def test_a_sound_recording_becomes_verified(tmp_path: Path) -> None:
    app, replay = recording_app(sample.write_journal(tmp_path, EVENTS))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "   VERIFIED" in screen_text(app), what="the badge")
        assert replay.length == len(EVENTS)


async def test_a_recording_without_an_end_is_intact_but_not_closed(tmp_path: Path) -> None:
    app, _ = recording_app(sample.write_journal(tmp_path, sample.halfway()))
    async with app.run_test(size=(80, 24)) as pilot:
        await shows(pilot, "INTACT, NOT CLOSED")


async def test_a_cut_tail_is_broken_though_every_link_holds(tmp_path: Path) -> None:
    folder = sample.write_journal(tmp_path, EVENTS)
    journal = folder / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-3]))
    app, _ = recording_app(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "BROKEN", "✗ THE JOURNAL IS BROKEN")


def _edit(line: bytes) -> bytes:
    return line.replace(b'"notes":"', b'"notes":"not ', 1)


def _garble(line: bytes) -> bytes:
    return b"\xff" * len(line)


@pytest.mark.parametrize("damage", [_edit, _garble])
async def test_a_broken_recording_replays_up_to_the_break_and_shows_it(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    folder = sample.write_journal(tmp_path, EVENTS)
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    victim = next(n for n, line in enumerate(lines) if n > 30 and b'"notes":"' in line)
    lines[victim] = damage(lines[victim])
    journal.write_bytes(b"\n".join(lines))
    app, replay = recording_app(folder)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, "BROKEN AT #")
        broken = app.view.chain.seq
        assert broken in (victim, victim + 1)
        assert replay.length <= broken
        assert "✗ BROKEN AT #" not in screen_text(app).split("Journal", 1)[-1]
        await pilot.press("x")
        await shows(pilot, f"✗ BROKEN AT #{broken}:")
        assert app.view.state.seq == replay.length - 1
        await pilot.press("5", "enter")
        await shows(pilot, f"The journal is BROKEN AT #{broken}", "cannot be trusted")
