"""Verifying a Sigstore bundle with sigstore-js, an implementation that is not ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cockpit.base.errors import UsageError
from cockpit.rehearsal.real.binaries import share

_SCRIPT = Path(__file__).parent / "js" / "verify.mjs"
_SECONDS = 60


def need_js() -> None:
    """Skip when Node.js or sigstore-js is not there; with REAL=1 that is a failure."""
    reason = ""
    if shutil.which("node") is None:
        reason = "node is not there: install Node.js 20 or newer"
    else:
        try:
            share("sigstore-js")
        except UsageError as error:
            reason = str(error)
    if not reason:
        return
    if os.environ.get("REAL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def js_verify(
    bundle: bytes,
    artifact: bytes | None = None,
    *,
    trusted_root: str | bytes,
    identity: str,
    issuer: str,
    scratch: Path,
) -> str:
    """Return why sigstore-js does not accept a bundle, or nothing; `scratch` takes the files it reads.

    A bundle of a message needs its artifact; with one, a statement's subject must be the artifact.
    """
    node = shutil.which("node")
    assert node is not None, "call need_js first"
    scratch.mkdir(parents=True, exist_ok=True)
    files = {"bundle.json": bundle, "root.json": _bytes(trusted_root), "artifact": artifact}
    for name, data in files.items():
        if data is not None:
            (scratch / name).write_bytes(data)
    done = subprocess.run(
        [
            node,
            str(_SCRIPT),
            str(share("sigstore-js")),
            str(scratch / "bundle.json"),
            str(scratch / "root.json"),
            identity,
            issuer,
            *([str(scratch / "artifact")] if artifact is not None else []),
        ],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode == 0:
        assert done.stdout == "verified\n", done
        return ""
    assert done.returncode == 1, (done.returncode, done.stderr)
    return done.stderr.strip() or "refused without a reason"


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
