"""Break-glass: an act of its own, by two people, that overrides a failed gate and never removes its verdict.

Who asks signs why. Where the plan wants a second person, nothing is overridden until somebody else has signed
for it; else it counts at once and has to be reviewed within a deadline. Both are requests for approval, so
they are asked, counted and kept as those are (gates.md, reading 16).
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from cockpit.base.clock import iso, parse_iso
from cockpit.base.errors import CockpitError
from cockpit.base.files import sha256_hex
from cockpit.base.text import visible
from cockpit.conductor.acts import PolicyOnPeople
from cockpit.conductor.approvals import ApprovalDesk
from cockpit.conductor.checker import Release, StatementChecker
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events_people import BreakGlassRefused, BreakGlassReviewed, BreakGlassUsed
from cockpit.journal.state_people import GlassView, RequestView
from cockpit.plan.model import Plan
from cockpit.plan.people import OVERRIDABLE, BreakGlass
from cockpit.rpc.approval import GlassPredicate
from cockpit.verdicts.approvals import GlassFacts, glass_facts

ASKED = "break-glass"
OVERRIDE = "override"
REVIEW = "review"


class BreakGlassDesk:
    """Takes break-glass, and says what is overridden now."""

    def __init__(
        self,
        plan: Plan,
        plan_sha256: str,
        recorder: Recorder,
        checker: StatementChecker,
        approvals: ApprovalDesk,
        policy: PolicyOnPeople,
    ) -> None:
        self._policy = policy
        self._plan = plan
        self._sha = plan_sha256
        self._recorder = recorder
        self._checker = checker
        self._approvals = approvals
        self._lock = asyncio.Lock()
        self._digests: dict[str, str] = {}
        # An override refused in another sitting was told of then; the rest can be looked at again.
        self._told = {
            one.request
            for one in self._requests()
            if one.result not in ("", "granted") and self._about(one).get("act") == OVERRIDE
        }

    async def use(self, gate: str, bundle: str) -> str:
        """Take a signed break-glass over a phase gate; return why it is refused, or nothing.

        Nothing means that it was taken: with a second person it counts once they have signed.
        """
        async with self._lock:
            return await self._use(gate, bundle.encode("utf-8", "replace"))

    async def _use(self, gate: str, raw: bytes) -> str:
        run = self._recorder.state().run
        policy = self._plan.approvals.break_glass if self._plan.approvals is not None else None
        if policy is None or run is None:
            return await self._refuse(gate, "", "", "the plan allows no break-glass")
        if gate not in OVERRIDABLE or gate not in policy.overridable:
            return await self._refuse(gate, "", "", f"{gate} can not be overridden by this plan")
        release = Release(self._recorder.run_id, self._sha, parse_iso(run.at))
        found = await self._checker.glass(raw, release, self._approvals.now())
        said = found.predicate
        if said is None:
            return await self._refuse(gate, found.identity, "", found.problem or "unchecked")
        problem = self._stands_against(gate, said, sha256_hex(raw))
        if not problem:
            problem = await self._policy.break_glass(found.person, said.reason)
        if problem:
            return await self._refuse(gate, found.person, said.reason, problem)
        [blob] = await self._recorder.keep_all([raw])
        known = {self._about(one).get("glass") for one in self._requests()}
        glass = f"glass-{1 + len(known | {one.glass for one in self._glasses()})}"
        self._digests[glass] = sha256_hex(raw)
        about = {
            "act": OVERRIDE,
            "glass": glass,
            "gate": gate,
            "asker": found.person,
            "reason": said.reason,
            "statement": blob,
            "statement sha256": sha256_hex(raw),
            "run": self._recorder.run_id,
            "plan": self._sha,
            **{f"image {service.name}": service.image.digest for service in self._plan.services},
        }
        if policy.second_person:
            text = f"override the failed gate {gate} of {self._plan.target_version}: {said.reason}"
            await self._approvals.ask(ASKED, about, text, found.person)
        else:
            await self._record_use(about, "", policy)
            await self._settle()
        return ""

    async def settle(self) -> None:
        """Record what became of break-glass requests: used, refused, reviewed; ask for the reviews due."""
        async with self._lock:
            await self._settle()

    async def _settle(self) -> None:
        policy = self._plan.approvals.break_glass if self._plan.approvals is not None else None
        if policy is None:
            return
        for request in self._requests():
            if request.result and request.request not in self._told:
                self._told.add(request.request)
                await self._ended(request, policy)
        for glass in self._glasses():
            if glass.review_by and not glass.reviewed_by and not self._reviewing(glass):
                await self._ask_review(glass, policy)

    def facts(self) -> GlassFacts:
        """Return what is overridden now, and what stands in the way."""
        return glass_facts(self._glasses(), self._approvals.now())

    def review_request(self, glass: str) -> str:
        """Return the request by which a break-glass is reviewed; empty when none waits."""
        for request in self._requests():
            about = self._about(request)
            if not request.result and (about.get("act"), about.get("glass")) == (REVIEW, glass):
                return request.request
        return ""

    # -- within ---------------------------------------------------------------------------------------

    async def _ended(self, request: RequestView, policy: BreakGlass) -> None:
        about = self._about(request)
        glass = next((one for one in self._glasses() if one.glass == about.get("glass")), None)
        by = ", ".join(request.result_by)
        if about.get("act") == OVERRIDE:
            if request.result != "granted":
                problem = f"{request.result}" + (f" by {by}" if by else "") + f": {request.result_reason}"
                await self._refuse(about["gate"], about["asker"], about["reason"], problem)
            elif glass is None and self._approvals.now() < parse_iso(request.valid_until):
                problem = await self._policy.glass_broken(
                    about["asker"], about["reason"], second=by, at=parse_iso(request.at)
                )
                if problem:
                    await self._refuse(about["gate"], about["asker"], about["reason"], problem)
                else:
                    await self._record_use(about, by, policy)
        elif glass is not None and not glass.reviewed_by and request.result != "expired":
            said = next((one.reason for one in request.statements if one.counted), "")
            await self._recorder.record(
                BreakGlassReviewed(
                    glass=glass.glass, by=by, reason=said, accepted=request.result == "granted"
                )
            )

    async def _record_use(self, about: dict[str, str], second: str, policy: BreakGlass) -> None:
        now = self._approvals.now()
        review = policy.review_within if policy.review_within is not None and not second else None
        await self._recorder.record(
            BreakGlassUsed(
                glass=about["glass"],
                gate=about["gate"],
                by=about["asker"],
                second=second,
                reason=visible(about["reason"]),
                expires=_after(now, policy.expires),
                review_by=_after(now, review) if review is not None else "",
                blob=about["statement"],
            )
        )

    async def _ask_review(self, glass: GlassView, policy: BreakGlass) -> None:
        now = self._approvals.now()
        left = (parse_iso(glass.review_by) - now).total_seconds()
        about = {
            "act": REVIEW,
            "glass": glass.glass,
            "gate": glass.gate,
            "asker": glass.by,
            "reason": glass.reason,
            "used": glass.at,
            "statement sha256": self._digests.get(glass.glass, ""),
            "run": self._recorder.run_id,
            "plan": self._sha,
        }
        text = f"review the break-glass over {glass.gate} by {glass.by}: {glass.reason}"
        # Past its deadline it is asked again: an open problem should be able to be closed.
        await self._approvals.ask(
            ASKED, about, text, glass.by, lasts=left if left > 0 else policy.review_within or policy.expires
        )

    def _reviewing(self, glass: GlassView) -> bool:
        return bool(self.review_request(glass.glass))

    def _stands_against(self, gate: str, said: GlassPredicate, digest: str) -> str:
        if said.gate != gate:
            return f"it was signed over {said.gate}"
        state = self._recorder.state()
        failed = [one for one in state.gates if one.phase_gate == gate and one.verdict != "pass"]
        if not failed:
            return f"no verdict on {gate} has failed: there is nothing to override"
        if gate in self.facts().overridden:
            return f"{gate} is overridden already"
        for one in self._requests():
            about = self._about(one)
            if about.get("statement sha256") == digest:
                return "it was used before"
            if not one.result and (about.get("act"), about.get("gate")) == (OVERRIDE, gate):
                return f"{gate} waits for its second person already ({one.request})"
        return "it was used before" if digest in self._digests.values() else ""

    async def _refuse(self, gate: str, by: str, reason: str, problem: str) -> str:
        await self._recorder.record(
            BreakGlassRefused(
                gate=visible(gate, limit=80),
                by=visible(by, limit=500),
                reason=visible(reason),
                problem=visible(problem),
            )
        )
        return problem

    def _requests(self) -> tuple[RequestView, ...]:
        return tuple(one for one in self._recorder.state().people.requests if one.asked == ASKED)

    def _glasses(self) -> tuple[GlassView, ...]:
        return self._recorder.state().people.glasses

    def _about(self, request: RequestView) -> dict[str, str]:
        try:
            return self._approvals.document(request.request).about
        except CockpitError:
            return {}


def _after(now: datetime, seconds: float) -> str:
    return iso(now + timedelta(seconds=seconds))
