"""What is in a pack once it has been taken apart: its files, its journal, its blobs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cockpit.base.errors import EvidenceError, JournalError
from cockpit.journal.blobs import SALT_BYTES
from cockpit.journal.chain import MerkleTree
from cockpit.journal.events import AnyEvent, GateJudged, GoNoGoComputed, LookTaken
from cockpit.journal.events_people import ApprovalReceived, ApprovalRequested, BreakGlassUsed, SoakChanged
from cockpit.journal.links import Links
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.upcast import decode

BLOBS = "blobs"
DIGEST = re.compile(rb"sha256:([0-9a-f]{64})")
_REF = re.compile(r"sha256:([0-9a-f]{64})")


class Redacted(EvidenceError):
    """A blob whose content was removed on purpose."""


class PackBlobs:
    """The blobs of a pack by digest, each checked against its name when read."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def get(self, digest: str) -> bytes:
        """Return the data of `sha256:<hex>`; raises Redacted, else EvidenceError."""
        match = _REF.fullmatch(digest)
        if match is None:
            raise EvidenceError(f"{digest[:80]!r} is no blob's digest")
        for suffix, salt in ((".salted", SALT_BYTES), ("", 0)):
            stored = self._files.get(f"{BLOBS}/{match[1]}{suffix}")
            if stored is not None:
                if len(stored) < salt or hashlib.sha256(stored).hexdigest() != match[1]:
                    raise EvidenceError(f"the blob {digest} is not what its digest says")
                return stored[salt:]
        if f"{BLOBS}/{match[1]}.redacted" in self._files:
            raise Redacted(f"the blob {digest} was redacted")
        raise EvidenceError(f"the blob {digest} is not in the pack")

    def problems(self) -> list[str]:
        """Return which of the blobs are not what their names say."""
        found = []
        for name, stored in self._files.items():
            folder, _, base = name.partition("/")
            if folder != BLOBS:
                continue
            stem, _, suffix = base.partition(".")
            if suffix == "redacted":
                if stored:
                    found.append(f"{name} is not empty")
            elif suffix not in ("", "salted") or hashlib.sha256(stored).hexdigest() != stem:
                found.append(f"{name} is not what its name says")
        return found


@dataclass(frozen=True)
class Journal:
    """The events of a journal whose links hold, and the Merkle tree over its lines."""

    events: tuple[AnyEvent, ...]
    tree: MerkleTree

    def blobs_needed(self) -> list[str]:
        """Return the digests of what verdicts, looks and decisions rest on, each once, in order."""
        found: dict[str, None] = {}
        for event in self.events:
            if isinstance(event, GateJudged):
                found[event.verdict_blob] = None
            elif isinstance(event, LookTaken):
                found[event.answers] = None
            elif (
                isinstance(event, (GoNoGoComputed, ApprovalRequested, BreakGlassUsed))
                or (isinstance(event, ApprovalReceived) and event.counted)
                or (isinstance(event, SoakChanged) and event.blob)
            ):
                found[event.blob] = None
        return list(found)


def read_journal(files: Mapping[str, bytes]) -> Journal:
    """Verify and decode the journal of a pack; raises EvidenceError."""
    raw = files.get(JOURNAL_NAME)
    if raw is None:
        raise EvidenceError("there is no journal in the pack")
    return journal_of(raw)


def journal_of(raw: bytes) -> Journal:
    """Verify and decode the lines of a journal; raises EvidenceError."""
    lines = raw.split(b"\n")
    if lines.pop() != b"":
        raise EvidenceError("the journal's last record is torn")
    if not lines:
        raise EvidenceError("the journal is empty")
    try:
        leaves = Links().check(lines)
        events = tuple(decode(line) for line in lines)
    except JournalError as error:
        raise EvidenceError(f"the journal: {error}") from None
    return Journal(events, MerkleTree(leaves))


def digests_in(data: bytes) -> Iterable[str]:
    """Return every `sha256:<hex>` that occurs in some bytes, each once, in order."""
    return dict.fromkeys(match[0].decode() for match in DIGEST.finditer(data))
