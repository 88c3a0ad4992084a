"""The hash chain and its Merkle tree: pure functions over bytes, domain-separated as in RFC 6962.

A line (without its newline) hashes to SHA-256(0x00 ‖ line); the next line begins `{"prev":"<that hash>"`,
so a link is checked by comparing bytes at a fixed offset and nothing is parsed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

GENESIS = b"0" * 64
"""`prev` of the first line: 64 zeros."""

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""RFC 6962 root of no leaves."""

PREV_START = 9
PREV_END = 73
AT_LENGTH = 27
_OPEN = b'{"prev":"'
_TYPE = b'","type":"'
_MAX_SEQ_DIGITS = 19

MAX_HEADER_BYTES = PREV_END + len(b'","seq":,"at":"') + _MAX_SEQ_DIGITS + AT_LENGTH + 1
"""Most bytes the writer puts in front of an event."""


def leaf_hash(line: bytes) -> bytes:
    """Return the 32-byte leaf hash of a line without its newline."""
    return hashlib.sha256(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of an inner node over two 32-byte children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def splice(prev: bytes, seq: int, at: bytes, body: bytes) -> bytes:
    """Return the line of an encoded event `body` (`{"type":…}`) with its place in the chain put in front."""
    return b'{"prev":"%b","seq":%d,"at":"%b",%b' % (prev, seq, at, body[1:])


def prev_of(line: bytes) -> bytes:
    """Return the 64 hexadecimal digits at the fixed offset, or nothing when the line does not begin so."""
    if not line.startswith(_OPEN) or line[PREV_END : PREV_END + 8] != b'","seq":':
        return b""
    return line[PREV_START:PREV_END]


def seq_of(line: bytes) -> int:
    """Return the sequence number in a line's header, -1 when there is none."""
    digits, found, _ = line[PREV_END + 8 : PREV_END + 8 + _MAX_SEQ_DIGITS + 7].partition(b',"at":"')
    if not found or not digits.isdigit() or (digits[:1] == b"0" and digits != b"0"):
        return -1
    return int(digits)


def at_of(line: bytes) -> bytes:
    """Return the time in a line's header, or nothing when the header is not as the writer makes it."""
    start = line.find(b',"at":"', PREV_END, MAX_HEADER_BYTES) + 7
    at = line[start : start + AT_LENGTH]
    return at if start > 6 and line.startswith(_TYPE, start + AT_LENGTH) else b""


def type_of(line: bytes) -> str:
    """Return the event type named in a line's header, `""` when there is none."""
    start = line.find(_TYPE, PREV_END, MAX_HEADER_BYTES + len(_TYPE))
    if start < 0:
        return ""
    start += len(_TYPE)
    end = line.find(b'"', start, start + 200)
    return line[start:end].decode("ascii", "replace") if end > start else ""


class CompactRange:
    """An append-only RFC 6962 tree kept as the roots of its perfect subtrees, largest first."""

    __slots__ = ("_roots", "size")

    def __init__(self, size: int = 0, roots: Sequence[bytes] = ()) -> None:
        if len(roots) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} perfect subtrees")
        self.size = size
        self._roots = list(roots)

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The roots of the perfect subtrees, largest first."""
        return tuple(self._roots)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        carry = self.size
        while carry & 1:
            leaf = node_hash(self._roots.pop(), leaf)
            carry >>= 1
        self._roots.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """Return the 32-byte root over all leaves so far."""
        return fold_roots(self._roots)


def fold_roots(roots: Sequence[bytes]) -> bytes:
    """Return the root of a tree given by its perfect subtrees, largest first."""
    if not roots:
        return EMPTY_ROOT
    top = roots[-1]
    for left in reversed(roots[:-1]):
        top = node_hash(left, top)
    return top


class MerkleTree:
    """Every perfect subtree of a growing list of leaves: roots and proofs of any prefix in O(log n)."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        self.extend(leaves)

    def __len__(self) -> int:
        return len(self._levels[0])

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes; the levels above are filled in bulk."""
        self._levels[0].extend(leaves)
        sha256 = hashlib.sha256
        depth = 0
        while len(self._levels[depth]) > 1:
            below = self._levels[depth]
            if depth + 1 == len(self._levels):
                self._levels.append([])
            above = self._levels[depth + 1]
            pairs = iter(below[2 * len(above) : len(below) & ~1])
            above.extend(
                [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            )
            depth += 1

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first `size` leaves (all by default); ValueError beyond what there is."""
        size = len(self) if size is None else size
        if not 0 <= size <= len(self):
            raise ValueError(f"no prefix of {size} in a tree of {len(self)}")
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the audit path of leaf `index` in the tree of the first `size` leaves (RFC 6962 2.1.1)."""
        size = len(self) if size is None else size
        if not 0 <= index < size <= len(self):
            raise ValueError(f"no leaf {index} in a prefix of {size} of {len(self)}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return path[::-1]

    def consistency_proof(self, old: int, new: int | None = None) -> list[bytes]:
        """Return the proof that the first `old` leaves are a prefix of the first `new` (RFC 6962 2.1.2)."""
        new = len(self) if new is None else new
        if not 0 < old <= new <= len(self):
            raise ValueError(f"no proof from {old} to {new} in a tree of {len(self)}")
        path: list[bytes] = []
        low, high, whole = 0, new, True
        while high != old:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._range(low, high))
        return path[::-1]

    def _range(self, low: int, high: int) -> bytes:
        # The recursion of RFC 6962 only meets ranges that start at a multiple of their largest power of two.
        count = high - low
        if count & (count - 1) == 0:
            level = count.bit_length() - 1
            return self._levels[level][low >> level]
        middle = low + _split(count)
        return node_hash(self._range(low, middle), self._range(middle, high))


def _split(count: int) -> int:
    """Return the largest power of two smaller than `count` (> 1)."""
    return 1 << ((count - 1).bit_length() - 1)


def inclusion_holds(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether `proof` places `leaf` at `index` in the tree of `size` with `root` (RFC 9162 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    first, last, value = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if first & 1 or first == last:
            value = node_hash(step, value)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            value = node_hash(value, step)
        first >>= 1
        last >>= 1
    return last == 0 and value == root


def consistency_holds(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Say whether `proof` shows the tree of `old` to be a prefix of that of `new` (RFC 9162 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    first, last = old - 1, new - 1
    while first & 1:
        first >>= 1
        last >>= 1
    old_value = new_value = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old_value = node_hash(step, old_value)
            new_value = node_hash(step, new_value)
            while not first & 1 and first:
                first >>= 1
                last >>= 1
        else:
            new_value = node_hash(new_value, step)
        first >>= 1
        last >>= 1
    return last == 0 and old_value == old_root and new_value == new_root
