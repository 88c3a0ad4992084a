"""A whole run on disk, made with the real writer, heads, blobs and signer, and packed."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace as changed

from cockpit.backends.signing import SigstoreSigning
from cockpit.base.clock import VirtualClock, iso
from cockpit.base.files import sha256_hex, write_private
from cockpit.base.redact import Redactor
from cockpit.base.text import visible
from cockpit.evidence.pack import Kind, PackFacts, PackFile, build_pack
from cockpit.evidence.plots import plots_of, render
from cockpit.evidence.sealing import attest_head, seal
from cockpit.journal import events as ev
from cockpit.journal.base import Event
from cockpit.journal.blobs import BlobStore
from cockpit.journal.heads import Head, RunKey, origin_of, sign_head, write_head, write_public_key
from cockpit.journal.reader import read_lines
from cockpit.journal.upcast import decode
from cockpit.journal.writer import JournalWriter
from cockpit.rehearsal.release_plan import dump
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rehearsal.topology import SERVICES
from cockpit.rpc.messages import GateVerdict, GoNoGo, Judged, Query, VerdictDetails
from cockpit.rpc.validate import encode
from cockpit.verdicts.rules import find
from tests.unit.evidence.promotion import Promotion
from tests.unit.plan.test_refuse import data as plan_data
from tests.unit.verdicts.samples import NOW, canary

E = TypeVar("E", bound=Event)
WHO = "release@intelgraph.io"
RUN = "20250923T080000Z-1a2b3c"
DIGEST = "sha256:" + "a" * 64


def plan_text(change: dict[str, Any]) -> bytes:
    """Return a rehearsal's plan that requires `policy` alone, in the window of the run, with changes."""
    window = {"start": iso(NOW), "end": iso(NOW + timedelta(hours=4))}
    plan = {**plan_data(), "required_gates": ["policy"], "window_utc": window, **change}
    return dump(plan).encode()


PLAN = plan_text({"canary": canary().model_dump(mode="json")})
PLAN_SHA256 = sha256_hex(PLAN)
IMAGES = dict.fromkeys(SERVICES, DIGEST)
ROSTER = [
    ev.RosterEntry(
        agent, agent, "", ["P3", "canary"] if agent == "A20" else ["P0"], built=True, required=True
    )
    for agent in plan_data()["agents"]
]
_PHASES: list[str] = list(plan_data()["phases"])
_ROW = ("path", "sha256", "bundle", "log_index", "entry_id")
ARTIFACTS = {
    "sbom/web.spdx.json": b'{"spdxVersion":"SPDX-2.3"}',
    "perf/baseline.json": b"{}",
    "perf/headroom.json": b'{"web":0.4}',
    "release_notes.md": b"# v3.0.0\n",
}


Tell = Callable[[list[Event], Promotion], list[Event]]


@dataclass
class Change:
    """What a run tells differently from the truth."""

    verdict: dict[str, Any] = field(default_factory=dict)
    look: dict[str, Any] = field(default_factory=dict)
    gonogo: dict[str, Any] = field(default_factory=dict)
    required: dict[str, str] = field(default_factory=dict)
    opened: dict[str, Any] = field(default_factory=dict)
    rule: str = "named_checks"
    drop_artifact: str = ""
    plan: bytes = b""
    detail: str = ""
    """What a failed check of the verdict says; without, the check holds."""
    valid_s: float = 86400.0
    promoted: bool = False
    """Goes on to promote through every step."""
    tell: Tell = lambda events, promotion: list(events)
    """Tells the run's events otherwise."""


@dataclass(frozen=True)
class Made:
    """A packed run: `folder` is the run's, `root` the trusted root it was signed under."""

    folder: Path
    pack: PackFile
    facts: PackFacts
    head: bytes
    root: str
    issuer: str

    @property
    def bundle(self) -> Path:
        return self.pack.path.with_name(self.pack.path.name + ".sigstore.json")


