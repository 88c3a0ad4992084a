"""What the commands call: open the screen on a run or a recording, and leave it cleanly whatever happens."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from cockpit.base.clock import SystemClock
from cockpit.base.errors import UsageError
from cockpit.control.keys import Keys, read_keys
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.replay import SPEEDS, Replay
from cockpit.screens.app import CockpitApp
from cockpit.screens.feed import JournalSource, LiveFeed, ReplayFeed
from cockpit.screens.leaving import leaving
from cockpit.screens.link import Link
from cockpit.screens.themes import THEMES


def run_live(
    run_dir: Path, control: bool, *, mode: str = "live", ascii: bool = False, theme: str = THEMES[0].name
) -> int:
    """Show a run, with or without control over it; returns its exit code if it has ended, else 0.

    Ends by `q`, SIGTERM or SIGHUP; the release goes on in every case. Raises UsageError without a terminal.
    """
    _needs_terminal()
    keys, remark = _keys()
    clock = SystemClock()
    feed = LiveFeed(JournalSource(run_dir), clock, run_dir=run_dir)
    link = Link(run_dir, clock, source="tui" if mode == "live" else "follow") if control else None
    app = CockpitApp(
        feed,
        clock,
        link=link,
        mode="follow" if mode == "follow" else "live",
        run_dir=run_dir,
        ascii=ascii,
        theme=theme,
        keys=keys,
        remark=remark,
    )
    failed = _run(app)
    closed = feed.fold.snapshot().closed
    if closed is not None:
        _say(f"{closed.outcome} (exit {closed.exit}); the run is in {run_dir}")
        return closed.exit
    _say(
        f"The release goes on. Run folder: {run_dir}  ·  come back: cockpit follow --control --run {run_dir}"
    )
    return 70 if failed else 0


def run_replay(
    recording: Path,
    speed: float = 1.0,
    *,
    ascii: bool = False,
    theme: str = THEMES[0].name,
    play: bool = True,
) -> int:
    """Play a recording; returns 0, or 1 when verification found it broken.

    `speed` is recorded seconds a second, one of `SPEEDS`. Raises UsageError when there is no journal, the
    speed is not one of those, or there is no terminal.
    """
    run_dir = recording.parent if recording.name == JOURNAL_NAME else recording
    journal = run_dir / JOURNAL_NAME
    if not journal.is_file():
        raise UsageError("this is not a recording: it has no journal.jsonl", where=str(recording))
    if speed not in SPEEDS:
        choices = ", ".join("max" if one == SPEEDS[-1] else f"{one:g}" for one in SPEEDS)
        raise UsageError(f"no such speed: {speed:g}", hint=f"choose one of {choices}")
    _needs_terminal()
    keys, remark = _keys()
    clock = SystemClock()
    replay = Replay(clock, speed=speed)
    feed = ReplayFeed(replay, run_dir=run_dir)
    if play:
        feed.play_when_loaded()
    app = CockpitApp(
        feed,
        clock,
        mode="replay",
        run_dir=run_dir,
        ascii=ascii,
        theme=theme,
        load=True,
        keys=keys,
        remark=remark,
    )
    failed = _run(app)
    if feed.chain.checked == "broken":
        _say(f"The recording is broken: {feed.chain.text}")
        return 1
    return 70 if failed else 0


def _keys() -> tuple[Keys, str]:
    """Return the keys in force, and what is wrong with the person's own: that must not keep a HALT away."""
    try:
        return read_keys(), ""
    except UsageError as error:
        return Keys(), f"Your keys are not in force, the usual ones are: {error}"


def _run(app: CockpitApp) -> bool:
    """Run the app until it is left, by `q` or a signal; says whether it failed."""

    async def run() -> None:
        with leaving(asyncio.get_running_loop(), app.exit):
            await app.run_async()

    try:
        asyncio.run(run())
    except OSError as error:
        # The terminal went away while it was being restored: there is nobody left to tell.
        return bool(error.errno) and _has_terminal()
    return app.return_code not in (0, None)


def _has_terminal() -> bool:
    try:
        return os.isatty(sys.stdin.fileno()) and os.isatty(sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _needs_terminal() -> None:
    if not _has_terminal():
        raise UsageError("this needs a terminal", hint="use --auto, or `cockpit status --json`")


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        pass  # a terminal that has gone away cannot be told
