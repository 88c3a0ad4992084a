"""What touches sigstore-python to sign: blocking, imported late (about a second), run in a thread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import requests
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key
from sigstore import dsse
from sigstore._internal.rekor.client_v2 import RekorV2Client
from sigstore._internal.timestamp import TimestampAuthorityClient, TimestampError
from sigstore.errors import Error as SigstoreError
from sigstore.models import Bundle, ClientTrustConfig, TrustedRoot
from sigstore.oidc import IdentityError, IdentityToken
from sigstore.sign import SigningContext
from sigstore.verify import Verifier, policy

from cockpit.backends import sigstore_form
from cockpit.backends.signing import LogInterrupted
from cockpit.backends.tls import USUAL, Tls
from cockpit.backends.tls_requests import TrustingAdapter
from cockpit.base.errors import (
    BackendError,
    BackendGarbage,
    BackendRefused,
    BackendUnreachable,
    CockpitError,
    EvidenceError,
    UsageError,
)
from cockpit.base.text import visible

_GIVEN_UP = 499
"""What gRPC's gateway makes of CANCELLED."""


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle in normal form and what its log entry and time-stamp say."""

    bundle_json: bytes
    log_index: int
    entry_id: str
    stamped_at: datetime


class _Unstamped(Exception):
    """The time-stamp authority failed; not a TimestampError, which sigstore-python would only warn of."""


class _InsistentStamps(TimestampAuthorityClient):
    """Fails at once, so that no log entry is left behind for a signature without a time."""

    def request_timestamp(self, signature: bytes) -> Any:
        try:
            return super().request_timestamp(signature)
        except TimestampError as error:
            raise _Unstamped(str(error)) from error


class _BoundedHttp(TrustingAdapter):
    """Puts connect and read time-outs on requests that sigstore-python makes without."""

    def __init__(self, timeout: float, tls: Tls) -> None:
        super().__init__(tls)
        self._timeout = timeout

    def send(self, request: Any, *args: Any, **options: Any) -> requests.Response:
        options["timeout"] = self._timeout
        answer = super().send(request, *args, **options)
        framed = "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
        # Headers that were cut look like an answer without a body: the library takes their end for the end.
        if not framed and answer.status_code not in (204, 304) and not answer.content:
            raise requests.ConnectionError("the answer was cut", request=request)
        return answer


def sign(
    trust_config: str,
    token: str,
    data: bytes,
    *,
    statement: bool,
    identity: str,
    issuer: str,
    timeout: float,
    tls: Tls = USUAL,
) -> Made:
    """Sign `data`, or the in-toto statement it is; `timeout` bounds each single wait of the network.

    Raises UsageError (trust configuration), EvidenceError (statement), BackendUnreachable, BackendRefused
    or BackendGarbage, and nothing else.
    """
    sessions: list[requests.Session] = []
    try:
        config = config_of(trust_config)
        content = _statement(data) if statement else data
        context = context_of(config, timeout, sessions, tls)
        with context.signer(_identity_token(token), cache=True) as signer:
            made = (
                signer.sign_dsse(content)
                if isinstance(content, dsse.Statement)
                else signer.sign_artifact(content)
            )
        return _finish(made, config.trusted_root, data, identity=identity, issuer=issuer)
    except CockpitError:
        raise
    except Exception as error:
        raise explain(error) from error
    finally:
        for session in sessions:
            session.close()


def config_of(trust_config: str) -> ClientTrustConfig:
    """Return a trust configuration; raises UsageError."""
    try:
        return ClientTrustConfig.from_json(trust_config)
    except Exception as error:
        raise UsageError(
            "the Sigstore trust configuration cannot be used",
            hint="it must be a client trust configuration (v0.1) with valid CA, log and time-stamp services",
        ) from error


def _statement(data: bytes) -> dsse.Statement:
    try:
        return dsse.Statement(data)
    except SigstoreError as error:
        raise EvidenceError("not an in-toto v1 statement") from error


def _identity_token(token: str) -> IdentityToken:
    try:
        return IdentityToken(token)
    except IdentityError as error:
        raise BackendGarbage(f"the identity token cannot be used: {error}") from error


def context_of(
    config: ClientTrustConfig, timeout: float, sessions: list[requests.Session], tls: Tls = USUAL
) -> SigningContext:
    """Return what signs, its sessions bounded and put into `sessions`; raises UsageError."""
    context = SigningContext.from_trust_config(config)
    stamps = [_InsistentStamps(client.url) for client in context._tsa_clients]
    if not stamps:
        raise UsageError("the Sigstore trust configuration names no time-stamp authority")
    context._tsa_clients = [*stamps[:1]]
    clients: list[tuple[str, requests.Session]] = [(client.url, client._session) for client in stamps]
    clients.append((context._fulcio.url, context._fulcio.session))
    rekor = context._rekor
    if not isinstance(rekor, RekorV2Client):
        raise UsageError("the Sigstore trust configuration names no log with the version 2 interface")
    clients.append((rekor.url, rekor._session))
    for url, session in clients:
        session.mount("http://", _BoundedHttp(timeout, tls))
        session.mount("https://", _BoundedHttp(timeout, tls))
        # A proxy of the environment cannot reach this machine's loopback.
        session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost")
        sessions.append(session)
    return context


def _finish(made: Bundle, root: TrustedRoot, data: bytes, *, identity: str, issuer: str) -> Made:
    form = _normal_form(json.loads(made.to_json()), root)
    canonical = rfc8785.dumps(form)
    bundle = Bundle.from_json(canonical)
    who = policy.Identity(identity=identity, issuer=issuer)
    verifier = Verifier(trusted_root=root)
    if bundle._dsse_envelope is not None:
        verifier.verify_dsse(bundle, who)
    else:
        verifier.verify_artifact(data, bundle, who)
    stamps = bundle.verification_material.timestamp_verification_data
    assert stamps is not None
    entry = bundle.log_entry._inner
    return Made(
        bundle_json=canonical,
        log_index=entry.log_index,
        entry_id=sha256(b"\0" + entry.canonicalized_body).hexdigest(),
        stamped_at=stamps.rfc3161_timestamps[0].tst_info.gen_time.astimezone(UTC),
    )


def _normal_form(form: dict[str, Any], root: TrustedRoot) -> dict[str, Any]:
    from base64 import b64decode, b64encode

    material = form["verificationMaterial"]
    [entry] = material["tlogEntries"]
    if entry.get("integratedTime") == "0":  # protobuf's JSON may write the absent value out
        del entry["integratedTime"]
    log_id = b64decode(entry["logId"]["keyId"])
    for log in root._inner.tlogs:
        if log.log_id.key_id == log_id and log.public_key.raw_bytes:
            key = load_der_public_key(log.public_key.raw_bytes)
            checkpoint = entry["inclusionProof"]["checkpoint"]
            checkpoint["envelope"] = sigstore_form.normal_checkpoint(checkpoint["envelope"], log_id, key)
            break
    else:
        raise BackendGarbage("the entry is in a log that the trusted root does not name")
    leaves = [
        x509.load_der_x509_certificate(authority.cert_chain.certificates[0].raw_bytes)
        for authority in root._inner.timestamp_authorities
    ]
    for stamp in material["timestampVerificationData"]["rfc3161Timestamps"]:
        response = b64decode(stamp["signedTimestamp"])
        normal = sigstore_form.normal_timestamp(response, sigstore_form.signer_of(response, leaves))
        stamp["signedTimestamp"] = b64encode(normal).decode()
    return form


def explain(error: Exception) -> BackendError:
    """Turn whatever sigstore-python and requests raise into one of the cockpit's errors."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, requests.HTTPError) and link.response is not None:
            return _status(link.response)
        if isinstance(link, requests.exceptions.JSONDecodeError):
            return BackendGarbage("the answer is not JSON")
        if isinstance(link, requests.RequestException):
            where = visible(str(link.request.url), limit=200) if link.request is not None else ""
            return BackendUnreachable(f"{type(link).__name__} while signing", where=where)
        link = link.__cause__ or link.__context__
    text = visible(str(error), limit=300) or type(error).__name__
    return BackendGarbage(f"the signing services gave what cannot be used: {text}")


def _status(response: requests.Response) -> BackendError:
    where = visible(str(response.url), limit=200)
    text = visible(response.text, limit=200)
    if response.status_code == _GIVEN_UP:
        return LogInterrupted(f"answered {response.status_code}: {text}", where=where)
    if response.status_code >= 500 or response.status_code == 429:
        return BackendUnreachable(f"answered {response.status_code}: {text}", where=where)
    return BackendRefused(
        f"answered {response.status_code}: {text}",
        where=where,
        hint="check identity token, audience and trust configuration",
        status=response.status_code,
    )
