"""Strict verification: whatever changes in a bundle, in the trust or in the expectation is noticed."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from cockpit.backends import der
from cockpit.backends.signing import SigstoreSigning
from cockpit.evidence.checks import Check, passed
from cockpit.evidence.signatures import verify_bundle, verify_statement
from cockpit.rehearsal.sigstore import SigstoreServer
from tests.contract.sigstore_fixtures import REAL, STANDIN, WHO, Tested, one_real_sigstore

__all__ = ["one_real_sigstore"]
pytestmark = pytest.mark.contract
DATA = b"the evidence"
DIGEST = "ab" * 32
KIND = "https://release-cockpit.invalid/test/v1"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Signed:
    message: bytes
    statement: bytes
    root: bytes
    other_root: bytes
    issuer: str
    share: int
    """One of how many bytes is flipped where not every one is."""

    def check(self, bundle: bytes, **changes: Any) -> list[Check]:
        payload = None if b"dsseEnvelope" in bundle else DATA
        expected = {"trusted_root_json": self.root, "identity": WHO, "issuer": self.issuer, **changes}
        return verify_bundle(bundle, payload, **expected)


async def make(server: Tested, other: SigstoreServer) -> Signed:
    """Sign with one Sigstore; the other's trusted root has nothing to do with it."""

    async def token() -> str:
        return server.token(WHO)

    backend = SigstoreSigning(server.trust_config(), token=token, identity=WHO, issuer=server.issuer)
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "app", "digest": {"sha256": DIGEST}}],
        "predicateType": KIND,
        "predicate": {"a": 1},
    }
    async with asyncio.TaskGroup() as group:  # so that the tree has some leaves
        for number in range(5):
            group.create_task(backend.sign_bytes(b"%d" % number, deadline=30))
    return Signed(
        message=(await backend.sign_bytes(DATA, deadline=30)).bundle_json,
        statement=(await backend.sign_statement(statement, deadline=30)).bundle_json,
        root=server.trusted_root().encode(),
        other_root=other.trusted_root().encode(),
        issuer=server.issuer,
        share=1 if isinstance(server, SigstoreServer) else 10,
    )


@pytest.fixture(scope="module", params=[STANDIN, REAL])
def signed(request: pytest.FixtureRequest) -> Signed:
    async def by(server: Tested | None) -> Signed:
        async with SigstoreServer() as standin, SigstoreServer() as other:
            return await make(server or standin, other)

    if request.param == STANDIN:
        return asyncio.run(by(None))
    return asyncio.run(by(request.getfixturevalue("real_sigstore")))


def test_good_bundles_hold(signed: Signed) -> None:
    checks = signed.check(signed.message)
    assert passed(checks)
    names = ["form", "shape", "content", "trusted root", "log", "timestamp", "trust window", "identity"]
    assert [check.name for check in checks] == [*names, "signature"]
    statement, checks = verify_statement(
        signed.statement,
        trusted_root_json=signed.root,
        identity=WHO,
        issuer=signed.issuer,
        predicate_type=KIND,
        subject_sha256=DIGEST,
    )
    assert passed(checks)
    assert statement["predicate"] == {"a": 1}