class Maker:
    """Makes runs that are signed by one stand-in."""

    def __init__(self, server: SigstoreServer) -> None:
        self._server = server

    def signing(self) -> SigstoreSigning:
        async def token() -> str:
            return self._server.token(WHO)

        return SigstoreSigning(
            self._server.trust_config(), token=token, identity=WHO, issuer=self._server.issuer
        )

    async def make(
        self, folder: Path, *, kind: Kind = "closing", change: Change | None = None, plots: bool = False
    ) -> Made:
        """Write a run into `folder` and pack it."""
        change = change or Change()
        key, clock = RunKey.generate(), VirtualClock(NOW)
        blobs, signing = BlobStore(folder / "blobs"), self.signing()
        writer = JournalWriter.open(folder, clock=clock, redactor=Redactor())
        for name, data in ARTIFACTS.items():
            write_private(folder / "artifacts" / name, data)
        vouched = await self._vouch(folder, signing)
        promotion = Promotion(blobs, PLAN_SHA256, canary())
        events: list[Event] = [*self._events(blobs, key, change, vouched)]
        events += promotion.events() if change.promoted else []
        for event in change.tell(events, promotion):
            clock.advance(1)
            await writer.append(event)
        (folder / "artifacts" / change.drop_artifact).unlink() if change.drop_artifact else None
        position = writer.position
        await writer.aclose()
        write_public_key(folder / "heads", key)
        top = Head(origin_of(RUN), position.records, position.root())
        write_head(folder / "heads", "close", top, key)
        write_private(folder / "trusted_root.json", self._server.trusted_root().encode())
        head = sign_head(top, key)
        made = await attest_head(folder, RUN, head, key.public_bytes, signing, deadline=30)
        lines = [decode(line) for line in read_lines(folder / "journal.jsonl")] if plots else []
        facts = PackFacts(
            commit_from="1" * 40,
            commit_to="2" * 40,
            identity=WHO,
            issuer=self._server.issuer,
            entry_id=made.entry_id,
            absent={"dr": "the plan has no disaster-recovery drill"},
            extra=await render(plots_of(lines, limits={"burn": 6.0}), deadline=60),
        )
        pack = build_pack(folder, kind, facts, head=head, path=folder / "evidence.zip")
        await seal(pack.path, signing, deadline=30)
        return Made(folder, pack, facts, head, self._server.trusted_root(), self._server.issuer)

    async def seal_again(self, made: Made, raw: bytes, target: Path) -> None:
        """Sign other bytes as this run's pack, as the release's own identity could."""
        write_private(target, raw)
        await seal(target, self.signing(), deadline=30)

    async def _vouch(self, folder: Path, signing: SigstoreSigning) -> list[Event]:
        """Sign two files as the notary does, and attest another."""
        attested = "release_notes.md"
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": attested, "digest": {"sha256": sha256_hex(ARTIFACTS[attested])}}],
            "predicateType": "https://release-cockpit.dev/attestations/release-artifacts/v1",
            "predicate": {},
        }
        made: dict[str, bytes] = {}
        told: list[ev.ArtifactSigned] = []
        for name in ("perf/baseline.json", "sbom/web.spdx.json"):
            signed = await signing.sign_bytes(ARTIFACTS[name], deadline=30)
            made[f"signatures/{name}.sig"] = signed.bundle_json
            told.append(
                ev.ArtifactSigned(
                    path=name,
                    sha256=sha256_hex(ARTIFACTS[name]),
                    bundle=f"signatures/{name}.sig",
                    log_index=signed.log_index,
                    entry_id=signed.entry_id,
                )
            )
        rows = [{name: getattr(one, name) for name in _ROW} for one in told]
        made["signatures/index.json"] = json.dumps({"signed": rows}).encode()
        attestation = await signing.sign_statement(statement, deadline=30)
        made["attestations/release.intoto.jsonl"] = attestation.bundle_json + b"\n"
        for name, data in made.items():
            write_private(folder / "artifacts" / name, data)
        written = [
            ev.ArtifactWritten(agent="A3", path=name, sha256=sha256_hex(data), kind="evidence")
            for name, data in made.items()
        ]
        return [*written, *told]

    def _events(
        self, blobs: BlobStore, key: RunKey, change: Change, vouched: Sequence[Event]
    ) -> Sequence[Event]:
        verdict = _verdict(blobs, change)
        blob = blobs.put(encode(verdict)).digest
        judged = ev.GateJudged(
            gate=verdict.gate,
            phase_gate=verdict.details.phase_gate,
            agent="A20",
            phase="P3",
            env=verdict.env,
            verdict=verdict.verdict,
            outcome=verdict.details.outcome,
            reason=visible(verdict.details.reason),
            metrics=dict(verdict.metrics),
            thresholds=list(verdict.thresholds),
            images=IMAGES,
            plan_sha256=verdict.details.judged.plan_sha256,
            valid_s=verdict.details.judged.valid_s,
            verdict_blob=blob,
        )
        checklist = GoNoGo(
            version="v3.0.0", gates={"policy": "pass"}, headroom={}, exceptions=[], risk_open=[],
            drill_recent=None, evidence_signed=True, go=True,
        ).model_copy(update=change.gonogo)  # fmt: skip
        return [
            _opened(blobs.put(change.plan or PLAN).digest, key, change),
            _changed(judged, change.verdict),
            ev.EvidenceSealed(
                kind="promotion", path="promotion.zip", sha256="d" * 64, log_index=1, entry_id="e" * 64
            ),
            ev.RequiredGates(gates={"policy": "pass", **change.required}),
            ev.GoNoGoComputed(
                go=checklist.go,
                reasons=list(checklist.reasons),
                headroom=dict(checklist.headroom),
                blob=blobs.put(encode(checklist)).digest,
            ),
            *(
                ev.ArtifactWritten(agent="A15", path=name, sha256=sha256_hex(data), kind="report")
                for name, data in ARTIFACTS.items()
            ),
            *vouched,
            ev.StepStarted(step=1, weight=10),
            ev.StepStage(step=1, stage="preflight"),
            ev.WeightSeen(desired=10, observed=10.2),
            _changed(Promotion(blobs, PLAN_SHA256, canary()).look(1, 1), change.look),
        ]


