"""The Sigstore stand-in, spoken to over HTTP as its clients do."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, decode_timestamp_response

from cockpit.rehearsal.sigstore import OPERATOR, SERVICES, Service, SigstoreServer
from cockpit.rehearsal.sigstore.merkle import MerkleTree, leaf_hash, node_hash

pytestmark = pytest.mark.contract
WHO = "https://rehearsal.invalid/conductor"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer() as running:
        yield running


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        yield client


def csr(key: ec.EllipticCurvePrivateKey) -> str:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()


async def certify(
    http: httpx.AsyncClient, server: SigstoreServer, token: str, request: str
) -> httpx.Response:
    return await http.post(
        f"{server.url('fulcio')}/api/v2/signingCert",
        json={"certificateSigningRequest": request},
        headers={"Authorization": f"Bearer {token}"},
    )


async def entry(http: httpx.AsyncClient, server: SigstoreServer, data: bytes) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await certify(http, server, server.token(WHO), csr(key))
    pem = answer.json()["signedCertificateEmbeddedSct"]["chain"]["certificates"][0]
    der = x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
    return {
        "digest": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        "signature": {
            "content": base64.b64encode(key.sign(data, ec.ECDSA(hashes.SHA256()))).decode(),
            "verifier": {
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "x509Certificate": {"rawBytes": base64.b64encode(der).decode()},
            },
        },
    }


async def test_tokens_need_the_secret_and_check_against_the_published_keys(
    server: SigstoreServer, http: httpx.AsyncClient
) -> None:
    discovery = (await http.get(f"{server.url('oidc')}/.well-known/openid-configuration")).json()
    assert discovery["issuer"] == server.issuer
    body = {"sub": WHO, "audience": "sigstore"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": server.token_secret}):
        assert (await http.post(server.token_url, json=body, headers=headers)).status_code == 401
    right = {"Authorization": f"Bearer {server.token_secret}"}
    token = (await http.post(discovery["token_endpoint"], json=body, headers=right)).json()["value"]
    [key] = (await http.get(discovery["jwks_uri"])).json()["keys"]
    claims = jwt.decode(
        token, jwt.PyJWK(key).key, algorithms=["ES256"], audience="sigstore", issuer=server.issuer
    )
    assert claims["sub"] == WHO
    assert (await http.post(server.token_url, content=b"[", headers=right)).status_code == 400
    assert (await http.post(server.token_url, json={"sub": 3}, headers=right)).status_code == 400


async def test_the_ca_binds_the_token_to_the_certificate(
    server: SigstoreServer, http: httpx.AsyncClient
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    for who, kind in ((WHO, x509.UniformResourceIdentifier), ("ann@rehearsal.invalid", x509.RFC822Name)):
        answer = await certify(http, server, server.token(who), csr(key))
        leaf = x509.load_pem_x509_certificate(
            answer.json()["signedCertificateEmbeddedSct"]["chain"]["certificates"][0].encode()
        )
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(kind) == [who]
        assert leaf.public_key() == key.public_key()
        stamps = leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
        assert len(list(stamps.value)) == 1


async def test_the_ca_refuses_bad_tokens_and_unproven_keys(
    server: SigstoreServer, http: httpx.AsyncClient
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    good = server.token(WHO)
    forged = jwt.encode(
        jwt.decode(good, options={"verify_signature": False}),
        ec.generate_private_key(ec.SECP256R1()),
        "ES256",
    )
    async with SigstoreServer() as other:
        bad_tokens = [
            forged,
            other.token(WHO),
            server.token(WHO, audience="elsewhere"),
            server.token(WHO, lifetime=timedelta(seconds=-60)),
            good[:-8],
            "x",
        ]
    for token in bad_tokens:
        assert (await certify(http, server, token, csr(key))).status_code == 401, token
    pem = base64.b64decode(csr(key))
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    unproven = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    for request in (base64.b64encode(unproven).decode(), base64.b64encode(b"no request").decode(), "%"):
        assert (await certify(http, server, good, request)).status_code == 400
    assert (await certify(http, server, server.token("nobody"), csr(key))).status_code == 400


async def test_the_log_takes_only_what_is_signed_and_proves_it(
    server: SigstoreServer, http: httpx.AsyncClient
) -> None:
    base = f"{server.url('rekor')}/api/v2"
    bodies = []
    for number in range(5):
        request = await entry(http, server, b"entry %d" % number)
        answer = await http.post(f"{base}/log/entries", json={"hashedRekordRequestV002": request})
        assert answer.status_code == 201
        bodies.append(base64.b64decode(answer.json()["canonicalizedBody"]))
    request["digest"] = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    refused: list[dict[str, Any]] = [{"hashedRekordRequestV002": request}, {"other": {}}, {}]
    for wrong in refused:
        assert (await http.post(f"{base}/log/entries", json=wrong)).status_code == 400

    checkpoint = (await http.get(f"{base}/checkpoint")).text
    note, _, signatures = checkpoint.partition("\n\n")
    origin, size, root = note.split("\n")
    assert (origin, size) == (server.log.origin, "5")
    assert root == base64.b64encode(naive_root([leaf_hash(body) for body in bodies])).decode()
    _, name, signed = signatures.strip().split(" ")
    log = json.loads(server.trusted_root())["tlogs"][0]
    key = serialization.load_der_public_key(base64.b64decode(log["publicKey"]["rawBytes"]))
    assert isinstance(key, Ed25519PublicKey)
    assert name == origin
    assert base64.b64decode(signed)[:4] == base64.b64decode(log["logId"]["keyId"])[:4]
    key.verify(base64.b64decode(signed)[4:], f"{note}\n".encode())

    old = (await http.get(f"{base}/log/entries/1", params={"size": 3})).json()
    assert old["inclusionProof"]["treeSize"] == "3"
    assert base64.b64decode(old["canonicalizedBody"]) == bodies[1]
    assert (await http.get(f"{base}/log/entries/9")).status_code == 404
    assert (await http.get(f"{base}/log/consistency", params={"first": 9})).status_code == 400
    proof = (await http.get(f"{base}/log/consistency", params={"first": 3})).json()
    assert proof["second"] == "5"
    assert len(proof["hashes"]) == 4


async def test_the_log_takes_dsse_entries(server: SigstoreServer, http: httpx.AsyncClient) -> None:
    payload = b'{"_type":"https://in-toto.io/Statement/v1"}'
    kind = b"application/vnd.in-toto+json"
    made = await entry(http, server, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    body = {
        "envelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind.decode(),
            "signatures": [{"sig": made["signature"]["content"]}],
        },
        "verifiers": [made["signature"]["verifier"]],
    }
    url = f"{server.url('rekor')}/api/v2/log/entries"
    answer = (await http.post(url, json={"dsseRequestV002": body})).json()
    assert answer["kindVersion"] == {"kind": "dsse", "version": "0.0.2"}
    body["verifiers"] = []
    assert (await http.post(url, json={"dsseRequestV002": body})).status_code == 400


async def test_the_authority_stamps_the_digest_asked_for(
    server: SigstoreServer, http: httpx.AsyncClient
) -> None:
    url = f"{server.url('tsa')}/api/v1/timestamp"
    asked = TimestampRequestBuilder().data(b"data").hash_algorithm(HashAlgorithm.SHA256).nonce().build()
    answer = await http.post(url, content=asked.as_bytes())
    info = decode_timestamp_response(answer.content).tst_info
    assert info.message_imprint.message == hashlib.sha256(b"data").digest()
    assert info.nonce == asked.nonce
    sha512 = TimestampRequestBuilder().data(b"data").hash_algorithm(HashAlgorithm.SHA512).build()
    for wrong in (sha512.as_bytes(), b"no request"):
        assert (await http.post(url, content=wrong)).status_code == 400


@pytest.mark.parametrize("service", SERVICES)
async def test_each_service_can_fail_in_each_way(service: Service, http: httpx.AsyncClient) -> None:
    async with SigstoreServer() as server:
        url = f"{server.url(service)}/nothing"
        assert (await http.get(url)).status_code == 404
        await server.fault(service, "error")
        assert (await http.get(url)).status_code == 500
        await server.fault(service, "hang")
        with pytest.raises(httpx.ReadTimeout):
            await http.get(url, timeout=0.1)
        await server.fault(service, "refuse")
        with pytest.raises(httpx.TransportError):
            await http.get(url)
        async with httpx.AsyncClient(trust_env=False) as fresh:
            with pytest.raises(httpx.ConnectError):
                await fresh.get(url)
        await server.fault(service, None)
        assert (await http.get(url)).status_code == 404
        assert all(server.requests(other) == 0 for other in SERVICES if other != service)


async def test_the_trusted_root_says_what_it_is(server: SigstoreServer) -> None:
    root = json.loads(server.trusted_root())
    for part in ("tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"):
        assert [one["operator"] for one in root[part]] == [OPERATOR] == ["rehearsal stand-in"]
    config = json.loads(server.trust_config())
    assert config["trustedRoot"] == root
    for part in ("caUrls", "oidcUrls", "rekorTlogUrls", "tsaUrls"):
        assert [one["operator"] for one in config["signingConfig"][part]] == [OPERATOR]


def naive_root(hashes_: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not hashes_:
        return hashlib.sha256(b"").digest()
    if len(hashes_) == 1:
        return hashes_[0]
    split = 1
    while split * 2 < len(hashes_):
        split *= 2
    return node_hash(naive_root(hashes_[:split]), naive_root(hashes_[split:]))


def check_consistency(first: int, second: int, old: bytes, new: bytes, proof: list[bytes]) -> bool:
    """RFC 9162, 2.1.4.2, word for word."""
    if first == second:
        return not proof and old == new
    if first & (first - 1) == 0:
        proof = [old, *proof]
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for value in proof[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(value, fr), node_hash(value, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, value)
        fn, sn = fn >> 1, sn >> 1
    return fr == old and sr == new and sn == 0


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 70), st.data())
def test_the_tree_agrees_with_the_rfc(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, second))
    tree = MerkleTree()
    leaves = []
    for number in range(second):
        tree.append(b"%d" % number)
        leaves.append(leaf_hash(b"%d" % number))
    old, new = naive_root(leaves[:first]), naive_root(leaves)
    assert (tree.root(first), tree.root(second)) == (old, new)
    assert check_consistency(first, second, old, new, tree.consistency(first, second))
    index = data.draw(st.integers(0, second - 1))
    fn, sn, digest = index, second - 1, leaves[index]  # RFC 9162, 2.1.3.2
    for value in tree.inclusion(index, second):
        if fn & 1 or fn == sn:
            digest = node_hash(value, digest)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            digest = node_hash(digest, value)
        fn, sn = fn >> 1, sn >> 1
    assert digest == new
