"""The one writer of a journal: numbered, chained, group-committed, with room kept for aborts.

Callers on the event loop encode and enqueue; one thread takes whatever is queued, up to a bound in bytes,
gives it its place in the chain, writes it, syncs, and acknowledges. There is no delay on purpose: an idle
journal commits at once, a busy one in groups. Only that thread owns the chain, so a batch that cannot be
written leaves no trace in it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from binascii import hexlify
from collections import deque
from pathlib import Path
from types import TracebackType

import msgspec

from cockpit.base.clock import Clock, iso
from cockpit.base.errors import JournalError
from cockpit.base.limits import MAX_LINE_BYTES
from cockpit.base.redact import Redactor
from cockpit.journal.base import Event
from cockpit.journal.chain import MAX_HEADER_BYTES, CompactRange, leaf_hash, splice
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.records import Gap, Position, Receipt, SideFile, Stored
from cockpit.journal.recovery import Found, examine
from cockpit.journal.storage import RESERVE_NAME, Io, JournalFailed, JournalFile, NoSpace, Reserve, SystemIo

_BATCH_BYTES = 1 << 20
_QUEUE_BYTES = 4 << 20


class _Item:
    """One event on its way to disk."""

    __slots__ = ("abort", "at", "body", "future")

    def __init__(self, body: bytes, at: bytes, future: asyncio.Future[Receipt], *, abort: bool) -> None:
        self.body = body
        self.at = at
        self.future = future
        self.abort = abort


_Outcome = tuple[_Item, Receipt | JournalError]


class JournalWriter:
    """Appends events to one run's journal; used from one event loop."""

    def __init__(
        self,
        file: JournalFile,
        reserve: Reserve,
        side: SideFile,
        found: Found,
        *,
        clock: Clock,
        max_batch_bytes: int,
        max_queue_bytes: int,
        redactor: Redactor | None,
    ) -> None:
        self._file = file
        self._reserve = reserve
        self._side = side
        self._clock = clock
        self._max_batch = max_batch_bytes
        self._max_queue = max_queue_bytes
        self._redactor = redactor
        self._encoder = msgspec.json.Encoder()
        self._torn = found.gaps
        self._position = found.position
        self._tree = CompactRange(found.position.records, found.position.roots)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._queued = 0  # bytes handed to the thread and not yet settled; touched on the loop only
        self._waiting: deque[_Item] = deque()  # appends that wait for room, in call order
        self._closed = False
        self._ended: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="cockpit-journal", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        run_dir: Path,
        *,
        clock: Clock,
        reserve: int = 1 << 20,
        max_batch_bytes: int = _BATCH_BYTES,
        max_queue_bytes: int = _QUEUE_BYTES,
        redactor: Redactor | None = None,
        io: Io | None = None,
    ) -> JournalWriter:
        """Create a run's journal or continue it after checking every link.

        A torn last line is moved to `journal.torn-<n>` and reported by `take_gaps`. Raises LockHeld when
        another writer has the journal, ChainBroken when anything else is wrong with it, JournalError when
        it cannot be opened.
        """
        io = io or SystemIo()
        try:
            run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise JournalError(
                f"the run folder cannot be made: {error.strerror}", where=str(run_dir)
            ) from None
        file = JournalFile(run_dir / JOURNAL_NAME, io)
        try:
            found = examine(run_dir, file, max(MAX_LINE_BYTES, max_batch_bytes + MAX_LINE_BYTES))
            kept = Reserve(run_dir / RESERVE_NAME, reserve, io)
            kept.take()  # without it forward records are refused, aborts are not
            return cls(
                file,
                kept,
                SideFile(run_dir / "aborts.jsonl", io),
                found,
                clock=clock,
                max_batch_bytes=max_batch_bytes,
                max_queue_bytes=max_queue_bytes,
                redactor=redactor,
            )
        except BaseException:
            file.close()
            raise

    @property
    def position(self) -> Position:
        """What is on disk: records, hash of the last, and the Merkle tree over them, all of one moment."""
        return self._position

    @property
    def last_seq(self) -> int:
        """Sequence number of the last record on disk, -1 when there is none."""
        return self._position.records - 1

    @property
    def last_hash(self) -> str:
        """Leaf hash of the last record on disk, 64 hexadecimal digits (zeros when there is none)."""
        return self._position.last_hash

    @property
    def failed(self) -> bool:
        """Whether the journal is lost to this writer: forward records are refused for good."""
        return self._file.failure is not None

    def root(self) -> bytes:
        """Return the 32-byte RFC 6962 root over all records on disk."""
        return self._position.root()

    async def append(self, event: Event) -> Receipt:
        """Record an event and return when it is on disk; waits for room when the queue is full.

        Raises JournalError when it could not be recorded: then what it announces must not happen. A
        cancelled append may still be written.
        """
        item = self._item(event)
        if self._waiting or not self._has_room(item):
            self._waiting.append(item)
        else:
            self._enqueue(item)
        return await item.future

    def post(self, event: Event) -> asyncio.Future[Receipt]:
        """Enqueue an event without waiting; the future resolves when it is on disk.

        Raises JournalError when the event is unfit, the queue is full or the writer closed.
        """
        item = self._item(event)
        if self._waiting or not self._has_room(item):
            raise JournalError("the journal's queue is full", hint="await append instead, it waits for room")
        self._enqueue(item)
        return item.future

    def post_abort(self, event: Event) -> asyncio.Future[Receipt]:
        """Enqueue the record of an abort; never refused, never raises, and the future never fails.

        It goes to the journal, using the reserved space when the disk is full; else to `aborts.jsonl`; else
        it stays in memory. The receipt's `stored` says which; `take_gaps` then tells what a `journal.gap`
        record must say. It goes before appends that still wait for room.
        """
        future: asyncio.Future[Receipt] = self._own_loop().create_future()
        try:
            item = _Item(self._encode(event), self._now(), future, abort=True)
        except (JournalError, TypeError, ValueError, RecursionError) as error:
            note = msgspec.json.encode({"type": type(event).__name__, "unfit": str(error)[:500]})
            future.set_result(self._side.remember(note))
            return future
        if self._closed or not self._thread.is_alive():
            future.set_result(self._side.remember(item.body))
        else:
            self._enqueue(item)
        return future

    async def append_abort(self, event: Event, *, within: float = 2.0) -> Receipt:
        """Record an abort and return after at most `within` seconds, whatever the disk does.

        A receipt that says `pending` is still in the queue: the disk did not answer.
        """
        future = self.post_abort(event)
        done, _ = await asyncio.wait((future,), timeout=within)
        return future.result() if done else Receipt(-1, "", 0, Stored.PENDING)

    def take_gaps(self) -> tuple[Gap, ...]:
        """Return, once each, what of this run is not in the chain and must be recorded as a gap."""
        torn, self._torn = self._torn, ()
        return (*torn, *self._side.take_gaps())

    def close(self, *, within: float = 5.0) -> None:
        """Write what is queued, then give up file and lock; blocks for at most `within` seconds."""
        self._stop()
        self._thread.join(within)
        self._release()

    async def aclose(self, *, within: float = 5.0) -> None:
        """Do what `close` does without blocking the loop."""
        if self._thread.is_alive():
            self._own_loop()
            self._ended = asyncio.Event()
            self._stop()
            try:
                async with asyncio.timeout(within):
                    await self._ended.wait()
            except TimeoutError:
                return  # the disk hangs: the thread keeps the lock until the process ends
        self.close(within=1.0)

    async def __aenter__(self) -> JournalWriter:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # On the event loop.

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        return loop

    def _now(self) -> bytes:
        return iso(self._clock.now()).encode()

    def _item(self, event: Event) -> _Item:
        if self._closed:
            raise JournalError("the journal is closed")
        if self._file.failure:
            raise self._file.failure
        try:
            body = self._encode(event)
        except (TypeError, ValueError, RecursionError) as error:
            raise JournalError(f"an event cannot be encoded: {error}") from None
        return _Item(body, self._now(), self._own_loop().create_future(), abort=False)

    def _encode(self, event: Event) -> bytes:
        if event.seq != -1 or event.at:
            event = msgspec.structs.replace(
                event, seq=-1, at=""
            )  # one read from a journal; these are the writer's
        body = self._encoder.encode(event)
        if self._redactor is not None:
            plain = msgspec.json.decode(body)
            masked = _masked(plain, self._redactor)
            body = self._encoder.encode(masked) if masked != plain else body
        if not body.startswith(b'{"type":"'):
            raise JournalError("an event has no type", where=type(event).__name__)
        if len(body) + MAX_HEADER_BYTES > MAX_LINE_BYTES:
            raise JournalError(
                f"a record of {len(body)} bytes is too long for a line",
                where=type(event).__name__,
                hint="keep the payload as a blob and refer to it",
            )
        return body

    def _has_room(self, item: _Item) -> bool:
        return self._queued == 0 or self._queued + len(item.body) <= self._max_queue

    def _enqueue(self, item: _Item) -> None:
        self._queued += len(item.body)
        self._queue.put(item)

    def _settle(self, outcomes: list[_Outcome]) -> None:
        for item, outcome in outcomes:
            self._queued -= len(item.body)
            if item.future.done():
                continue
            if isinstance(outcome, JournalError):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)
        while self._waiting and self._has_room(self._waiting[0]):
            item = self._waiting.popleft()
            if not item.future.done():  # a cancelled append gives its place to the next
                self._enqueue(item)

    def _stop(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._waiting:
            item = self._waiting.popleft()
            if not item.future.done():
                item.future.set_exception(JournalError("the journal was closed before there was room"))
        self._queue.put(None)

    def _release(self) -> None:
        if not self._thread.is_alive():
            self._file.close()
            self._reserve.close()
            self._side.close()

    # In the writer's thread.

    def _run(self) -> None:
        going = True
        while going:
            first = self._queue.get()
            if first is None:
                break
            batch, size = [first], len(first.body)
            while size < self._max_batch:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    going = False
                    break
                batch.append(item)
                size += len(item.body)
            self._tell(self._settle, self._commit(batch))
        if self._ended is not None:
            self._tell(self._ended.set)

    def _tell(self, call: object, *args: object) -> None:
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call, *args)  # type: ignore[arg-type]
        except RuntimeError:
            pass  # the loop has closed: nobody waits any more

    def _commit(self, batch: list[_Item]) -> list[_Outcome]:
        """Put a batch on disk; forward records fail where aborts go on looking for a place."""
        try:
            if not self._reserve.take() and any(not item.abort for item in batch):
                raise NoSpace(
                    "the space reserved for aborts cannot be had",
                    where=str(self._file.path),
                    hint="free disk space",
                )
            return self._store(batch)
        except JournalError as error:
            return self._commit_aborts(batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, callers must learn that nothing was recorded
            self._file.failure = JournalFailed(
                f"the journal's writer failed: {error!r}", where=str(self._file.path)
            )
            return self._commit_aborts(batch, self._file.failure)

    def _commit_aborts(self, batch: list[_Item], error: JournalError) -> list[_Outcome]:
        outcomes: list[_Outcome] = [(item, error) for item in batch if not item.abort]
        aborts = [item for item in batch if item.abort]
        if not aborts:
            return outcomes
        if not self.failed:
            self._reserve.give()
            try:
                return [*outcomes, *self._store(aborts)]
            except JournalError:
                pass  # the side file is next
        last_seq = self.last_seq
        return [*outcomes, *((item, self._side.keep(item.body, item.at, last_seq)) for item in aborts)]

    def _store(self, batch: list[_Item]) -> list[_Outcome]:
        """Number, chain, write and sync a batch; the chain only moves on when all of it is on disk."""
        seq = self._position.records
        prev, last_at = self._position.last_hash.encode(), self._position.at
        lines: list[bytes] = []
        leaves: list[bytes] = []
        outcomes: list[_Outcome] = []
        for item in batch:
            # Wall clocks jump; the order of a journal does not.
            last_at = max(last_at, item.at)
            line = splice(prev, seq, last_at, item.body)
            leaf = leaf_hash(line)
            prev = hexlify(leaf)
            lines.append(line)
            leaves.append(leaf)
            outcomes.append((item, Receipt(seq, prev.decode(), len(line))))
            seq += 1
        self._file.store(b"\n".join(lines) + b"\n", lines[-1] + b"\n")
        for leaf in leaves:
            self._tree.append(leaf)
        self._position = Position(seq, prev.decode(), last_at, self._tree.roots)
        return outcomes


def _masked(value: object, redactor: Redactor) -> object:
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, dict):
        return {key: _masked(item, redactor) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, redactor) for item in value]
    return value
