"""The conductor's hold on the journal: events in, the folded state out, heads and blobs beside it.

The state is folded from the journal file itself, through the same reader the screens use, so that what the
conductor decides on is exactly what a replay will show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from cockpit.base.errors import BackendUnreachable, ChainBroken, JournalError
from cockpit.base.threads import BoundedThreads
from cockpit.journal.base import Event
from cockpit.journal.blobs import BlobStore
from cockpit.journal.events import AnyEvent, HeadWritten, JournalGap
from cockpit.journal.fold import Fold
from cockpit.journal.heads import Head, RunKey, origin_of, sign_head, write_head
from cockpit.journal.reader import JOURNAL_NAME, Tail, verified_events
from cockpit.journal.records import Receipt
from cockpit.journal.state import ReleaseState
from cockpit.journal.upcast import decode
from cockpit.journal.writer import JournalWriter

T = TypeVar("T")

_DISK_WITHIN = 10.0

_DISK_DEADLINE = 30.0


class Recorder:
    """Writes events and keeps the state folded from what is on disk."""

    def __init__(self, writer: JournalWriter, run_dir: Path, run_id: str, key: RunKey) -> None:
        self._writer = writer
        self._run_dir = run_dir
        self._run_id = run_id
        self._key = key
        self._tail: Tail[AnyEvent] = Tail(run_dir / JOURNAL_NAME, decode)
        self._fold = Fold()
        self._snapshot: ReleaseState | None = None
        self._blobs = BlobStore(run_dir / "blobs")
        self._disk = BoundedThreads("the disk", 4)

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self._run_dir

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run_id

    @property
    def failed(self) -> bool:
        """Whether forward records are refused for good."""
        return self._writer.failed

    async def record(self, event: Event) -> Receipt:
        """Record an event; return when it is on disk. Raises JournalError: then it must not happen.

        A disk that does not answer within its bound counts as one that refuses.
        """
        try:
            async with asyncio.timeout(_DISK_WITHIN):
                return await self._writer.append(event)
        except TimeoutError:
            raise JournalError(f"the disk did not take a record within {_DISK_WITHIN:g} s") from None

    def note(self, event: Event) -> asyncio.Future[Receipt]:
        """Record an event without waiting; a record that cannot be written becomes a gap, never an error."""
        return self._writer.post_abort(event)

    async def record_abort(self, event: Event) -> Receipt:
        """Record a step of an abort: waits for the disk, but never longer than its bound, and never fails."""
        return await self._writer.append_abort(event)

    async def settle_gaps(self) -> bool:
        """Record, where it is possible again, what was kept outside the journal; tell whether any was."""
        gaps = self._writer.take_gaps()
        for gap in gaps:
            event = JournalGap(
                reason=f"{gap.kind}: {gap.size} bytes, sha256 {gap.sha256}",
                records=gap.records,
                where=gap.file or "lost when the process ends",
            )
            await self.record_abort(event)
        return any(gap.kind != "torn" for gap in gaps)  # a torn line was never acknowledged

    def keep(self, data: bytes) -> str:
        """Store bytes as a salted blob; return `sha256:…`."""
        return self._blobs.put(data).digest

    async def keep_all(self, parts: Sequence[bytes]) -> list[str]:
        """Store several blobs without holding up the loop, which must take a HALT at any moment.

        Raises JournalError, also when the disk does not answer.
        """
        try:
            return await self._disk.run(lambda: [self.keep(data) for data in parts], deadline=_DISK_DEADLINE)
        except BackendUnreachable as error:
            raise JournalError(f"blobs cannot be written: {error.what}", where=str(self._run_dir)) from None

    async def read(self, work: Callable[[], T]) -> T:
        """Read journal or blobs, many at a time, without holding up the loop; raises JournalError."""
        try:
            return await self._disk.run(work, deadline=_DISK_DEADLINE)
        except BackendUnreachable as error:
            raise JournalError(f"cannot be read: {error.what}", where=str(self._run_dir)) from None

    def blob(self, digest: str) -> bytes:
        """Return a stored blob, verified against its digest."""
        return self._blobs.get(digest)

    def state(self) -> ReleaseState:
        """Return the state as of everything on disk."""
        try:
            events = self._tail.poll()
        except ChainBroken:
            # The writer takes back what it could not sync; start again from what the file now says.
            self._tail.reset()
            self._fold = Fold()
            events = self._tail.poll()
        while events:
            self._fold.apply_all(events)
            self._snapshot = None
            events = self._tail.poll()
        if self._snapshot is None:
            self._snapshot = self._fold.snapshot()
        return self._snapshot

    def events(self) -> Iterator[AnyEvent]:
        """Read the journal from its beginning."""
        for block in verified_events(self._run_dir / JOURNAL_NAME, decode):
            yield from block

    async def write_head(self, name: str) -> str:
        """Put a signed checkpoint over what is on disk outside the journal; return its text, "" on failure.

        The event that says so comes after the head, so it is covered by the next one.
        """
        head = self._head()
        try:
            write_head(self._run_dir / "heads", name, head, self._key)
        except (OSError, JournalError) as error:
            await self.record_abort(JournalGap(reason=f"head {name}: {error}", records=0))
            return ""
        self.note(HeadWritten(name=name, size=head.size, root=head.root.hex()))
        return sign_head(head, self._key).decode()

    def final_head(self, name: str) -> None:
        """Put the closing checkpoint over the whole file; called after the terminal record."""
        write_head(self._run_dir / "heads", name, self._head(), self._key)

    def _head(self) -> Head:
        position = self._writer.position
        return Head(origin_of(self._run_id), position.records, position.root())

    async def close(self) -> None:
        """Write what is queued and let go of the journal."""
        await self._writer.aclose()
        self._tail.close()
