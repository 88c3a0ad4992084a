"""Checking the links of a journal, many lines at a time.

The fast path compares whole columns of a block (all `prev`, all `seq`, all `at`) in a few calls; only when a
column differs are the lines looked at one by one, to say which is wrong.
"""

from __future__ import annotations

from binascii import hexlify
from functools import lru_cache
from hashlib import sha256
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

from cockpit.base.errors import ChainBroken
from cockpit.journal.chain import AT_LENGTH, GENESIS, PREV_END, PREV_START, at_of, prev_of, seq_of

_OPEN, _SEQ, _AT = b'{"prev":"', b'","seq":', b',"at":"'
_MASK = bytes.maketrans(b"123456789", b"0" * 9)
_AT_SHAPE = b'0000-00-00T00:00:00.000000Z","type":"'
_SMALL = [b"%d" % number for number in range(1000)]
_THREE = [b"%03d" % number for number in range(1000)]


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
        digests = [sha256(b"\x00" + line).digest() for line in lines]
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
        hashes = self.prev + hexlify(b"".join(digests))
        done = 0
        while done < len(lines):
            count = min(len(lines) - done, _same_until(self.seq) - self.seq)
            run = lines if count == len(lines) else lines[done : done + count]
            if not self._run_fits(run, hashes[64 * done : 64 * (done + count)]):
                return False
            done += count
        self.prev = hashes[-64:]
        return True

    def _run_fits(self, lines: list[bytes], hashes: bytes) -> bool:
        """Check lines whose numbers differ in the last three digits only: headers of equal length."""
        count = len(lines)
        digits = b"%d" % self.seq
        at_start = PREV_END + len(digits) + 15
        width = at_start + len(_AT_SHAPE)
        # One slice a line, then all headers side by side, where byte i of each is `headers[i::width]`.
        headers = b"".join(map(itemgetter(slice(0, width)), lines))
        if len(headers) != width * count:
            return False
        fields = _prevs_and_times(headers, at_start)
        times = fields[1::2]
        if b"".join(fields[::2]) != hashes:
            return False
        seq_end = PREV_END + 8 + len(digits)
        for start, text in ((0, _OPEN), (PREV_END, _SEQ), (PREV_END + 8, digits[:-3]), (seq_end, _AT)):
            for column, byte in enumerate(text, start):
                if headers[column::width] != bytes((byte,)) * count:
                    return False
        numbers, size = _last_digits(self.seq, count)
        for column in range(size):
            if headers[seq_end - size + column :: width] != numbers[column::size]:
                return False
        if b"".join(times).translate(_MASK) != _AT_SHAPE * count or times != sorted(times):
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
            self.prev = hexlify(sha256(b"\x00" + line).digest())
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


def _same_until(seq: int) -> int:
    """Return the first number after `seq` that has more digits or another count of thousands."""
    return 10 ** len(str(seq)) if seq < 1000 else seq - seq % 1000 + 1000


def _last_digits(seq: int, count: int) -> tuple[bytes, int]:
    """Return the last (up to three) digits of `count` numbers from `seq` on, and how many of each."""
    low = seq % 1000
    numbers = (_SMALL if seq < 1000 else _THREE)[low : low + count]
    return b"".join(numbers), len(numbers[0])


def _prevs_and_times(headers: bytes, at_start: int) -> list[bytes]:
    """Return, in turn, `prev` and the time with what follows it, of headers side by side."""
    one, many = _layout(at_start)
    cut = len(headers) - len(headers) % many.size
    fields: list[bytes] = []
    for layout, part in ((many, headers[:cut]), (one, headers[cut:])):
        for row in layout.iter_unpack(part):
            fields += row
    return fields


@lru_cache(maxsize=32)
def _layout(at_start: int) -> tuple[Struct, Struct]:
    """Return the layout of one header and that of 64."""
    one = f"{PREV_START}x{PREV_END - PREV_START}s{at_start - PREV_END}x{len(_AT_SHAPE)}s"
    return Struct(one), Struct(one * 64)
