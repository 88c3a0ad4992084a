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
    last: _Entry | None  # the last record seen, to go on from


class JournalIndex:
    """Offsets of every n-th record of one journal."""

    def __init__(self, journal: Path, sidecar: _Sidecar, *, rebuilt: bool) -> None:
        self._journal = journal
        self._entries = sidecar.entries
        self.records = sidecar.last.seq + 1 if sidecar.last else 0
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
        known = old or _Sidecar(version=1, every=every, entries=[], last=None)
        new = _extend(journal, known)
        if old is None or new.last != old.last:
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
            for place, entry in enumerate(sidecar.entries):
                if entry.seq != place * sidecar.every or not _is_at(file.fileno(), entry):
                    return False
            last = sidecar.last
            if last is None:
                return not sidecar.entries
            return len(sidecar.entries) == last.seq // sidecar.every + 1 and _is_at(file.fileno(), last)
    except (OSError, OverflowError):
        return False


def _is_at(fd: int, entry: _Entry) -> bool:
    if entry.offset < 0 or (entry.offset > 0 and os.pread(fd, 1, entry.offset - 1) != b"\n"):
        return False
    header = os.pread(fd, MAX_HEADER_BYTES, entry.offset)
    return seq_of(header) == entry.seq and prev_of(header) == entry.prev.encode()


def _extend(journal: Path, known: _Sidecar) -> _Sidecar:
    entries, last = list(known.entries), known.last
    # The last record seen is read once more, so that going on starts from a line that was checked.
    seq, offset = (last.seq, last.offset) if last else (0, 0)
    for block in read_blocks(journal, start=offset):
        if not isinstance(block, Block):
            break
        for line in block.lines:
            if seq % known.every == 0 and seq // known.every == len(entries):
                entries.append(_entry(journal, seq, offset, line))
            offset += len(line) + 1
            seq += 1
        last = _entry(journal, seq - 1, offset - len(line) - 1, line)
    return _Sidecar(version=1, every=known.every, entries=entries, last=last)


def _entry(journal: Path, seq: int, offset: int, line: bytes) -> _Entry:
    if seq_of(line) != seq:
        raise ChainBroken(f"record {seq} is not where it should be", where=str(journal), seq=seq)
    return _Entry(seq, offset, prev_of(line).decode("ascii", "replace"))
