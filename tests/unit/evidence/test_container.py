from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cockpit.base.errors import EvidenceError
from cockpit.evidence.container import MAX_FILES, NotAPack, read, write

FILES = {"a.txt": b"one", "b/c.json": b"{}", "b/d": b""}


def test_round_trip() -> None:
    raw = write(FILES)
    assert read(raw) == FILES
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
        assert archive.getinfo("a.txt").external_attr >> 16 == 0o100644
    assert write(dict(reversed(FILES.items()))) == raw
    assert read(write({})) == {}


def test_every_changed_byte_is_noticed() -> None:
    raw = write(FILES)
    for at in range(len(raw)):
        for flip in (1, 0x80):
            changed = bytearray(raw)
            changed[at] ^= flip
            try:
                files = read(bytes(changed))
            except EvidenceError:
                continue
            # A name may become another plain name only together with all its copies: never by one byte.
            raise AssertionError((at, files))


def test_every_cut_and_every_addition_is_noticed() -> None:
    raw = write(FILES)
    for end in range(len(raw)):
        with pytest.raises(EvidenceError):
            read(raw[:end])
    for extra in (raw + b"\n", raw + raw, b"x" + raw, raw[:-2] + struct.pack("<H", 1) + b"x"):
        with pytest.raises(EvidenceError):
            read(extra)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "C:a",
        "a\x00b",
        "ä",
        ".hidden",
        "a b",
        "a" * 301,
        "a/.b",
    ],
)
def test_names_that_lead_elsewhere(name: str) -> None:
    with pytest.raises(EvidenceError):
        write({name: b""})


@pytest.mark.parametrize("names", [("a", "A"), ("a", "a/b"), ("x/a", "X")])
def test_names_that_meet_on_some_file_system(names: tuple[str, str]) -> None:
    with pytest.raises(EvidenceError):
        write(dict.fromkeys(names, b""))


def test_bounds() -> None:
    with pytest.raises(EvidenceError, match="files"):
        write({f"f{n}": b"" for n in range(MAX_FILES + 1)})


def other(compression: int, *names: str, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x" * 1000, compression)
        archive.comment = comment
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_of_other_makers() -> None:
    archives = [
        other(zipfile.ZIP_DEFLATED, "a"),
        other(zipfile.ZIP_STORED, "a"),
        other(zipfile.ZIP_STORED, "a", "a"),
        other(zipfile.ZIP_STORED, "../a"),
        other(zipfile.ZIP_STORED, "a", comment=b"hidden"),
    ]
    for raw in archives:
        with pytest.raises(EvidenceError):
            read(raw)


def test_a_bomb_is_not_unpacked() -> None:
    packed = zlib.compress(bytes(50 << 20), 9)[2:-4]
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0x21, 0, len(packed), 50 << 20, 1, 0)
    with pytest.raises(EvidenceError, match="compressed"):
        read(header + b"a" + packed)
    huge = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0x21, 0, 0xFFFFFFF0, 0xFFFFFFF0, 1, 0)
    with pytest.raises(EvidenceError, match="claims"):
        read(huge + b"a" + b"data")


def test_what_is_no_zip() -> None:
    for raw in (b"", b"PK", b"\x1f\x8b" + bytes(100), b"{}"):
        with pytest.raises(NotAPack):
            read(raw)


@given(st.binary(max_size=200))
def test_garbage_is_refused_without_a_crash(data: bytes) -> None:
    for raw in (data, b"PK\x03\x04" + data, write(FILES) + data[:3] + b"!"):
        with pytest.raises(EvidenceError):
            read(raw)
