"""Asks the policy engine before something is done, and records what it said (seed section 5, P3).

The release calls `ask` before it acts; what comes back is what stands against it. A policy that cannot be
asked stands against it too, and is told apart from one that says no. Aborts are exempt: nothing is asked.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cockpit.backends.policy_engine import DecisionEngine
from cockpit.base.errors import BackendError, BackendUnreachable, JournalError
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events_people import PolicyDecided
from cockpit.verdicts.obligations import Met, unmet
from cockpit.verdicts.policy_decision import Decision, stored

Action = Literal["promote", "flip", "rollback", "break-glass", "resume", "approve"]
ACTIONS: tuple[Action, ...] = ("promote", "flip", "rollback", "break-glass", "resume", "approve")
EXEMPT: frozenset[Action] = frozenset({"rollback"})
"""Never asked about: an abort waits for nobody and is refused by nobody (gates.md, reading 8)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who acts. `id` as people write it (the plan's `people`, or the operator's name); `groups` of the plan.

    `mfa_age_s`: seconds since they last showed a second factor, None when never. `reason`: what they said
    why; where nobody was there to say it, the reason the plan records (its waiver's).
    """

    id: str
    groups: tuple[str, ...] = ()
    mfa_age_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ExceptionFact:
    """An exception of the plan: approved by somebody, and not past its expiry."""

    id: str
    approved: bool
    expired: bool


@dataclass(frozen=True, slots=True)
class RiskFact:
    """A risk that is open now, with its rating: low, medium, high."""

    id: str
    rating: str


@dataclass(frozen=True, slots=True)
class ApprovalFacts:
    """How approvals stand for the act. `waived`: the plan waives them and so lists no people.

    `asked` is what is (or was) asked for: promote, flip, break-glass, exception, irreversible. `needed` is
    the threshold of the plan's rule for it, 0 where it has none; `given` the ids of those whose approval
    counts now. `groups` are those that count by the rule (empty: every listed person), `people` the ids
    listed. `second_person` is the plan's `break_glass.second_person`.
    """

    waived: bool
    asked: str = ""
    needed: int = 0
    given: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    second_person: bool = True


@dataclass(frozen=True, slots=True)
class DecisionFacts:
    """Everything a decision is made on.

    `gates`: required gate → pass, fail or `not evaluated`. `overridden`: phase gates break-glass overrides
    now. `headroom` as last measured, None when it was not. `second_person`: who stands by a break-glass
    beside the subject, empty when nobody does (policy does not see it: it meets an obligation).
    """

    environment: Literal["dev", "stage", "prod"]
    subject: Subject
    version: str
    plan_sha256: str
    rehearsal: bool
    reduced: tuple[str, ...]
    approvals: ApprovalFacts
    gates: Mapping[str, str] = field(default_factory=dict)
    overridden: tuple[str, ...] = ()
    headroom: float | None = None
    headroom_target: float = 0.2
    exceptions: tuple[ExceptionFact, ...] = ()
    risks_open: tuple[RiskFact, ...] = ()
    second_person: str = ""

    def input(self, action: Action) -> dict[str, Any]:
        """Return the input document of the policy (`agents/policy/release/release.rego` says which)."""
        document: dict[str, Any] = {
            "action": action,
            "environment": self.environment,
            "subject": asdict(self.subject),
            "release": {
                "version": self.version,
                "plan_sha256": self.plan_sha256,
                "reduced": self.reduced,
                "rehearsal": self.rehearsal,
            },
            "gates": {**self.gates, **dict.fromkeys(self.overridden, "overridden")},
            "headroom": {"observed": self.headroom, "target": self.headroom_target},
            "exceptions": [asdict(one) for one in self.exceptions],
            "risks_open": [asdict(one) for one in self.risks_open],
            "approvals": asdict(self.approvals),
        }
        return {name: _plain(value) for name, value in document.items()}

    def met(self) -> Met:
        """Return the facts obligations are held against."""
        return Met(self.subject.id, self.subject.mfa_age_s, self.subject.reason, self.second_person)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What asking came to. `problems` is empty when it may be done.

    `unmet` names the obligations that stand in its way, e.g. `step_up_mfa`: met, asking again may allow.
    `unreachable`: there is no decision at all, `error` says why (exit 50 where prod is untouched).
    """

    action: Action
    problems: tuple[str, ...]
    unmet: tuple[str, ...] = ()
    decision: Decision | None = None
    error: BackendError | None = None

    @property
    def allowed(self) -> bool:
        """Tell whether it may be done."""
        return not self.problems

    @property
    def unreachable(self) -> bool:
        """Tell whether the policy could not be asked, or gave no answer that can be read."""
        return self.error is not None


class Decider:
    """Asks under a deadline of `deadline` seconds; every answer is kept and recorded before it counts."""

    def __init__(self, engine: DecisionEngine, recorder: Recorder, *, deadline: float) -> None:
        self._engine = engine
        self._recorder = recorder
        self._deadline = deadline

    async def ask(self, action: Action, facts: DecisionFacts) -> list[str]:
        """Return what stands against `action`; empty: it is allowed and every obligation is met.

        A policy that could not be asked is a problem beginning with `policy unreachable: `; `consult` tells
        the kinds apart without reading words.
        """
        return list((await self.consult(action, facts)).problems)

    async def consult(self, action: Action, facts: DecisionFacts) -> Ruling:
        """Ask, keep the raw answer, record it, and return the ruling; raises nothing but a cancellation."""
        if action in EXEMPT:
            return Ruling(action, ())
        asked = facts.input(action)
        try:
            async with asyncio.timeout(self._deadline):
                decision = await self._engine.decide(asked)
        except TimeoutError:
            error: BackendError = BackendUnreachable(f"no decision within {self._deadline:g} s")
            return await self._without(action, asked, error)
        except BackendError as caught:
            return await self._without(action, asked, caught)
        open_ones = unmet(decision.obligations, facts.met()) if decision.allow else ()
        problems = tuple(why for _, why in open_ones)
        if not decision.allow:
            problems = tuple(f"policy denies {action}: {one}" for one in decision.reasons)
        names = tuple(dict.fromkeys(one.name for one, _ in open_ones))
        unrecorded = await self._record(
            action,
            decision.raw,
            allow=decision.allow,
            obligations=[visible(str(one), limit=200) for one in decision.obligations],
            unmet=[visible(one, limit=200) for one in names],
            reasons=list(decision.reasons) if not decision.allow else [*decision.reasons, *problems],
        )
        return Ruling(action, (*problems, *unrecorded), names, decision)

    async def _without(self, action: Action, asked: dict[str, Any], error: BackendError) -> Ruling:
        said = visible(str(error), limit=500)
        raw = stored(engine=self._engine.name, path=self._engine.path, policy="", input=asked, error=said)
        unrecorded = await self._record(
            action, raw, allow=False, obligations=[], unmet=[], reasons=[f"unreachable: {said}"]
        )
        return Ruling(action, (f"policy unreachable: {said}", *unrecorded), error=error)

    async def _record(
        self,
        action: Action,
        raw: bytes,
        *,
        allow: bool,
        obligations: list[str],
        unmet: list[str],
        reasons: list[str],
    ) -> tuple[str, ...]:
        # A decision that is not on record cannot be held up later: it allows nothing.
        try:
            [blob] = await self._recorder.keep_all([raw])
            await self._recorder.record(
                PolicyDecided(
                    decision=f"d-{secrets.token_hex(6)}",
                    action=action,
                    allow=allow,
                    obligations=obligations,
                    unmet=unmet,
                    reasons=[visible(one, limit=500) for one in reasons[:50]],
                    engine=self._engine.name,
                    blob=blob,
                )
            )
        except JournalError as error:
            return (
                f"the policy's decision on {action} cannot be recorded: {visible(error.what, limit=300)}",
            )
        return ()


def _plain(value: Any) -> Any:
    # As JSON has it: the engines must see the very document that is stored.
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
