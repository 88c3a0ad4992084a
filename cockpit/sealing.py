"""Sealing: a signed head, its attestation, the pack, its signature, and the record of it all."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from cockpit.backends.forge import GitRepo
from cockpit.backends.signing import SigningBackend
from cockpit.base.errors import BackendError, CockpitError, EvidenceError
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.conductor.recorder import Recorder
from cockpit.evidence.pack import Kind, PackFacts, build_pack
from cockpit.evidence.plots import plots_of, render
from cockpit.evidence.sealing import attest_head, seal
from cockpit.journal.events import EvidencePending, EvidenceSealed
from cockpit.journal.heads import RunKey
from cockpit.plan.model import Plan
from cockpit.verdicts.thresholds import parse

_DRAWING = 60.0
"""Seconds the plots may take; matplotlib's first start builds its font cache."""

_BUILDING = 120.0
"""Seconds reading a whole run and packing it may take."""

PACKS = {"promotion": "promotion.zip", "closing": "evidence.zip"}
"""Where a kind of pack lies in the run folder."""


class PackSealer:
    """Seals the packs of one run."""

    def __init__(
        self,
        plan: Plan,
        run_dir: Path,
        recorder: Recorder,
        key: RunKey,
        signing: SigningBackend,
        forge: GitRepo | None,
    ) -> None:
        self._plan = plan
        self._run_dir = run_dir
        self._recorder = recorder
        self._key = key
        self._signing = signing
        self._forge = forge
        self._threads = BoundedThreads("packing", 1)

    async def seal(self, kind: str) -> str:
        """Seal a pack; return why it could not be built or signed, or nothing.

        A pack that cannot be signed is written all the same, unsigned, and the record says `pending`.
        """
        deadline = self._plan.targets.signing.deadline
        problem = ""
        try:
            extra = await render(plots_of(self._recorder.events(), limits=self._limits()), deadline=_DRAWING)
        except CockpitError as error:
            extra, problem = {}, f"plots: {error}"
        head = await self._recorder.write_head(f"pack-{kind}")
        if not head:
            return await self._pending(kind, "no signed head could be written")
        entry = ""
        try:
            attested = await attest_head(
                self._run_dir,
                self._recorder.run_id,
                head.encode(),
                self._key.public_bytes,
                self._signing,
                deadline=deadline,
            )
            entry = attested.entry_id
        except (BackendError, CockpitError) as error:
            problem = f"journal head: {error}"
        try:
            first, last = await self._commits()
            facts = PackFacts(
                commit_from=first,
                commit_to=last,
                identity=self._signing.identity,
                issuer=self._signing.issuer,
                entry_id=entry,
                absent=self._absent(),
                extra=extra,
            )
            path = self._run_dir / PACKS[kind]
            pack = await self._threads.run(
                lambda: build_pack(self._run_dir, cast(Kind, kind), facts, head=head.encode(), path=path),
                deadline=_BUILDING,
            )
            if not entry:
                return await self._pending(kind, problem)
            signature = await seal(pack.path, self._signing, deadline=deadline)
        except (BackendError, EvidenceError, CockpitError) as error:
            return await self._pending(kind, str(error))
        await self._recorder.record_abort(
            EvidenceSealed(
                kind=kind,
                path=pack.path.name,
                sha256=pack.sha256,
                log_index=signature.log_index,
                entry_id=signature.entry_id,
            )
        )
        return ""

    async def _pending(self, kind: str, reason: str) -> str:
        await self._recorder.record_abort(EvidencePending(what=kind, reason=visible(reason)))
        return reason or "unknown"

    async def _commits(self) -> tuple[str, str]:
        target = self._plan.targets.repository
        if self._forge is None:
            return target.from_ref, target.to_ref
        try:
            return await self._forge.resolve(target.from_ref), await self._forge.resolve(target.to_ref)
        except CockpitError:
            return target.from_ref, target.to_ref

    def _limits(self) -> dict[str, float]:
        checks = [parse(check.threshold) for check in self._plan.canary.checks]
        return {check.metric: check.value for check in checks}

    def _absent(self) -> dict[str, str]:
        missing = {
            "dr": ("P5", "phase P5 (disaster recovery) is not in the plan"),
            "chaos": ("P5", "phase P5 (chaos) is not in the plan"),
            "alerts": ("P7", "phase P7 (alerts, runbooks, docs) is not in the plan"),
        }
        reasons = {row: text for row, (phase, text) in missing.items() if phase not in self._plan.phases}
        owners = {"identity": ("A18", "A19"), "migrations": ("A21", "A25")}
        for row, agents in owners.items():
            left_out = [agent for agent in agents if agent not in self._plan.agents]
            if left_out:
                reasons[row] = f"{' and '.join(left_out)} not in the plan"
        return reasons
