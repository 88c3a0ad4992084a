"""Verifying a run's journal as a stranger would: from the files alone, and listing everything that is wrong.

1. Every line begins as a record, continues the one before, is numbered next, and is not earlier (links.py).
2. Nothing follows the last newline.
3. Every head in `heads/` carries the run key's signature, and its root is that of the journal's first `size`
   records: a head for more records than there are shows a tail that was cut off.
4. The last record is terminal; then a head covers the whole file, which vouches for the last record too.
5. Every blob referred to is there and is what its digest says, or was redacted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cockpit.base.errors import ChainBroken, JournalError
from cockpit.journal.blobs import BlobRedacted, BlobStore
from cockpit.journal.chain import MerkleTree, leaf_hash, type_of
from cockpit.journal.heads import head_files, read_head, read_public_key
from cockpit.journal.links import Links
from cockpit.journal.reader import JOURNAL_NAME, Torn, read_blocks

TERMINAL_TYPES = frozenset({"run.closed.v1"})
MAX_PROBLEMS = 100


@dataclass(frozen=True)
class Problem:
    """One thing wrong: at record `seq` and byte `offset` of the journal (-1: not about one record)."""

    seq: int
    offset: int
    what: str


@dataclass(frozen=True)
class JournalReport:
    """What was found; `ok` says that nothing is wrong, `closed` that the last record ends a sitting.

    `root` is the RFC 6962 root in hexadecimal. At most `MAX_PROBLEMS` problems are listed.
    """

    records: int
    ok: bool
    closed: bool
    problems: tuple[Problem, ...]
    heads_checked: int
    root: str
    last_type: str
    redacted: int = 0


class _Audit:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.tree = MerkleTree()
        self.last_type = ""
        self.torn = False
        self.digests: set[str] = set()

    def problem(self, what: str, seq: int = -1, offset: int = -1) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(seq, offset, what))


def verify_journal(
    run_dir: Path,
    *,
    terminal: frozenset[str] = TERMINAL_TYPES,
    public_key: bytes | None = None,
    origin: str = "",
    referenced: Callable[[bytes], Iterable[str]] | None = None,
) -> JournalReport:
    """Verify a run folder: `journal.jsonl`, `heads/` and, with `referenced` (line → blob digests), `blobs/`.

    `public_key` (32 bytes) is the run's key as its signature bundle certifies it; without it
    `heads/run-key.pub` is believed, which shows accidents and not a forger who replaces the key too.
    `origin` is `cockpit/<run id>` if known. Raises JournalError when there is no journal to read;
    everything else is a problem in the report.
    """
    audit = _Audit()
    _check_lines(audit, run_dir / JOURNAL_NAME, referenced)
    heads, covered = _check_heads(audit, run_dir / "heads", public_key, origin)
    records = len(audit.tree)
    closed = audit.last_type in terminal and not audit.torn
    if closed and covered < records:
        audit.problem(f"the journal is closed and no head covers its last {records - covered} records")
    redacted = _check_blobs(audit, BlobStore(run_dir / "blobs"))
    return JournalReport(
        records=records,
        ok=not audit.problems,
        closed=closed,
        problems=tuple(audit.problems),
        heads_checked=heads,
        root=audit.tree.root().hex(),
        last_type=audit.last_type,
        redacted=redacted,
    )


def _check_lines(audit: _Audit, path: Path, referenced: Callable[[bytes], Iterable[str]] | None) -> None:
    links = Links()
    try:
        for block in read_blocks(path):
            if isinstance(block, Torn):
                audit.torn = True
                audit.problem("a record is torn: nothing ends its line", links.seq, block.offset)
                return
            _check_block(audit, links, block.offset, block.lines)
            if referenced is not None:
                for line in block.lines:
                    audit.digests.update(referenced(line))
    except ChainBroken as error:
        audit.torn = True
        audit.problem(error.what, links.seq)


def _check_block(audit: _Audit, links: Links, offset: int, lines: list[bytes]) -> None:
    try:
        leaves = links.check(lines)
    except ChainBroken as broken:
        faults = links.faults(lines)  # which also moves `links` on, so that later faults are told apart
        leaves = list(map(leaf_hash, lines))
        if not faults:
            audit.problem(broken.what, broken.seq, offset)
        starts = [offset]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        for fault in faults:
            audit.problem(fault.what, fault.seq, starts[fault.line])
    audit.tree.extend(leaves)
    audit.last_type = type_of(lines[-1])


def _check_heads(audit: _Audit, folder: Path, public_key: bytes | None, origin: str) -> tuple[int, int]:
    """Check every head; return how many held and the most records one of them covers."""
    files = head_files(folder)
    if not files:
        return 0, 0
    try:
        key = read_public_key(folder) if public_key is None else public_key
    except JournalError as error:
        audit.problem(str(error))
        return 0, 0
    held, covered, records = 0, 0, len(audit.tree)
    for named, path in files:
        try:
            head = read_head(path, key, origin=origin)
        except JournalError as error:
            audit.problem(f"heads/{path.name}: {error.what}")
            continue
        origin = origin or head.origin  # all heads of a run are of one log
        if head.size != named:
            audit.problem(f"heads/{path.name}: the name does not say its size, {head.size}")
        elif head.size > records:
            missing = head.size - records
            audit.problem(
                f"heads/{path.name}: the journal's tail was cut off, {missing} records are missing", records
            )
        elif audit.tree.root(head.size) != head.root:
            audit.problem(
                f"heads/{path.name}: the first {head.size} records are not those it was signed over"
            )
        else:
            held += 1
            covered = max(covered, head.size)
    return held, covered


def _check_blobs(audit: _Audit, store: BlobStore) -> int:
    redacted = 0
    for digest in sorted(audit.digests):
        try:
            store.get(digest)
        except BlobRedacted:
            redacted += 1
        except JournalError as error:
            audit.problem(f"blob {digest}: {error.what}")
    return redacted
