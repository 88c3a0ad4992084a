"""Sigstore's services, spoken to over HTTP as their clients do: the stand-in and the real servers."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, decode_timestamp_response

from cockpit.rehearsal.sigstore import OPERATOR, SERVICES, Service, SigstoreServer
from cockpit.rehearsal.sigstore.merkle import MerkleTree, leaf_hash, node_hash
from tests.contract.sigstore_fixtures import (
    WHO,
    Tested,
    http_client,
    one_real_sigstore,
    read,
    size,
    tested_sigstore,
)

__all__ = ["http_client", "one_real_sigstore", "tested_sigstore"]
pytestmark = pytest.mark.contract


def csr(key: ec.EllipticCurvePrivateKey, digest: hashes.SHA256 | hashes.SHA384 | None = None) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, digest or hashes.SHA256())
    return base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()


async def certify(http: httpx.AsyncClient, server: Tested, token: str, request: str) -> httpx.Response:
    return await http.post(
        f"{server.url('fulcio')}/api/v2/signingCert",
        json={"certificateSigningRequest": request},
        headers={"Authorization": f"Bearer {token}"},
    )


async def entry(http: httpx.AsyncClient, server: Tested, data: bytes) -> dict[str, Any]:
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
    server: Tested, http: httpx.AsyncClient
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


async def test_the_ca_binds_the_token_to_the_certificate(server: Tested, http: httpx.AsyncClient) -> None:
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


@pytest.mark.parametrize(
    ("who", "written"),
    [
        (WHO, WHO),
        ("ann@rehearsal.invalid", "ann@rehearsal.invalid"),
        ("https://rehearsal.invalid/Grüße", "https://rehearsal.invalid/Gr%C3%BC%C3%9Fe"),
        ("https://rehearsal.invalid/a b", "https://rehearsal.invalid/a%20b"),
        ("nobody", "nobody"),
        ("@", None),
        ("ann@rehearsal", None),
        ("änn@rehearsal.invalid", None),
        ("https://rehearsal.invalid/%zz", None),
        ("https://rehearsal .invalid/", None),
        ("a b:c", None),
    ],
)
async def test_whom_a_certificate_can_name(
    server: Tested, http: httpx.AsyncClient, who: str, written: str | None
) -> None:
    answer = await certify(http, server, server.token(who), csr(ec.generate_private_key(ec.SECP256R1())))
    if written is None:
        assert (answer.status_code, answer.json()["code"]) == (400, 3)
        return
    pem = answer.json()["signedCertificateEmbeddedSct"]["chain"]["certificates"][0]
    leaf = x509.load_pem_x509_certificate(pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [name.value for name in names.value] == [written]


async def test_a_certificate_is_for_ten_minutes_of_signing_and_names_its_issuer(
    server: Tested, http: httpx.AsyncClient
) -> None:
    answer = await certify(http, server, server.token(WHO), csr(ec.generate_private_key(ec.SECP256R1())))
    pems = answer.json()["signedCertificateEmbeddedSct"]["chain"]["certificates"]
    leaf, intermediate, root = (x509.load_pem_x509_certificate(pem.encode()) for pem in pems)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(minutes=10)
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    found = {one.oid.dotted_string: one for one in leaf.extensions}
    assert [oid for oid, one in found.items() if one.critical] == ["2.5.29.15", "2.5.29.17"]
    fulcio = "1.3.6.1.4.1.57264.1."
    values = {oid: one.value.value for oid, one in found.items() if oid.startswith(fulcio)}
    assert values == {
        fulcio + "1": server.issuer.encode(),
        fulcio + "8": utf8(server.issuer),
        fulcio + "24": utf8(WHO),
    }
    bundle = (await http.get(f"{server.url('fulcio')}/api/v2/trustBundle")).json()
    assert [[pem.strip() for pem in one["certificates"]] for one in bundle["chains"]] == [
        [pem.strip() for pem in pems[1:]]
    ]


def utf8(text: str) -> bytes:
    return bytes((0x0C, len(text))) + text.encode()


async def test_the_ca_refuses_bad_tokens(server: Tested, http: httpx.AsyncClient) -> None:
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
        answer = await certify(http, server, token, csr(key))
        assert (answer.status_code, answer.json()["code"]) == (400, 3), token
    url = f"{server.url('fulcio')}/api/v2/signingCert"
    assert (await http.post(url, json={"certificateSigningRequest": csr(key)})).status_code == 400


async def test_the_ca_refuses_unproven_and_unfit_keys(server: Tested, http: httpx.AsyncClient) -> None:
    key, larger = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    good = server.token(WHO)
    assert (await certify(http, server, good, csr(larger, hashes.SHA384()))).status_code == 200
    pem = base64.b64decode(csr(key))
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    unproven = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    for request in (
        base64.b64encode(unproven).decode(),
        base64.b64encode(b"no request").decode(),
        "%",
        "",
        csr(key, hashes.SHA384()),
        csr(ec.generate_private_key(ec.SECP224R1())),
    ):
        answer = await certify(http, server, good, request)
        assert (answer.status_code, answer.json()["code"]) == (400, 3), request


async def bodies(server: Tested, count: int) -> list[bytes]:
    """Return the log's first entries, as its files hold them."""
    found = []
    rest = await read(server, f"tile/entries/000.p/{count}") or b""
    while rest:
        length = int.from_bytes(rest[:2], "big")
        found.append(rest[2 : 2 + length])
        rest = rest[2 + length :]
    return found


