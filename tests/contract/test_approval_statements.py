"""Approvals signed against the Sigstore stand-in: what counts, and each tampering by its name."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from cockpit.base.clock import iso
from cockpit.evidence.statements import Checked, CheckedGlass, check_approval, check_glass
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rpc.approval import (
    ApprovalRequest,
    GlassPredicate,
    digest_of,
    glass_statement,
    statement_for,
)
from tests.contract.approval_support import ABOUT, IMAGES, PLAN, approve, registry, request, sign

pytestmark = pytest.mark.contract
REASON = "headroom is short by one replica, which is on its way"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[SigstoreServer]:
    async with SigstoreServer() as running:
        yield running


def check(server: SigstoreServer, bundle: bytes, asked: ApprovalRequest, **changes: Any) -> Checked:
    return check_approval(bundle, asked, registry(server, **changes), server.trusted_root().encode())


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_a_signed_decision_counts(server: SigstoreServer, decision: Any) -> None:
    asked = request()
    found = check(server, await approve(server, asked, "cem", decision=decision), asked)
    assert found.problem == ""
    assert (found.person, found.identity, found.decision) == ("@cem", "cem@example.org", decision)
    assert found.groups == ("security",)
    assert found.reason == "the canary plan was walked through"


OTHERS: dict[str, dict[str, Any]] = {
    "release": {"version": "v3.0.1"},
    "plan": {"plan_sha256": "0" * 64},
    "run": {"run_id": "20250923T080000Z-000000"},
    "request": {"request": "promote-2"},
    "request, of another kind": {"asked": "flip"},
    "request, again with another nonce": {"nonce": "1" * 32},
    "request, about other images": {"about": {**ABOUT, "image web": "sha256:" + "2" * 64}},
    "request, which needs fewer": {"threshold": 2},
    "request, with another text": {"text": "promote something else"},
}


@pytest.mark.parametrize("other", OTHERS)
async def test_an_approval_of_something_else_never_counts(server: SigstoreServer, other: str) -> None:
    now = datetime.now(UTC)
    bundle = await approve(server, request(now=now, **OTHERS[other]))
    found = check(server, bundle, request(now=now))
    assert found.problem.startswith(other.split(",")[0] + ":"), found.problem
    assert (found.person, found.decision, found.groups) == ("", "", ())


def _reason(statement: dict[str, Any]) -> None:
    statement["predicate"]["reason"] = "somebody else's words"


def _decision(statement: dict[str, Any]) -> None:
    statement["predicate"]["decision"] = "reject"


@pytest.mark.parametrize("change", [_reason, _decision])
async def test_what_was_signed_cannot_be_altered(
    server: SigstoreServer, change: Callable[[dict[str, Any]], None]
) -> None:
    import rfc8785

    asked = request()
    bundle = json.loads(await approve(server, asked))
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = b64encode(rfc8785.dumps(statement)).decode()
    assert check(server, rfc8785.dumps(bundle), asked).problem.startswith("signature:")


def _changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement.update(changes)


def _said(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement["predicate"].update(changes)


MALFORMED: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "another predicate type": ("predicate type", _changed(predicateType="https://slsa.dev/provenance/v1")),
    "another decision": ("form", _said(decision="maybe")),
    "no reason": ("form", _said(reason=" ")),
    "more fields": ("form", _said(extra="x")),
    "two subjects": (
        "form",
        lambda s: s.update(subject=[*s["subject"], {"name": "x", "digest": {"sha256": "0" * 64}}]),
    ),
    "somebody else's name": ("approver", _said(approver="@bob")),
    "another expiry": ("request", _said(expires="2099-01-01T00:00:00Z")),
    "another time": ("time", _said(signed_at="2020-01-01T00:00:00Z")),
}


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_statement_that_says_other_things_never_counts(server: SigstoreServer, what: str) -> None:
    asked = request()
    statement = statement_for(
        asked, decision="approve", reason=REASON, approver="@ann", signed_at=datetime.now(UTC)
    )
    step, change = MALFORMED[what]
    change(statement)
    found = check(server, await sign(server, "ann@example.org", statement), asked)
    assert found.problem.startswith(f"{step}:"), found.problem


async def test_who_signed_has_to_be_somebody_of_the_plan(server: SigstoreServer) -> None:
    asked = request()
    found = check(server, await approve(server, asked, "eve"), asked)
    assert found.problem == "identity: nobody in the plan is eve@example.org"


async def test_another_issuers_word_is_not_taken(server: SigstoreServer) -> None:
    asked = request()
    people = [
        {
            "id": "@ann",
            "identity": "ann@example.org",
            "issuer": "https://other.example",
            "groups": ["sre", "security"],
        }
    ]
    found = check(server, await approve(server, asked), asked, people=people)
    assert found.problem.startswith("issuer:")


async def test_another_authoritys_certificate_is_forged(server: SigstoreServer) -> None:
    asked = request()
    async with SigstoreServer(server.issuer) as forger:
        found = check(server, await approve(forger, asked), asked)
    assert found.problem.startswith("signature:")


async def test_nobody_approves_their_own_request(server: SigstoreServer) -> None:
    now = datetime.now(UTC)
    for name in ("@ann", "ann", "ANN", "ann@example.org"):
        asked = request(now=now, requester=name)
        assert check(server, await approve(server, asked), asked).problem.startswith("requester:")


async def test_only_those_who_were_asked_count(server: SigstoreServer) -> None:
    asked = request(groups=["security"])
    found = check(server, await approve(server, asked, "ann"), asked)
    assert found.problem == "group: @ann is in none of security"


async def test_the_stamp_lies_within_the_requests_life(server: SigstoreServer) -> None:
    now = datetime.now(UTC)
    over = request(now=now - timedelta(hours=2), lasts=3600)
    assert "after it expired" in check(server, await approve(server, over), over).problem
    early = request(now=now + timedelta(hours=1))
    assert "before it was asked" in check(server, await approve(server, early), early).problem


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"x" * 50_000, b'{"verificationMaterial":[]}'])
async def test_what_is_no_bundle_is_refused(server: SigstoreServer, raw: bytes) -> None:
    found = check(server, raw, request())
    assert found.problem.split(":")[0] in ("size", "certificate")


def glass(**changes: Any) -> GlassPredicate:
    now = datetime.now(UTC)
    return GlassPredicate.model_validate(
        {
            "release": "v3.0.0",
            "run_id": "run-1",
            "plan_sha256": PLAN,
            "gate": "perf",
            "reason": REASON,
            "asker": "@ann",
            "signed_at": iso(now),
            "expires": iso(now + timedelta(minutes=10)),
            "nonce": "0" * 32,
            **changes,
        }
    )


def see_glass(server: SigstoreServer, bundle: bytes, *, later: float = 0.0) -> CheckedGlass:
    now = datetime.now(UTC)
    return check_glass(
        bundle,
        run_id="run-1",
        version="v3.0.0",
        plan_sha256=PLAN,
        images=IMAGES,
        since=now - timedelta(minutes=1),
        now=now + timedelta(seconds=later),
        registry=registry(server),
        trusted_root=server.trusted_root().encode(),
    )


async def test_a_signed_break_glass_holds_for_a_while(server: SigstoreServer) -> None:
    bundle = await sign(server, "ann@example.org", glass_statement(glass(), IMAGES))
    found = see_glass(server, bundle)
    assert found.problem == ""
    assert found.person == "@ann"
    assert found.predicate is not None
    assert (found.predicate.gate, found.predicate.reason) == ("perf", REASON)
    assert see_glass(server, bundle, later=700).problem.startswith("time:")


@pytest.mark.parametrize(
    ("step", "changes", "images"),
    [
        ("release", {"release": "v2.0.0"}, IMAGES),
        ("plan", {"plan_sha256": "0" * 64}, IMAGES),
        ("run", {"run_id": "run-2"}, IMAGES),
        ("images", {}, {"web": "sha256:" + "2" * 64}),
        ("approver", {"asker": "@bob"}, IMAGES),
        ("reason", {"reason": "because      " + " " * 20}, IMAGES),
    ],
)
async def test_a_break_glass_over_something_else_is_refused(
    server: SigstoreServer, step: str, changes: dict[str, Any], images: dict[str, str]
) -> None:
    bundle = await sign(server, "ann@example.org", glass_statement(glass(**changes), images))
    assert see_glass(server, bundle).problem.startswith(f"{step}:")


async def test_an_approval_is_no_break_glass(server: SigstoreServer) -> None:
    asked = request()
    assert see_glass(server, await approve(server, asked)).problem.startswith("predicate type:")
    bundle = await sign(server, "ann@example.org", glass_statement(glass(), IMAGES))
    assert check(server, bundle, asked).problem.startswith("predicate type:")


def test_the_subject_is_what_is_asked_about() -> None:
    with pytest.raises(ValueError, match="digest of what is asked"):
        request(subject="0" * 64)
    assert request().subject == digest_of(ABOUT)
