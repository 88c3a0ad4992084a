"""Offline, strict verification of Sigstore bundles: every byte of the file matters.

1. `form`: canonical JSON (RFC 8785), byte for byte; no number, no duplicate name.         here
2. `shape`: exactly the fields of a v0.3 bundle with certificate, one entry, one stamp;
   decoded and encoded again it is the same (base64 bits, integers, absent fields).         here
3. `content`: digest algorithm, payload type, one signature; the payload is the one given.  here
4. `log`: known log id; both indexes, sizes and kinds agree; the entry holds this
   certificate and signature; the checkpoint is in normal form.                             sigstore_check
5. `timestamp`: strict DER in normal form, by an authority of the trusted root.             sigstore_check
6. `trust window`: CA, log, CT log and authority were valid at the stamped time.            sigstore_check
7. `identity`: the certificate names the expected identity and issuer, and nobody else.     sigstore_check
8. `signature`: chain, SCT, inclusion proof, checkpoint, stamp, signature (sigstore-python). sigstore_check

A step that fails ends the verification: what follows could not be believed.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from cockpit.base.text import visible
from cockpit.evidence.checks import Check, passed

if TYPE_CHECKING:
    from cockpit.evidence.sigstore_check import Subject

MAX_BUNDLE_BYTES = 8 << 20
"""Largest bundle read, in bytes."""

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

_TEXT: Any = str
_MATERIAL: dict[str, Any] = {
    "certificate": {"rawBytes": _TEXT},
    "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": _TEXT}]},
    "tlogEntries": [
        {
            "canonicalizedBody": _TEXT,
            "inclusionProof": {
                "checkpoint": {"envelope": _TEXT},
                "hashes": _TEXT,  # a list of any length, checked on its own
                "logIndex": _TEXT,
                "rootHash": _TEXT,
                "treeSize": _TEXT,
            },
            "kindVersion": {"kind": _TEXT, "version": _TEXT},
            "logId": {"keyId": _TEXT},
            "logIndex": _TEXT,
        }
    ],
}
_MESSAGE = {
    "mediaType": _TEXT,
    "messageSignature": {"messageDigest": {"algorithm": _TEXT, "digest": _TEXT}, "signature": _TEXT},
    "verificationMaterial": _MATERIAL,
}
_ENVELOPE = {
    "dsseEnvelope": {"payload": _TEXT, "payloadType": _TEXT, "signatures": [{"sig": _TEXT}]},
    "mediaType": _TEXT,
    "verificationMaterial": _MATERIAL,
}


class _Broken(Exception):
    """A step that did not hold."""


def verify_bundle(
    bundle_json: bytes,
    payload: bytes | None,
    *,
    trusted_root_json: bytes,
    identity: str,
    issuer: str,
    canonical: bool = True,
) -> list[Check]:
    """Verify a bundle over `payload`, or, with `None`, a DSSE bundle over the payload within.

    `identity` and `issuer` are compared exactly. `canonical=False` is for bundles that others have made:
    their JSON may be spaced and ordered freely, and checkpoint and time-stamp need no normal form, so bytes
    that no signature covers may differ. Never raises for what a bundle holds; the result has at least one
    check, and only `passed(...)` says that the bundle is good.
    """
    return _verify(
        bundle_json,
        payload,
        trusted_root_json=trusted_root_json,
        identity=identity,
        issuer=issuer,
        canonical=canonical,
    )[1]


def verify_statement(
    bundle_json: bytes,
    *,
    trusted_root_json: bytes,
    identity: str,
    issuer: str,
    canonical: bool = True,
    predicate_type: str | None = None,
    subject_sha256: str | None = None,
) -> tuple[dict[str, Any], list[Check]]:
    """Verify a DSSE bundle and return its in-toto v1 statement; an empty one unless every check held.

    `predicate_type` and `subject_sha256` (64 hexadecimal digits), where given, must be the statement's.
    """
    raw, checks = _verify(
        bundle_json,
        None,
        trusted_root_json=trusted_root_json,
        identity=identity,
        issuer=issuer,
        canonical=canonical,
    )
    if not passed(checks) or raw is None:
        return {}, checks
    try:
        statement = _statement(raw, predicate_type, subject_sha256)
    except _Broken as error:
        return {}, [*checks, Check("statement", False, visible(str(error), limit=400))]
    return statement, [*checks, Check("statement", True, f"predicate {visible(statement['predicateType'])}")]


def _verify(
    bundle_json: bytes,
    payload: bytes | None,
    *,
    trusted_root_json: bytes,
    identity: str,
    issuer: str,
    canonical: bool,
) -> tuple[bytes | None, list[Check]]:
    checks: list[Check] = []
    inner: bytes | None = None
    step = "form"
    try:
        form = _form(bundle_json, canonical=canonical)
        checks.append(Check("form", True, "canonical JSON" if canonical else "JSON, not required canonical"))
        step = "shape"
        _shape(form)
        checks.append(Check("shape", True, MEDIA_TYPE))
        step = "content"
        inner, data = _content(form, payload)
        checks.append(Check("content", True, f"sha256 {hashlib.sha256(data).hexdigest()}"))
    except _Broken as error:
        return None, [*checks, Check(step, False, visible(str(error), limit=400))]

    from cockpit.evidence import sigstore_check

    subject: Subject = sigstore_check.Subject(
        form=form, data=data, identity=identity, issuer=issuer, canonical=canonical
    )
    return inner, [*checks, *sigstore_check.run(subject, trusted_root_json)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name given twice")
    return found


def _form(bundle_json: bytes, *, canonical: bool) -> dict[str, Any]:
    import rfc8785

    if len(bundle_json) > MAX_BUNDLE_BYTES:
        raise _Broken(f"the bundle has more than {MAX_BUNDLE_BYTES} bytes")
    try:
        form = json.loads(bundle_json, object_pairs_hook=_unique)
        again = rfc8785.dumps(form)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"not JSON: {error}") from error
    if not isinstance(form, dict):
        raise _Broken("not a JSON object")
    if canonical and again != bundle_json:
        raise _Broken("not canonical JSON (RFC 8785)")
    if not canonical:
        _drop_written_defaults(form)
    return form


def _drop_written_defaults(form: dict[str, Any]) -> None:
    """Take away the time a log of this version never gives, where protobuf's JSON wrote its absence out."""
    material = form.get("verificationMaterial")
    entries = material.get("tlogEntries") if isinstance(material, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("integratedTime") == "0":
            del entry["integratedTime"]


def _shape(form: dict[str, Any]) -> None:
    model = _ENVELOPE if "dsseEnvelope" in form else _MESSAGE
    _compare(form, model, "bundle")
    if form["mediaType"] != MEDIA_TYPE:
        raise _Broken(f"media type {form['mediaType']}; only {MEDIA_TYPE} is accepted")

    from sigstore_models.bundle.v1 import Bundle

    try:
        again = json.loads(Bundle.from_json(json.dumps(form)).to_json())
    except ValueError as error:
        raise _Broken(f"not a bundle: {error}") from error
    if again != form:
        raise _Broken("decoded and encoded again, it is another bundle")


def _compare(value: Any, model: Any, where: str) -> None:
    if where.endswith(".hashes"):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _Broken(f"{where} is not a list of texts")
    elif isinstance(model, dict):
        if not isinstance(value, dict) or value.keys() != model.keys():
            raise _Broken(f"{where} does not have exactly the fields {', '.join(model)}")
        for name, inner in model.items():
            _compare(value[name], inner, f"{where}.{name}")
    elif isinstance(model, list):
        if not isinstance(value, list) or len(value) != 1:
            raise _Broken(f"{where} does not have exactly one element")
        _compare(value[0], model[0], f"{where}[0]")
    elif not isinstance(value, str):
        raise _Broken(f"{where} is not text")


def _content(form: dict[str, Any], payload: bytes | None) -> tuple[bytes | None, bytes]:
    """Return the DSSE payload, if it is a DSSE bundle, and the bytes that are signed for."""
    if "dsseEnvelope" in form:
        envelope = form["dsseEnvelope"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise _Broken(f"payload type {envelope['payloadType']}; only {PAYLOAD_TYPE} is accepted")
        inner = b64decode(envelope["payload"], validate=True)
        if payload is not None and payload != inner:
            raise _Broken("the envelope holds another payload")
        return inner, inner
    if payload is None:
        raise _Broken("the bundle is detached and no payload was given")
    digest = form["messageSignature"]["messageDigest"]
    if digest["algorithm"] != "SHA2_256":
        raise _Broken(f"digest algorithm {digest['algorithm']}; only SHA2_256 is accepted")
    if b64decode(digest["digest"], validate=True) != hashlib.sha256(payload).digest():
        raise _Broken("the bundle is for other bytes")
    return None, payload


def _statement(raw: bytes, predicate_type: str | None, subject_sha256: str | None) -> dict[str, Any]:
    try:
        statement = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Broken(f"the payload is not JSON: {error}") from error
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise _Broken("the payload is not an in-toto v1 statement")
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or not subjects:
        raise _Broken("the statement has no subject")
    digests = []
    for subject in subjects:
        digest = subject.get("digest") if isinstance(subject, dict) else None
        if not isinstance(digest, dict) or not isinstance(digest.get("sha256"), str):
            raise _Broken("a subject without a SHA-256 digest")
        digests.append(digest["sha256"])
    kind = statement.get("predicateType")
    if not isinstance(kind, str) or not kind:
        raise _Broken("the statement has no predicate type")
    if predicate_type is not None and kind != predicate_type:
        raise _Broken(f"predicate type {kind} instead of {predicate_type}")
    if subject_sha256 is not None and subject_sha256 not in digests:
        raise _Broken(f"the statement is not about sha256:{subject_sha256}")
    return statement
