"""Running rehearsals as a user does, and reading what they leave."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cockpit.journal import events as ev
from cockpit.journal.events import AnyEvent
from cockpit.journal.events_people import BreakGlassUsed
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.upcast import decode

COCKPIT = (sys.executable, "-m", "cockpit")
_LONGEST = 240.0
_MEASURED = re.compile(r"\b(p95|headroom) of ")
T = TypeVar("T")


class EndedByLoad(AssertionError):
    """The run came to its end for what this machine measured, before the test came to its point."""


def ended_by_load(events: Sequence[AnyEvent]) -> str:
    """Return why a run ended, where it is this and only this: `perf` failed by p95 or headroom before prod.

    A rehearsal measures latency on this machine, so a busy one fails that gate, rightly. Where people are
    asked what now, the run has come to its end as well. Empty for every other run.
    """
    failed: dict[tuple[str, str], str] = {}
    over = False
    for event in events:
        match event:
            case ev.GateJudged(phase_gate=gate, agent=agent, outcome=outcome, reason=reason):
                failed.pop((gate, agent), None)
                if outcome != "pass":
                    failed[gate, agent] = f"{outcome}: {reason}"
            case BreakGlassUsed(gate=overridden):
                failed = {key: why for key, why in failed.items() if key[0] != overridden}
            case ev.Question(options=options):
                over = "reverify" in options
            case ev.RunClosed(exit=code):
                over = code == 10
            case ev.StepStarted():
                return ""
    if not over or {gate for gate, _ in failed} != {"perf"}:
        return ""
    said = list(failed.values())
    return said[0] if all(why.startswith("fail: ") and _MEASURED.search(why) for why in said) else ""


class Again:
    """Rehearses once more what ended by load, once, and keeps what to say of it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def once(self, what: str, attempt: Callable[[int], T]) -> T:
        """Return what the first attempt gives, or the second where the first was EndedByLoad."""
        try:
            return attempt(0)
        except EndedByLoad as why:
            self.said.append(f"{what} was rehearsed twice, for this machine was busy: perf {why}")
            return attempt(1)


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
        """Poll the journal until an event is there; fails when the run ends first.

        Raises EndedByLoad when it ended for what this machine measured.
        """
        give_up = time.monotonic() + within
        while time.monotonic() < give_up:
            over = self.process.poll() is not None
            events = self.events()
            for event in events:
                if wanted(event):
                    return event
            if over and (why := ended_by_load(events)):
                raise EndedByLoad(why)
            assert not over, f"the run ended first: {self.process.communicate()}"
            time.sleep(0.1)
        raise AssertionError("the event did not come")

    def conductor_pid(self) -> int:
        """Return the conductor's process id, the supervisor's child."""
        return _conductor_of(self.folder)

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
        end_conductor(self.folder)
        if self.process.poll() is None:
            self.process.kill()
        self.close()

    def close(self) -> None:
        """Wait for the front end and close its pipes."""
        self.process.wait(10)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def end_conductor(folder: Path) -> None:
    """End what is left of a run that has not ended, conductor and supervisor, by process id."""
    if (folder / "exit").exists():
        return
    for read in (_conductor_of, _supervisor_of):
        try:
            os.kill(read(folder), signal.SIGKILL)
        except (OSError, ValueError, IndexError):
            pass


def _supervisor_of(folder: Path) -> int:
    return int((folder / "supervisor.pid").read_text(encoding="ascii"))


def _conductor_of(folder: Path) -> int:
    supervisor = _supervisor_of(folder)
    text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text(encoding="ascii")
    return int(text.split()[0])


def rehearse(folder: Path, scenario: str, *flags: str) -> Rehearsed:
    """Run a scenario headless to its end."""
    running = Running(folder, scenario, *flags)
    try:
        return running.end()
    finally:
        if running.process.poll() is None:
            running.stop()