def _opened(blob: str, key: RunKey, change: Change) -> ev.RunOpened:
    public = base64.b64encode(key.public_bytes).decode()
    opened = ev.RunOpened(
        run_id=RUN, version="v3.0.0", repo="intelgraph-platform", environment="prod",
        plan_sha256=sha256_hex(PLAN), plan_blob=blob,
        rehearsal=True, reduced=["the plan leaves out P5"], trust_profile="embedded",
        operator="someone", host="here", run_key=public, steps=[10, 50, 100],
        services=[ev.ServiceImage(name, digest) for name, digest in IMAGES.items()], phases=_PHASES,
        required_gates=["policy"],
        window_start=str(NOW), window_end=str(NOW + timedelta(hours=4)), roster=ROSTER,
    )  # fmt: skip
    return _changed(opened, change.opened)


def _changed(event: E, fields: dict[str, Any]) -> E:
    return changed(event, **fields)


def _verdict(blobs: BlobStore, change: Change) -> GateVerdict:
    check = {"name": "chain", "ok": not change.detail, "detail": change.detail or "whole"}
    answer = json.dumps({"checks": [check]}).encode()
    params = {"required": ["chain"]}
    judgement = find("named_checks")({"checks": answer}, params)
    digest = blobs.put(answer).digest
    plan_sha256 = change.opened.get("plan_sha256", sha256_hex(PLAN))
    return GateVerdict(
        gate="policy",
        env="prod",
        verdict="pass" if judgement.passed else "fail",
        metrics=judgement.metrics,
        thresholds=list(judgement.thresholds),
        details=VerdictDetails(
            phase_gate="audit",
            outcome=judgement.outcome,
            reason=judgement.reason,
            judged=Judged(images=IMAGES, env="prod", plan_sha256=plan_sha256, valid_s=change.valid_s),
            queries=[
                Query(text="journal", backend="journal", asked_at="2025-09-23T08:00:00Z", answer=digest)
            ],
            rule={"name": change.rule, "params": params, "answers": {"checks": digest}},
        ),
    )


def copy_of(made: Made, folder: Path) -> Made:
    """Return the pack and its bundle in a folder of its own, to be spoilt."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / made.pack.path.name
    shutil.copyfile(made.pack.path, target)
    shutil.copyfile(made.bundle, folder / made.bundle.name)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    return replace(made, pack=replace(made.pack, path=target, sha256=digest))
