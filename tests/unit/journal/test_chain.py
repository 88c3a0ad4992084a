"""The chain's hashing and the RFC 6962 tree, against a naive tree and known vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.journal.chain import (
    EMPTY_ROOT,
    CompactRange,
    MerkleTree,
    at_of,
    consistency_holds,
    fold_roots,
    inclusion_holds,
    leaf_hash,
    node_hash,
    prev_of,
    seq_of,
    splice,
    type_of,
)

fixed = settings(derandomize=True, deadline=None, max_examples=150)

# The leaves and roots every RFC 6962 implementation is tested with.
VECTOR_LEAVES = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
VECTOR_LEAVES.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
VECTOR_ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def naive_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


@pytest.mark.parametrize(("size", "root"), VECTOR_ROOTS.items())
def test_known_roots(size: int, root: str) -> None:
    leaves = [leaf_hash(data) for data in VECTOR_LEAVES[:size]]
    assert MerkleTree(leaves).root().hex() == root


def test_leaf_and_node_are_domain_separated() -> None:
    assert leaf_hash(b"ab") == hashlib.sha256(b"\x00ab").digest()
    assert node_hash(b"a" * 32, b"b" * 32) == hashlib.sha256(b"\x01" + b"a" * 32 + b"b" * 32).digest()
    assert naive_root([]) == EMPTY_ROOT


@fixed
@given(st.integers(0, 200), st.data())
def test_all_three_ways_to_a_root_agree(count: int, data: st.DataObject) -> None:
    leaves = some_leaves(count)
    cut = data.draw(st.integers(0, count))
    tree = MerkleTree(leaves[:cut])
    tree.extend(leaves[cut:])
    compact = CompactRange()
    for leaf in leaves:
        compact.append(leaf)
    assert len(tree) == compact.size == count
    assert tree.root() == compact.root() == fold_roots(compact.roots) == naive_root(leaves)
    assert tree.root(cut) == naive_root(leaves[:cut])
    assert CompactRange(count, compact.roots).root() == compact.root()


@fixed
@given(st.integers(1, 130), st.data())
def test_inclusion_proofs_hold_for_their_leaf_only(count: int, data: st.DataObject) -> None:
    tree = MerkleTree(some_leaves(count + 5))
    leaves = some_leaves(count)
    index = data.draw(st.integers(0, count - 1))
    proof = tree.inclusion_proof(index, count)
    root = naive_root(leaves)
    assert inclusion_holds(leaves[index], index, count, proof, root)
    assert not inclusion_holds(leaf_hash(b"other"), index, count, proof, root)
    assert not inclusion_holds(leaves[index], index, count, [*proof, b"\0" * 32], root)
    assert not inclusion_holds(leaves[index], count, count, proof, root)
    assert not inclusion_holds(leaves[index], index, count, proof, leaf_hash(b"other root"))
    if proof:
        assert not inclusion_holds(leaves[index], index, count, proof[:-1], root)
    if count > 1:
        assert not inclusion_holds(leaves[index], (index + 1) % count, count, proof, root)


@fixed
@given(st.integers(1, 130), st.data())
def test_consistency_proofs_hold_for_prefixes_only(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    leaves = some_leaves(new)
    proof = MerkleTree(leaves).consistency_proof(old)
    old_root, new_root = naive_root(leaves[:old]), naive_root(leaves)
    assert consistency_holds(old, new, proof, old_root, new_root)
    other = naive_root([leaf_hash(b"changed"), *leaves[1:old]])
    assert not consistency_holds(old, new, proof, other, new_root)
    assert not consistency_holds(old, new, [*proof, b"\0" * 32], old_root, new_root)
    if old < new:
        assert not consistency_holds(old, new, proof[:-1], old_root, new_root)
        assert not consistency_holds(old, new, proof, old_root, leaf_hash(b"other"))


def test_sizes_are_checked() -> None:
    tree = MerkleTree(some_leaves(3))
    for call in (
        lambda: tree.root(4),
        lambda: tree.inclusion_proof(3),
        lambda: tree.consistency_proof(0),
        lambda: tree.consistency_proof(4),
        lambda: CompactRange(3, [b""]),
    ):
        with pytest.raises(ValueError, match=r"no |a tree of"):
            call()


@fixed
@given(st.integers(0, 10**18))
def test_a_header_reads_back(seq: int) -> None:
    line = splice(b"ab" * 32, seq, b"2025-09-23T08:00:00.000000Z", b'{"type":"a.b.v1","n":1}')
    assert prev_of(line) == b"ab" * 32
    assert seq_of(line) == seq
    assert at_of(line) == b"2025-09-23T08:00:00.000000Z"
    assert type_of(line) == "a.b.v1"


@fixed
@given(st.binary(max_size=300))
def test_reading_a_header_of_anything_never_fails(line: bytes) -> None:
    assert isinstance(prev_of(line), bytes)
    assert isinstance(seq_of(line), int)
    assert isinstance(at_of(line), bytes)
    assert isinstance(type_of(line), str)


@pytest.mark.parametrize("digits", [b"", b"01", b"-1", b"1.0", b"1" * 40, b"\xd9\xa3"])
def test_a_number_is_written_one_way_only(digits: bytes) -> None:
    line = splice(b"ab" * 32, 0, b"2025-09-23T08:00:00.000000Z", b'{"type":"a.b.v1"}')
    assert seq_of(line.replace(b'"seq":0', b'"seq":' + digits)) == -1
