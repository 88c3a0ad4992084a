"""Checking the links of a journal, many lines at a time.

The fast path compares whole columns of a block (all `prev`, all `seq`, all `at`) in a few calls; only when a
column differs are the lines looked at one by one, to say which is wrong.
"""

from __future__ import annotations

import hashlib
from binascii import hexlify
from operator import itemgetter
from typing import NamedTuple

from cockpit.base.errors import ChainBroken
from cockpit.journal.chain import AT_LENGTH, GENESIS, PREV_END, PREV_START, at_of, prev_of, seq_of

_PREVS = itemgetter(slice(PREV_START, PREV_END))
_OPENS = itemgetter(slice(0, PREV_START))
_MASK = bytes.maketrans(b"123456789", b"0" * 9)
_AT_SHAPE = b'0000-00-00T00:00:00.000000Z","type":"'
_SEQ_COLUMN = b'","seq":%d,"at":"'


class Fault(NamedTuple):
    """One line that does not fit: its place in the block, the number it should have, what is wrong."""

    line: int
    seq: int
    what: str


class Links:
    """The state of a chain as lines are checked in order: what the next line must say."""

    __slots__ = ("at", "prev", "seq")

    def __init__(self, seq: int = 0, prev: bytes = GENESIS, at: bytes = b"") -> None:
        self.seq = seq
        self.prev = prev
        self.at = at

    def check(self, lines: list[bytes], *, where: str = "journal") -> list[bytes]:
        """Check complete lines and return their leaf hashes; raises ChainBroken and stays as it was."""
        before = (self.seq, self.prev, self.at)
        digests = [hashlib.sha256(b"\x00" + line).digest() for line in lines]
        if not self._columns_fit(lines, digests):
            self.seq, self.prev, self.at = before
            faults = Links(*before).faults(lines)
            # Should the two ways of looking ever disagree, the answer is still no.
            fault = faults[0] if faults else Fault(0, before[0], "a block of records does not fit together")
            raise ChainBroken(
                f"record {fault.seq}: {fault.what}",
                where=where,
                hint="compare with a copy; `cockpit journal verify` lists every problem",
                seq=fault.seq,
            )
        return digests

    def _columns_fit(self, lines: list[bytes], digests: list[bytes]) -> bool:
        if not lines:
            return True
        hashes = hexlify(b"".join(digests))
        if b"".join(map(_PREVS, lines)) != self.prev + hashes[:-64]:
            return False
        if b"".join(map(_OPENS, lines)) != b'{"prev":"' * len(lines):
            return False
        start = 0
        while start < len(lines):
            # Columns have one width as long as the sequence numbers have the same count of digits.
            digits = len(str(self.seq))
            stop = min(len(lines), start + 10**digits - self.seq)
            if not self._run_fits(lines[start:stop], digits):
                return False
            start = stop
        self.prev = hashes[-64:]
        return True

    def _run_fits(self, lines: list[bytes], digits: int) -> bool:
        count = len(lines)
        at_start = PREV_END + digits + 15
        seqs = itemgetter(slice(PREV_END, at_start))
        if b"".join(map(seqs, lines)) != (_SEQ_COLUMN * count) % tuple(range(self.seq, self.seq + count)):
            return False
        times = list(map(itemgetter(slice(at_start, at_start + len(_AT_SHAPE))), lines))
        if b"".join(times).translate(_MASK) != _AT_SHAPE * count or sorted(times) != times:
            return False
        if times[0][:AT_LENGTH] < self.at:
            return False
        self.at = times[-1][:AT_LENGTH]
        self.seq += count
        return True

    def faults(self, lines: list[bytes]) -> list[Fault]:
        """Look at lines one by one, go on from what each says, and return all that do not fit."""
        found: list[Fault] = []
        for index, line in enumerate(lines):
            wrong = self._fault_of(line)
            if wrong:
                found.append(Fault(index, self.seq, wrong))
            said = seq_of(line)
            self.seq = (said if said >= 0 else self.seq) + 1
            self.prev = hexlify(hashlib.sha256(b"\x00" + line).digest())
            self.at = max(self.at, at_of(line))
        return found

    def _fault_of(self, line: bytes) -> str:
        prev, seq, at = prev_of(line), seq_of(line), at_of(line)
        if not prev or seq < 0 or at.translate(_MASK) != _AT_SHAPE[:AT_LENGTH]:
            return "does not begin as a journal record"
        if seq != self.seq:
            return f"the record here is numbered {seq}"
        if prev != self.prev:
            return "does not continue the record before it: one of the two was changed"
        if at < self.at:
            return "its time lies before that of the record before it"
        return ""
