"""Looking at a journal before it is continued: every link, and a torn last line moved aside."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from cockpit.base.errors import ChainBroken, JournalError
from cockpit.journal.chain import CompactRange
from cockpit.journal.links import Links
from cockpit.journal.reader import Torn, read_blocks
from cockpit.journal.records import Gap, Position
from cockpit.journal.storage import RESERVE_NAME, JournalFile, no_space, sync_folder


class Found(NamedTuple):
    """Where the chain stands, and the gaps that opening it found."""

    position: Position
    gaps: tuple[Gap, ...]


def examine(run_dir: Path, file: JournalFile, longest: int) -> Found:
    """Check the whole of a locked journal and make its end ready for the next record; raises ChainBroken.

    A crash in mid-write leaves a last line without its newline, never acknowledged: it is copied to
    `journal.torn-<n>` and then cut off. Nothing else is ever repaired.
    """
    links, tree = Links(), CompactRange()
    size, last, torn = 0, b"", None
    for block in read_blocks(file.path, longest=longest):
        if isinstance(block, Torn):
            torn = block
            break
        for leaf in links.check(block.lines, where=str(file.path)):
            tree.append(leaf)
        size = block.offset + sum(map(len, block.lines)) + len(block.lines)
        last = block.lines[-1] + b"\n"
    if last:
        try:
            msgspec.json.decode(last)  # no later record vouches for the last one
        except ValueError:
            raise ChainBroken(
                f"record {links.seq - 1}: is not JSON", where=str(file.path), seq=links.seq - 1
            ) from None
    gaps = (_set_aside(run_dir, torn),) if torn else ()
    file.settle(size, last)
    return Found(Position(links.seq, links.prev.decode(), links.at, tree.roots), gaps)


def _set_aside(run_dir: Path, torn: Torn) -> Gap:
    number = 1
    while (path := run_dir / f"journal.torn-{number}").exists():
        number += 1
    try:
        try:
            _copy(path, torn.data)
        except OSError as error:
            if not no_space(error):
                raise
            # A full disk is how a line gets torn; the crashed sitting's reserve is there for this.
            (run_dir / RESERVE_NAME).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            _copy(path, torn.data)
        sync_folder(run_dir)
    except OSError as error:
        raise JournalError(
            f"a torn last line cannot be set aside: {error.strerror}", where=str(path), hint="free disk space"
        ) from None
    return Gap("torn", 1, len(torn.data), path.name, hashlib.sha256(torn.data).hexdigest())


def _copy(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as copy:
        copy.write(data)
        copy.flush()
        os.fsync(copy.fileno())
