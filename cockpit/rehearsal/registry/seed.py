"""Seeding: pushing an image, and attaching the signed statements that a build leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cockpit.rehearsal.registry import predicates
from cockpit.rehearsal.registry.image import Image
from cockpit.rehearsal.registry.predicates import Contents
from cockpit.rehearsal.registry.store import EMPTY, EMPTY_TYPE, MANIFEST_TYPE, Repository, digest_of

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


class BuildSigner(Protocol):
    """Signs as the build, not as the one who releases."""

    async def sign(self, statement: Mapping[str, Any]) -> bytes:
        """Return the Sigstore bundle (JSON) of an in-toto statement."""
        ...


@dataclass(frozen=True)
class Attached:
    """What was attached to an image: digests of the referring manifests by predicate type."""

    referrers: Mapping[str, str]


def push(repository: Repository, image: Image, *tags: str) -> None:
    """Put an image into a repository under its digest and tags (its version, if none is given)."""
    for digest, blob in image.blobs.items():
        repository.put_blob(blob, digest)
    for tag in tags or (image.version,):
        repository.put_manifest(tag, image.manifest, MANIFEST_TYPE)


def referrer(repository: Repository, image: Image, bundle: bytes, predicate_type: str) -> str:
    """Attach a bundle the way cosign does (OCI 1.1 referrers); return the referring manifest's digest."""
    for blob in (EMPTY, bundle):
        repository.put_blob(blob, digest_of(blob))
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": BUNDLE_TYPE,
            "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)},
            "layers": [{"mediaType": BUNDLE_TYPE, "digest": digest_of(bundle), "size": len(bundle)}],
            "subject": image.descriptor(),
            "annotations": {
                "dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": predicate_type,
            },
        },
        sort_keys=True,
    ).encode()
    return repository.put_manifest(digest_of(manifest), manifest, MANIFEST_TYPE).digest


async def attach(
    repository: Repository,
    image: Image,
    signer: BuildSigner,
    *,
    contents: Contents,
    builder: str,
    source: str,
    commit: str,
    ref: str,
    signature: bool = True,
) -> Attached:
    """Attach signature, SBOM, provenance and vulnerability report; `signature=False` leaves the first out."""
    statements: dict[str, dict[str, Any]] = {
        predicates.SBOM: predicates.spdx(image, contents),
        predicates.PROVENANCE: predicates.provenance(
            image, builder=builder, source=source, commit=commit, ref=ref
        ),
        predicates.VULNERABILITIES: predicates.vulnerability_report(contents),
    }
    if signature:
        statements[predicates.SIGNATURE] = {}
    referrers = {}
    for kind, predicate in statements.items():
        bundle = await signer.sign(predicates.statement(image, kind, predicate))
        referrers[kind] = referrer(repository, image, bundle, kind)
    return Attached(referrers)
