"""Events, a disk that fills up, fails or hangs, and whole run folders, for the tests of the journal."""

from __future__ import annotations

import errno
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cockpit.journal.base import Event
from cockpit.journal.chain import GENESIS, MerkleTree, leaf_hash, splice
from cockpit.journal.heads import Head, RunKey, sign_head, write_public_key
from cockpit.journal.storage import SystemIo


class Noted(Event, frozen=True, tag="test.noted.v1"):
    """Something worth a line."""

    n: int = 0
    text: str = ""


class Closed(Event, frozen=True, tag="run.closed.v1"):
    """The end of a sitting."""


decode = msgspec.json.Decoder(Noted | Closed).decode
KEY = RunKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))  # the same in every test process
ORIGIN = "cockpit/20250923T080000Z-abcdef"


def make_lines(count: int, *, first: int = 0, prev: bytes = GENESIS, closed: bool = False) -> list[bytes]:
    """Return `count` chained lines, made without the writer; the last is terminal when `closed`."""
    lines: list[bytes] = []
    start = datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
    for seq in range(first, first + count):
        last = closed and seq == first + count - 1
        body = msgspec.json.encode(Closed() if last else Noted(n=seq, text="x" * (seq % 5)))
        at = (start + timedelta(milliseconds=seq - first)).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
        lines.append(splice(prev, seq, at, body))
        prev = leaf_hash(lines[-1]).hex().encode()
    return lines


def write_run(folder: Path, data: bytes, heads: dict[str, bytes]) -> None:
    """Write a run folder of a journal and checkpoint files."""
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    (folder / "journal.jsonl").write_bytes(data)
    write_public_key(folder / "heads", KEY)
    for name, text in heads.items():
        (folder / "heads" / name).write_bytes(text)


def heads_of(lines: list[bytes], *sizes: int) -> dict[str, bytes]:
    """Return signed checkpoint files over the first `sizes` lines."""
    tree = MerkleTree(map(leaf_hash, lines))
    return {
        f"{size:08d}-test.checkpoint": sign_head(Head(ORIGIN, size, tree.root(size)), KEY) for size in sizes
    }


class Disk(SystemIo):
    """A disk of so many bytes whose syncs can fail or hang; it counts what is asked of it."""

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.eaten = 0  # by someone else
        self.used: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.syncs = 0
        self.sync_errors: dict[str, list[int]] = {}
        self.write_errors: dict[str, list[int]] = {}
        self.read_back: bytes | None = None
        self.spoiled: set[int] = set()  # descriptors whose sync failed
        self.used_after_failure: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def free(self) -> int:
        """Bytes left."""
        return self.capacity - self.eaten - sum(self.used.values())

    def open(self, path: Path, flags: int) -> int:
        """Open and remember which file a descriptor is of."""
        fd = super().open(path, flags)
        self.names[fd] = path.name
        self.spoiled.discard(fd)
        self.used[path.name] = os.fstat(fd).st_size
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        """Write what fits; ENOSPC when nothing does."""
        name = self._good(fd, "write")
        if errors := self.write_errors.get(name):
            raise OSError(errors[0] if errors[-1] < 0 else errors.pop(0), "planned")
        fits = min(len(data), self.free)
        if fits <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = super().write(fd, data[:fits])
        self.used[name] += written
        return written

    def fdatasync(self, fd: int) -> None:
        """Wait at the gate, then sync, or fail as planned (the last error planned stays)."""
        name = self._good(fd, "sync")
        self.gate.wait(30)
        self.syncs += 1
        errors = self.sync_errors.get(name, [])
        if errors:
            self.spoiled.add(fd)
            raise OSError(errors[0] if errors[-1] < 0 else errors.pop(0), "planned")
        super().fdatasync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut, and give the bytes back."""
        super().truncate(fd, size)
        self.used[self.names[fd]] = size

    def allocate(self, fd: int, size: int) -> None:
        """Allocate when it fits."""
        name = self.names[fd]
        if size - self.used[name] > self.free:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().allocate(fd, size)
        self.used[name] = max(self.used[name], size)

    def read_at(self, fd: int, size: int, offset: int) -> bytes:
        """Read, or give back what was planned."""
        return super().read_at(fd, size, offset) if self.read_back is None else self.read_back

    def fail_syncs(self, name: str, code: int, *, times: int = 0) -> None:
        """Let the next `times` syncs of a file fail, or all from now on."""
        self.sync_errors[name] = [code] * times if times else [code, -1]

    def _good(self, fd: int, what: str) -> str:
        if fd in self.spoiled:
            self.used_after_failure.append(f"{what} {self.names[fd]}")
        return self.names[fd]
