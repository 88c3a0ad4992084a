"""Playing a recording: play, pause, step and seek over events that are folded exactly as they were live."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from cockpit.base.clock import Clock, parse_iso
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.projection import Projection

SPEEDS: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, math.inf)
"""Recorded seconds a second; the last means as fast as can be."""

_FRAME_EVERY = 2000
_AT_ONCE = 400


class Replay:
    """A position in a list of events, with the fold and the projection as of that position.

    The position is the count of events applied: 0 before the first. Durations are seconds of the recording.
    Events may still be added while it plays; `limit_to` keeps it before a record that cannot be trusted.
    """

    def __init__(self, clock: Clock, *, speed: float = 1.0) -> None:
        self._clock = clock
        self._events: list[AnyEvent] = []
        self._times: list[float] = []
        self._limit: int | None = None
        self._frames: list[tuple[int, Fold, Projection]] = [(0, Fold(), Projection())]
        self.fold = Fold()
        self.projection = Projection()
        self.position = 0
        self.playing = False
        self.speed = speed if speed in SPEEDS else 1.0
        self._now = 0.0
        self._last = clock.monotonic()

    # -- the recording ----------------------------------------------------------------------------------

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """Add events at the end, in order. A time that cannot be read counts as that of the event before."""
        for event in events:
            before = self._times[-1] if self._times else 0.0
            try:
                at = parse_iso(event.at).timestamp()
            except ValueError:
                at = before
            self._events.append(event)
            self._times.append(max(at, before))
        if self.position == 0 and self._times:
            self._now = self._times[0]

    def limit_to(self, count: int) -> None:
        """Never apply more than the first `count` events; goes back when it already has."""
        self._limit = max(0, count)
        if self.position > self.length:
            self.seek(self.length)

    @property
    def length(self) -> int:
        """The count of events that may be applied."""
        return len(self._events) if self._limit is None else min(self._limit, len(self._events))

    @property
    def now(self) -> float:
        """The moment shown, in Unix seconds of the recording; 0 while it is empty."""
        return self._now

    @property
    def begin(self) -> float:
        """The first event's time in Unix seconds; 0 while it is empty."""
        return self._times[0] if self._times else 0.0

    @property
    def finish(self) -> float:
        """The last applicable event's time in Unix seconds; 0 while it is empty."""
        return self._times[self.length - 1] if self.length else 0.0

    @property
    def ended(self) -> bool:
        """Whether every event that may be applied has been."""
        return self.position >= self.length

    def event(self, index: int) -> AnyEvent:
        """Return the event at an index from 0; IndexError beyond the end."""
        return self._events[index]

    # -- moving -----------------------------------------------------------------------------------------

    def play(self) -> None:
        """Go on playing; from the end, start again."""
        if self.ended and self.length:
            self.seek(0)
        self.playing = True
        self._last = self._clock.monotonic()

    def pause(self) -> None:
        """Stand still."""
        self.playing = False

    def faster(self, by: int = 1) -> None:
        """Choose the next higher speed, or with -1 the next lower one."""
        index = SPEEDS.index(self.speed) + by
        self.speed = SPEEDS[min(max(index, 0), len(SPEEDS) - 1)]

    def advance(self) -> bool:
        """Apply what is due by the clock; says whether the moment shown has changed."""
        moment = self._clock.monotonic()
        passed, self._last = moment - self._last, moment
        if not self.playing:
            return False
        if self.ended:
            self.playing = False
            return True
        if math.isinf(self.speed):
            self._apply_to(min(self.position + _AT_ONCE, self.length))
            self._now = self._times[self.position - 1]
            return True
        self._now = min(self._now + passed * self.speed, self.finish)
        due = min(bisect_right(self._times, self._now), self.length)
        self._apply_to(min(due, self.position + _AT_ONCE))
        if self.position < due:
            # More was due than one turn may take: the moment shown waits for the events.
            self._now = self._times[self.position - 1]
        return True

    def step(self, count: int = 1) -> None:
        """Pause and go `count` events forward, or back when negative."""
        self.pause()
        self.seek(self.position + count)

    def seek(self, position: int) -> None:
        """Go to where exactly the first `position` events have been applied (cut to what there is)."""
        position = min(max(position, 0), self.length)
        if position < self.position or position - self.position > _FRAME_EVERY:
            self._load(position)
        self._apply_to(position)
        self._now = self._times[position - 1] if position else self.begin

    def seek_seconds(self, delta: float) -> None:
        """Go `delta` seconds of the recording on, or back when negative."""
        if not self.length:
            return
        target = min(max(self._now + delta, self.begin), self.finish)
        self.seek(min(bisect_right(self._times, target), self.length))
        self._now = target

    def position_of(self, seq: int) -> int:
        """Return the position just after record `seq`, or the nearest one before."""
        return min(bisect_left(self._events, seq + 1, key=lambda event: event.seq), self.length)

    # -- frames -----------------------------------------------------------------------------------------

    def _apply_to(self, position: int) -> None:
        while self.position < position:
            stop = min(position, (self.position // _FRAME_EVERY + 1) * _FRAME_EVERY)
            for event in self._events[self.position : stop]:
                self.fold.apply(event)
                self.projection.apply(event)
            self.position = stop
            if stop % _FRAME_EVERY == 0 and stop > self._frames[-1][0]:
                self._frames.append((stop, self.fold.copy(), _copy_projection(self.projection)))

    def _load(self, position: int) -> None:
        index = bisect_right(self._frames, position, key=lambda frame: frame[0]) - 1
        at, fold, projection = self._frames[index]
        if position >= self.position >= at:
            return
        self.position, self.fold, self.projection = at, fold.copy(), _copy_projection(projection)


def _copy_projection(projection: Projection) -> Projection:
    twin = Projection()
    for name, value in vars(projection).items():
        setattr(twin, name, copy.copy(value))
    twin.series = {name: copy.copy(points) for name, points in projection.series.items()}
    return twin