async def test_the_log_takes_only_what_is_signed_and_proves_it(
    server: Tested, http: httpx.AsyncClient
) -> None:
    url = f"{server.url('rekor')}/api/v2/log/entries"
    before = await size(server)
    taken = []
    for number in range(3):
        request = await entry(http, server, b"entry %d" % number)
        answer = await http.post(url, json={"hashedRekordRequestV002": request})
        assert answer.status_code == 201
        made = answer.json()
        assert made["kindVersion"] == {"kind": "hashedrekord", "version": "0.0.2"}
        # Version 2 has neither: who wants to know when, asks a time-stamp authority.
        assert (made["integratedTime"], made["inclusionPromise"]) == ("0", None)
        assert made["logIndex"] == made["inclusionProof"]["logIndex"] == str(before + number)
        taken.append(base64.b64decode(made["canonicalizedBody"]))
    again = await http.post(url, json={"hashedRekordRequestV002": request})
    assert (again.status_code, again.json()["code"]) == (409, 6)
    assert again.json()["message"].endswith(f"with index {before + 2}")
    other_digest = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    other_key = {**request["signature"]["verifier"], "keyDetails": "PKIX_ECDSA_P384_SHA_384"}
    refused: list[dict[str, Any]] = [
        {"hashedRekordRequestV002": {**request, "digest": other_digest}},
        {"hashedRekordRequestV002": {**request, "digest": "AAAA"}},
        {"hashedRekordRequestV002": {**request, "extra": 1}},
        {
            "hashedRekordRequestV002": {
                **request,
                "signature": {**request["signature"], "verifier": other_key},
            }
        },
        {"hashedRekordRequestV002": {}},
        {"other": {}},
        {},
    ]
    for wrong in refused:
        answer = await http.post(url, json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, 3), wrong
    assert (await http.post(url, content=b"[")).status_code == 400

    note, _, signatures = made["inclusionProof"]["checkpoint"]["envelope"].partition("\n\n")
    origin, count, root = note.split("\n")
    logged = await bodies(server, int(count))
    assert logged[before:] == taken
    assert await read(server, f"tile/0/000.p/{count}") == b"".join(map(leaf_hash, logged))
    assert root == base64.b64encode(naive_root([leaf_hash(body) for body in logged])).decode()
    _, name, signed = signatures.strip().split(" ")
    log = json.loads(server.trusted_root())["tlogs"][0]
    key = serialization.load_der_public_key(base64.b64decode(log["publicKey"]["rawBytes"]))
    assert isinstance(key, Ed25519PublicKey)
    assert name == origin
    assert log["baseUrl"] == f"https://{origin}"
    assert base64.b64decode(signed)[:4] == base64.b64decode(log["logId"]["keyId"])[:4]
    key.verify(base64.b64decode(signed)[4:], f"{note}\n".encode())
    assert await read(server, "tile/0/001.p/1") is None
    assert await read(server, "tile/entries/999") is None


