"""Reading a journal: in big chunks, verified, decoded, or followed as it grows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cockpit.base.errors import ChainBroken, JournalError
from cockpit.base.limits import MAX_LINE_BYTES
from cockpit.journal.links import Links

T = TypeVar("T")

JOURNAL_NAME = "journal.jsonl"
_CHUNK = 256 * 1024  # about what fits the second-level cache: a block is hashed while still warm


class Block(NamedTuple):
    """Complete lines, without newlines, that start at byte `offset` of the file."""

    offset: int
    lines: list[bytes]


class Torn(NamedTuple):
    """The bytes after the last newline: a record cut off while it was being written, or garbage."""

    offset: int
    data: bytes


def read_blocks(path: Path, *, start: int = 0, longest: int = MAX_LINE_BYTES) -> Iterator[Block | Torn]:
    """Yield the lines of a file in blocks and, last, what follows the last newline, if anything.

    A line longer than `longest` bytes raises ChainBroken: no writer of this project makes one. A file that
    cannot be read raises JournalError.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            offset, rest = start, b""
            while chunk := file.read(_CHUNK):
                data = rest + chunk
                lines = data.split(b"\n")
                rest = lines.pop()
                if len(rest) > longest or (lines and len(lines[0]) > longest):
                    raise ChainBroken(
                        f"a line longer than {longest} bytes near byte {offset}", where=str(path)
                    )
                if lines:
                    yield Block(offset, lines)
                    offset += len(data) - len(rest)
            if rest:
                yield Torn(offset, rest)
    except OSError as error:
        raise JournalError(
            f"the journal cannot be read: {error.strerror}", where=str(path), hint="name the folder of a run"
        ) from None


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield every complete line without its newline; a torn last line is left out."""
    for block in read_blocks(path):
        if isinstance(block, Block):
            yield from block.lines


def verified_blocks(path: Path, links: Links | None = None) -> Iterator[list[bytes]]:
    """Yield blocks of lines whose links hold; raises ChainBroken at the first that does not."""
    links = links or Links()
    for block in read_blocks(path):
        if isinstance(block, Block):
            links.check(block.lines, where=str(path))
            yield block.lines


def decode_events(lines: Iterable[bytes], decode: Callable[[bytes], T]) -> Iterator[T]:
    """Yield each line decoded; an undecodable one raises JournalError."""
    for line in lines:
        yield _decode(line, decode)


def decode_block(lines: list[bytes], decode: Callable[[bytes], T]) -> list[T]:
    """Return a block of lines decoded; an undecodable one raises JournalError."""
    try:
        return list(map(decode, lines))
    except ValueError:
        return [_decode(line, decode) for line in lines]


def _decode(line: bytes, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(line)
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise JournalError(
            f"a record cannot be decoded: {error}",
            where=JOURNAL_NAME,
            hint="was it written by a newer version?",
        ) from None


def verified_events(path: Path, decode: Callable[[bytes], T]) -> Iterator[list[T]]:
    """Yield blocks of decoded events whose links hold: the one way to open a recording."""
    for lines in verified_blocks(path):
        yield decode_block(lines, decode)


class Tail(Generic[T]):
    """Follows a journal that another process writes; each new line is verified before it is decoded.

    A writer that runs out of space takes back lines it had not acknowledged, and a file can be replaced:
    both raise ChainBroken from `poll`, after which `reset` starts again from the beginning (the caller
    forgets its state too).
    """

    def __init__(self, path: Path, decode: Callable[[bytes], T]) -> None:
        self._path = path
        self._decode = decode
        self._fd = -1
        self._links = Links()
        self._read = (
            0  # bytes of complete lines taken; a line cut short is read again whole, as it may be taken back
        )
        self._seen: tuple[int, int] = (0, 0)
        self._identity: tuple[int, int] | None = None

    @property
    def seq(self) -> int:
        """The sequence number the next event will have."""
        return self._links.seq

    def poll(self, *, limit: int = 8 << 20) -> list[T]:
        """Return the events of lines completed since the last call, from at most about `limit` bytes.

        A file that is not there yet gives none; so does one without news, at the cost of one `stat`.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            if self._identity is None:
                return []
            raise self._gone("was removed") from None
        except OSError as error:
            raise JournalError(
                f"the journal cannot be read: {error.strerror}", where=str(self._path)
            ) from None
        identity = (status.st_dev, status.st_ino)
        if self._identity is not None and identity != self._identity:
            raise self._gone("was replaced by another file")
        if status.st_size < self._read:
            raise self._gone("became shorter")
        if status.st_size == self._read or (status.st_size, status.st_mtime_ns) == self._seen:
            return []
        events, reached = self._take(identity, max(limit, MAX_LINE_BYTES + 2))
        # Bytes beyond `limit` wait for the next call, which then must not take the file for unchanged.
        self._seen = (status.st_size, status.st_mtime_ns) if reached >= status.st_size else (0, 0)
        return events

    def reset(self) -> None:
        """Start again from the first line."""
        self.close()
        self._links = Links()
        self._read = 0
        self._seen = (0, 0)
        self._identity = None

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take(self, identity: tuple[int, int], limit: int) -> tuple[list[T], int]:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                opened = os.fstat(self._fd)
                if (opened.st_dev, opened.st_ino) != identity:
                    self.close()
                    return [], 0  # replaced between the two calls: the next poll looks afresh
                self._identity = identity
            data = os.pread(self._fd, limit, self._read)
        except OSError as error:
            raise JournalError(
                f"the journal cannot be read: {error.strerror}", where=str(self._path)
            ) from None
        lines = data.split(b"\n")
        rest = lines.pop()
        if len(rest) > MAX_LINE_BYTES:
            raise self._gone(f"holds a line longer than {MAX_LINE_BYTES} bytes")
        self._links.check(lines, where=str(self._path))
        events = decode_block(lines, self._decode)
        reached = self._read + len(data)
        self._read = reached - len(rest)
        return events, reached

    def _gone(self, what: str) -> ChainBroken:
        return ChainBroken(
            f"the journal {what} while it was followed", where=str(self._path), seq=self._links.seq
        )
