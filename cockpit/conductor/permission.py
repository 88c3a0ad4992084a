"""What must be so, beyond the gates, before a step moves traffic: a request, approvals, and policy.

In this order, so that people approve what was asked for, and policy decides on what people approved.
"""

from __future__ import annotations

from typing import Literal

from cockpit.base.errors import BackendUnreachable
from cockpit.conductor.approvals import ApprovalDesk
from cockpit.conductor.canary import PreflightFailed
from cockpit.conductor.decider import Decider, DecisionFacts
from cockpit.conductor.ending import ApprovalMissing
from cockpit.conductor.facts import FactsOfRelease
from cockpit.conductor.people import People
from cockpit.conductor.promotion_requests import PromotionRequests
from cockpit.conductor.recorder import Recorder
from cockpit.journal.state import ReleaseState
from cockpit.plan.exceptions import about
from cockpit.plan.model import Plan

Asked = Literal["promote", "flip"]


class Permission:
    """Asks people and policy before the release goes further. Aborts never come here."""

    def __init__(
        self,
        plan: Plan,
        *,
        recorder: Recorder,
        people: People,
        desk: ApprovalDesk | None,
        decider: Decider,
        facts: FactsOfRelease,
        promotions: PromotionRequests,
    ) -> None:
        self._plan = plan
        self._recorder = recorder
        self._people = people
        self._desk = desk
        self._decider = decider
        self._facts_of = facts
        self._promotions = promotions

    async def before_step(self, step: int) -> None:
        """Wait for what a step needs; raises what stands against it.

        ApprovalRejected, ApprovalMissing, PreflightFailed for a policy that denies, BackendUnreachable for
        one that cannot be asked.
        """
        if step == 1:
            await self._promotions.wait()
        await self._approved("promote", step == 1)
        await self._decided("promote")

    async def before_train(self) -> None:
        """Wait for what people must say about the plan's exceptions; raises as `before_step` does."""
        rules = self._plan.approvals
        if self._desk is None or rules is None or rules.rule("exception") is None:
            return
        for entry in self._plan.exceptions:
            text = f"exception {entry.id} of {entry.owner}: {entry.reason}"
            operator = self._recorder.state().people.operator
            await self._desk.obtain("exception", about(entry), text, operator)

    async def before_flip(self) -> None:
        """Wait for what the flags' flip in P8 needs; raises as `before_step` does."""
        await self._approved("flip", True)
        await self._decided("flip")

    # -- people ---------------------------------------------------------------------------------------

    def subject(self) -> dict[str, str]:
        """Return what approvers bind themselves to: the images and the signed promotion pack."""
        state = self._recorder.state()
        pack = next((one.sha256 for one in reversed(state.packs) if one.kind == "promotion"), "")
        images = {f"image {service.name}": service.image.text for service in self._plan.services}
        return {"version": self._plan.target_version, "promotion pack": f"sha256:{pack}", **images}

    async def _approved(self, asked: Asked, first: bool) -> None:
        rules = self._plan.approvals
        if self._desk is None or rules is None or rules.rule(asked) is None:
            if rules is not None and asked == "promote":
                raise ApprovalMissing("the plan names people but no rule for `promote`")
            return
        subject = self.subject()
        if first:
            operator = self._recorder.state().people.operator
            text = (
                f"promote {self._plan.target_version} to {self._plan.environment}"
                if asked == "promote"
                else f"flip the GA flags of {self._plan.target_version}: {', '.join(self._plan.ga_flags)}"
            )
            await self._desk.obtain(asked, subject, text, operator)
        if problem := await self._desk.recheck(asked, subject):
            raise ApprovalMissing(problem)

    # -- policy ---------------------------------------------------------------------------------------

    async def _decided(self, action: Asked) -> None:
        while True:
            ruling = await self._decider.consult(action, self._facts(action))
            if ruling.allowed:
                return
            said = "; ".join(ruling.problems)
            if ruling.unreachable:
                raise BackendUnreachable(said, where="policy")
            if not ruling.unmet:
                raise PreflightFailed(said)
            answer, by = await self._people.ask(
                f"Policy allows {action} with obligations that are not met: {said}. Meet them and try again?",
                ("retry", "end"),
                otherwise="end",
            )
            if answer != "retry":
                if by in ("--auto", "bound"):
                    raise ApprovalMissing(said)
                raise PreflightFailed(f"{said}; ended by {by}")

    def _facts(self, action: Asked) -> DecisionFacts:
        state = self._recorder.state()
        return self._facts_of.of(state.people.operator, self._reason(state, action), action)

    def _reason(self, state: ReleaseState, action: Asked) -> str:
        """Return why it is done: what the operator said, what was approved, or what the plan records."""
        if said := self._people.reasons.get(state.people.operator):
            return said
        for request in reversed(state.people.requests):
            if request.asked == action and request.result == "granted":
                given = [one.reason for one in request.statements if one.counted]
                if given:
                    return given[-1]
        return next((one.reason for one in self._plan.waivers if one.what == "approvals"), "")
