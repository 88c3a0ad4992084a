"""cosign verifies what the cockpit signs, and refuses what was tampered with; in the long tier only."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.signing import SigstoreSigning
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.sigstore import SigstoreServer
from tests.contract.sigstore_fixtures import WHO, one_real_sigstore
from tests.real.fixtures import need
from tests.real.sigstore_thread import ThreadedSigstore

__all__ = ["one_real_sigstore"]
pytestmark = [pytest.mark.real, pytest.mark.long]
DATA = b"the evidence"
KIND = "https://release-cockpit.invalid/test/v1"
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "evidence.zip", "digest": {"sha256": hashlib.sha256(DATA).hexdigest()}}],
    "predicateType": KIND,
    "predicate": {"words": "Grüße"},
}


@dataclass(frozen=True)
class Signed:
    message: bytes
    statement: bytes
    root: str
    issuer: str
    scratch: Path

    def accepted(
        self,
        command: str,
        bundle: bytes,
        *more: str,
        data: bytes = DATA,
        identity: str = WHO,
        issuer: str = "",
        root: str = "",
    ) -> bool:
        """Tell whether `cosign COMMAND` accepts a bundle over `data`, without a network to ask."""
        place = self.scratch
        (place / "bundle.json").write_bytes(bundle)
        (place / "root.json").write_text(root or self.root, encoding="utf-8")
        (place / "data").write_bytes(data)
        done = subprocess.run(
            [
                *(str(binary("cosign")), command, f"--bundle={place / 'bundle.json'}"),
                f"--trusted-root={place / 'root.json'}",
                f"--certificate-identity={identity}",
                f"--certificate-oidc-issuer={issuer or self.issuer}",
                *more,
                str(place / "data"),
            ],
            env={"HOME": str(place), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode == 0) == ("Verified OK" in done.stderr + done.stdout), done
        return done.returncode == 0


@pytest.fixture(scope="module")
def signed(real_sigstore: ThreadedSigstore, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    need("cosign")

    async def token() -> str:
        return real_sigstore.token(WHO)

    async def make() -> Signed:
        backend = SigstoreSigning(
            real_sigstore.trust_config(), token=token, identity=WHO, issuer=real_sigstore.issuer
        )
        return Signed(
            message=(await backend.sign_bytes(DATA, deadline=30)).bundle_json,
            statement=(await backend.sign_statement(STATEMENT, deadline=30)).bundle_json,
            root=real_sigstore.trusted_root(),
            issuer=real_sigstore.issuer,
            scratch=tmp_path_factory.mktemp("cosign"),
        )

    return asyncio.run(make())


def test_a_blob(signed: Signed) -> None:
    assert signed.accepted("verify-blob", signed.message)
    assert not signed.accepted("verify-blob", signed.message, data=b"something else")
    assert not signed.accepted("verify-blob", signed.message, identity=WHO[:-1])
    assert not signed.accepted("verify-blob", signed.message, issuer="https://elsewhere.invalid")
    form = json.loads(signed.message)
    form["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"].clear()
    assert not signed.accepted("verify-blob", json.dumps(form).encode())


def test_a_statement(signed: Signed) -> None:
    command, kind = "verify-blob-attestation", f"--type={KIND}"
    assert signed.accepted(command, signed.statement, kind)
    assert not signed.accepted(command, signed.statement, kind, data=b"something else")
    assert not signed.accepted(command, signed.statement, "--type=https://other.invalid")
    assert not signed.accepted(command, signed.statement, kind, identity=WHO[:-1])


async def test_another_trusted_root(signed: Signed) -> None:
    async with SigstoreServer() as other:
        assert not signed.accepted("verify-blob", signed.message, root=other.trusted_root())
