"""People who sign against the Sigstore stand-in, and requests to sign."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from cockpit.backends.signing import SigstoreSigning
from cockpit.base.clock import iso
from cockpit.plan.people import Approvals
from cockpit.plan.registry import Registry
from cockpit.rehearsal.sigstore.interface import Sigstore
from cockpit.rpc.approval import ApprovalRequest, digest_of, statement_for

PLAN = "ab" * 32
IMAGES = {"web": "sha256:" + "1" * 64}
ABOUT = {"promotion pack": "cd" * 32, "image web": IMAGES["web"]}
TOTP = "JBSWY3DPEHPK3PXP" * 2


def approvals(**changes: Any) -> Approvals:
    """Return people in groups: ann and bob are SRE, cem is security, dee is in no group."""
    return Approvals.model_validate(
        {
            "people": [
                {"id": "@ann", "identity": "ann@example.org", "groups": ["sre"]},
                {"id": "@bob", "identity": "bob@example.org", "groups": ["sre"]},
                {"id": "@cem", "identity": "cem@example.org", "groups": ["security"]},
                {"id": "@dee", "identity": "dee@example.org"},
            ],
            "rules": [{"asked": "promote", "groups": ["sre", "security"]}],
            "break_glass": {"overridable": ["perf", "dr"]},
            **changes,
        }
    )


def registry(server: Sigstore, **changes: Any) -> Registry:
    """Return the people, vouched for by the stand-in's issuer."""
    return Registry(approvals(**changes), server.issuer)


def request(*, now: datetime | None = None, lasts: float = 3600.0, **changes: Any) -> ApprovalRequest:
    """Return a request that is open now."""
    now = now or datetime.now(UTC)
    return ApprovalRequest.model_validate(
        {
            "run_id": "20250923T080000Z-abcdef",
            "version": "v3.0.0",
            "environment": "prod",
            "plan_sha256": PLAN,
            "request": "promote-1",
            "asked": "promote",
            "about": ABOUT,
            "subject": digest_of(changes.get("about", ABOUT)),
            "text": "promote v3.0.0 to prod",
            "requester": "@dee",
            "threshold": 1,
            "groups": ["sre", "security"],
            "asked_at": iso(now),
            "expires": iso(now + timedelta(seconds=lasts)),
            "nonce": "0" * 32,
            **changes,
        }
    )


def signer(server: Sigstore, identity: str) -> SigstoreSigning:
    """Return a client that signs as somebody."""

    async def token() -> str:
        return server.token(identity)

    return SigstoreSigning(server.trust_config(), token=token, identity=identity, issuer=server.issuer)


async def sign(server: Sigstore, identity: str, statement: Mapping[str, Any]) -> bytes:
    """Return the bundle of a statement signed as somebody."""
    return (await signer(server, identity).sign_statement(statement, deadline=20)).bundle_json


async def approve(
    server: Sigstore,
    asked: ApprovalRequest,
    who: str = "ann",
    *,
    decision: Literal["approve", "reject"] = "approve",
    reason: str = "the canary plan was walked through",
) -> bytes:
    """Return somebody's signed decision on a request."""
    statement = statement_for(
        asked, decision=decision, reason=reason, approver=f"@{who}", signed_at=datetime.now(UTC)
    )
    return await sign(server, f"{who}@example.org", statement)
