"""Terminals of their own, the people who sit before them, and what the run's journal says meanwhile."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pyotp import TOTP

from cockpit.journal.events import AnyEvent
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.upcast import decode
from cockpit.rehearsal.plan_people import Persona
from tests.e2e.rehearsals import COCKPIT, EndedByLoad, end_conductor, ended_by_load

E = TypeVar("E")


class Terminal:
    """A tmux session of its own server, with one command in it."""

    def __init__(
        self, width: int, height: int, command: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = f"cockpit-{uuid.uuid4().hex[:8]}"
        self._environment = {**os.environ, **(environment or {})}
        self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), "-s", "t", command)

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
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

    def wait_gone(self, text: str, within: float = 30.0) -> None:
        """Poll until the screen no longer shows `text`."""
        give_up = time.monotonic() + within
        while text in self.screen():
            assert time.monotonic() < give_up, f"{text!r} stays on the screen:\n{self.screen()}"
            time.sleep(0.1)

    def answer(self, asked: str, text: str) -> None:
        """Type a line into the field of a dialogue that asks for `asked`."""
        self.wait_for(asked)
        self.type(text)
        self.press("Enter")

    def choose(self, asked: str, number: str) -> None:
        """Choose by number in a dialogue that shows `asked`, and wait until it has gone."""
        self.wait_for(asked)
        self.press(number)
        self.wait_gone(asked)

    def leave(self, asked: str) -> None:
        """Leave the dialogue that shows `asked`."""
        self.press("Escape")
        self.wait_gone(asked)  # a key right after Escape would be read as one with Alt

    def close(self) -> None:
        """End the session; what ran in it gets SIGHUP."""
        self._tmux("kill-server")


class Seats:
    """The people before the screens of one rehearsal in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[Terminal] = []

    def rehearse(
        self, *flags: str, person: Persona | None = None, width: int = 120, height: int = 40
    ) -> Terminal:
        """Open a rehearsal in a terminal; its operator is `person`, if one is named."""
        command = ("rehearse", "--pace", "fast", "--out", str(self.folder), *flags)
        return self._open(command, person, width, height)

    def follow(self, person: Persona) -> Terminal:
        """Sit a person down before the same run, with control."""
        return self._open(("follow", "--control", "--run", str(self.folder)), person, 120, 40)

    def _open(self, words: tuple[str, ...], person: Persona | None, width: int, height: int) -> Terminal:
        environment = {} if person is None else credentials(self.folder, person)
        terminal = Terminal(width, height, shlex.join([*COCKPIT, *words]), environment)
        self.opened.append(terminal)
        return terminal

    def events(self) -> list[AnyEvent]:
        """Return what the journal holds by now."""
        if not (self.folder / JOURNAL_NAME).exists():
            return []
        blocks = verified_events(self.folder / JOURNAL_NAME, decode)
        return [event for block in blocks for event in block]

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one type by now."""
        return [event for event in self.events() if isinstance(event, kind)]

    def wait(
        self, kind: type[E], wanted: Callable[[E], bool] = lambda event: True, within: float = 120.0
    ) -> E:
        """Poll the journal until an event is there; raises EndedByLoad when a busy machine ended the run."""
        give_up = time.monotonic() + within
        while time.monotonic() < give_up:
            if found := [event for event in self.of(kind) if wanted(event)]:
                return found[0]
            if why := ended_by_load(self.events()):
                raise EndedByLoad(why)
            time.sleep(0.1)
        raise AssertionError(f"no {kind.__name__} in {self.folder}; {self.opened[0].screen()}")

    def close(self) -> None:
        """End the screens that are still open, and the run, if it has not ended."""
        for terminal in self.opened:
            terminal.close()
        end_conductor(self.folder)


def credentials(folder: Path, person: Persona) -> dict[str, str]:
    """Return the environment by which somebody of a rehearsal's cast is who they are."""
    return {"COCKPIT_OPERATOR": person.id, "COCKPIT_TOKEN_SECRET": f"file:{folder / person.secret}"}


def one_time_password(folder: Path, person: Persona) -> str:
    """Return the one-time password of somebody of the cast, at this moment."""
    return TOTP((folder / person.totp).read_text(encoding="ascii").strip()).now()
