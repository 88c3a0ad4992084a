"""The journal's file on disk: locked, appended to, synced, and put right after a write that failed.

Two rules. What was acknowledged is never touched again: a failed write is taken back to the last
acknowledged byte. And a descriptor whose sync failed is never used again, because the kernel may have
dropped the pages and marked them clean: the file is opened afresh, its acknowledged end is read back and
compared, and the batch written anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

from cockpit.base.errors import JournalError, LockHeld

RESERVE_NAME = "journal.reserve"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_CREATE = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class NoSpace(JournalError):
    """The disk or the quota is full; nothing of the batch was kept."""


class JournalFailed(JournalError):
    """The journal's file can no longer be trusted; only a new sitting can go on with it."""


class Io(Protocol):
    """The system calls the journal makes; a test's implementation fails where a disk would."""

    def open(self, path: Path, flags: int) -> int:
        """Open for the owner only (0600) and return a descriptor."""
        ...

    def write(self, fd: int, data: memoryview) -> int:
        """Write some of `data` and return how much."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Return when data and size are on disk."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut or grow the file to `size` bytes."""
        ...

    def allocate(self, fd: int, size: int) -> None:
        """Give the file `size` bytes of real disk blocks."""
        ...

    def read_at(self, fd: int, size: int, offset: int) -> bytes:
        """Read from the disk rather than from the cache where the system allows it."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        ...


class SystemIo:
    """The operating system's calls."""

    def open(self, path: Path, flags: int) -> int:
        """Open for the owner only."""
        return os.open(path, flags, 0o600)

    def write(self, fd: int, data: memoryview) -> int:
        """`write(2)`."""
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        """`fdatasync(2)`."""
        os.fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """`ftruncate(2)`."""
        os.ftruncate(fd, size)

    def allocate(self, fd: int, size: int) -> None:
        """`posix_fallocate(3)`."""
        os.posix_fallocate(fd, 0, size)

    def read_at(self, fd: int, size: int, offset: int) -> bytes:
        """`pread(2)` after asking the system to drop its cached pages."""
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, size, offset)

    def close(self, fd: int) -> None:
        """`close(2)`."""
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Put a folder's list of names on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def no_space(error: OSError) -> bool:
    """Say whether an error means that the disk or the quota is full."""
    return error.errno in _NO_SPACE


class JournalFile:
    """One locked journal file; used by one thread at a time."""

    def __init__(self, path: Path, io: Io) -> None:
        """Create or open and lock `path`; LockHeld when another has it, JournalError when it cannot be."""
        self.path = path
        self._io = io
        self.failure: JournalFailed | None = None
        self._size = 0
        self._last = b""  # the last acknowledged line with its newline, to recognise the file by
        try:
            # The lock has a descriptor of its own, which lives on when the other must be given up.
            self._lock_fd = io.open(path, _CREATE)
        except OSError as error:
            raise JournalError(f"the journal cannot be opened: {error.strerror}", where=str(path)) from None
        self._fd = -1
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(self._lock_fd, 0o600)
            self._fd = io.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            sync_folder(path.parent)
        except BlockingIOError:
            self.close()
            raise LockHeld(
                "another writer has this journal", where=str(path), hint="follow it, or end the other process"
            ) from None
        except OSError as error:
            self.close()
            raise JournalError(f"the journal cannot be opened: {error.strerror}", where=str(path)) from None

    def settle(self, size: int, last: bytes) -> None:
        """Take the first `size` bytes, which end in the line `last`, as written; cut off what follows.

        What a crashed writer had written but not synced is synced here, so that all before `size` is on disk.
        """
        try:
            self._io.truncate(self._fd, size)
            self._io.fdatasync(self._fd)
        except OSError as error:
            raise JournalError(
                f"the journal cannot be synced: {error.strerror}", where=str(self.path)
            ) from None
        self._size, self._last = size, last

    def store(self, data: bytes, last: bytes) -> None:
        """Append whole lines, the last being `last`, and return when they are on disk.

        Raises NoSpace (nothing was kept, going on is possible) or JournalFailed (for good).
        """
        if self.failure:
            raise self.failure
        try:
            self._write(data)
        except OSError as error:
            if no_space(error):
                self._take_back()
                raise NoSpace("no space left for the journal", where=str(self.path)) from None
            self._write_anew(data, error)
        else:
            try:
                self._io.fdatasync(self._fd)
            except OSError as error:
                self._write_anew(data, error)
        self._size += len(data)
        self._last = last

    def close(self) -> None:
        """Close the descriptors, which gives up the lock."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                try:
                    self._io.close(fd)
                except OSError:
                    pass  # close reports errors of writes that were never acknowledged
        self._fd = self._lock_fd = -1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._io.write(self._fd, view) :]

    def _take_back(self) -> None:
        try:
            self._io.truncate(self._fd, self._size)
        except OSError as error:
            raise self._fail(f"half a batch could not be taken back: {error.strerror}") from None

    def _write_anew(self, data: bytes, cause: OSError) -> None:
        """Open afresh, make sure of the acknowledged end, write the batch again and sync."""
        fresh = -1
        try:
            fresh = self._io.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            if not os.path.samestat(os.fstat(fresh), os.fstat(self._lock_fd)):
                raise self._fail("the file was replaced by another")
            given_up, self._fd, fresh = self._fd, fresh, -1
            try:
                self._io.close(given_up)
            except OSError:
                pass  # the error that brought us here, told again
            if self._io.read_at(self._fd, len(self._last), self._size - len(self._last)) != self._last:
                raise self._fail("its acknowledged end reads back differently")
            self._io.truncate(self._fd, self._size)
            if no_space(cause):
                raise NoSpace("no space left for the journal", where=str(self.path))
            self._write(data)
            self._io.fdatasync(self._fd)
        except OSError as error:
            raise self._fail(
                f"{cause.strerror}, and again after opening it afresh: {error.strerror}"
            ) from None
        finally:
            if fresh >= 0:
                self._io.close(fresh)

    def _fail(self, what: str) -> JournalFailed:
        self.failure = JournalFailed(
            f"the journal failed: {what}",
            where=str(self.path),
            hint="nothing forward happens any more; go on with `--resume` once the disk is well",
        )
        return self.failure


class Reserve:
    """Disk blocks kept for the records of an abort; given back to the file system when they are needed."""

    def __init__(self, path: Path, size: int, io: Io) -> None:
        self._path = path
        self._size = size
        self._io = io
        self._fd = -1
        self.held = size == 0

    def take(self) -> bool:
        """Allocate the space if it is not held; return whether it is now."""
        if self.held:
            return True
        try:
            if self._fd < 0:
                self._fd = self._io.open(self._path, _CREATE)
            self._io.allocate(self._fd, self._size)
        except OSError:
            self.give()
            return False
        self.held = True
        return True

    def give(self) -> None:
        """Free the space for a write that needs it now."""
        if self._fd < 0:
            return
        self.held = False
        try:
            self._io.truncate(self._fd, 0)
            self._io.fdatasync(self._fd)  # some file systems hand blocks out again only after a commit
        except OSError:
            pass  # the write that needs the space will say so itself

    def close(self) -> None:
        """Remove the file."""
        if self._fd >= 0:
            try:
                self._io.close(self._fd)
            except OSError:
                pass
            self._fd = -1
        self._path.unlink(missing_ok=True)
