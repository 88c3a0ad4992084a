"""A driven app, a conductor that answers over a real socket, and the screen as text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from msgspec.structs import replace
from textual.pilot import Pilot

from cockpit.base.clock import Clock, VirtualClock, iso, parse_iso
from cockpit.control.client import SOCKET
from cockpit.control.messages import Command, Reply, decode_command, encode
from cockpit.journal.events import AnyEvent
from cockpit.journal.replay import Replay
from cockpit.screens.app import CockpitApp
from cockpit.screens.feed import LiveFeed, ReplayFeed
from cockpit.screens.link import Link
from cockpit.screens.view import Mode


class Source:
    """Events in memory; more can be pushed while the app runs."""

    def __init__(self, events: Sequence[AnyEvent]) -> None:
        self._waiting = list(events)
        self._seq = events[-1].seq if events else -1
        self._at = events[-1].at if events else "2025-09-23T08:00:00.000000Z"

    def push(self, *events: AnyEvent) -> None:
        """Add events that follow the last, a millisecond apart."""
        for event in events:
            self._seq += 1
            self._at = iso(parse_iso(self._at) + timedelta(milliseconds=1))
            self._waiting.append(replace(event, seq=self._seq, at=self._at))

    def poll(self) -> list[AnyEvent]:
        """Return what has not been given yet."""
        given, self._waiting = self._waiting, []
        return given

    def reset(self) -> None:
        """Nothing to start again."""


@dataclass
class Conductor:
    """What a conductor does at its socket: remembers commands, answers, and may record events."""

    on: Callable[[Command], Sequence[AnyEvent]] = lambda command: ()
    answer: Callable[[Command], Reply | None] = lambda command: Reply(command.id, True)
    source: Source | None = None
    commands: list[Command] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        """The kinds of the commands taken, without greetings."""
        return [command.kind for command in self.commands if command.kind not in ("hello", "ping")]

    @property
    def last(self) -> Command:
        """The last command that is not a greeting."""
        return next(command for command in reversed(self.commands) if command.kind not in ("hello", "ping"))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while line := await reader.readline():
                command = decode_command(line)
                self.commands.append(command)
                reply = self.answer(command)
                if reply is None:
                    continue
                if self.source is not None:
                    self.source.push(*self.on(command))
                writer.write(encode(reply))
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(folder: Path, conductor: Conductor) -> AsyncIterator[Conductor]:
    """Serve a conductor's control socket in a run folder."""
    server = await asyncio.start_unix_server(conductor.serve, path=str(folder / SOCKET))
    try:
        yield conductor
    finally:
        server.close()


def live_app(
    events: Sequence[AnyEvent],
    *,
    folder: Path | None = None,
    control: bool = True,
    source: Source | None = None,
    mode: Mode = "live",
    ascii: bool = False,
    clock: Clock | None = None,
) -> CockpitApp:
    """Make an app over events in memory, two seconds after the last of them."""
    if clock is None:
        clock = VirtualClock(parse_iso(events[-1].at) + timedelta(seconds=2)) if events else VirtualClock()
    link = Link(folder, clock) if folder is not None and control else None
    feed = LiveFeed(source or Source(events), clock, run_dir=folder)
    return CockpitApp(feed, clock, link=link, mode=mode, run_dir=folder, ascii=ascii)


def replay_app(events: Sequence[AnyEvent], clock: VirtualClock) -> tuple[CockpitApp, Replay]:
    """Make an app that replays events in memory."""
    replay = Replay(clock)
    replay.extend(events)
    return CockpitApp(ReplayFeed(replay), clock, mode="replay"), replay


async def until(
    pilot: Pilot[None], condition: Callable[[], bool], *, what: str = "", turns: int = 200
) -> None:
    """Let the app run until a condition holds; fails with the screen's text when it never does."""
    for _ in range(turns):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError(f"never came about: {what}\n{screen_text(pilot.app)}")


async def shows(pilot: Pilot[None], *texts: str) -> None:
    """Wait until the screen shows every text."""
    await until(
        pilot, lambda: all(text in screen_text(pilot.app) for text in texts), what=" and ".join(texts)
    )


async def loaded(pilot: Pilot[None], app: CockpitApp, events: Sequence[AnyEvent]) -> None:
    """Wait until the last event has been painted."""
    await until(pilot, lambda: app.view.state.seq >= events[-1].seq, what="the last event painted")
    app.repaint()
    await pilot.pause(0.25)


def screen_text(app: object) -> str:
    """Return what the terminal shows, line by line, without trailing blanks."""
    assert isinstance(app, CockpitApp)
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips)


async def says(pilot: Pilot[None], *texts: str) -> None:
    """Wait until a notice contains every text; on the screen its lines are broken where they must."""

    def said() -> bool:
        return any(all(text in one.message for text in texts) for one in pilot.app._notifications)

    await until(pilot, said, what=f"a notice of {' and '.join(texts)}")
