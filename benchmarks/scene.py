"""What the benchmarks of the conductor stand on: a plan whose targets are nowhere, and a recorder."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from cockpit.base.clock import SystemClock
from cockpit.base.redact import Redactor
from cockpit.conductor.recorder import Recorder
from cockpit.journal.heads import RunKey
from cockpit.journal.writer import JournalWriter
from cockpit.plan.load import LoadedPlan, parse_plan
from cockpit.rehearsal.pace import pace
from cockpit.rehearsal.release_plan import Endpoints, ImageTrust, build, dump
from cockpit.rehearsal.scenarios import scenario
from cockpit.rehearsal.topology import SERVICES, STAGES

_NOWHERE = "http://127.0.0.1:9"


def plan(base: Path) -> LoadedPlan:
    """Return the plan of a rehearsal; nothing listens where its targets are."""
    endpoints = Endpoints(
        kubernetes=_NOWHERE,
        kubernetes_token="file:world/secrets/kubernetes",
        prometheus=_NOWHERE,
        registry=_NOWHERE,
        entry=_NOWHERE,
        load=_NOWHERE,
        stages=dict.fromkeys(STAGES, _NOWHERE),
        token_url=f"{_NOWHERE}/token",
        token_secret="file:world/secrets/token",
        issuer=_NOWHERE,
        trust_config="world/trust_config.json",
        repository="world/repository",
        from_ref="v2.9.4",
        to_ref="main",
        webhook=f"{_NOWHERE}/hook",
        webhook_secret="file:world/secrets/webhook",
        issues=_NOWHERE,
        issues_repository="intelgraph/platform",
        issues_token="file:world/secrets/issues",
        flags=_NOWHERE,
    )
    digests = {service: hashlib.sha256(service.encode()).hexdigest() for service in SERVICES}
    images = {service: f"registry.invalid/{service}@sha256:{digest}" for service, digest in digests.items()}
    trust = ImageTrust("ci@example.org", _NOWHERE, "https://ci.invalid/builder", "git+https://example.org")
    data = build(endpoints, images, trust, pace("fast"), datetime.now(UTC), scenario("green"))
    return parse_plan(dump(data).encode(), "release.yaml", base=base)


@asynccontextmanager
async def recorder(run_dir: Path) -> AsyncIterator[Recorder]:
    """Give a recorder on a new journal, with a redactor as a conductor has one."""
    redactor = Redactor()
    redactor.add("a-token-that-is-masked")
    writer = JournalWriter.open(run_dir, clock=SystemClock(), redactor=redactor)
    recording = Recorder(writer, run_dir, "20250923T080000Z-bench0", RunKey.generate())
    try:
        yield recording
    finally:
        await recording.close()
