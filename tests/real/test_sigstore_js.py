"""What the cockpit signs is verified by sigstore-js too, and what was tampered with is refused by it too."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.signing import SigstoreSigning
from cockpit.rehearsal.sigstore import SigstoreServer
from tests.contract.sigstore_fixtures import WHO, Tested, one_real_sigstore
from tests.real.js_verify import js_verify, need_js

__all__ = ["one_real_sigstore"]
pytestmark = pytest.mark.real
DATA = b"the evidence"
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "evidence.zip", "digest": {"sha256": hashlib.sha256(DATA).hexdigest()}}],
    "predicateType": "https://release-cockpit.invalid/test/v1",
    "predicate": {"words": "Grüße"},
}


@dataclass(frozen=True)
class Signed:
    message: bytes
    statement: bytes
    root: str
    other_root: str
    issuer: str
    scratch: Path

    def verify(self, bundle: bytes, artifact: bytes | None = DATA, **changes: Any) -> str:
        expected = {"trusted_root": self.root, "identity": WHO, "issuer": self.issuer, **changes}
        return js_verify(bundle, artifact, scratch=self.scratch, **expected)


async def make(server: Tested, other: SigstoreServer, scratch: Path) -> Signed:
    async def token() -> str:
        return server.token(WHO)

    backend = SigstoreSigning(server.trust_config(), token=token, identity=WHO, issuer=server.issuer)
    message = await backend.sign_bytes(DATA, deadline=30)
    # The second entry: its proof has something in it.
    statement = await backend.sign_statement(STATEMENT, deadline=30)
    return Signed(
        message=message.bundle_json,
        statement=statement.bundle_json,
        root=server.trusted_root(),
        other_root=other.trusted_root(),
        issuer=server.issuer,
        scratch=scratch,
    )


@pytest.fixture(scope="module")
def really_signed(real_sigstore: Tested, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    need_js()

    async def by() -> Signed:
        async with SigstoreServer() as other:
            return await make(real_sigstore, other, tmp_path_factory.mktemp("js"))

    return asyncio.run(by())


@pytest.fixture(scope="module")
def signed_by_standins(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    need_js()

    async def by() -> Signed:
        async with SigstoreServer() as server, SigstoreServer() as other:
            return await make(server, other, tmp_path_factory.mktemp("js"))

    return asyncio.run(by())


@pytest.mark.parametrize("fixture", ["really_signed", "signed_by_standins"])
def test_sound_bundles_are_accepted(request: pytest.FixtureRequest, fixture: str) -> None:
    signed: Signed = request.getfixturevalue(fixture)
    assert signed.verify(signed.message) == ""
    assert signed.verify(signed.statement) == ""
    assert signed.verify(signed.statement, None) == ""


def at(form: Any, *path: Any) -> Any:
    for key in path:
        form = form[key]
    return form


def flipped(*path: Any, place: int = -1) -> Callable[[dict[str, Any]], None]:
    """Return what flips one bit of a base64 value; `place` is which byte."""

    def change(form: dict[str, Any]) -> None:
        holder = at(form, *path[:-1])
        data = bytearray(b64decode(holder[path[-1]]))
        data[place] ^= 1
        holder[path[-1]] = b64encode(bytes(data)).decode()

    return change


def other_checkpoint(form: dict[str, Any]) -> None:
    checkpoint = at(form, *ENTRY, "inclusionProof", "checkpoint")
    origin, size, rest = checkpoint["envelope"].split("\n", 2)
    checkpoint["envelope"] = f"{origin}\n{int(size) + 1}\n{rest}"


MATERIAL = "verificationMaterial"
ENTRY = (MATERIAL, "tlogEntries", 0)
STAMPS = (MATERIAL, "timestampVerificationData", "rfc3161Timestamps")
TAMPERED: dict[str, Callable[[dict[str, Any]], None]] = {
    "certificate": flipped(MATERIAL, "certificate", "rawBytes"),
    "logged entry": flipped(*ENTRY, "canonicalizedBody", place=60),
    # Not the root that stands beside it: sigstore-js goes by the checkpoint's, which is signed.
    "inclusion proof": flipped(*ENTRY, "inclusionProof", "hashes", 0),
    "checkpoint": other_checkpoint,
    "log": flipped(*ENTRY, "logId", "keyId"),
    "time-stamp": flipped(*STAMPS, 0, "signedTimestamp"),
    "no time-stamp": lambda form: at(form, *STAMPS).clear(),
    "no log entry": lambda form: at(form, *ENTRY[:-1]).clear(),
}
TAMPERED_BY_KIND = {
    "statement": {
        **TAMPERED,
        "payload": flipped("dsseEnvelope", "payload", place=40),
        "signature": flipped("dsseEnvelope", "signatures", 0, "sig"),
    },
    "message": {
        "signature": flipped("messageSignature", "signature"),
        "digest": flipped("messageSignature", "messageDigest", "digest"),
    },
}


@pytest.mark.parametrize(
    ("kind", "what"), [(kind, what) for kind, ways in TAMPERED_BY_KIND.items() for what in ways]
)
def test_what_was_tampered_with_is_refused(really_signed: Signed, kind: str, what: str) -> None:
    form = json.loads(getattr(really_signed, kind))
    before = copy.deepcopy(form)
    TAMPERED_BY_KIND[kind][what](form)
    assert form != before
    assert really_signed.verify(json.dumps(form).encode())


def test_other_bytes_and_other_people_are_refused(really_signed: Signed) -> None:
    made = really_signed.statement
    assert really_signed.verify(really_signed.message, b"something else")
    assert "something else" in really_signed.verify(made, b"something else")
    assert "UNTRUSTED_SIGNER" in really_signed.verify(made, identity=WHO[:-1])
    assert "UNTRUSTED_SIGNER" in really_signed.verify(made, identity=WHO.replace(".", "x"))
    assert "UNTRUSTED_SIGNER" in really_signed.verify(made, issuer="https://elsewhere.invalid")


@pytest.mark.parametrize("part", ["tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"])
def test_each_part_of_the_trusted_root_matters(really_signed: Signed, part: str) -> None:
    root = json.loads(really_signed.root)
    root[part] = json.loads(really_signed.other_root)[part]
    assert really_signed.verify(really_signed.message, trusted_root=json.dumps(root))
