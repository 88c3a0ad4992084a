"""Small images that are the same bytes each time they are built."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cockpit.rehearsal.registry.store import MANIFEST_TYPE, digest_of

CREATED = datetime(2025, 9, 22, 14, 30, tzinfo=UTC)
NONROOT = "65532:65532"
_BASE_NAME = "registry.rehearsal.invalid/base/python:3.11"


@dataclass(frozen=True)
class Image:
    """An image: its manifest's bytes and the blobs (config and layers) it names, by digest."""

    name: str
    version: str
    manifest: bytes
    blobs: Mapping[str, bytes]

    @property
    def repository(self) -> str:
        """Return the repository, e.g. `intelgraph/web`."""
        return f"intelgraph/{self.name}"

    @property
    def digest(self) -> str:
        """Return the manifest's digest: what the image is known by."""
        return digest_of(self.manifest)

    def descriptor(self) -> dict[str, Any]:
        """Return the descriptor by which others refer to it."""
        return {"mediaType": MANIFEST_TYPE, "digest": self.digest, "size": len(self.manifest)}


def build_image(
    name: str,
    version: str,
    extra_layers: Sequence[Mapping[str, bytes]] = (),
    *,
    revision: str = "",
    created: datetime = CREATED,
    user: str = NONROOT,
) -> Image:
    """Return the image of a service: a base layer, an application layer, and one a mapping of path to bytes.

    `revision` is the commit it was built from; it, `created` and the version are labels of the config.
    """
    base = {
        "etc/os-release": b'NAME="rehearsal"\n',
        "etc/passwd": b"nonroot:x:65532:65532::/:/sbin/nologin\n",
    }
    application = {f"app/{name}/VERSION": f"{version}\n".encode(), f"app/{name}/NAME": f"{name}\n".encode()}
    tars = [_tar(files) for files in (base, application, *extra_layers)]
    layers = [gzip.compress(tar, compresslevel=6, mtime=0) for tar in tars]
    stamp = created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": stamp,
            "config": {
                "User": user,
                "Entrypoint": [f"/app/{name}/serve"],
                "Labels": {
                    "org.opencontainers.image.title": name,
                    "org.opencontainers.image.version": version,
                    "org.opencontainers.image.revision": revision,
                    "org.opencontainers.image.created": stamp,
                    "org.opencontainers.image.base.name": _BASE_NAME,
                    "org.opencontainers.image.base.digest": digest_of(layers[0]),
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
            "history": [{"created": stamp, "created_by": "rehearsal"} for _ in tars],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer) for layer in layers],
            "annotations": {"org.opencontainers.image.revision": revision},
        }
    )
    return Image(name, version, manifest, {digest_of(blob): blob for blob in (config, *layers)})


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
