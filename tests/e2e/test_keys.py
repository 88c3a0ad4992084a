"""HALT and ROLLBACK by keys, in a real terminal, on a real rehearsal."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.upcast import decode
from tests.e2e.rehearsals import COCKPIT

pytestmark = [
    pytest.mark.tmux,
    pytest.mark.timeout(240),
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
]


class Terminal:
    """A tmux session of its own server, with one command in it."""

    def __init__(self, width: int, height: int, command: str) -> None:
        self._name = f"cockpit-{uuid.uuid4().hex[:8]}"
        self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), "-s", "t", command)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._tmux("send-keys", "-t", "t", *keys)

    def type(self, text: str) -> None:
        """Type text as it is."""
        self._tmux("send-keys", "-t", "t", "-l", text)

    def screen(self) -> str:
        """Return what is on the screen."""
        return self._tmux("capture-pane", "-p", "-t", "t")

    def wait_for(self, text: str, within: float = 30.0) -> str:
        """Poll until the screen shows `text`."""
        give_up = time.monotonic() + within
        while time.monotonic() < give_up:
            if text in (shown := self.screen()):
                return shown
            time.sleep(0.1)
        raise AssertionError(f"{text!r} is not on the screen:\n{self.screen()}")

    def close(self) -> None:
        """End the session; what ran in it gets SIGHUP."""
        self._tmux("kill-server")


@pytest.fixture
def cockpit_in(tmp_path: Path) -> Iterator[Callable[[int, int], tuple[Terminal, Path]]]:
    """Open a rehearsal in a terminal of a size."""
    opened: list[Terminal] = []

    def begin(width: int, height: int) -> tuple[Terminal, Path]:
        folder = tmp_path / "run"
        command = shlex.join([*COCKPIT, "rehearse", "--pace", "fast", "--out", str(folder)])
        terminal = Terminal(width, height, command)
        opened.append(terminal)
        return terminal, folder

    yield begin
    for terminal in opened:
        terminal.close()


def _events(folder: Path) -> list[AnyEvent]:
    if not (folder / JOURNAL_NAME).exists():
        return []
    return [event for block in verified_events(folder / JOURNAL_NAME, decode) for event in block]


def _wait(folder: Path, kind: type[object], within: float = 120.0) -> AnyEvent:
    give_up = time.monotonic() + within
    while time.monotonic() < give_up:
        for event in _events(folder):
            if isinstance(event, kind):
                return event
        time.sleep(0.1)
    raise AssertionError(f"no {kind.__name__} in {folder}")


def test_halt_and_rollback_by_keys(cockpit_in: Callable[[int, int], tuple[Terminal, Path]]) -> None:
    terminal, folder = cockpit_in(120, 40)
    _wait(folder, ev.LookTaken)
    terminal.press("H")
    halted = _wait(folder, ev.HaltBegan, within=15)
    assert isinstance(halted, ev.HaltBegan) and halted.trigger == "key"
    terminal.type("latency looks odd")
    terminal.press("Enter")
    reason = _wait(folder, ev.HaltReason, within=15)
    assert isinstance(reason, ev.HaltReason) and reason.reason == "latency looks odd"
    terminal.wait_for("HALT")
    terminal.press("R")
    time.sleep(0.5)
    terminal.press("y")
    _wait(folder, ev.RollbackStarted, within=15)
    _wait(folder, ev.RollbackVerified, within=60)
    closed = _wait(folder, ev.RunClosed, within=60)
    assert isinstance(closed, ev.RunClosed) and closed.exit == 20


def test_closing_the_terminal_changes_nothing_for_the_release(
    cockpit_in: Callable[[int, int], tuple[Terminal, Path]],
) -> None:
    terminal, folder = cockpit_in(80, 24)
    _wait(folder, ev.AgentCalled)
    before = len(_events(folder))
    terminal.close()
    closed = _wait(folder, ev.RunClosed, within=200)
    assert isinstance(closed, ev.RunClosed) and closed.exit == 0, closed
    assert len(_events(folder)) > before
