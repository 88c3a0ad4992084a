"""An append-only RFC 6962 Merkle tree: roots, inclusion proofs, tiles."""

from __future__ import annotations

import hashlib

TILE = 256
"""Hashes in a full tile."""


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
        self._check(size)
        return hashlib.sha256(b"").digest() if size == 0 else self._range(0, size)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of leaf `index` in the first `size` leaves (RFC 6962, 2.1.1)."""
        if not 0 <= index < size:
            raise ValueError(f"leaf {index} is not among the first {size}")
        self._check(size)
        return self._path(index, 0, size)

    def tile(self, level: int, index: int, width: int) -> bytes:
        """Return the first `width` hashes of a tile (C2SP tlog-tiles).

        Each is the root of a complete subtree of 256 ** `level` leaves; 256 of them fill the tile.
        Raises ValueError when there are not so many.
        """
        row = self._levels[8 * level] if 8 * level < len(self._levels) else []
        hashes = row[index * TILE : index * TILE + width]
        if not 0 < width <= TILE or len(hashes) != width:
            raise ValueError(f"tile {index} of level {level} has no {width} hashes")
        return b"".join(hashes)

    def _check(self, size: int) -> None:
        if not 0 <= size <= len(self):
            raise ValueError(f"a size of {size} does not fit a tree of {len(self)}")

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
