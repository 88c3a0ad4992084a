"""An append-only RFC 6962 Merkle tree: roots, inclusion proofs, consistency proofs."""

from __future__ import annotations

import hashlib


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ entry)."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\1" + left + right).digest()


def _split(size: int) -> int:
    """Return the largest power of two below `size` (RFC 6962, 2.1)."""
    return 1 << ((size - 1).bit_length() - 1)


class MerkleTree:
    """Keeps every complete subtree's hash, so that roots and proofs cost O(log n)."""

    def __init__(self) -> None:
        self._levels: list[list[bytes]] = [[]]

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, entry: bytes) -> int:
        """Add a leaf and return its index."""
        digest, level = leaf_hash(entry), 0
        while True:
            if level == len(self._levels):
                self._levels.append([])
            row = self._levels[level]
            row.append(digest)
            if len(row) % 2:
                return len(self) - 1
            digest, level = node_hash(row[-2], row[-1]), level + 1

    def root(self, size: int) -> bytes:
        """Return the root of the first `size` leaves."""
        self._check(0, size)
        return hashlib.sha256(b"").digest() if size == 0 else self._range(0, size)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of leaf `index` in the first `size` leaves (RFC 6962, 2.1.1)."""
        if not 0 <= index < size:
            raise ValueError(f"leaf {index} is not among the first {size}")
        self._check(0, size)
        return self._path(index, 0, size)

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the tree of `first` leaves begins that of `second` (RFC 6962, 2.1.2)."""
        self._check(first, second)
        if first in (0, second):
            return []
        return self._subproof(first, 0, second, whole=True)

    def _check(self, first: int, second: int) -> None:
        if not 0 <= first <= second <= len(self):
            raise ValueError(f"sizes {first} and {second} do not fit a tree of {len(self)}")

    def _range(self, low: int, high: int) -> bytes:
        size = high - low
        if size & (size - 1) == 0:
            return self._levels[size.bit_length() - 1][low // size]
        split = _split(size)
        return node_hash(self._range(low, low + split), self._range(low + split, high))

    def _path(self, index: int, low: int, high: int) -> list[bytes]:
        if high - low == 1:
            return []
        middle = low + _split(high - low)
        if index < middle:
            return [*self._path(index, low, middle), self._range(middle, high)]
        return [*self._path(index, middle, high), self._range(low, middle)]

    def _subproof(self, first: int, low: int, high: int, *, whole: bool) -> list[bytes]:
        size = high - low
        if first == size:
            return [] if whole else [self._range(low, high)]
        split = _split(size)
        if first <= split:
            return [*self._subproof(first, low, low + split, whole=whole), self._range(low + split, high)]
        rest = self._subproof(first - split, low + split, high, whole=False)
        return [*rest, self._range(low, low + split)]
