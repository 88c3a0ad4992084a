"""What a registry holds: blobs by digest, manifests by digest and tag, referrers by subject."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"


class Refused(Exception):
    """A request the distribution spec has an error code for."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def digest_of(data: bytes) -> str:
    """Return `sha256:…`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was pushed; `value` is its JSON, read once."""

    data: bytes
    media_type: str
    value: dict[str, Any]

    @property
    def digest(self) -> str:
        """Return the digest of the bytes."""
        return digest_of(self.data)

    @property
    def subject(self) -> str:
        """Return the digest of what it refers to, or nothing."""
        subject = self.value.get("subject")
        return str(subject.get("digest", "")) if isinstance(subject, dict) else ""

    def descriptor(self) -> dict[str, Any]:
        """Return its entry in a referrers list (OCI image spec, descriptor)."""
        config = self.value.get("config") or {}
        found = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.data),
            "artifactType": self.value.get("artifactType") or config.get("mediaType", ""),
        }
        if self.value.get("annotations"):
            found["annotations"] = self.value["annotations"]
        return found


@dataclass(slots=True)
class Repository:
    """One repository."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def manifest(self, reference: str) -> Manifest:
        """Return a manifest by tag or digest."""
        try:
            return self.manifests[self.tags.get(reference, reference)]
        except KeyError:
            raise Refused(404, "MANIFEST_UNKNOWN", f"no manifest {reference}") from None

    def blob(self, digest: str) -> bytes:
        """Return a blob."""
        try:
            return self.blobs[digest]
        except KeyError:
            raise Refused(404, "BLOB_UNKNOWN", f"no blob {digest}") from None

    def put_blob(self, data: bytes, digest: str) -> None:
        """Keep a blob; its digest must be right."""
        if digest_of(data) != digest:
            raise Refused(400, "DIGEST_INVALID", "the content has another digest")
        self.blobs[digest] = data

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Manifest:
        """Keep a manifest under a tag or its digest; what it names must be there, its subject need not."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(400, "MANIFEST_INVALID", "not JSON") from None
        if not isinstance(value, dict) or value.get("schemaVersion") != 2:
            raise Refused(400, "MANIFEST_INVALID", "not a manifest of schema version 2")
        if value.get("mediaType", media_type) != media_type or media_type not in (MANIFEST_TYPE, INDEX_TYPE):
            raise Refused(400, "MANIFEST_INVALID", f"media type {media_type} is not taken")
        self._check_parts(value, media_type)
        manifest = Manifest(data, media_type, value)
        if DIGEST.fullmatch(reference):
            if reference != manifest.digest:
                raise Refused(400, "DIGEST_INVALID", "the manifest has another digest")
        elif TAG.fullmatch(reference):
            self.tags[reference] = manifest.digest
        else:
            raise Refused(400, "TAG_INVALID", "neither a tag nor a digest")
        self.manifests[manifest.digest] = manifest
        return manifest

    def referrers(self, digest: str, artifact_type: str | None) -> dict[str, Any]:
        """Return the index of manifests whose subject is `digest`."""
        found = [one.descriptor() for one in self.manifests.values() if one.subject == digest]
        if artifact_type is not None:
            found = [one for one in found if one["artifactType"] == artifact_type]
        return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": found}

    def _check_parts(self, value: dict[str, Any], media_type: str) -> None:
        try:
            if media_type == INDEX_TYPE:
                missing = [one["digest"] for one in value["manifests"] if one["digest"] not in self.manifests]
            else:
                parts = [value["config"], *value["layers"]]
                missing = [one["digest"] for one in parts if one["digest"] not in self.blobs]
        except (KeyError, TypeError):
            raise Refused(400, "MANIFEST_INVALID", "config, layers or manifests are missing") from None
        if missing:
            raise Refused(400, "MANIFEST_BLOB_UNKNOWN", f"unknown {missing[0]}")