async def test_the_log_takes_no_envelopes(server: Tested, http: httpx.AsyncClient) -> None:
    """Of a DSSE envelope Rekor v2 logs what its signature covers, as of any other signed bytes."""
    payload = b'{"_type":"https://in-toto.io/Statement/v1"}'
    kind = b"application/vnd.in-toto+json"
    made = await entry(http, server, b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind.decode(),
        "signatures": [{"sig": made["signature"]["content"]}],
    }
    body = {"envelope": envelope, "verifiers": [made["signature"]["verifier"]]}
    url = f"{server.url('rekor')}/api/v2/log/entries"
    answer = await http.post(url, json={"dsseRequestV002": body})
    assert (answer.status_code, answer.json()["code"]) == (400, 3)


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA512])
async def test_the_authority_stamps_the_digest_asked_for(
    server: Tested, http: httpx.AsyncClient, algorithm: HashAlgorithm
) -> None:
    query = {"Content-Type": "application/timestamp-query"}
    url = f"{server.url('tsa')}/api/v1/timestamp"
    asking = TimestampRequestBuilder().data(b"data").hash_algorithm(algorithm)
    asked = asking.nonce().cert_request(cert_request=True).build()
    answer = await http.post(url, content=asked.as_bytes(), headers=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/timestamp-reply")
    made = decode_timestamp_response(answer.content)
    name = "sha256" if algorithm is HashAlgorithm.SHA256 else "sha512"
    assert made.tst_info.message_imprint.message == hashlib.new(name, b"data").digest()
    assert made.tst_info.nonce == asked.nonce
    assert made.tst_info.policy.dotted_string == "1.3.6.1.4.1.57264.2"
    authority = json.loads(server.trusted_root())["timestampAuthorities"][0]
    leaf = base64.b64decode(authority["certChain"]["certificates"][0]["rawBytes"])
    assert leaf in made.signed_data.certificates
    without = asking.nonce(nonce=False).cert_request(cert_request=False).build()
    made = decode_timestamp_response(
        (await http.post(url, content=without.as_bytes(), headers=query)).content
    )
    assert set(made.signed_data.certificates) == set()
    assert (await http.post(url, content=b"no request", headers=query)).status_code == 400
    assert (await http.post(url, content=asked.as_bytes())).status_code == 415


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


async def test_the_trusted_root_says_whose_it_is(server: Tested) -> None:
    operator = OPERATOR if isinstance(server, SigstoreServer) else "rehearsal, private servers"
    root = json.loads(server.trusted_root())
    for part in ("tlogs", "ctlogs", "certificateAuthorities", "timestampAuthorities"):
        assert [one["operator"] for one in root[part]] == [operator]
    config = json.loads(server.trust_config())
    assert config["trustedRoot"] == root
    for part in ("caUrls", "oidcUrls", "rekorTlogUrls", "tsaUrls"):
        assert [one["operator"] for one in config["signingConfig"][part]] == [operator]


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


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 70), st.data())
def test_the_tree_agrees_with_the_rfc(count: int, data: st.DataObject) -> None:
    tree = MerkleTree()
    leaves = []
    for number in range(count):
        tree.append(b"%d" % number)
        leaves.append(leaf_hash(b"%d" % number))
    part = data.draw(st.integers(1, count))
    root = naive_root(leaves)
    assert (tree.root(part), tree.root(count)) == (naive_root(leaves[:part]), root)
    assert tree.tile(0, 0, part) == b"".join(leaves[:part])
    index = data.draw(st.integers(0, count - 1))
    fn, sn, digest = index, count - 1, leaves[index]  # RFC 9162, 2.1.3.2
    for value in tree.inclusion(index, count):
        if fn & 1 or fn == sn:
            digest = node_hash(value, digest)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            digest = node_hash(digest, value)
        fn, sn = fn >> 1, sn >> 1
    assert digest == root


def test_a_tile_of_tiles() -> None:
    """C2SP tlog-tiles: a hash of level 1 is the root of a full tile of level 0."""
    tree = MerkleTree()
    leaves = []
    for number in range(300):
        tree.append(b"%d" % number)
        leaves.append(leaf_hash(b"%d" % number))
    assert tree.tile(0, 0, 256) == b"".join(leaves[:256])
    assert tree.tile(0, 1, 44) == b"".join(leaves[256:])
    assert tree.tile(1, 0, 1) == naive_root(leaves[:256])
    for level, index, width in ((0, 1, 45), (1, 0, 2), (2, 0, 1), (0, 0, 0), (0, 0, 257)):
        with pytest.raises(ValueError, match="tile"):
            tree.tile(level, index, width)
