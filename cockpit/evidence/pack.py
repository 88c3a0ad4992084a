"""Building a pack from a run folder: deterministic, so that a second build of the same inputs has the same
digest.

A pack is a run up to one signed head. Artifacts lie at the paths of seed section 10 (`sbom/…`, `perf/…`),
beside `manifest.json`, `journal.jsonl`, `state.json` (the fold), `heads/`, `blobs/`, `trusted_root.json`.
Whatever the journal recorded is packed as it is on disk; whether it is still what was recorded is for the
verification to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from cockpit.agentkit.artifacts import FOLDER as ARTIFACTS
from cockpit.base.errors import EvidenceError, JournalError
from cockpit.base.files import sha256_hex, write_private
from cockpit.base.limits import MAX_BLOB_BYTES
from cockpit.evidence import container, manifest
from cockpit.evidence.contents import BLOBS, Journal, digests_in, journal_of
from cockpit.evidence.sealing import ATTESTATION, attestation_path
from cockpit.journal.blobs import SALT_BYTES, BlobStore
from cockpit.journal.events import RunOpened
from cockpit.journal.fold import Fold
from cockpit.journal.heads import PUBLIC_KEY_NAME, head_files, parse_and_verify, read_public_key
from cockpit.journal.reader import JOURNAL_NAME
from cockpit.journal.state import ReleaseState, encode
from cockpit.rpc.manifest import CommitRange, Manifest

Kind = Literal["promotion", "closing"]
Profile = Literal["embedded", "private", "public-good"]
STATE = "state.json"
TRUSTED_ROOT = "trusted_root.json"
RELEASE_NOTES = "release_notes.md"
_RESERVED = (manifest.NAME, JOURNAL_NAME, STATE, TRUSTED_ROOT)
_RESERVED_FOLDERS = ("heads/", f"{BLOBS}/")


@dataclass(frozen=True)
class PackFacts:
    """What a pack states beside its journal.

    `commit_from` (exclusive) and `commit_to` (inclusive) are commit hashes. `identity` and `issuer`: who
    signs. `entry_id`: log entry of the journal-head attestation, empty when it could not be signed. `absent`:
    reason by row name (`manifest.ROWS`) for what was not made. `extra`: further files, e.g. plots as
    `slo/burn.png`.
    """

    commit_from: str
    commit_to: str
    identity: str
    issuer: str
    entry_id: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class PackFile:
    """A pack on disk; `sha256` is 64 hexadecimal digits over the whole file."""

    path: Path
    sha256: str
    size: int
    manifest: Manifest


def build_pack(run_dir: Path, kind: Kind, facts: PackFacts, *, head: bytes, path: Path) -> PackFile:
    """Build a pack of the run as of `head` (a checkpoint signed by the run's key) and write it to `path`.

    Raises EvidenceError when the head does not fit the journal, a name is unfit or a bound is passed.
    Blocking: reads the whole run; call it in a thread.
    """
    files, document = collect(run_dir, kind, facts, head=head)
    raw = container.write({**files, manifest.NAME: manifest.encode(document)})
    try:
        write_private(path, raw)
    except OSError as error:
        raise EvidenceError(f"the pack cannot be written: {error.strerror}", where=str(path)) from None
    return PackFile(path, sha256_hex(raw), len(raw), document)


def collect(run_dir: Path, kind: Kind, facts: PackFacts, *, head: bytes) -> tuple[dict[str, bytes], Manifest]:
    """Return the files of a pack, without its manifest, and the manifest; raises EvidenceError."""
    lines, journal, size = _journal(run_dir, head)
    opened = journal.events[0]
    if not isinstance(opened, RunOpened):
        raise EvidenceError("the journal does not begin with a run's opening", where=str(run_dir))
    state = Fold().apply_all(journal.events).snapshot()
    files: dict[str, bytes] = {JOURNAL_NAME: lines, STATE: encode(state)}
    files.update(_heads(run_dir, size))
    files.update(_blobs(run_dir, lines))
    _take(files, TRUSTED_ROOT, run_dir / TRUSTED_ROOT)
    for name, data in _artifacts(run_dir, state).items():
        _add(files, name, data)
    if RELEASE_NOTES not in files:
        _take(files, RELEASE_NOTES, run_dir / RELEASE_NOTES)
    for name, data in facts.extra.items():
        _add(files, name, data)
    promotion = next((pack.sha256 for pack in reversed(state.packs) if pack.kind == "promotion"), "")
    document = Manifest(
        kind=kind,
        version=opened.version,
        run_id=opened.run_id,
        rehearsal=opened.rehearsal,
        reduced=list(opened.reduced),
        trust_profile=_profile(opened.trust_profile),
        commit_range=CommitRange(**{"from": facts.commit_from}, to=facts.commit_to),
        artifacts=manifest.rows_of(files, facts.absent),
        hashes={name: sha256_hex(data) for name, data in sorted(files.items())},
        promotion_pack=f"sha256:{promotion}" if promotion and kind == "closing" else "",
        journal_head=head.decode(),
        rekor_uuid=facts.entry_id,
        signed_by=facts.identity,
        issuer=facts.issuer,
    )
    return files, document


def artifact_file(run_dir: Path, recorded: str) -> tuple[str, Path]:
    """Return the name in a pack, and the place in the run folder, of a path as the journal recorded it."""
    name = recorded.removeprefix(f"{ARTIFACTS}/")
    below = run_dir / ARTIFACTS / name
    return name, below if below.exists() else run_dir / name


def _journal(run_dir: Path, head: bytes) -> tuple[bytes, Journal, int]:
    try:
        signed = parse_and_verify(head, read_public_key(run_dir / "heads"))
        with (run_dir / JOURNAL_NAME).open("rb") as file:
            kept = [line for _, line in zip(range(signed.size), file, strict=False)]
    except JournalError as error:
        raise EvidenceError(f"the head of the pack: {error}") from None
    except OSError as error:
        raise EvidenceError(f"the journal cannot be read: {error.strerror}", where=str(run_dir)) from None
    lines = b"".join(kept)
    if len(lines) > container.MAX_FILE_BYTES:
        raise EvidenceError(f"the journal is larger than {container.MAX_FILE_BYTES} bytes")
    journal = journal_of(lines)
    if len(journal.tree) != signed.size or journal.tree.root() != signed.root:
        raise EvidenceError(f"the head is not over the first {signed.size} records of the journal")
    return lines, journal, signed.size


def _heads(run_dir: Path, size: int) -> dict[str, bytes]:
    folder, files = run_dir / "heads", dict[str, bytes]()
    _take(files, f"heads/{PUBLIC_KEY_NAME}", folder / PUBLIC_KEY_NAME)
    for covered, path in head_files(folder):
        if 0 <= covered <= size:
            _take(files, f"heads/{path.name}", path)
    _take(files, ATTESTATION, attestation_path(run_dir, size))
    return files


def _blobs(run_dir: Path, lines: bytes) -> dict[str, bytes]:
    """Return every blob the journal refers to, directly or through another blob."""
    files: dict[str, bytes] = {}
    waiting, seen = list(digests_in(lines)), set[str]()
    while waiting:
        digest = waiting.pop()
        if digest in seen:
            continue
        seen.add(digest)
        stem = digest.removeprefix("sha256:")
        for suffix, salt in ((".salted", SALT_BYTES), ("", 0), (".redacted", 0)):
            name = f"{BLOBS}/{stem}{suffix}"
            if _take(files, name, run_dir / name, most=MAX_BLOB_BYTES + SALT_BYTES):
                waiting += digests_in(files[name][salt:])
                break
    return files


def _artifacts(run_dir: Path, state: ReleaseState) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    recorded = [
        (name, sha256)
        for one in state.artifacts
        for name, sha256 in ((one.path, one.sha256), (one.bundle, ""))
        if name
    ]
    for path, sha256 in recorded:
        name, place = artifact_file(run_dir, path)
        container.check_names([name])  # before the file system is asked: a path must not leave the folder
        if _take(files, name, place) and sha256 and sha256_hex(files[name]) != sha256:
            files[name] = _as_recorded(run_dir, sha256) or files[name]
    return files


def _as_recorded(run_dir: Path, sha256: str) -> bytes:
    """Return what was written over by something that was never recorded; empty where it was not kept."""
    try:
        return BlobStore(run_dir / BLOBS).get(f"sha256:{sha256}")
    except JournalError:
        return b""


def _add(files: dict[str, bytes], name: str, data: bytes) -> None:
    if name in _RESERVED or name.startswith(_RESERVED_FOLDERS):
        raise EvidenceError(f"{name} is a name of the pack's own")
    if files.get(name, data) != data:
        raise EvidenceError(f"two different files want to be {name} in the pack")
    files[name] = data


def _take(files: dict[str, bytes], name: str, path: Path, *, most: int = container.MAX_FILE_BYTES) -> bool:
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise EvidenceError(f"a file of the run cannot be read: {error.strerror}", where=str(path)) from None
    if len(data) > most:
        raise EvidenceError(f"{name} is larger than {most} bytes", where=str(path))
    files[name] = data
    return True


def _profile(text: str) -> Profile:
    profiles: tuple[Profile, ...] = get_args(Profile)
    for profile in profiles:
        if text == profile:
            return profile
    raise EvidenceError(f"the journal names an unknown trust profile: {text!r}")
