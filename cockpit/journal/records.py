"""What a writer answers with, and where the records of aborts go when the journal cannot take them."""

from __future__ import annotations

import hashlib
import os
import threading
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from cockpit.base.errors import JournalError
from cockpit.base.files import sha256_file
from cockpit.journal.chain import GENESIS, fold_roots
from cockpit.journal.reader import read_lines
from cockpit.journal.storage import Io, sync_folder

_MEMORY_BYTES = 4 << 20
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Stored(StrEnum):
    """Where a record is."""

    JOURNAL = "journal"
    SIDE = "side"
    MEMORY = "memory"
    PENDING = "pending"


class Receipt(NamedTuple):
    """A record's place: number, leaf hash (64 hexadecimal digits), bytes of its line without the newline.

    Outside the journal `seq` is -1 and the hash empty.
    """

    seq: int
    leaf_hash: str
    line_bytes: int
    stored: Stored = Stored.JOURNAL


class Position(NamedTuple):
    """What of a journal is on disk, at one moment."""

    records: int = 0
    last_hash: str = GENESIS.decode()
    at: bytes = b""
    roots: tuple[bytes, ...] = ()

    def root(self) -> bytes:
        """Return the 32-byte RFC 6962 root over the records."""
        return fold_roots(self.roots)


class Gap(NamedTuple):
    """Something that is not in the chain: `kind` is torn, side or memory.

    `file` is a name in the run folder and `sha256` of that whole file; `lines` are records that exist only
    in memory (fewer than `records` when there were too many to keep).
    """

    kind: str
    records: int
    size: int
    file: str = ""
    sha256: str = ""
    lines: tuple[bytes, ...] = ()


class SideFile:
    """`aborts.jsonl`: records of aborts the journal could not take, each synced; else memory.

    A line is `{"after":<last seq of the chain>,"at":…,"type":…}`.
    """

    def __init__(self, path: Path, io: Io) -> None:
        """Take note of records an earlier sitting left."""
        self._path = path
        self._io = io
        self._fd = -1
        self._size = 0
        self._lock = threading.Lock()
        self._news = 0
        self._memory: list[bytes] = []
        self._memory_records = 0
        self._memory_size = 0
        if path.exists():
            try:
                self._news = sum(1 for _ in read_lines(path))
            except JournalError:
                self._news = 1  # unreadable, which is worth a gap record and no reason to refuse an abort

    def keep(self, body: bytes, at: bytes, after: int) -> Receipt:
        """Write one record and sync, or remember it; never raises."""
        line = b'{"after":%d,"at":"%b",%b\n' % (after, at, body[1:])
        try:
            self._write(line)
        except (OSError, JournalError):
            return self.remember(line[:-1])
        with self._lock:
            self._news += 1
        return Receipt(-1, "", len(line) - 1, Stored.SIDE)

    def remember(self, line: bytes) -> Receipt:
        """Keep a record in memory, within bounds."""
        with self._lock:
            self._memory_records += 1
            if self._memory_size + len(line) <= _MEMORY_BYTES:
                self._memory.append(line)
                self._memory_size += len(line)
        return Receipt(-1, "", len(line), Stored.MEMORY)

    def take_gaps(self) -> tuple[Gap, ...]:
        """Return and forget what happened since the last call; no digest when the side file is unreadable."""
        with self._lock:
            news, self._news = self._news, 0
            lines, self._memory = tuple(self._memory), []
            records, self._memory_records = self._memory_records, 0
            size, self._memory_size = self._memory_size, 0
        gaps: list[Gap] = []
        if news:
            try:
                digest, length = sha256_file(self._path), self._path.stat().st_size
            except OSError:
                digest, length = "", 0
            gaps.append(Gap("side", news, length, self._path.name, digest))
        if records:
            gaps.append(
                Gap(
                    "memory", records, size, sha256=hashlib.sha256(b"\n".join(lines)).hexdigest(), lines=lines
                )
            )
        return tuple(gaps)

    def close(self) -> None:
        """Close the file."""
        self._drop()

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            self._fd = self._io.open(self._path, _FLAGS)
            self._size = os.lseek(self._fd, 0, os.SEEK_END)
            sync_folder(self._path.parent)
        try:
            view = memoryview(line)
            while view:
                view = view[self._io.write(self._fd, view) :]
            self._io.fdatasync(self._fd)
        except OSError:
            # Half a record must not run into the next one; and a descriptor that failed is not used again.
            try:
                self._io.truncate(self._fd, self._size)
            except OSError:
                pass
            self._drop()
            raise
        self._size += len(line)

    def _drop(self) -> None:
        if self._fd >= 0:
            try:
                self._io.close(self._fd)
            except OSError:
                pass
            self._fd = -1