@pytest.mark.parametrize(("which", "bits"), [("message", 2), ("statement", 1)])
def test_a_flipped_bit_in_any_byte_is_noticed(signed: Signed, which: str, bits: int) -> None:
    bundle: bytes = getattr(signed, which)
    chance = random.Random(20250923)
    for position in sorted(chance.sample(range(len(bundle)), len(bundle) // signed.share)):
        for bit in chance.sample(range(8), bits):
            assert not passed(signed.check(flip(bundle, position, bit))), (position, bit)


@pytest.mark.long
@pytest.mark.parametrize("which", ["message", "statement"])
def test_any_flipped_bit_is_noticed(signed: Signed, which: str) -> None:
    bundle: bytes = getattr(signed, which)
    for position in range(len(bundle)):
        for bit in range(8):
            assert not passed(signed.check(flip(bundle, position, bit))), (position, bit)


def flip(data: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


def at(form: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        form = form[key]
    return form


def replacements(value: Any) -> Iterator[Any]:
    yield None
    yield 0
    yield True
    yield []
    yield {}
    yield ""
    if isinstance(value, dict):
        yield {**value, "extra": "x"}
        yield {**value, "integratedTime": "1758614400"}
        yield {**value, "keyid": "x"}
        yield [value]
    elif isinstance(value, list):
        yield [*value, *value[:1]]
        yield [*value, "AAAA"]
        yield value[::-1] if len(value) > 1 else [value]
    elif isinstance(value, str):
        for change in (" ", "\n", "=", "A", "\0"):
            yield value + change
            yield change + value
        yield "0" + value
        yield "+" + value
        yield value.lower()
        yield value[:-1]
        if value.endswith("="):  # the bits that base64 leaves unused
            bare = value.rstrip("=")
            alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            yield bare[:-1] + alphabet[alphabet.index(bare[-1]) ^ 1] + value[len(bare) :]
            yield bare


@pytest.mark.parametrize("which", ["message", "statement"])
def test_every_change_of_structure_is_noticed(signed: Signed, which: str) -> None:
    original = json.loads(getattr(signed, which))
    tried = 0
    for path in places(original):
        if not path:
            continue
        changed = copy.deepcopy(original)
        del at(changed, path[:-1])[path[-1]]
        assert not passed(signed.check(rfc8785.dumps(changed))), ("dropped", path)
        for new in replacements(at(original, path)):
            if new == at(original, path) and type(new) is type(at(original, path)):
                continue
            changed = copy.deepcopy(original)
            at(changed, path[:-1])[path[-1]] = new
            assert not passed(signed.check(rfc8785.dumps(changed))), (path, new)
            tried += 1
    assert tried > 400


@pytest.mark.parametrize("which", ["message", "statement"])
def test_other_encodings_of_the_same_json_are_noticed(signed: Signed, which: str) -> None:
    bundle: bytes = getattr(signed, which)
    form = json.loads(bundle)
    spaced = json.dumps(form, indent=1).encode()
    first, rest = bundle[1:].split(b":", 1)
    for changed in (
        spaced,
        bundle + b"\n",
        b"\xef\xbb\xbf" + bundle,
        bundle.replace("—".encode(), b"\\u2014"),
        b"{" + first + b':"x",' + first + b":" + rest,
        bundle[:-1],
        b"",
        b"[" * 100_000,
        b"1" * 10_000,
    ):
        assert changed != bundle
        assert [check.name for check in signed.check(changed) if not check.ok] == ["form"]
    assert passed(signed.check(spaced, canonical=False))


def test_the_written_out_absence_of_a_time_is_taken_from_others_only(signed: Signed) -> None:
    """As sigstore-python writes the entries of a log that gives no time."""
    form = json.loads(signed.statement)
    form["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "0"
    assert passed(signed.check(rfc8785.dumps(form), canonical=False))
    assert not passed(signed.check(rfc8785.dumps(form)))
    form["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1758614400"
    assert not passed(signed.check(rfc8785.dumps(form), canonical=False))


def test_parts_of_two_good_bundles_do_not_mix(signed: Signed) -> None:
    message, statement = json.loads(signed.message), json.loads(signed.statement)
    for path in places(message["verificationMaterial"]):
        if not path or not isinstance(at(statement["verificationMaterial"], path[:-1]), dict | list):
            continue
        mixed = copy.deepcopy(statement)
        holder, source = (
            at(mixed["verificationMaterial"], path[:-1]),
            at(message["verificationMaterial"], path),
        )
        if isinstance(holder, list) and path[-1] >= len(holder):
            continue
        if holder[path[-1]] != source:
            holder[path[-1]] = source
            assert not passed(signed.check(rfc8785.dumps(mixed))), path


# --- what no signature covers: sigstore-python takes some of these, the strict form does not


def rebuilt(element: der.Element, path: tuple[int, ...], change: Callable[[der.Element], bytes]) -> bytes:
    """Return the encoding of `element` with what lies at `path` replaced."""
    if not path:
        return change(element)
    parts = [child.raw for child in element.children]
    parts[path[0]] = rebuilt(element.children[path[0]], path[1:], change)
    return der.tlv(element.tag, *parts)


SIGNED_DATA = (1, 1, 0)
SIGNER = (*SIGNED_DATA, 4, 0)


def high_s(element: der.Element) -> bytes:
    r, s = decode_dss_signature(element.content)
    return der.tlv(der.OCTETS, encode_dss_signature(r, P256_ORDER - s))


def appended(*parts: bytes) -> Callable[[der.Element], bytes]:
    return lambda element: der.tlv(element.tag, element.content, *parts)


def reordered(element: der.Element) -> bytes:
    return der.tlv(element.tag, *(child.raw for child in reversed(element.children)))


STATUS_TEXT = der.tlv(der.SEQUENCE, der.tlv(0x0C, b"granted"))
UNSIGNED = der.tlv(
    0xA1,
    der.tlv(der.SEQUENCE, bytes.fromhex("06032a0304"), der.tlv(der.SET, der.tlv(0x0C, b"text"))),
)
STAMPS: dict[str, tuple[tuple[int, ...], Callable[[der.Element], bytes]]] = {
    "high s": ((*SIGNER, 5), high_s),
    "status text": ((0,), appended(STATUS_TEXT)),
    "granted with modifications": ((0, 0), lambda _: der.integer(1)),
    "null parameters of the digest": ((*SIGNER, 2), appended(b"\5\0")),
    "null parameters of the digests": ((*SIGNED_DATA, 1, 0), appended(b"\5\0")),
    "null parameters of the signature": ((*SIGNER, 4), appended(b"\5\0")),
    "unsigned attributes": (SIGNER, appended(UNSIGNED)),
    "signed attributes reordered": ((*SIGNER, 3), reordered),
    "a second certificate": ((*SIGNED_DATA, 3), lambda e: der.tlv(e.tag, e.content, e.content)),
    "no certificate": ((*SIGNED_DATA, 3), lambda _: b""),
    "version of signed data": ((*SIGNED_DATA, 0), lambda _: der.integer(1)),
    "version of the signer": ((*SIGNER, 0), lambda _: der.integer(3)),
    "long form of a length": ((0,), lambda e: bytes((e.tag, 0x81, len(e.content))) + e.content),
    "bytes at the end": ((), lambda e: e.raw + b"\0"),
    "two signers": ((*SIGNED_DATA, 4), lambda e: der.tlv(e.tag, e.content, e.content)),
    "no signer": ((*SIGNED_DATA, 4), lambda e: der.tlv(e.tag)),
    "no digest algorithms": ((*SIGNED_DATA, 1), lambda e: der.tlv(e.tag)),
}


def restamped(bundle: bytes, path: tuple[int, ...], change: Callable[[der.Element], bytes]) -> bytes:
    form = json.loads(bundle)
    [stamp] = form["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    before = der.read(b64decode(stamp["signedTimestamp"]))
    after = rebuilt(before, path, change)
    assert after != before.raw
    stamp["signedTimestamp"] = b64encode(after).decode()
    return rfc8785.dumps(form)


@pytest.mark.parametrize("name", STAMPS)
def test_a_time_stamp_has_one_form(signed: Signed, name: str) -> None:
    path, change = STAMPS[name]
    checks = signed.check(restamped(signed.message, path, change))
    assert [check.name for check in checks if not check.ok] == ["timestamp"], checks


def test_the_form_is_what_refuses_them(signed: Signed) -> None:
    """Without it these would pass: the parts changed are indeed covered by no signature."""
    for name in ("high s", "unsigned attributes", "null parameters of the digest"):
        assert passed(signed.check(restamped(signed.message, *STAMPS[name]), canonical=False)), name


def with_checkpoint(bundle: bytes, change: Callable[[str], str]) -> bytes:
    form = json.loads(bundle)
    checkpoint = form["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
    before = checkpoint["envelope"]
    checkpoint["envelope"] = change(before)
    assert checkpoint["envelope"] != before
    return rfc8785.dumps(form)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("— log.", "— LOG."),
        lambda text: text + text.splitlines()[-1] + "\n",
        lambda text: text + "— witness.invalid AAAAAAAA\n",
        lambda text: text + "anything\n",
        lambda text: text.replace("\n\n", "\n\nanything\n"),
        lambda text: text.replace("\n\n", "\nextension\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.rstrip("\n") + "=\n",
        lambda _: "",
        lambda text: text.split("\n\n")[0] + "\n\n",
    ],
)
def test_a_checkpoint_has_one_form(signed: Signed, change: Callable[[str], str]) -> None:
    checks = signed.check(with_checkpoint(signed.message, change))
    assert not passed(checks), checks


# --- trust and expectation


@pytest.mark.parametrize("part", ["tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"])
def test_what_was_not_valid_at_the_time_does_not_count(signed: Signed, part: str) -> None:
    def root(**window: datetime) -> bytes:
        value = json.loads(signed.root)
        [one] = value[part]
        holder = one.get("publicKey", one)
        for edge, moment in window.items():
            holder["validFor"][edge] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        return json.dumps(value).encode()

    now, hour = datetime.now(UTC), timedelta(hours=1)
    assert passed(signed.check(signed.message, trusted_root_json=root(end=now + hour)))
    for window in ({"end": now - hour}, {"start": now + hour}, {"start": now - 2 * hour, "end": now - hour}):
        checks = signed.check(signed.message, trusted_root_json=root(**window))
        assert [check.name for check in checks if not check.ok] == ["trust window"], checks


@pytest.mark.parametrize("part", ["tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"])
def test_each_part_of_the_trusted_root_matters(signed: Signed, part: str) -> None:
    value = json.loads(signed.root)
    value[part] = json.loads(signed.other_root)[part]
    assert not passed(signed.check(signed.message, trusted_root_json=json.dumps(value).encode()))
    value[part] = []
    assert not passed(signed.check(signed.message, trusted_root_json=json.dumps(value).encode()))


@pytest.mark.parametrize("part", ["tlogs", "ctlogs"])
def test_another_key_under_a_logs_name_is_refused(signed: Signed, part: str) -> None:
    """The SCT, or the checkpoint, is then by whom the root names, but not signed with that one's key."""
    value = json.loads(signed.root)
    value[part][0]["publicKey"] = json.loads(signed.other_root)[part][0]["publicKey"]
    checks = signed.check(signed.message, trusted_root_json=json.dumps(value).encode())
    assert [check.name for check in checks if not check.ok] == ["signature"], checks


@pytest.mark.parametrize("root", [b"", b"{}", b"[]", b"null", b"\xff", b" " * (2 << 20)])
def test_a_root_that_is_none_is_a_failed_check(signed: Signed, root: bytes) -> None:
    [*_, last] = signed.check(signed.message, trusted_root_json=root)
    assert (last.name, last.ok) == ("trusted root", False)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "https://rehearsal.invalid/conducto"},
        {"identity": WHO.upper()},
        {"identity": ""},
        {"issuer": "https://elsewhere.invalid"},
        {"issuer": ""},
    ],
)
def test_somebody_else_is_refused(signed: Signed, change: dict[str, str]) -> None:
    [*_, last] = signed.check(signed.message, **change)
    assert (last.name, last.ok) == ("identity", False)


def test_other_bytes_are_refused(signed: Signed) -> None:
    common: dict[str, Any] = {"trusted_root_json": signed.root, "identity": WHO, "issuer": signed.issuer}
    for bundle, payload in ((signed.message, b"other"), (signed.message, None), (signed.statement, b"other")):
        [*_, last] = verify_bundle(bundle, payload, **common)
        assert (last.name, last.ok) == ("content", False)
    wrongs: list[dict[str, Any]] = [
        {"predicate_type": "https://other.invalid"},
        {"subject_sha256": "cd" * 32},
    ]
    for wrong in wrongs:
        statement, checks = verify_statement(signed.statement, **common, **wrong)
        assert (statement, checks[-1].name, checks[-1].ok) == ({}, "statement", False)
    statement, checks = verify_statement(signed.message, **common)
    assert (statement, passed(checks)) == ({}, False)


def test_nothing_checked_is_nothing_shown() -> None:
    assert not passed([])
    assert not passed([Check("a", True), Check("b", False)])
    assert passed([Check("a", True)])
