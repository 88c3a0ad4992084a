"""Program: the Evidence Notary (A3), a signature for everything the release made."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from cockpit.agentkit.agent import Outcome, ReadOnlyAgent
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.common import blocked, write_json
from cockpit.agents.security import trusted_root
from cockpit.base.errors import BackendError, UsageError
from cockpit.base.files import sha256_hex
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.evidence.checks import passed
from cockpit.evidence.signatures import verify_bundle
from cockpit.rpc.messages import Artifact

INDEX = "signatures/index.json"
ATTESTATION = "attestations/release.intoto.jsonl"
PREDICATE_TYPE = "https://release-cockpit.dev/attestations/release-artifacts/v1"
_OWN = ("signatures/", ATTESTATION)
_AT_ONCE = 8  # a log takes about a second for an entry, however many come at once


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed file: its bundle below `artifacts/` and where the signature is logged."""

    path: str
    sha256: str
    bundle: str
    bundle_sha256: str
    log_index: int
    entry_id: str


class EvidenceNotary(ReadOnlyAgent):
    """A3: signs every artifact the journal lists; what cannot be signed is pending, and says so."""

    async def plan(self, context: Context) -> Outcome:
        """Say what waits to be signed."""
        try:
            signing = context.signing
        except BackendMissing as missing:
            return blocked(str(missing))
        waiting = _waiting(context, _index(context))
        return Outcome(
            "ok",
            f"EVIDENCE will sign {len(waiting)} artifacts as {visible(signing.identity, limit=200)}",
            "run EVIDENCE",
        )

    async def verify(self, context: Context) -> Outcome:
        """Verify every signature made so far against the plan's trusted root."""
        try:
            signing = context.signing
            root = trusted_root(context.base / context.plan.targets.signing.trust_config)
        except BackendMissing as missing:
            return blocked(str(missing))
        except UsageError as error:
            return blocked(str(error))
        signed = _index(context)

        def wrong() -> list[str]:
            found = []
            for one in signed:
                try:
                    data = context.artifacts.path(one.path).read_bytes()
                    bundle = context.artifacts.path(one.bundle).read_bytes()
                except OSError:
                    found.append(f"{one.path}: the file or its signature is gone")
                    continue
                # A file that was rewritten waits for a new signature; the old one is not a wrong one.
                if sha256_hex(data) == one.sha256 and not passed(
                    verify_bundle(
                        bundle,
                        data,
                        trusted_root_json=root,
                        identity=signing.identity,
                        issuer=signing.issuer,
                    )
                ):
                    found.append(f"{one.path}: the signature does not verify")
            return found

        problems = await BoundedThreads("verifying", 1).run(wrong, deadline=context.plan.agent_deadline)
        if problems:
            return Outcome("fail", visible("; ".join(problems), limit=2000), "find out who changed the file")
        waiting = len(_waiting(context, signed))
        return Outcome("ok", f"{len(signed)} signatures verify, {waiting} artifacts wait", "run EVIDENCE")

    async def evidence(self, context: Context) -> Outcome:
        """Sign what waits, attest all of it in one statement, and write where each signature is logged."""
        try:
            _ = context.signing
        except BackendMissing as missing:
            return blocked(str(missing))
        signed = _index(context)
        waiting = _waiting(context, signed)
        made, errors, bundles = await _sign_all(context, waiting)
        known = {one.path: one for one in signed}
        known.update({one.path: one for one in made})
        # Signatures of what has been rewritten since are dropped: they are about other bytes.
        current = dict(_listed(context))
        kept = [one for path, one in sorted(known.items()) if current.get(path) == one.sha256]
        pending = sorted(set(current) - {one.path for one in kept})
        artifacts = list(bundles)
        if not errors and kept:
            try:
                artifacts.append(await _attest(context, kept))
            except BackendError as error:
                errors.append(f"the release attestation: {error}")
        rows = [{name: getattr(one, name) for name in Signed.__slots__} for one in kept]
        document: dict[str, Any] = {
            "identity": context.signing.identity,
            "issuer": context.signing.issuer,
            "signed": rows,
            "pending": pending,
            "reasons": [visible(error, limit=300) for error in errors],
        }
        artifacts.append(write_json(context, INDEX, document, "evidence"))
        if errors or pending:
            said = "; ".join(errors) or ", ".join(pending)
            return Outcome(
                "blocked",
                visible(f"evidence pending: {len(pending)} artifacts are not signed: {said}", limit=2000),
                "EVIDENCE is tried again; the release does not go on without",
                artifacts=tuple(artifacts),
            )
        return Outcome(
            "ok",
            f"{len(made)} artifacts signed now, {len(kept)} in all, none pending",
            "seal the pack",
            artifacts=tuple(artifacts),
        )


def _listed(context: Context) -> list[tuple[str, str]]:
    return [(one.path, one.sha256) for one in context.state().artifacts if not one.path.startswith(_OWN)]


def _waiting(context: Context, signed: list[Signed]) -> list[tuple[str, str]]:
    done = {(one.path, one.sha256) for one in signed}
    return [entry for entry in _listed(context) if entry not in done]


def _index(context: Context) -> list[Signed]:
    """Return the signatures made before whose bundle is still there as it was."""
    try:
        rows = json.loads(context.artifacts.path(INDEX).read_bytes())["signed"]
        found = [Signed(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    kept = []
    for one in found:
        try:
            if sha256_hex(context.artifacts.path(one.bundle).read_bytes()) == one.bundle_sha256:
                kept.append(one)
        except OSError:
            continue
    return kept


async def _sign_all(
    context: Context, waiting: list[tuple[str, str]]
) -> tuple[list[Signed], list[str], list[Artifact]]:
    slots = asyncio.Semaphore(_AT_ONCE)
    made: list[Signed] = []
    errors: list[str] = []
    bundles: list[Artifact] = []

    async def one(path: str, sha256: str) -> None:
        async with slots:
            if errors:
                return  # the log is away: one time-out is enough
            try:
                data = context.artifacts.path(path).read_bytes()
                if sha256_hex(data) != sha256:
                    errors.append(f"{path} is not what the journal recorded")
                    return
                signature = await context.signing.sign_bytes(
                    data, deadline=context.plan.targets.signing.deadline
                )
            except OSError as error:
                errors.append(f"{path} cannot be read: {error.strerror}")
                return
            except BackendError as error:
                errors.append(f"{path}: {error}")
                return
            bundle = context.artifacts.write(f"signatures/{path}.sig", signature.bundle_json, "evidence")
            bundles.append(bundle)
            made.append(
                Signed(
                    path=path,
                    sha256=sha256,
                    bundle=bundle.path,
                    bundle_sha256=bundle.sha256,
                    log_index=signature.log_index,
                    entry_id=signature.entry_id,
                )
            )

    async with asyncio.TaskGroup() as tasks:
        for path, sha256 in waiting:
            tasks.create_task(one(path, sha256))
    return sorted(made, key=lambda s: s.path), errors, sorted(bundles, key=lambda b: b.path)


async def _attest(context: Context, signed: list[Signed]) -> Artifact:
    """Sign one in-toto statement about every artifact of the release."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": one.path, "digest": {"sha256": one.sha256}} for one in signed],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "version": context.plan.target_version,
            "plan_sha256": context.plan_sha256,
            "rehearsal": context.plan.rehearsal,
            "images": {one.name: one.image.text for one in context.plan.services},
        },
    }
    signature = await context.signing.sign_statement(
        statement, deadline=context.plan.targets.signing.deadline
    )
    return context.artifacts.write(ATTESTATION, signature.bundle_json.rstrip(b"\n") + b"\n", "slsa")
