"""Steps 4 to 8 of verifying a bundle: what needs the trusted root and sigstore-python (imported late)."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from rfc3161_client import decode_timestamp_response
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier, policy
from sigstore_models.common.v1 import TimeRange
from sigstore_models.trustroot.v1 import CertificateAuthority, TransparencyLogInstance
from sigstore_models.trustroot.v1 import TrustedRoot as RootModel

from cockpit.backends import sigstore_form
from cockpit.base.text import visible
from cockpit.evidence.checks import Check

_MAX_ROOT_BYTES = 1 << 20


class _Broken(Exception):
    """A step that did not hold."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified: a bundle of exact shape, the bytes it signs for, who must have signed."""

    form: dict[str, Any]
    data: bytes
    identity: str
    issuer: str
    canonical: bool

    @property
    def entry(self) -> dict[str, Any]:
        """The log entry."""
        entry: dict[str, Any] = self.form["verificationMaterial"]["tlogEntries"][0]
        return entry

    @property
    def certificate(self) -> bytes:
        """The signing certificate, DER."""
        return b64decode(self.form["verificationMaterial"]["certificate"]["rawBytes"])

    @property
    def stamp(self) -> bytes:
        """The time-stamp response, DER."""
        stamps = self.form["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
        return b64decode(stamps[0]["signedTimestamp"])

    @property
    def signature(self) -> str:
        """The signature, base64."""
        if "dsseEnvelope" in self.form:
            return str(self.form["dsseEnvelope"]["signatures"][0]["sig"])
        return str(self.form["messageSignature"]["signature"])


def run(subject: Subject, trusted_root_json: bytes) -> list[Check]:
    """Return the checks of steps 4 to 8, up to and with the first that fails; never raises."""
    checks: list[Check] = []
    steps = _Steps(subject, trusted_root_json)
    for name, step in (
        ("trusted root", steps.trust),
        ("log", steps.log),
        ("timestamp", steps.timestamp),
        ("trust window", steps.window),
        ("identity", steps.identity),
        ("signature", steps.signature),
    ):
        try:
            checks.append(Check(name, True, visible(step(), limit=400)))
        except Exception as error:  # noqa: BLE001 - whatever a library raises over a bundle is a refusal
            text = visible(str(error), limit=300) or type(error).__name__
            return [*checks, Check(name, False, text)]
    return checks


class _Steps:
    """The steps in their order; each leaves behind what later ones need."""

    _model: RootModel
    _instance: TransparencyLogInstance
    _authority: CertificateAuthority
    _moment: datetime
    _narrowed: str

    def __init__(self, subject: Subject, trusted_root_json: bytes) -> None:
        self._subject = subject
        self._json = trusted_root_json

    def trust(self) -> str:
        self._model = _root(self._json)
        names = {authority.subject.organization for authority in self._model.certificate_authorities}
        return ", ".join(sorted(names))

    def log(self) -> str:
        self._instance = _log(self._subject, self._model)
        return f"entry {self._subject.entry['logIndex']} of {self._instance.base_url}"

    def timestamp(self) -> str:
        self._authority, self._moment = _timestamp(self._subject, self._model)
        return self._moment.isoformat()

    def window(self) -> str:
        self._narrowed = _narrow(
            self._model, self._instance, self._authority, self._subject.certificate, self._moment
        )
        return "CA, log, CT log and time-stamp authority were valid"

    def identity(self) -> str:
        _identity(self._subject)
        return f"{self._subject.identity} by {self._subject.issuer}"

    def signature(self) -> str:
        _verify(self._subject, self._narrowed)
        return "certificate chain, SCT, inclusion, checkpoint, time-stamp and signature hold"


@lru_cache(maxsize=4)
def _root(trusted_root_json: bytes) -> RootModel:
    if len(trusted_root_json) > _MAX_ROOT_BYTES:
        raise _Broken(f"the trusted root has more than {_MAX_ROOT_BYTES} bytes")
    try:
        return RootModel.from_json(trusted_root_json)
    except ValueError as error:
        raise _Broken("the trusted root does not parse") from error


@lru_cache(maxsize=4)
def _verifier(narrowed: str) -> Verifier:
    return Verifier(trusted_root=TrustedRoot(RootModel.from_json(narrowed)))


def _log(subject: Subject, root: RootModel) -> TransparencyLogInstance:
    """Step 4."""
    entry = subject.entry
    proof = entry["inclusionProof"]
    log_id = b64decode(entry["logId"]["keyId"])
    known = [log for log in root.tlogs if log.log_id.key_id == log_id]
    if len(known) != 1 or not known[0].public_key.raw_bytes:
        raise _Broken("the entry is in a log that the trusted root does not name")
    if entry["logIndex"] != proof["logIndex"]:
        raise _Broken(f"the entry's index {entry['logIndex']} is not its proof's {proof['logIndex']}")
    if entry["kindVersion"] != {"kind": "hashedrekord", "version": "0.0.2"}:
        raise _Broken("only hashedrekord 0.0.2 entries (Rekor v2) are accepted")
    body = json.loads(b64decode(entry["canonicalizedBody"]))
    logged = body["spec"]["hashedRekordV002"]["signature"]
    if logged["content"] != subject.signature:
        raise _Broken("the log entry is for another signature")
    if b64decode(logged["verifier"]["x509Certificate"]["rawBytes"]) != subject.certificate:
        raise _Broken("the log entry is for another certificate")
    envelope = proof["checkpoint"]["envelope"]
    key = load_der_public_key(known[0].public_key.raw_bytes)
    if sigstore_form.normal_checkpoint(envelope, log_id, key) != envelope and subject.canonical:
        raise _Broken("the checkpoint is not in normal form")
    if str(sigstore_form.checkpoint_size(envelope)) != proof["treeSize"]:
        raise _Broken("the checkpoint is for another tree size than the proof")
    return known[0]


def _timestamp(subject: Subject, root: RootModel) -> tuple[CertificateAuthority, datetime]:
    """Step 5; that the stamp is over this signature, and holds, is step 8."""
    stamp = subject.stamp
    leaves = {
        index: x509.load_der_x509_certificate(authority.cert_chain.certificates[0].raw_bytes)
        for index, authority in enumerate(root.timestamp_authorities)
    }
    signer = sigstore_form.signer_of(stamp, list(leaves.values()))
    if sigstore_form.normal_timestamp(stamp, signer) != stamp and subject.canonical:
        raise _Broken("the time-stamp is not in normal form")
    index = next(index for index, leaf in leaves.items() if leaf == signer)
    moment = decode_timestamp_response(stamp).tst_info.gen_time
    return root.timestamp_authorities[index], moment.astimezone(UTC)


def _within(window: TimeRange | None, moment: datetime) -> bool:
    if window is None:
        return True
    return window.start <= moment and (window.end is None or moment <= window.end)


def _narrow(
    root: RootModel,
    log: TransparencyLogInstance,
    authority: CertificateAuthority,
    certificate: bytes,
    moment: datetime,
) -> str:
    """Step 6: return the trusted root, as JSON, with only what was valid when the signature was made.

    sigstore-python checks the end of `validFor` for time-stamp authorities only.
    """
    leaf = x509.load_der_x509_certificate(certificate)
    if leaf.public_bytes(Encoding.DER) != certificate:
        raise _Broken("the certificate is not DER")
    cas = [ca for ca in root.certificate_authorities if _within(ca.valid_for, moment)]
    if not cas:
        raise _Broken(f"no CA of the trusted root was valid at {moment.isoformat()}")
    if not _within(log.public_key.valid_for, moment):
        raise _Broken(f"the log's key was not valid at {moment.isoformat()}")
    if not _within(authority.valid_for, moment):
        raise _Broken(f"the time-stamp authority was not valid at {moment.isoformat()}")
    scts = leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
    [sct] = list(scts)
    logged = sct.timestamp.replace(tzinfo=UTC)
    ctlogs = [
        ct
        for ct in root.ctlogs
        if ct.log_id.key_id == sct.log_id
        and _within(ct.public_key.valid_for, moment)
        and _within(ct.public_key.valid_for, logged)
    ]
    if not ctlogs:
        raise _Broken(f"no key of the certificate's CT log was valid at {moment.isoformat()}")
    narrowed = root.model_copy(
        update={
            "certificate_authorities": cas,
            "tlogs": [log],
            "ctlogs": ctlogs,
            "timestamp_authorities": [authority],
        }
    )
    return narrowed.to_json()


def _identity(subject: Subject) -> None:
    """Step 7."""
    if not subject.identity or not subject.issuer:
        raise _Broken("no identity and issuer to expect")
    certificate = x509.load_der_x509_certificate(subject.certificate)
    policy.Identity(identity=subject.identity, issuer=subject.issuer).verify(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if len(list(names)) != 1:
        raise _Broken("the certificate names more than one identity")


def _verify(subject: Subject, narrowed: str) -> None:
    """Step 8."""
    verifier = _verifier(narrowed)
    bundle = Bundle.from_json(json.dumps(subject.form))
    who = policy.Identity(identity=subject.identity, issuer=subject.issuer)
    if "dsseEnvelope" in subject.form:
        kind, payload = verifier.verify_dsse(bundle, who)
        if kind != subject.form["dsseEnvelope"]["payloadType"] or payload != subject.data:
            raise _Broken("the envelope holds another payload")
    else:
        verifier.verify_artifact(subject.data, bundle, who)
    if b64encode(bundle.signature).decode() != subject.signature:
        raise _Broken("the bundle holds another signature")
