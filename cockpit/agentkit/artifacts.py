"""Files an agent writes: below `artifacts/` of the run folder, hashed, never outside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from cockpit.base.errors import UsageError
from cockpit.base.files import sha256_hex, write_private
from cockpit.base.limits import MAX_BLOB_BYTES
from cockpit.journal.blobs import BlobStore
from cockpit.rpc.messages import Artifact

Kind = Literal["sbom", "slsa", "report", "dash", "schema", "evidence"]
_PATH = re.compile(r"[A-Za-z0-9+_][A-Za-z0-9+_.-]*(/[A-Za-z0-9+_][A-Za-z0-9+_.-]*)*")
FOLDER = "artifacts"
_BLOBS = "blobs"


class Artifacts:
    """Writes the artifacts of one run."""

    def __init__(self, run_dir: Path) -> None:
        self._root = run_dir / FOLDER
        self._blobs = BlobStore(run_dir / _BLOBS)

    def write(self, path: str, data: bytes, kind: Kind) -> Artifact:
        """Write `data` at `path` (relative, plain names) and return its description.

        What lay there before is kept as a blob: the journal may have recorded it, and the conductor may end
        before it records this one. Raises UsageError for a path that leaves the folder or content beyond the
        limit.
        """
        if not _PATH.fullmatch(path):
            raise UsageError(f"not a plain relative artifact path: {path!r}")
        if len(data) > MAX_BLOB_BYTES:
            raise UsageError(f"artifact {path} has {len(data)} bytes; at most {MAX_BLOB_BYTES}")
        target = self._root / path
        if not target.resolve().is_relative_to(self._root.resolve()):
            raise UsageError(f"artifact path leaves the run folder: {path!r}")
        if target.is_file() and (before := target.read_bytes()) != data:
            self._blobs.put(before, salted=False)
        write_private(target, data)
        return Artifact(path=path, sha256=sha256_hex(data), type=kind)

    def path(self, relative: str) -> Path:
        """Return where an artifact lies."""
        return self._root / relative
