"""A sidecar index from record numbers to byte offsets, for seeking in a recording without reading all of it.

`journal.idx` is never trusted: it only says where to look. Each entry is checked against the journal when
the index is opened (the line there must be a record of that number, with the `prev` noted), and a bad index
is made again.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cockpit.base.errors import ChainBroken, JournalError
from cockpit.base.files import write_private
from cockpit.journal.chain import MAX_HEADER_BYTES, prev_of, seq_of
from cockpit.journal.reader import Block, read_blocks

INDEX_NAME = "journal.idx"
_MAX_INDEX_BYTES = 64 << 20


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    seq: int
    offset: int
    prev: str


class _Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    every: int
    entries: list[_Entry]
    end: _Entry  # where the record after the last indexed one starts


class JournalIndex:
    """Offsets of every n-th record of one journal."""

    def __init__(self, journal: Path, sidecar: _Sidecar, *, rebuilt: bool) -> None:
        self._journal = journal
        self._entries = sidecar.entries
        self.records = sidecar.end.seq
        self.rebuilt = rebuilt

    @classmethod
    def open(cls, journal: Path, *, every: int = 1024) -> JournalIndex:
        """Load the index beside `journal`, extended over records added since, or make it anew.

        It is written back where that is possible; a read-only folder is no error. Raises JournalError when
        the journal cannot be read, ChainBroken when it is not numbered from 0 without a gap.
        """
        if every < 1:
            raise JournalError("an index needs a distance of at least one record")
        path = journal.with_name(INDEX_NAME)
        old = _load(path, journal, every)
        known = old or _Sidecar(version=1, every=every, entries=[], end=_Entry(0, 0, ""))
        new = _extend(journal, known)
        if old is None or new.end != old.end:
            try:
                write_private(path, msgspec.json.encode(new))
            except OSError:
                pass  # it is only a convenience
        return cls(journal, new, rebuilt=old is None)

    def offset_of(self, seq: int) -> tuple[int, int]:
        """Return number and byte offset of the nearest indexed record at or before `seq`."""
        if not 0 <= seq < self.records:
            raise JournalError(f"there is no record {seq}", where=str(self._journal))
        entry = self._entries[bisect_right(self._entries, seq, key=lambda entry: entry.seq) - 1]
        return entry.seq, entry.offset

    def lines_from(self, seq: int) -> Iterator[bytes]:
        """Yield the lines from record `seq` on; ChainBroken when the journal changed since the index."""
        base, offset = self.offset_of(seq)
        skip = seq - base
        for block in read_blocks(self._journal, start=offset):
            if not isinstance(block, Block):
                return
            lines = block.lines
            if base >= 0 and seq_of(lines[0]) != base:
                raise ChainBroken(
                    "the journal changed since it was indexed", where=str(self._journal), seq=base
                )
            base = -1
            yield from lines[skip:]
            skip = max(0, skip - len(lines))


def _load(path: Path, journal: Path, every: int) -> _Sidecar | None:
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            return None
        sidecar = msgspec.json.decode(path.read_bytes(), type=_Sidecar)
    except (OSError, ValueError):
        return None
    return sidecar if sidecar.version == 1 and sidecar.every == every and _holds(sidecar, journal) else None


def _holds(sidecar: _Sidecar, journal: Path) -> bool:
    try:
        with journal.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for place, entry in enumerate(sidecar.entries):
                if entry.seq != place * sidecar.every or not _is_at(file.fileno(), entry):
                    return False
            end = sidecar.end
            wanted = -(-end.seq // sidecar.every)
            if len(sidecar.entries) != wanted or end.offset > size or end.seq < 0:
                return False
            # At the end stands the next record, or nothing yet.
            return _ends_line(file.fileno(), end.offset) and (
                end.offset == size or _is_at(file.fileno(), end)
            )
    except (OSError, OverflowError):
        return False


def _is_at(fd: int, entry: _Entry) -> bool:
    if entry.offset < 0 or not _ends_line(fd, entry.offset):
        return False
    header = os.pread(fd, MAX_HEADER_BYTES, entry.offset)
    return seq_of(header) == entry.seq and (not entry.prev or prev_of(header) == entry.prev.encode())


def _ends_line(fd: int, offset: int) -> bool:
    return offset == 0 or os.pread(fd, 1, offset - 1) == b"\n"


def _extend(journal: Path, known: _Sidecar) -> _Sidecar:
    entries, seq, offset = list(known.entries), known.end.seq, known.end.offset
    for block in read_blocks(journal, start=offset):
        if not isinstance(block, Block):
            break
        for line in block.lines:
            if seq % known.every == 0:
                if seq_of(line) != seq:
                    raise ChainBroken(f"record {seq} is not where it should be", where=str(journal), seq=seq)
                entries.append(_Entry(seq, offset, prev_of(line).decode()))
            seq += 1
            offset += len(line) + 1
        if seq_of(block.lines[-1]) != seq - 1:
            raise ChainBroken(f"record {seq - 1} is not where it should be", where=str(journal), seq=seq - 1)
    return _Sidecar(version=1, every=known.every, entries=entries, end=_Entry(seq, offset, ""))
