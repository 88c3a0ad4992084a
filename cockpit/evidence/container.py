"""The form of a pack: a zip archive with one possible encoding of its files, so that no byte is free.

Entries are sorted by name and stored (never compressed: nothing depends on a compressor's version, and
nothing can swell on reading); times, rights and flags are fixed; no comments, no extra fields, nothing
between or after the parts. Reading takes the files out and demands that writing them again gives the very
same bytes, which rules out duplicates, hidden and trailing data, and directories that disagree with what they
list. Any unzip can open it.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping

from cockpit.base.errors import EvidenceError
from cockpit.base.text import visible

MAX_PACK_BYTES = 256 << 20
"""Largest pack built or read, in bytes."""

MAX_FILE_BYTES = 64 << 20
"""Largest file in a pack, in bytes."""

MAX_FILES = 60_000
"""Most files in a pack."""

_NAME = re.compile(r"[A-Za-z0-9+_][A-Za-z0-9+_.-]*(/[A-Za-z0-9+_][A-Za-z0-9+_.-]*)*", re.ASCII)
_MAX_NAME = 300
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION = 20
_MADE_BY_UNIX = 3 << 8 | _VERSION
_DATE = 0x21  # 1980-01-01, the first day a zip can name
_RIGHTS = 0o100644 << 16


class NotAPack(EvidenceError):
    """The file is no zip archive at all."""


def write(files: Mapping[str, bytes]) -> bytes:
    """Return the archive of `files`; raises EvidenceError for unfit names or beyond the bounds."""
    check_names(files)
    body, directory = bytearray(), bytearray()
    for name in sorted(files):
        data = files[name]
        if len(data) > MAX_FILE_BYTES:
            raise EvidenceError(f"{name} has {len(data)} bytes; at most {MAX_FILE_BYTES} go into a pack")
        encoded, crc = name.encode("ascii"), zlib.crc32(data)
        directory += _CENTRAL.pack(
            _CENTRAL_MAGIC, _MADE_BY_UNIX, _VERSION, 0, 0, 0, _DATE, crc, len(data), len(data), len(encoded),
            0, 0, 0, 0, _RIGHTS, len(body),
        ) + encoded  # fmt: skip
        body += _LOCAL.pack(
            _LOCAL_MAGIC, _VERSION, 0, 0, 0, _DATE, crc, len(data), len(data), len(encoded), 0
        )  # fmt: skip
        body += encoded
        body += data
        if len(body) + len(directory) > MAX_PACK_BYTES:
            raise EvidenceError(f"the pack would be larger than {MAX_PACK_BYTES} bytes")
    end = _END.pack(_END_MAGIC, 0, 0, len(files), len(files), len(directory), len(body), 0)
    return bytes(body + directory + end)


def read(raw: bytes) -> dict[str, bytes]:
    """Return the files of an archive made by `write`.

    Raises NotAPack for what is no zip at all, EvidenceError for every other deviation, bounds included.
    """
    if len(raw) > MAX_PACK_BYTES:
        raise EvidenceError(f"the pack is larger than {MAX_PACK_BYTES} bytes")
    if not raw.startswith((_LOCAL_MAGIC, _END_MAGIC)):
        raise NotAPack("not a zip archive")
    files: dict[str, bytes] = {}
    at = 0
    while raw[at : at + 4] == _LOCAL_MAGIC:
        name, data, at = _entry(raw, at)
        if name in files:
            raise EvidenceError(f"the file {name} is in the pack twice")
        files[name] = data
        if len(files) > MAX_FILES:
            raise EvidenceError(f"the pack holds more than {MAX_FILES} files")
    again = write(files)
    if again != raw:
        raise EvidenceError(f"not in canonical form: it differs at byte {_first_difference(raw, again)}")
    return files


def check_names(names: Iterable[str]) -> None:
    """Raise EvidenceError unless all are plain relative paths that stay apart on any file system."""
    listed = list(names)
    if len(listed) > MAX_FILES:
        raise EvidenceError(f"{len(listed)} files; at most {MAX_FILES} go into a pack")
    seen: dict[str, str] = {}
    for name in listed:
        if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
            raise EvidenceError(f"not a plain relative path: {visible(name, limit=100)!r}")
        folded = name.casefold()
        if folded in seen:
            raise EvidenceError(f"{name} and {seen[folded]} differ by case only")
        seen[folded] = name
    for folded, name in seen.items():
        parent = folded
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in seen:
                raise EvidenceError(f"{name} lies below {seen[parent]}, which is a file")


def _entry(raw: bytes, at: int) -> tuple[str, bytes, int]:
    if at + _LOCAL.size > len(raw):
        raise EvidenceError(f"the archive is cut off at byte {at}")
    _, _, flags, method, _, _, _, stored, size, name_length, extra = _LOCAL.unpack_from(raw, at)
    if method != 0 or flags != 0 or stored != size or extra != 0:
        raise EvidenceError(f"the entry at byte {at} is compressed or carries more than a file")
    start = at + _LOCAL.size + name_length
    end = start + size
    if end > len(raw) or size > MAX_FILE_BYTES:
        raise EvidenceError(f"the entry at byte {at} claims {size} bytes")
    try:
        name = raw[at + _LOCAL.size : start].decode("ascii")
    except UnicodeDecodeError:
        raise EvidenceError(f"the name of the entry at byte {at} is not plain") from None
    return name, raw[start:end], end


def _first_difference(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low + 1 < high:  # equal before low, different before high
        middle = (low + high) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle)
    return low
