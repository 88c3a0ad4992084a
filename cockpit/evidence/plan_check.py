"""The plan in a pack: the bytes the journal names, loaded as for the run, and what the run took from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cockpit.base.errors import EvidenceError
from cockpit.base.files import sha256_hex
from cockpit.journal.events import RunOpened
from cockpit.plan.load import parse_plan
from cockpit.plan.model import Plan


def packed_plan(opened: RunOpened, blob: Callable[[str], bytes]) -> Plan:
    """Return the plan a run was opened with; raises CockpitError unless it is what the journal describes."""
    raw = blob(opened.plan_blob)
    if sha256_hex(raw) != opened.plan_sha256:
        raise EvidenceError("the stored plan is not the one the run was opened with")
    plan = _parse(raw)
    images = {service.name: service.image.digest or service.image.text for service in plan.services}
    for what, planned, told in (
        ("version", plan.target_version, opened.version),
        ("environment", plan.environment, opened.environment),
        ("rehearsal", plan.rehearsal, opened.rehearsal),
        ("real servers", plan.real_servers, opened.real),
        ("steps", list(plan.canary.steps), list(opened.steps)),
        ("required gates", list(plan.required_gates), list(opened.required_gates)),
        ("phases", list(plan.phases), list(opened.phases)),
        ("trust profile", plan.targets.signing.profile, opened.trust_profile),
        ("images", images, {service.name: service.digest for service in opened.services}),
    ):
        if planned != told:
            raise EvidenceError(f"the plan's {what} are not those the run was opened with")
    return plan


@lru_cache(maxsize=4)
def _parse(raw: bytes) -> Plan:
    # YAML with line numbers is slow to read, and the packs of one run hold the same plan.
    return parse_plan(raw, "release.yaml", base=Path("/nonexistent")).plan
