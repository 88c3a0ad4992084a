"""What people sign: requests for approval, approvals and break-glass, as in-toto statements.

A request is canonical JSON (RFC 8785); an approval is a statement whose one subject is the request's SHA-256,
and whose predicate says once more what was approved, so that each tampering has a name of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import Field, model_validator

from cockpit.base.clock import iso, parse_iso
from cockpit.base.errors import MessageInvalid
from cockpit.rpc.messages import Message, Sha256

APPROVAL_TYPE = "https://release-cockpit.dev/attestations/approval/v1"
GLASS_TYPE = "https://release-cockpit.dev/attestations/break-glass/v1"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
SHORTEST_REASON = 20
"""Characters a reason for access must have at least, blanks at the ends set aside."""

_Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
_Short = Annotated[str, Field(min_length=1, max_length=500)]
_Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]
_Time = Annotated[
    str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z$", description="RFC 3339, UTC")
]


def digest_of(about: Mapping[str, str]) -> str:
    """Return the SHA-256, 64 hexadecimal digits, of what is asked about, as canonical JSON."""
    return hashlib.sha256(_canonical(dict(about))).hexdigest()


class ApprovalRequest(Message):
    """A request as people sign it. `subject` is `digest_of(about)`; `nonce` makes it this run's alone."""

    format: Literal["approval-request.v1"] = "approval-request.v1"
    run_id: _Short
    version: _Short
    environment: _Short
    plan_sha256: Sha256
    request: _Id
    asked: _Id
    about: Annotated[dict[str, Annotated[str, Field(max_length=2000)]], Field(min_length=1, max_length=500)]
    subject: Sha256
    text: Annotated[str, Field(max_length=2000)]
    requester: _Short
    threshold: Annotated[int, Field(ge=1, le=20)]
    groups: Annotated[list[_Short], Field(max_length=100)] = []
    from_each: bool = False
    step_up: Literal["none", "totp", "oidc"] = "none"
    asked_at: _Time
    expires: _Time
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @model_validator(mode="after")
    def _one_subject(self) -> ApprovalRequest:
        if self.subject != digest_of(self.about):
            raise ValueError("the subject is not the digest of what is asked about")
        if parse_iso(self.expires) <= parse_iso(self.asked_at):
            raise ValueError("it expires before it is asked")
        return self


class Sha256Of(Message):
    """A digest as in-toto writes it."""

    sha256: Sha256


class Subject(Message):
    """What a statement is about."""

    name: _Short
    digest: Sha256Of


class ApprovalPredicate(Message):
    """What an approver says: the decision, why, and about which request of which run of which release."""

    release: _Short
    run_id: _Short
    plan_sha256: Sha256
    request: _Id
    asked: _Id
    decision: Literal["approve", "reject"]
    reason: _Reason
    approver: _Short
    signed_at: _Time
    expires: _Time


class ApprovalStatement(Message):
    """An approval or rejection, in-toto Statement v1."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    predicate_type: Literal["https://release-cockpit.dev/attestations/approval/v1"] = Field(
        alias="predicateType"
    )
    predicate: ApprovalPredicate


class GlassPredicate(Message):
    """Who breaks the glass over which phase gate, and why; it has to be used before it `expires`."""

    release: _Short
    run_id: _Short
    plan_sha256: Sha256
    gate: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    reason: _Reason
    asker: _Short
    signed_at: _Time
    expires: _Time
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class GlassStatement(Message):
    """Somebody's signed wish to override a failed phase gate, in-toto Statement v1."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    predicate_type: Literal["https://release-cockpit.dev/attestations/break-glass/v1"] = Field(
        alias="predicateType"
    )
    predicate: GlassPredicate


def request_bytes(request: ApprovalRequest) -> bytes:
    """Return a request as it is signed: canonical JSON."""
    return _canonical(request.model_dump(mode="json"))


def request_name(request: ApprovalRequest) -> str:
    """Return the name a statement's subject has."""
    return f"approval-request/{request.request}"


def statement_for(
    request: ApprovalRequest,
    *,
    decision: Literal["approve", "reject"],
    reason: str,
    approver: str,
    signed_at: datetime,
) -> dict[str, Any]:
    """Return the statement `approver` (a person's id in the plan) signs about a request."""
    return _dump(
        ApprovalStatement.model_validate(
            {
                "_type": STATEMENT_TYPE,
                "subject": [
                    {
                        "name": request_name(request),
                        "digest": {"sha256": hashlib.sha256(request_bytes(request)).hexdigest()},
                    }
                ],
                "predicateType": APPROVAL_TYPE,
                "predicate": {
                    "release": request.version,
                    "run_id": request.run_id,
                    "plan_sha256": request.plan_sha256,
                    "request": request.request,
                    "asked": request.asked,
                    "decision": decision,
                    "reason": reason,
                    "approver": approver,
                    "signed_at": iso(signed_at),
                    "expires": request.expires,
                },
            }
        )
    )


def glass_about(run_id: str, plan_sha256: str, gate: str, images: Mapping[str, str]) -> dict[str, str]:
    """Return what break-glass is about: one gate of one run, with its plan and images."""
    return {
        "run": run_id,
        "plan": plan_sha256,
        "gate": gate,
        **{f"image {name}": digest for name, digest in images.items()},
    }


def glass_statement(
    predicate: GlassPredicate,
    images: Mapping[str, str],
) -> dict[str, Any]:
    """Return the statement its asker signs."""
    about = glass_about(predicate.run_id, predicate.plan_sha256, predicate.gate, images)
    return _dump(
        GlassStatement.model_validate(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": f"gate/{predicate.gate}", "digest": {"sha256": digest_of(about)}}],
                "predicateType": GLASS_TYPE,
                "predicate": predicate.model_dump(mode="json"),
            }
        )
    )


def _dump(statement: ApprovalStatement | GlassStatement) -> dict[str, Any]:
    return statement.model_dump(mode="json", by_alias=True)


def _canonical(document: Any) -> bytes:
    try:
        raw: bytes = rfc8785.dumps(document)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise MessageInvalid(f"there is no canonical JSON of it: {error}") from None
    return raw
