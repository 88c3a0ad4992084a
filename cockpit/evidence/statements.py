"""Checking what people signed, offline: who it was, and that it is about exactly this.

1. `size`, `certificate`: a bundle of bounded size with a certificate that names somebody.       here
2. `identity`: one of the plan's people has that name; the plan's issuer vouches for it.         here
3. `signature`: every step of verifying a bundle, with its time-stamp.                           signatures
4. `predicate type`, `form`: an approval, and nothing else; exactly its fields.                  here
5. `release`, `plan`, `run`, `request`: each is the one asked about; so is the digest.           here
6. `approver`: the statement names the person who signed it.                                     here
7. `time`: stamped while the request was open.                                                   here
8. `requester`, `group`: somebody else than who asked, and one of those who were asked.          here

A statement that fails has one problem, which begins with the name of its step.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel

from cockpit.base.clock import parse_iso
from cockpit.base.errors import CockpitError, MessageInvalid
from cockpit.base.text import visible
from cockpit.evidence.artifact_signatures import first_problem
from cockpit.evidence.checks import Check, passed
from cockpit.evidence.signatures import verify_statement
from cockpit.plan.people import Person
from cockpit.plan.registry import Registry, entitled, is_person
from cockpit.rpc import approval
from cockpit.rpc.approval import ApprovalRequest, ApprovalStatement, GlassPredicate, GlassStatement
from cockpit.rpc.validate import check as check_message

M = TypeVar("M", bound=BaseModel)

MAX_STATEMENT_BYTES = 48 * 1024
"""Largest bundle of a person; it has to fit into a command of the control socket."""

BEFORE = timedelta(seconds=5)
"""How far a time-stamp authority's clock may be behind ours when a request is made."""

GLASS_FRESH = timedelta(minutes=10)
"""How long after it was signed a break-glass may be used."""

_APART = timedelta(minutes=10)


@dataclass(frozen=True)
class Checked:
    """What came of a statement; `problem` is empty when it holds, `groups` are those it counts for."""

    problem: str = ""
    person: str = ""
    identity: str = ""
    decision: str = ""
    reason: str = ""
    groups: tuple[str, ...] = ()
    stamped_at: datetime | None = None


@dataclass(frozen=True)
class CheckedGlass:
    """What came of a signed break-glass; `predicate` is there when it holds."""

    problem: str = ""
    person: str = ""
    identity: str = ""
    predicate: GlassPredicate | None = None


class _Refused(Exception):
    """A step that did not hold: its name and what was found; who it seems to be from, when known."""

    def __init__(self, step: str, what: str, identity: str = "") -> None:
        super().__init__(visible(f"{step}: {what}", limit=500))
        self.identity = identity


def check_approval(
    bundle: bytes, request: ApprovalRequest, registry: Registry, trusted_root: bytes
) -> Checked:
    """Check an approval or rejection of a request; blocking, a few milliseconds; never raises for content.

    That the person was not counted before, a second factor, and what the request has come to since are for
    whoever keeps the request.
    """
    identity = ""
    try:
        signed = _signed(bundle, registry, trusted_root)
        identity = signed.identity
        statement = _read(ApprovalStatement, signed.statement, approval.APPROVAL_TYPE)
        said = statement.predicate
        _same("release", said.release, request.version)
        _same("plan", said.plan_sha256, request.plan_sha256)
        _same("run", said.run_id, request.run_id)
        _same("request", said.request, request.request)
        _same("request", said.asked, request.asked)
        _same("request", said.expires, request.expires)
        subject = statement.subject[0]
        _same("request", subject.name, approval.request_name(request))
        wanted = hashlib.sha256(approval.request_bytes(request)).hexdigest()
        if subject.digest.sha256 != wanted:
            raise _Refused("request", "it is about another content of the request", identity)
        _approver(signed, said.approver)
        _times(signed, said.signed_at, parse_iso(request.asked_at), parse_iso(request.expires))
        if is_person(signed.person, request.requester):
            raise _Refused("requester", f"{signed.person.id} asked for it and cannot approve it")
        groups = entitled(signed.person, request.groups)
        if not groups:
            raise _Refused("group", f"{signed.person.id} is in none of {', '.join(request.groups)}")
    except _Refused as error:
        return Checked(problem=str(error), identity=error.identity or identity)
    except (CockpitError, ValueError) as error:
        return Checked(problem=visible(f"form: {error}", limit=500), identity=identity)
    return Checked(
        person=signed.person.id,
        identity=signed.identity,
        decision=said.decision,
        reason=said.reason,
        groups=groups,
        stamped_at=signed.stamped_at,
    )


