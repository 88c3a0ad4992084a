"""What can be found out about the signing services without signing anything: nothing here is ever logged.

Blocking, and imports sigstore (about a second): run it in a thread.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import requests
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from rfc3161_client import VerificationError, VerifierBuilder
from sigstore._internal.rekor.client_v2 import RekorV2Client
from sigstore.models import TrustedRoot

from cockpit.backends import sigstore_form
from cockpit.backends.sigstore_client import config_of, context_of, explain
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import BackendGarbage, CockpitError
from cockpit.base.text import visible


@dataclass(frozen=True, slots=True)
class Services:
    """The services a signature would go through: certificate authority, log, time-stamp authority."""

    fulcio: str
    rekor: str
    tsa: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself, under its own signature."""

    origin: str
    size: int


def services(trust_config: str) -> Services:
    """Return the services a trust configuration selects; raises UsageError."""
    sessions: list[requests.Session] = []
    try:
        context = context_of(config_of(trust_config), 1.0, sessions)
        assert isinstance(context._rekor, RekorV2Client)  # context_of has seen to it
        return Services(context._fulcio.url, context._rekor.url, context._tsa_clients[0].url)
    except CockpitError:
        raise
    except Exception as error:
        raise explain(error) from error
    finally:
        _close(sessions)


def check_authority(trust_config: str, bundle: bytes) -> str:
    """Return the name of the root that the CA's trust bundle ends in, which must be trusted.

    `bundle` is Fulcio's answer to `GET /api/v2/trustBundle`. Raises BackendGarbage.
    """
    root = config_of(trust_config).trusted_root
    trusted = {
        authority.cert_chain.certificates[-1].raw_bytes: authority
        for authority in root._inner.certificate_authorities
    }
    try:
        chains = [one["certificates"] for one in json.loads(bundle)["chains"]]
        roots = [x509.load_pem_x509_certificate(chain[-1].encode()) for chain in chains]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise BackendGarbage("the CA's trust bundle cannot be read") from None
    for certificate in roots:
        if certificate.public_bytes(Encoding.DER) in trusted:
            return visible(certificate.subject.rfc4514_string(), limit=100)
    raise BackendGarbage(
        "the CA's root is none that the trust configuration trusts",
        hint="signatures made with it would not verify: take the trust configuration of these services",
    )


def check_checkpoint(trust_config: str, note: bytes) -> Checkpoint:
    """Return what a log's signed checkpoint says, which a trusted log must have signed.

    Raises BackendGarbage.
    """
    try:
        text = note.decode()
    except UnicodeDecodeError:
        raise BackendGarbage("the log's checkpoint is not UTF-8 text") from None
    for log in config_of(trust_config).trusted_root._inner.tlogs:
        if not log.public_key.raw_bytes:
            continue
        key = load_der_public_key(log.public_key.raw_bytes)
        try:
            form = sigstore_form.normal_checkpoint(text, log.log_id.key_id, key)
            signed, _, rest = form.partition("\n\n")
            signature = base64.b64decode(rest.strip().rpartition(" ")[2], validate=True)[4:]
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, f"{signed}\n".encode())
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, f"{signed}\n".encode(), ec.ECDSA(hashes.SHA256()))
            else:
                continue
            lines = signed.split("\n")
            return Checkpoint(visible(lines[0], limit=100), int(lines[1]))
        except (sigstore_form.NotNormal, InvalidSignature, binascii.Error, ValueError, IndexError):
            continue
    raise BackendGarbage(
        "no trusted log has signed the checkpoint",
        hint="signatures logged there would not verify: take the trust configuration of these services",
    )


def stamped(trust_config: str, timeout: float, tls: Tls = USUAL) -> datetime:
    """Have random bytes time-stamped and return the time, when a trusted authority has signed it.

    A time-stamp is kept by whoever asked for it and by nobody else. `timeout` seconds bound each wait of the
    network. Raises BackendError.
    """
    message = secrets.token_bytes(32)
    sessions: list[requests.Session] = []
    config = config_of(trust_config)
    try:
        context = context_of(config, timeout, sessions, tls)
        response = context._tsa_clients[0].request_timestamp(message)
        for verifier in _verifiers(config.trusted_root):
            try:
                verifier.build().verify_message(response, message)
            except VerificationError:
                continue
            return response.tst_info.gen_time.astimezone(UTC)
    except CockpitError:
        raise
    except Exception as error:
        raise explain(error) from error
    finally:
        _close(sessions)
    raise BackendGarbage(
        "no trusted authority has signed the time-stamp",
        hint="signatures with it would not verify: take the trust configuration of these services",
    )


def _verifiers(root: TrustedRoot) -> list[VerifierBuilder]:
    found = []
    for authority in root.get_timestamp_authorities():
        leaf, *between = authority.certificates(allow_expired=True)
        if not between:
            continue
        builder = VerifierBuilder().tsa_certificate(leaf).add_root_certificate(between.pop())
        for one in between:
            builder = builder.add_intermediate_certificate(one)
        found.append(builder)
    return found


def _close(sessions: list[requests.Session]) -> None:
    for session in sessions:
        session.close()
