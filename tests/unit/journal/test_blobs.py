"""Blobs: verified on reading, bounded, and gone without a trace of their content after a redaction."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.base.errors import JournalError
from cockpit.base.limits import MAX_BLOB_BYTES
from cockpit.journal.blobs import BlobMissing, BlobRedacted, BlobStore


@settings(derandomize=True, deadline=None, max_examples=40)
@given(data=st.binary(max_size=200), salted=st.booleans())
def test_what_is_put_is_got(tmp_path_factory: pytest.TempPathFactory, data: bytes, salted: bool) -> None:
    store = BlobStore(tmp_path_factory.mktemp("blobs"))
    ref = store.put(data, salted=salted)
    assert (store.get(ref.digest), ref.size, ref.salted) == (data, len(data), salted)
    again = store.put(data, salted=salted)
    assert (again == ref) is not salted
    if not salted:
        assert ref.digest == "sha256:" + hashlib.sha256(data).hexdigest()


def test_files_are_for_the_owner_and_changes_are_found(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    ref = store.put(b"content")
    (path,) = (tmp_path / "blobs").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(JournalError, match="not what its digest says"):
            store.get(ref.digest)
        data[at] ^= 1


def test_a_redaction_leaves_nothing_to_guess_from(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    ref, plain = store.put(b"secret"), store.put(b"public", salted=False)
    for digest in (ref.digest, plain.digest):
        store.redact(digest)
        store.redact(digest)
        with pytest.raises(BlobRedacted):
            store.get(digest)
    assert all(path.stat().st_size == 0 for path in tmp_path.iterdir())
    assert hashlib.sha256(b"secret").hexdigest() not in ref.digest
    store.put(b"public", salted=False)
    with pytest.raises(BlobRedacted):
        store.get(plain.digest)


def test_missing_and_malformed_digests(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(BlobMissing):
        store.get("sha256:" + "0" * 64)
    with pytest.raises(BlobMissing):
        store.redact("sha256:" + "0" * 64)
    for digest in (
        "",
        "0" * 64,
        "sha256:../../etc/passwd",
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 64 + "\n",
    ):
        with pytest.raises(JournalError, match="not a blob's digest"):
            store.get(digest)


def test_sizes_are_bounded(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(JournalError, match="too large"):
        store.put(b"\0" * (MAX_BLOB_BYTES + 1))
    ref = store.put(b"x", salted=False)
    with (tmp_path / ref.digest[7:]).open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(JournalError, match="not what its digest says"):
        store.get(ref.digest)
