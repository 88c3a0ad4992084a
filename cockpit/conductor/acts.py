"""Policy over what people do to a run: ending a HALT, approving, breaking the glass (gates.md).

Each is asked about before it counts. A policy that denies, an obligation that is not met, and an engine that
cannot be asked stand in the way alike; the HALT then holds, the statement does not count, the gate stays
failed. Nobody is asked about a HALT, a ROLLBACK or a rejection.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Protocol

from cockpit.conductor.decider import Action, Decider, DecisionFacts
from cockpit.conductor.facts import FactsOfRelease
from cockpit.journal.state_people import RequestView

_GLASS: Final = "break-glass"
_SECOND = "second_person"


class PolicyOnPeople(Protocol):
    """What is asked before a decision of people counts; each returns why it must not, or nothing."""

    async def approve(self, request: RequestView, person: str, reason: str) -> str:
        """Ask whether somebody may approve a request."""
        ...

    async def break_glass(self, person: str, reason: str) -> str:
        """Ask whether somebody may break the glass; who stands by them may sign yet."""
        ...

    async def glass_broken(self, person: str, reason: str, *, second: str, at: datetime) -> str:
        """Ask again, with who stands by it, once it is to count; they asked for it `at`."""
        ...


class ActPolicy:
    """Asks the plan's engine about acts of people; every decision is recorded before it counts."""

    def __init__(self, decider: Decider, facts: FactsOfRelease) -> None:
        self._decider = decider
        self._facts = facts

    async def resume(self, by: str, reason: str) -> str:
        """Ask whether somebody may end a HALT."""
        return await self._asked("resume", self._facts.of(by, reason))

    async def approve(self, request: RequestView, person: str, reason: str) -> str:
        """Ask whether somebody may approve a request."""
        given = [one.by for one in request.statements if one.counted and one.decision == "approve"]
        return await self._asked("approve", self._facts.of(person, reason, request.asked, given=given))

    async def break_glass(self, person: str, reason: str) -> str:
        """Ask whether somebody may break the glass; who stands by them may sign yet."""
        facts = self._facts.of(person, reason, _GLASS)
        # Where the plan wants a second person it does not count before they have signed.
        pending = _SECOND if facts.approvals.second_person else ""
        return await self._asked(_GLASS, facts, pending=pending)

    async def glass_broken(self, person: str, reason: str, *, second: str, at: datetime) -> str:
        """Ask again, with who stands by it, once it is to count; they asked for it `at`."""
        return await self._asked(_GLASS, self._facts.of(person, reason, _GLASS, second=second, at=at))

    async def _asked(self, action: Action, facts: DecisionFacts, *, pending: str = "") -> str:
        ruling = await self._decider.consult(action, facts)
        if ruling.allowed or (pending and ruling.unmet == (pending,) and len(ruling.problems) == 1):
            return ""
        hint = ": `cockpit step-up` shows one" if "step_up_mfa" in ruling.unmet else ""
        return f"policy: {'; '.join(ruling.problems)}{hint}"
