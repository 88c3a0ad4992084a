"""The injected clock: one source of wall time and of durations for timers, deadlines and replay speed."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Wall time as aware UTC datetimes, durations as monotonic seconds."""

    def now(self) -> datetime:
        """Return the present wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of this clock's time."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the present wall time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(max(0.0, seconds))


class VirtualClock:
    """A clock that moves only when told to, or by itself when every sleeper waits (`auto=True`)."""

    def __init__(self, start: datetime | None = None, *, auto: bool = False) -> None:
        self._start = start or datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
        self._elapsed = 0.0
        self._auto = auto
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the virtual wall time."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Return virtual seconds since the start."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved past `seconds` from now."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        waker: asyncio.Future[None] = loop.create_future()
        entry = (self._elapsed + seconds, waker)
        self._sleepers.append(entry)
        if self._auto:
            loop.call_soon(self._idle_step, 0)
        try:
            await waker
        finally:
            if entry in self._sleepers:
                self._sleepers.remove(entry)

    def advance(self, seconds: float) -> None:
        """Move the clock and wake, in order, all who waited for a moment passed."""
        self._elapsed += seconds
        for due, waker in sorted(self._sleepers, key=lambda entry: entry[0]):
            if due <= self._elapsed and not waker.done():
                waker.set_result(None)

    def _idle_step(self, quiet: int) -> None:
        # Give every ready task some turns of the loop before time moves.
        waiting = [entry for entry in self._sleepers if not entry[1].done()]
        if not waiting:
            return
        if quiet < 5:
            asyncio.get_running_loop().call_soon(self._idle_step, quiet + 1)
            return
        self.advance(max(0.0, min(due for due, _ in waiting) - self._elapsed))


def iso(moment: datetime) -> str:
    """Render an aware datetime as RFC 3339 UTC with microseconds, e.g. `2025-09-23T08:00:00.000000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_iso(text: str) -> datetime:
    """Parse an RFC 3339 time; raises ValueError when it names no time zone."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError(f"time without a zone: {text}")
    return moment.astimezone(UTC)
