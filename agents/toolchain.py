"""Toolchain safety: Evidence QA (A60), who opens the pack as a stranger."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from cockpit.agentkit.agent import Outcome
from cockpit.agentkit.context import Context
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, write_json
from cockpit.agents.security import trusted_root
from cockpit.base.errors import BackendError, CockpitError
from cockpit.base.files import sha256_file
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.evidence import container, manifest
from cockpit.evidence.checks import Check
from cockpit.evidence.pack import PackFacts, build_pack
from cockpit.evidence.verify import verify_pack
from cockpit.journal.state import PackView

_PLOT = re.compile(r"slo/[^/]+\.png")

REQUIRED = ("container", "manifest", "hashes", "signature", "journal", "recorded", "reproducible")


class EvidenceQa(GateAgent):
    """A60: verifies the promotion pack from its bytes alone, judges its gates again, and rebuilds it."""

    gate = "supply_chain"
    phase_gate = "supply_chain"

    def needs(self, context: Context) -> str:
        """Need the pack, and the plan's trusted root."""
        return "open the promotion pack as a stranger, repeat every check, and build it a second time"

    async def plan(self, context: Context) -> Outcome:
        """Say what will be checked."""
        return Outcome("ok", f"APPLY changes nothing. VERIFY will {self.needs(context)}", "run VERIFY")

    async def measure(self, context: Context) -> Measured:
        """Verify the promotion pack."""
        pack = _pack(context, "promotion")
        if pack is None:
            raise EvidenceMissing("no promotion pack has been sealed")
        checks = await _checks(context, pack)
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "named_checks",
            {"checks": json.dumps({"checks": checks}, sort_keys=True).encode()},
            {"required": list(REQUIRED)},
            {"checks": query(context, f"{pack.path} sha256:{pack.sha256}", "files", samples=len(checks))},
        )
        document = {"pack": pack.path, "sha256": pack.sha256, "checks": checks, "verdict": summary(verdict)}
        artifact = write_json(context, "verification.json", document, "evidence")
        return Measured((verdict,), (artifact,), reason_of((verdict,)), next="go/no-go")

    async def evidence(self, context: Context) -> Outcome:
        """Vouch for the verification; asked about the closing pack, verify that one too."""
        if context.request.inputs.params.get("pack") != "closing":
            return await super().evidence(context)
        pack = _pack(context, "closing")
        if pack is None:
            return Outcome("fail", "no closing pack has been sealed", "seal it, then run EVIDENCE again")
        try:
            checks = await _checks(context, pack)
        except CockpitError as error:
            return Outcome("fail", visible(str(error), limit=1000), "look at the pack")
        wrong = [f"{one['name']}: {one['detail']}" for one in checks if not one["ok"]]
        if wrong:
            return Outcome("fail", visible("; ".join(wrong), limit=2000), "look at the pack")
        return Outcome("ok", f"the closing pack verifies: {len(checks)} checks hold", "none")


class EvidenceMissing(BackendError):
    """There is no pack to look at."""


def _pack(context: Context, kind: str) -> PackView | None:
    return next((one for one in reversed(context.state().packs) if one.kind == kind), None)


async def _checks(context: Context, pack: PackView) -> list[dict[str, Any]]:
    signing = context.plan.targets.signing
    root = trusted_root(context.base / signing.trust_config)

    def look() -> list[Check]:
        path = context.run_dir / pack.path
        with tempfile.TemporaryDirectory() as folder:
            # From the plan, not from the pack: a pack cannot say whom to trust.
            anchor = Path(folder) / "trusted_root.json"
            anchor.write_bytes(root)
            report = verify_pack(path, trust_root=anchor, identity=signing.identity, issuer=signing.issuer)
            return [
                *report.checks,
                _recorded(path, pack),
                _reproducible(context.run_dir, path, pack, Path(folder) / "again.zip"),
            ]

    found = await BoundedThreads("verifying a pack", 1).run(look, deadline=context.plan.agent_deadline)
    return [{"name": one.name, "ok": one.ok, "detail": visible(one.detail, limit=400)} for one in found]


def _recorded(path: Path, pack: PackView) -> Check:
    try:
        same = sha256_file(path) == pack.sha256
    except OSError as error:
        return Check("recorded", False, f"the pack cannot be read: {error.strerror}")
    return Check("recorded", same, "the pack is" + ("" if same else " not") + " the one the journal recorded")


def _reproducible(run_dir: Path, path: Path, pack: PackView, again: Path) -> Check:
    """Build the pack a second time from the run folder and compare the bytes."""
    try:
        files = container.read(path.read_bytes())
        document = manifest.read(files[manifest.NAME])
        facts = PackFacts(
            commit_from=document.commit_range.from_,
            commit_to=document.commit_range.to,
            identity=document.signed_by,
            issuer=document.issuer,
            entry_id=document.rekor_uuid,
            absent={row.name: row.reason for row in document.artifacts if row.state == "absent"},
            # Plots are drawn from the journal in a process of their own and are not part of the run folder.
            extra={
                name: data
                for name, data in files.items()
                if name.endswith(".png") and name.startswith("slo/")
            },
        )
        made = build_pack(run_dir, document.kind, facts, head=document.journal_head.encode(), path=again)
    except (CockpitError, OSError, KeyError) as error:
        return Check("reproducible", False, f"a second build failed: {error}")
    if made.sha256 != pack.sha256:
        return Check("reproducible", False, "a second build has another digest")
    return Check("reproducible", True, f"a second build has the same digest, sha256:{made.sha256}")
