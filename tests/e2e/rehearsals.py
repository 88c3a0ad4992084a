"""Running rehearsals as a user does, and reading what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cockpit.journal.events import AnyEvent
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.upcast import decode

COCKPIT = (sys.executable, "-m", "cockpit")
_LONGEST = 240.0


@dataclass(frozen=True)
class Rehearsed:
    """A rehearsal that has ended: its folder, exit code and output."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        document: dict[str, Any] = json.loads((self.folder / "summary.json").read_bytes())
        return document

    @property
    def events(self) -> list[AnyEvent]:
        """The journal, verified."""
        blocks = verified_events(self.folder / JOURNAL_NAME, decode)
        return [event for block in blocks for event in block]

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of one type."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The requests the demo application served, in order."""
        lines = (self.folder / "world" / "requests.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def cockpit(
    *arguments: str, timeout: float = 60.0, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of the cockpit to its end."""
    return subprocess.run(
        [*COCKPIT, *arguments], capture_output=True, text=True, timeout=timeout, check=False, cwd=cwd
    )


class Running:
    """A headless rehearsal under way."""

    def __init__(self, folder: Path, scenario: str, *flags: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [
                *COCKPIT,
                "rehearse",
                "--auto",
                "--pace",
                "fast",
                "--scenario",
                scenario,
                "--out",
                str(folder),
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def events(self) -> list[AnyEvent]:
        """Return what the journal holds by now."""
        if not (self.folder / JOURNAL_NAME).exists():
            return []
        return [e for block in verified_events(self.folder / JOURNAL_NAME, decode) for e in block]

    def wait_for(self, wanted: Callable[[AnyEvent], bool], within: float = 120.0) -> AnyEvent:
        """Poll the journal until an event is there; fails when the run ends first."""
        give_up = time.monotonic() + within
        while time.monotonic() < give_up:
            over = self.process.poll() is not None
            for event in self.events():
                if wanted(event):
                    return event
            assert not over, f"the run ended first: {self.process.communicate()}"
            time.sleep(0.1)
        raise AssertionError("the event did not come")

    def pid_of(self, name: str) -> int:
        """Return the process id kept in a file of the run folder."""
        return int((self.folder / name).read_text(encoding="ascii"))

    def conductor_pid(self) -> int:
        """Return the conductor's process id, the supervisor's child."""
        supervisor = self.pid_of("supervisor.pid")
        text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii")
        return int(text.split()[0])

    def end(self, timeout: float = _LONGEST) -> Rehearsed:
        """Wait for the end."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise
        return Rehearsed(self.folder, self.process.returncode, out, err)

    def end_world(self) -> None:
        """End a world that was kept, by its process id."""
        world = json.loads((self.folder / "world" / "world.json").read_bytes())["pids"]["world"]
        try:
            os.kill(world, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def stop(self) -> None:
        """End what is left of the run, by process id."""
        for pid in self._pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.close()

    def close(self) -> None:
        """Wait for the front end and close its pipes."""
        self.process.wait(10)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def _pids(self) -> list[int]:
        found = [self.process.pid]
        for read in (partial(self.pid_of, "supervisor.pid"), self.conductor_pid):
            try:
                found.insert(0, read())
            except (OSError, ValueError, IndexError):
                pass
        return found


def rehearse(folder: Path, scenario: str, *flags: str) -> Rehearsed:
    """Run a scenario headless to its end."""
    running = Running(folder, scenario, *flags)
    try:
        return running.end()
    finally:
        if running.process.poll() is None:
            running.stop()
