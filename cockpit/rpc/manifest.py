"""The evidence pack's manifest (seed section 10; gates.md, reading 12)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cockpit.rpc.messages import Message, Sha256


class CommitRange(Message):
    """The commits of the release, exclusive `from`, inclusive `to`."""

    from_: Annotated[str, Field(alias="from")]
    to: str


class ManifestArtifact(Message):
    """One row of seed section 10: present with its files, or absent with the reason."""

    name: str
    path: str
    state: Literal["present", "absent"]
    files: list[str] = []
    reason: str = ""


class Manifest(Message):
    """What is in a pack. `hashes` holds the SHA-256 of every other file of the pack."""

    format: Literal[1] = 1
    kind: Literal["promotion", "closing"]
    version: str
    run_id: str
    rehearsal: bool
    reduced: list[str]
    trust_profile: Literal["embedded", "private", "public-good"]
    commit_range: CommitRange
    artifacts: list[ManifestArtifact]
    hashes: dict[str, Sha256]
    promotion_pack: str = ""
    """`sha256:…` of the promotion pack, in the closing pack."""
    journal_head: str
    """The signed checkpoint over the journal as packed."""
    rekor_uuid: str
    """Entry of the journal-head attestation in the transparency log."""
    signed_by: str
    issuer: str