def check_glass(
    bundle: bytes,
    *,
    run_id: str,
    version: str,
    plan_sha256: str,
    images: Mapping[str, str],
    since: datetime,
    now: datetime,
    registry: Registry,
    trusted_root: bytes,
) -> CheckedGlass:
    """Check a signed break-glass as it comes in at `now`; `since` is when the run was opened."""
    identity = ""
    try:
        signed = _signed(bundle, registry, trusted_root)
        identity = signed.identity
        statement = _read(GlassStatement, signed.statement, approval.GLASS_TYPE)
        said = statement.predicate
        _same("release", said.release, version)
        _same("plan", said.plan_sha256, plan_sha256)
        _same("run", said.run_id, run_id)
        about = approval.glass_about(run_id, plan_sha256, said.gate, images)
        if statement.subject[0].digest.sha256 != approval.digest_of(about):
            raise _Refused("images", "it is about another gate or other images", identity)
        _approver(signed, said.asker)
        if len(said.reason.strip()) < approval.SHORTEST_REASON:
            raise _Refused("reason", f"at least {approval.SHORTEST_REASON} characters are needed")
        _times(signed, said.signed_at, since, parse_iso(said.expires))
        if now > min(parse_iso(said.expires), signed.stamped_at + GLASS_FRESH):
            raise _Refused("time", "it was signed too long ago")
    except _Refused as error:
        return CheckedGlass(problem=str(error), identity=error.identity or identity)
    except (CockpitError, ValueError) as error:
        return CheckedGlass(problem=visible(f"form: {error}", limit=500), identity=identity)
    return CheckedGlass(person=signed.person.id, identity=signed.identity, predicate=said)


def read_request(raw: bytes) -> ApprovalRequest:
    """Return a request as it came from a file; raises MessageInvalid unless it is canonical JSON."""
    request = check_message(ApprovalRequest, raw)
    if approval.request_bytes(request) != raw.rstrip(b"\n"):
        raise MessageInvalid("the request is not in its canonical form, so nobody can have been asked it")
    return request


@dataclass(frozen=True)
class _Signed:
    person: Person
    identity: str
    stamped_at: datetime
    statement: dict[str, Any]


def _signed(bundle: bytes, registry: Registry, trusted_root: bytes) -> _Signed:
    if len(bundle) > MAX_STATEMENT_BYTES:
        raise _Refused("size", f"a bundle of {len(bundle)} bytes; at most {MAX_STATEMENT_BYTES} are read")
    names = _names(bundle)
    shown = ", ".join(names)
    people = registry.with_identity(names)
    if not people:
        raise _Refused("identity", f"nobody in the plan is {shown or 'unnamed'}", shown)
    # Two people may share a name and differ in who vouches for it.
    found: list[list[Check]] = []
    for person in people:
        statement, checks = verify_statement(
            bundle,
            trusted_root_json=trusted_root,
            identity=person.identity,
            issuer=registry.issuer_of(person),
        )
        if passed(checks) and statement:
            return _Signed(person, person.identity, _stamped(bundle), statement)
        found.append(checks)
    raise _Refused(*_why(found, people, registry), shown)


def _why(found: Sequence[list[Check]], people: Sequence[Person], registry: Registry) -> tuple[str, str]:
    checks = found[0]
    bad = next((check for check in checks if not check.ok), None)
    if bad is not None and bad.name == "identity":
        issuers = ", ".join(registry.issuer_of(person) for person in people)
        return "issuer", f"{people[0].identity} is not vouched for by {issuers}"
    return "signature", first_problem(checks)


def _names(bundle: bytes) -> tuple[str, ...]:
    """Return whom the certificate names; nothing of it is believed yet."""
    from cryptography import x509

    try:
        raw = json.loads(bundle)["verificationMaterial"]["certificate"]["rawBytes"]
        certificate = x509.load_der_x509_certificate(b64decode(raw, validate=True))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [
            *names.get_values_for_type(x509.RFC822Name),
            *names.get_values_for_type(x509.UniformResourceIdentifier),
        ]
    except (ValueError, LookupError, TypeError, RecursionError, x509.ExtensionNotFound) as error:
        raise _Refused("certificate", f"no bundle with a certificate: {error}") from None
    return tuple(str(name) for name in found[:5])


def _stamped(bundle: bytes) -> datetime:
    from rfc3161_client import decode_timestamp_response

    stamps = json.loads(bundle)["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    moment = decode_timestamp_response(b64decode(stamps[0]["signedTimestamp"])).tst_info.gen_time
    return moment.astimezone(UTC)


def _read(model: type[M], statement: dict[str, Any], kind: str) -> M:
    if statement.get("predicateType") != kind:
        raise _Refused("predicate type", f"{statement.get('predicateType')} instead of {kind}")
    try:
        return check_message(model, json.dumps(statement).encode())
    except MessageInvalid as error:
        raise _Refused("form", str(error)) from None


def _same(step: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise _Refused(step, f"it is about {found}, not {wanted}")


def _approver(signed: _Signed, said: str) -> None:
    if said != signed.person.id:
        raise _Refused("approver", f"it speaks for {said} and is signed by {signed.person.id}")


def _times(signed: _Signed, said: str, since: datetime, until: datetime) -> None:
    stamped = signed.stamped_at
    if stamped < since - BEFORE:
        raise _Refused("time", f"stamped at {stamped.isoformat()}, before it was asked")
    if stamped >= until:
        raise _Refused("time", f"stamped at {stamped.isoformat()}, after it expired")
    if abs(parse_iso(said) - stamped) > _APART:
        raise _Refused("time", f"it says {said} and was stamped at {stamped.isoformat()}")
