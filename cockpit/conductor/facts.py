"""What the policy is told about an act: who, why, and how the release stands at this moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cockpit.base.clock import Clock, parse_iso
from cockpit.conductor.decider import ApprovalFacts, DecisionFacts, ExceptionFact, RiskFact, Subject
from cockpit.conductor.recorder import Recorder
from cockpit.journal.state import ReleaseState
from cockpit.plan.model import Plan
from cockpit.plan.people import Person
from cockpit.plan.registry import rule_for
from cockpit.verdicts.approvals import glass_facts


class FactsOfRelease:
    """Gathers the facts of one release for the decider."""

    def __init__(self, plan: Plan, plan_sha256: str, recorder: Recorder, clock: Clock) -> None:
        self._plan = plan
        self._sha = plan_sha256
        self._recorder = recorder
        self._clock = clock

    def of(
        self,
        who: str,
        reason: str,
        asked: str = "",
        *,
        given: Sequence[str] | None = None,
        second: str = "",
        at: datetime | None = None,
    ) -> DecisionFacts:
        """Return the facts of an act by `who`, a person of the plan or an operator's name.

        `asked`: the approval it takes or gives. `given`: who has given it; without, those of the last grant
        in force. `second`: who stands by it. `at`: when they acted, where that was before now.
        """
        state, now = self._recorder.state(), self._clock.now()
        person = self._person(who)
        measured = list(state.headroom.values())
        return DecisionFacts(
            environment=self._plan.environment,
            subject=Subject(
                id=person.id if person is not None else who,
                groups=person.groups if person is not None else (),
                mfa_age_s=_mfa_age(state, person, now, at),
                reason=reason,
            ),
            version=self._plan.target_version,
            plan_sha256=self._sha,
            rehearsal=self._plan.rehearsal,
            reduced=tuple(state.reduced),
            approvals=self._approvals(state, asked, given, now),
            gates=dict(state.required_gates),
            overridden=tuple(glass_facts(state.people.glasses, now).overridden),
            headroom=min(measured) if measured else None,
            headroom_target=self._plan.headroom_target,
            exceptions=tuple(
                ExceptionFact(one.id, bool(one.approved_by), one.expires <= now)
                for one in self._plan.exceptions
            ),
            risks_open=tuple(RiskFact(one.id, one.rating) for one in state.risks if one.state == "open"),
            second_person=second,
        )

    def _person(self, who: str) -> Person | None:
        people = self._plan.approvals.people if self._plan.approvals is not None else ()
        return next((one for one in people if who in (one.id, one.id.removeprefix("@"))), None)

    def _approvals(
        self, state: ReleaseState, asked: str, given: Sequence[str] | None, now: datetime
    ) -> ApprovalFacts:
        rules = self._plan.approvals
        rule = rule_for(rules, asked) if rules is not None else None
        if given is None:
            given = ()
            for request in state.people.requests:
                granted = request.asked == asked and request.result == "granted"
                if granted and request.valid_until and now < parse_iso(request.valid_until):
                    given = request.result_by
        glass = rules.break_glass if rules is not None else None
        return ApprovalFacts(
            waived=rules is None,
            asked=asked,
            needed=rule.threshold if rule is not None else 0,
            given=tuple(given),
            groups=rule.groups if rule is not None else (),
            people=tuple(one.id for one in rules.people) if rules is not None else (),
            second_person=glass.second_person if glass is not None else True,
        )


def _mfa_age(state: ReleaseState, person: Person | None, now: datetime, at: datetime | None) -> float | None:
    """Return how old their last second factor was when they acted; one shown since is fresher than asked."""
    shown = [one for one in state.people.step_ups if person is not None and one.by == person.id]
    if not shown:
        return None
    last = parse_iso(shown[-1].at)
    if at is not None and at < last <= now:
        return 0.0
    return ((at or now) - last).total_seconds()
