"""Signing what was built: the pack, and the journal's head with the run's key (gates.md, reading 12)."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from cockpit.backends.signing import Signature, SigningBackend
from cockpit.base.errors import EvidenceError
from cockpit.base.files import write_private
from cockpit.journal.heads import Head, parse_and_verify

PREDICATE_TYPE = "https://release-cockpit.dev/attestations/journal-head/v1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
ATTESTATION = "heads/journal-head.sigstore.json"
"""Where the attestation lies in a pack."""


def bundle_path(pack: Path) -> Path:
    """Return where a pack's signature bundle lies: beside it."""
    return pack.with_name(f"{pack.name}.sigstore.json")


def attestation_path(run_dir: Path, size: int) -> Path:
    """Return where the run folder keeps the attestation of the head over `size` records."""
    return run_dir / "heads" / f"{size:08d}-journal-head.sigstore.json"


def head_statement(run_id: str, head: Head, run_key: bytes) -> dict[str, Any]:
    """Return the statement (in-toto) that certifies the run's 32-byte public key and one signed root."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": head.origin, "digest": {"sha256": head.root.hex()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "run_id": run_id,
            "size": head.size,
            "root": head.root.hex(),
            "run_key": base64.b64encode(run_key).decode(),
        },
    }


async def attest_head(
    run_dir: Path, run_id: str, head: bytes, run_key: bytes, signing: SigningBackend, *, deadline: float
) -> Signature:
    """Sign the statement about `head` (a checkpoint) within `deadline` seconds and keep the bundle.

    Raises BackendError when signing fails, JournalError for what is no head of the run.
    """
    parsed = parse_and_verify(head, run_key)
    made = await signing.sign_statement(head_statement(run_id, parsed, run_key), deadline=deadline)
    _keep(attestation_path(run_dir, parsed.size), made.bundle_json)
    return made


async def seal(pack: Path, signing: SigningBackend, *, deadline: float) -> Signature:
    """Sign a pack, at most `deadline` seconds, and keep the bundle beside it; raises BackendError."""
    made = await signing.sign_bytes(_read(pack), deadline=deadline)
    _keep(bundle_path(pack), made.bundle_json)
    return made


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"the pack cannot be read: {error.strerror}", where=str(path)) from None


def _keep(path: Path, data: bytes) -> None:
    try:
        write_private(path, data)
    except OSError as error:
        raise EvidenceError(f"a bundle cannot be written: {error.strerror}", where=str(path)) from None
