"""Where events come from: a journal as it grows or a recording being replayed; both end in one fold."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from cockpit.base.clock import Clock
from cockpit.base.errors import ChainBroken, JournalError
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold import Fold
from cockpit.journal.projection import Projection
from cockpit.journal.reader import JOURNAL_NAME, Tail, read_lines
from cockpit.journal.replay import Replay
from cockpit.journal.upcast import decode
from cockpit.screens.view import Chain, Playback

_SLICE = 300
_POLL_BYTES = 128 * 1024
_RETRY_S = 1.0
_SILENT_S = 15.0


class EventSource(Protocol):
    """Gives events in order, none when nothing is new; raises JournalError when it cannot be read."""

    def poll(self) -> list[AnyEvent]:
        """Return the events since the last call."""
        ...

    def reset(self) -> None:
        """Start again from the first event."""
        ...


class JournalSource:
    """The journal of a run folder, followed as another process writes it."""

    def __init__(self, run_dir: Path) -> None:
        self._tail: Tail[AnyEvent] = Tail(run_dir / JOURNAL_NAME, decode)

    def poll(self) -> list[AnyEvent]:
        """Return the events of lines completed since the last call, a bounded number of them."""
        return self._tail.poll(limit=_POLL_BYTES)

    def reset(self) -> None:
        """Start again from the first line."""
        self._tail.reset()


class Feed(Protocol):
    """The one path from events to panes."""

    @property
    def fold(self) -> Fold:
        """The fold as of now."""
        ...

    @property
    def projection(self) -> Projection:
        """Series and tail as of now."""
        ...

    @property
    def now(self) -> float:
        """The moment shown, in Unix seconds."""
        ...

    @property
    def chain(self) -> Chain:
        """How far the events can be trusted."""
        ...

    @property
    def trouble(self) -> str:
        """Why nothing can be read at present; empty when all is well."""
        ...

    @property
    def playback(self) -> Playback | None:
        """Where a replay stands; nothing when live."""
        ...

    def advance(self) -> bool:
        """Take in a bounded number of events; says whether anything changed."""
        ...

    def record(self, seq: int) -> bytes | None:
        """Return the stored line of a record for showing, nothing when it cannot be had. May read a file."""
        ...


class LiveFeed:
    """Folds a source as it grows."""

    def __init__(self, source: EventSource, clock: Clock, *, run_dir: Path | None = None) -> None:
        self._source = source
        self._clock = clock
        self._run_dir = run_dir
        self._waiting: deque[AnyEvent] = deque()
        self._retry_at = 0.0
        self._began = clock.monotonic()
        self.fold = Fold()
        self.projection = Projection()
        self.chain = Chain()
        self.trouble = ""

    @property
    def now(self) -> float:
        """The wall clock."""
        return self._clock.now().timestamp()

    @property
    def playback(self) -> Playback | None:
        """Nothing: this is live."""
        return None

    def advance(self) -> bool:
        """Apply up to some hundred events, so that keys are heard between two turns whatever the rate."""
        if not self._waiting and not self._fetch():
            return False
        for _ in range(min(_SLICE, len(self._waiting))):
            event = self._waiting.popleft()
            self.fold.apply(event)
            self.projection.apply(event)
        return True

    def _fetch(self) -> bool:
        moment = self._clock.monotonic()
        if moment < self._retry_at:
            return False
        try:
            self._waiting.extend(self._source.poll())
        except ChainBroken as error:
            return self._broken(error, moment)
        except JournalError as error:
            self._retry_at = moment + _RETRY_S
            return self._troubled(str(error))
        if self._waiting:
            self._began = math.inf
        elif moment - self._began > _SILENT_S:
            return self._troubled(f"no record has come for {_SILENT_S:.0f} s: see the logs in the run folder")
        else:
            # The end was reached without a bad link: what was taken back was not acknowledged.
            whole = self.chain.checked != "broken"
            self.chain = Chain()
            return self._troubled("") or not whole
        self._troubled("")
        return True

    def _broken(self, error: ChainBroken, moment: float) -> bool:
        if self.chain.checked == "broken":
            self._retry_at = moment + _RETRY_S
            return False
        # The writer may have taken back lines it had not acknowledged: once, start again from the first.
        self.chain = Chain("broken", error.seq, error.what)
        self._source.reset()
        self.fold, self.projection = Fold(), Projection()
        return True

    def _troubled(self, trouble: str) -> bool:
        changed, self.trouble = self.trouble != trouble, trouble
        return changed

    def record(self, seq: int) -> bytes | None:
        """Return the stored line from the journal."""
        return None if self._run_dir is None else stored_line(self._run_dir, seq)


class ReplayFeed:
    """Folds a recording by the replay's position."""

    def __init__(self, replay: Replay, *, run_dir: Path | None = None) -> None:
        self.replay = replay
        self._run_dir = run_dir
        self._shown = -1
        self._play = False
        self.loading = False
        self.chain = Chain("unverified")
        self.trouble = ""

    @property
    def fold(self) -> Fold:
        """The fold at the replay's position."""
        return self.replay.fold

    @property
    def projection(self) -> Projection:
        """Series and tail at the replay's position."""
        return self.replay.projection

    @property
    def now(self) -> float:
        """The moment replayed."""
        return self.replay.now

    @property
    def playback(self) -> Playback:
        """Where the replay stands."""
        replay = self.replay
        return Playback(
            position=replay.position,
            length=replay.length,
            begin=replay.begin,
            finish=replay.finish,
            playing=replay.playing,
            speed=replay.speed,
            loading=self.loading,
        )

    def advance(self) -> bool:
        """Apply what is due."""
        if self._play and self.replay.length:
            self._play = False
            self.replay.play()
        moved = self.replay.advance()
        changed, self._shown = self._shown != self.replay.position, self.replay.position
        return moved or changed

    def play_when_loaded(self) -> None:
        """Start playing as soon as there is something to play."""
        self._play = True

    def judged(self, chain: Chain) -> None:
        """Take the verdict on the recording; what cannot be trusted is not shown."""
        self.chain = chain
        if chain.checked == "broken" and chain.seq >= 0:
            self.replay.limit_to(chain.seq)

    def record(self, seq: int) -> bytes | None:
        """Return the stored line, or the event as it was decoded when there is no file."""
        if self._run_dir is not None:
            return stored_line(self._run_dir, seq)
        position = self.replay.position_of(seq)
        return msgspec.json.encode(self.replay.event(position - 1)) if position else None


def stored_line(run_dir: Path, seq: int) -> bytes | None:
    """Return line `seq` of a run's journal, nothing when it is not there or cannot be read."""
    try:
        return next(islice(read_lines(run_dir / JOURNAL_NAME), seq, None), None) if seq >= 0 else None
    except JournalError:
        return None
