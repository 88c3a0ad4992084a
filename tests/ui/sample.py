"""Plausible journals for the screens' tests: a green release and one rolled back, at fixed times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from cockpit.base.clock import iso
from cockpit.journal import events as ev
from cockpit.journal.chain import GENESIS, MerkleTree, leaf_hash, splice
from cockpit.journal.events import AnyEvent
from cockpit.journal.heads import Head, RunKey, origin_of, write_head, write_public_key

START = datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
SERVICES = ("gateway", "ingest", "realtime", "reports", "search", "web")
NAMES = (
    "Release Conductor", "Program Scheduler", "Evidence Notary", "Risk Officer", "CI/CD Engineer",
    "Platform/DevOps", "Cost/FinOps", "InfraSec", "Policy Gatekeeper", "Artifactory Steward",
    "SLO Librarian", "Probe Master", "Dashboardsmith", "Log Curator", "Supply-Chain Lead", "AppSec",
    "Compliance Officer", "Identity/SSO", "AuthZ Author", "Auditor", "Schema Captain", "Data Plane Owner",
    "Data Contracts Engineer", "Backfill Marshal", "Shadow Reader", "Perf Engineer", "Capacity Oracle",
    "Resilience Wrangler", "Infra Load-Tester", "Realtime Maestro", "Reporting Smith", "Searchkeeper",
    "Ingest Quartermaster", "API Contract Custodian", "DR/BCP Lead", "Chaos Captain", "Incident Commander",
    "Forensic Scribe", "Alert Arborist", "Runbook Editor", "Comms Bard", "Docs Librarian", "QE Generalist",
    "Visual/Accessibility QE", "Mobile/Edge QE", "CAB Secretary", "FinReporter", "Vendor Sentinel",
    "Red Team Sprinter", "Blue Team Sentinel", "Template Keeper", "Lint Marshal", "Preview Concierge",
    "SLO Economist", "Feature Flag Butler", "Purge Marshall", "PII Scrubber", "Secrets Escrow",
    "Provenance Sheriff", "Evidence QA",
)  # fmt: skip
ULTRA = ("DORA Metrics", "Feature-to-SLO Mapper", "Blast Radius", "Change Narrator", "Release Simulator")
BUILT = {1, 3, 4, 9, 11, 15, 20, 23, 26, 27, 41, 43, 60}
PHASE_OF = {
    15: "P0",
    9: "P0",
    11: "P1",
    26: "P1",
    27: "P1",
    23: "P2",
    20: "P3",
    43: "P4",
    1: "P6",
    3: "P6",
    41: "P6",
}
PLAN_SHA = "3f" * 32
KEY = RunKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


class Scribe:
    """Collects events with times and sequence numbers."""

    def __init__(self, start: datetime = START) -> None:
        self.events: list[AnyEvent] = []
        self._at = start
        self._calls = 0

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._at += timedelta(seconds=seconds)

    def add(self, event: AnyEvent, after: float = 0.05) -> None:
        """Record an event."""
        self.wait(after)
        self.events.append(replace(event, seq=len(self.events), at=iso(self._at)))

    def call(
        self, agent: str, phase: str, op: str, notes: str, *, result: str = "ok", takes: float = 0.4
    ) -> None:
        """Record a call and its answer."""
        self._calls += 1
        call = f"c{self._calls}"
        self.add(ev.AgentCalled(call=call, agent=agent, phase=phase, op=op, env="prod", trace_id="0" * 32))
        self.add(
            ev.AgentAnswered(
                call=call,
                agent=agent,
                phase=phase,
                op=op,
                result=result,
                notes=notes,
                next="",
                took_ms=takes * 1000,
            ),
            takes,
        )


def roster() -> list[ev.RosterEntry]:
    """Return 65 agents, thirteen of them built and required."""
    entries = []
    for number, name in enumerate(NAMES, 1):
        built = number in BUILT
        phase = PHASE_OF.get(number, "P3")
        entries.append(ev.RosterEntry(f"A{number}", name, "domain", [phase], built=built, required=built))
    entries += [
        ev.RosterEntry(f"U{n}", name, "ultra", ["P8"], built=False, required=False)
        for n, name in enumerate(ULTRA, 1)
    ]
    return entries


def opened(**changes: object) -> ev.RunOpened:
    """Return the first record of a rehearsal of v3.0.0."""
    event = ev.RunOpened(
        run_id="20250923T080000-7f3a",
        version="v3.0.0",
        repo="intelgraph-platform",
        environment="prod",
        plan_sha256=PLAN_SHA,
        plan_blob="",
        rehearsal=True,
        reduced=["the plan requires 13 of 65 agents", "phases P5 and P7 are not in the plan"],
        trust_profile="embedded",
        operator="anna",
        host="bastion-1",
        run_key="k",
        steps=[10, 50, 100],
        services=[ev.ServiceImage(name, "sha256:" + name[0] * 64) for name in SERVICES],
        phases=["P0", "P1", "P2", "P3", "P4", "P6", "P8"],
        required_gates=["slo", "perf", "supply_chain", "migrations", "policy", "dr"],
        window_start=iso(START - timedelta(minutes=30)),
        window_end=iso(START + timedelta(hours=3, minutes=30)),
        roster=roster(),
    )
    return replace(event, **changes)


def _gate(
    scribe: Scribe, gate: str, phase_gate: str, agent: str, phase: str, metrics: ev.Metrics, rule: str
) -> None:
    scribe.add(
        ev.GateJudged(
            gate=gate,
            phase_gate=phase_gate,
            agent=agent,
            phase=phase,
            env="prod",
            verdict="pass",
            outcome="pass",
            reason="every look within its threshold",
            metrics=metrics,
            thresholds=[rule],
            images={name: "sha256:" + name[0] * 64 for name in SERVICES},
            plan_sha256=PLAN_SHA,
            valid_s=86400.0,
            verdict_blob="",
        )
    )


def _before_prod(scribe: Scribe) -> None:
    scribe.add(opened())
    scribe.add(ev.WaiverRecorded(what="approvals", owner="anna", reason="a rehearsal has one person"))
    scribe.add(ev.WaiverRecorded(what="standby", owner="anna", reason="a rehearsal runs on one machine"))
    scribe.add(ev.LeaseChanged(state="acquired", holder="bastion-1", fence=3))
    work: dict[str, list[tuple[str, str, str]]] = {
        "P0": [("A15", "VERIFY", "six images signed by the expected identity, SBOM and provenance attached"),
               ("A9", "VERIFY", "no deny over 18 manifests")],
        "P1": [("A11", "VERIFY", "p95 92 ms, error rate 0.08 %, no alert firing"),
               ("A26", "VERIFY", "600 requests at 120/s"),
               ("A27", "VERIFY", "headroom 0.34 at the tightest service (reports)")],
        "P2": [("A23", "VERIFY", "31 schemas compatible with v2.9.4")],
        "P3": [("A20", "VERIFY", "chain whole, state replayed bit for bit")],
        "P4": [("A43", "VERIFY", "42 smoke paths pass")],
    }  # fmt: skip
    for phase, calls in work.items():
        scribe.add(ev.PhaseStarted(phase=phase), 0.3)
        for agent, op, notes in calls:
            scribe.call(agent, phase, "PLAN", f"will read: {notes}")
            scribe.call(agent, phase, op, notes, takes=1.2)
        if phase == "P0":
            scribe.call("A6", "P0", "PLAN", "not built yet: see `cockpit agents`", result="blocked")
            _gate(
                scribe,
                "supply_chain",
                "supply_chain",
                "A15",
                "P0",
                {"missing": 0, "critical_added": 0},
                "missing==0",
            )
            _gate(scribe, "policy", "policy_ci", "A9", "P0", {"deny": 0}, "deny==0")
        if phase == "P1":
            _gate(
                scribe,
                "slo",
                "slo",
                "A11",
                "P1",
                {"p95_ms": 92.4, "error_rate": 0.0008, "burn": 0},
                "p95_ms<=150",
            )
            _gate(scribe, "perf", "perf", "A27", "P1", {"headroom": 0.34}, "headroom>=0.20")
        if phase == "P2":
            _gate(scribe, "migrations", "migrations", "A23", "P2", {"incompatible": 0}, "incompatible==0")
        scribe.add(ev.PhaseEnded(phase=phase, result="pass"))
        scribe.add(ev.HeadWritten(name=f"{phase}.checkpoint", size=len(scribe.events), root="ab" * 32))
    gates = dict.fromkeys(("slo", "perf", "supply_chain", "migrations", "policy"), "pass")
    reasons = {"dr": "A35 and A36 are not in the plan (REDUCED)"}
    scribe.add(ev.RequiredGates(gates={**gates, "dr": "not evaluated"}, reasons=reasons))
    scribe.add(ev.GoNoGoComputed(go=True, reasons=[], headroom=dict.fromkeys(SERVICES, 0.34), blob=""))
    scribe.add(ev.PhaseStarted(phase="P6"))
    scribe.call("A41", "P6", "APPLY", "release started: posted to 1 webhook")
    scribe.call("A60", "P6", "VERIFY", "promotion pack verified: 31 files, 2 signatures")


def replicas(canary: int) -> ev.ReplicasSeen:
    """Return the Deployments with a canary size."""
    sizes = {name: [2, 2] for name in SERVICES}
    return ev.ReplicasSeen(deployments={**sizes, **{f"{name}-canary": [canary, canary] for name in SERVICES}})


def _step(scribe: Scribe, step: int, weight: int, *, looks: int = 5, sick_from: int = 99) -> bool:
    scribe.add(ev.StepStarted(step=step, weight=weight), 0.5)
    for stage in ("preflight", "scale"):
        scribe.add(ev.StepStage(step=step, stage=stage), 0.3)
    scribe.add(replicas(2), 0.8)
    scribe.add(ev.StepStage(step=step, stage="shift"))
    effect = f"e{step}"
    scribe.add(
        ev.EffectIntended(
            effect=effect,
            lane="forward",
            verb="shift",
            target="httproute/intelgraph",
            env="prod",
            by="conductor",
        )
    )
    scribe.add(ev.EffectDone(effect=effect, took_ms=8.1))
    scribe.add(ev.WeightSeen(desired=weight, observed=None, source="route"))
    scribe.add(ev.StepStage(step=step, stage="observe", detail="request share over 5 s"), 0.4)
    scribe.add(ev.WeightSeen(desired=weight, observed=weight * 0.62, source="prometheus"), 2.0)
    scribe.add(ev.WeightSeen(desired=weight, observed=weight * 0.98, source="prometheus"), 2.0)
    scribe.add(ev.StepStage(step=step, stage="bake", detail=f"{looks} passes needed, one look each 2 s"))
    passes = failures = 0
    for look in range(1, looks + 1):
        sick = look >= sick_from
        passes, failures = (0, failures + 1) if sick else (passes + 1, 0)
        scribe.add(
            ev.WeightSeen(
                desired=weight, observed=min(100.0, weight * (0.97 + 0.01 * look)), source="prometheus"
            ),
            1.0,
        )
        wave = math.sin(look * 1.7 + step)
        p95 = 340.0 + 40 * wave if sick else 92.0 + 9 * wave
        errors = 0.084 if sick else 0.0011 + 0.0006 * wave
        reason = (
            "p95_ms 340 breaks p95_ms<=150; burn 18.2× and 16.9× above 14.4×"
            if sick
            else "every look within its threshold"
        )
        scribe.add(
            ev.LookTaken(
                step=step,
                look=look,
                outcome="fail" if sick else "pass",
                critical=sick,
                reason=reason,
                requests=118.0 * look,
                metrics={"p95_ms": round(p95, 1), "error_rate": round(errors, 5)},
                burn={
                    "8s": round(errors * 210, 2),
                    "30s": round(errors * 190 - (2 if sick and failures < 2 else 0), 2),
                },
                passes=passes,
                required=looks,
                failures=failures,
                answers="",
            ),
            1.0,
        )
        if failures >= 2:
            scribe.add(ev.StepDecided(step=step, weight=weight, decision="rollback", reason=reason))
            return False
    scribe.add(ev.StepStage(step=step, stage="decide"))
    scribe.add(
        ev.StepDecided(step=step, weight=weight, decision="advance", reason=f"{looks} passes in a row")
    )
    return True


def green() -> list[AnyEvent]:
    """Return a release that goes through."""
    scribe = Scribe()
    _before_prod(scribe)
    for step, weight in enumerate((10, 50, 100), 1):
        _step(scribe, step, weight)
    scribe.add(ev.StepStage(step=3, stage="promote", detail="stable replaced by the same digests"))
    scribe.add(ev.WeightSeen(desired=0, observed=0.0, source="prometheus"), 3.0)
    scribe.add(replicas(0))
    scribe.add(ev.Released(version="v3.0.0"))
    scribe.add(ev.PhaseEnded(phase="P6", result="pass"))
    scribe.add(ev.PhaseStarted(phase="P8"))
    scribe.call("A43", "P8", "VERIFY", "42 smoke paths pass on v3.0.0")
    scribe.add(ev.PhaseEnded(phase="P8", result="pass"))
    scribe.add(
        ev.EvidenceSealed(kind="closing", path="evidence.zip", sha256="cd" * 32, log_index=41, entry_id="7a")
    )
    scribe.add(ev.RunClosed(exit=0, outcome="released", cause=""))
    return scribe.events


def halfway() -> list[AnyEvent]:
    """Return a release in the middle of the 50 % step."""
    events = green()
    stop = next(
        n
        for n, event in enumerate(events)
        if isinstance(event, ev.LookTaken) and (event.step, event.look) == (2, 3)
    )
    return events[: stop + 1]


def rolled_back() -> list[AnyEvent]:
    """Return a release that breaches at 50 % and is rolled back."""
    scribe = Scribe()
    _before_prod(scribe)
    _step(scribe, 1, 10)
    _step(scribe, 2, 50, sick_from=3)
    scribe.add(ev.HaltBegan(by="conductor", trigger="critical", reason="critical breach at 50 %", epoch=1))
    scribe.add(
        ev.RollbackStarted(reason="slo_breach", cause="p95_ms 340 breaks p95_ms<=150 at 50 %", by="conductor")
    )
    scribe.add(ev.RollbackStage(stage="shift"))
    scribe.add(ev.WeightSeen(desired=0, observed=0.0, source="prometheus"), 0.6)
    for stage in ("observe", "drain", "scale_down", "verify"):
        scribe.add(ev.RollbackStage(stage=stage), 0.5)
    scribe.add(replicas(0))
    proof = {
        "traffic": "no request on the canary for 5 s",
        "stable": "12 of 12 pods ready",
        "canary": "0 pods",
    }
    scribe.add(ev.RollbackVerified(proof=proof))
    scribe.add(ev.PhaseEnded(phase="P6", result="fail", reason="rolled back at 50 %"))
    scribe.add(ev.RunClosed(exit=20, outcome="rolled back", cause="critical breach at 50 %"))
    return scribe.events


def lines(events: list[AnyEvent]) -> Iterator[bytes]:
    """Yield the events as the lines of a journal, chained."""
    prev = GENESIS
    for event in events:
        at = event.at.encode()
        body = msgspec.json.encode(replace(event, seq=-1, at=""))
        line = splice(prev, event.seq, at, body)
        prev = leaf_hash(line).hex().encode()
        yield line


def write_journal(folder: Path, events: list[AnyEvent]) -> Path:
    """Write a run folder with a journal and a signed head over all of it; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = list(lines(events))
    (folder / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in stored))
    head = Head(origin_of("sample"), len(stored), MerkleTree(map(leaf_hash, stored)).root())
    (folder / "heads").mkdir(exist_ok=True)
    write_public_key(folder / "heads", KEY)
    write_head(folder / "heads", "end", head, KEY)
    return folder
