"""Promote v2 as what begins the promotion (seed section 7): a plan with `promote_on: request` waits for it.

A request says again what the plan says. One that says anything else is refused whole: the run does what its
plan says and nothing weaker, and a request that asks for more would be answered with less.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from cockpit.base.clock import Clock
from cockpit.base.errors import EffectRefused, MessageInvalid
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import Question, QuestionAnswered
from cockpit.plan.model import Plan
from cockpit.rpc.messages import AbortOn, Promote
from cockpit.rpc.validate import check
from cockpit.verdicts.thresholds import Threshold, parse

QUESTION = "promote"
"""The name of the question in the journal."""
_POLL = 0.25


class PromotionRequests:
    """Whether a promotion was asked for as the plan demands."""

    def __init__(self, plan: Plan, recorder: Recorder, clock: Clock) -> None:
        self._plan = plan
        self._recorder = recorder
        self._clock = clock
        self._asked: asyncio.Future[str] | None = None

    @property
    def waiting(self) -> bool:
        """Whether a Promote v2 would be taken now."""
        return self._asked is not None and not self._asked.done()

    async def wait(self) -> None:
        """Return when the promotion may begin: at once where the plan leaves it to the gates.

        Raises EffectRefused (reason `window`) when the release window ends first.
        """
        if self._plan.promote_on == "gates":
            return
        end = self._plan.window_utc.end
        asked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked = asked
        # Not waited for: a disk that hangs must not keep a request from being taken.
        self._recorder.note(
            Question(
                question=QUESTION,
                text=f"{self._plan.target_version} is ready: `cockpit promote` (Promote v2) promotes it",
                options=["promote"],
            )
        )
        by = "the end of the run"
        try:
            while not asked.done():
                if self._clock.now() >= end:
                    by = "window"
                    raise EffectRefused(
                        f"no Promote v2 came before the release window ended at {end}", reason="window"
                    )
                await self._clock.sleep(_POLL)
            by = asked.result()
        finally:
            self._asked = None
            answer = "promote" if asked.done() and not asked.cancelled() else "none"
            self._recorder.note(QuestionAnswered(question=QUESTION, answer=answer, by=by))

    def submit(self, document: bytes, by: str) -> str:
        """Take a Promote v2 as JSON; return why it is not taken, or nothing."""
        try:
            request = check(Promote, document)
        except MessageInvalid as error:
            return str(error)
        problems = self.problems(request)
        if problems:
            return "; ".join(problems)
        return self.take(by)

    def answered(self, answer: str, by: str) -> str:
        """Take an answer to the question: it asks for what the plan says. Return why not, or nothing."""
        return self.take(by) if answer == "promote" else "the one answer possible is promote"

    def problems(self, request: Promote) -> list[str]:
        """Return how a request differs from the plan; empty when it says the same."""
        return differences(request, self._plan)

    def take(self, by: str) -> str:
        """Begin the promotion for a request that agrees with the plan; return why not, or nothing."""
        if self._plan.promote_on == "gates":
            return "this plan promotes by its gates alone (promote_on: gates): nothing waits for a request"
        if self._asked is None or self._asked.done():
            return "the run does not wait for a promotion now; see `cockpit status`"
        self._asked.set_result(visible(by, limit=200))
        return ""


def request_of(plan: Plan, trace_id: str) -> Promote:
    """Return the Promote v2 that agrees with a plan."""
    return promote_of(
        plan.target_version,
        plan.canary.steps,
        plan.required_gates,
        headroom_target=plan.headroom_target,
        auto_ramp_flags=plan.auto_ramp_flags,
        trace_id=trace_id,
    )


def promote_of(
    version: str,
    steps: tuple[int, ...],
    gates: tuple[Literal["slo", "perf", "supply_chain", "migrations", "policy", "dr"], ...],
    *,
    headroom_target: float,
    auto_ramp_flags: bool,
    trace_id: str,
) -> Promote:
    """Return a Promote v2 from what it is made of."""
    return Promote(
        version=version,
        canary=list(steps),
        required_gates=list(gates),
        auto_ramp_flags=auto_ramp_flags,
        abort_on=AbortOn(perf=f"headroom<{headroom_target:g}"),
        trace_id=trace_id,
    )


def differences(request: Promote, plan: Plan) -> list[str]:
    """Return how a request differs from a plan, member by member.

    A member that was left out asks for nothing of its own: what the plan says holds.
    """
    said = request.model_fields_set
    found = []
    if request.version != plan.target_version:
        found.append(
            f"version: this run releases {plan.target_version}, not {visible(request.version, limit=80)}"
        )
    if "canary" in said and tuple(request.canary) != plan.canary.steps:
        found.append(f"canary: the plan's steps are {list(plan.canary.steps)}, not {request.canary[:20]}")
    asked, planned = set(request.required_gates), set(plan.required_gates)
    if missing := sorted(planned - asked):
        found.append(f"required_gates: the plan also requires {', '.join(missing)}")
    if more := sorted(asked - planned):
        found.append(f"required_gates: this run does not decide on {', '.join(more)}")
    if "auto_ramp_flags" in said and request.auto_ramp_flags != plan.auto_ramp_flags:
        found.append(f"auto_ramp_flags: the plan says {str(plan.auto_ramp_flags).lower()}")
    return found + (_abort_differences(request.abort_on, plan) if "abort_on" in said else [])


def _abort_differences(asked: AbortOn, plan: Plan) -> list[str]:
    said, found = asked.model_fields_set, []
    wanted = {"slo": "burn>0", "perf": f"headroom<{plan.headroom_target:g}"}
    for name, text in wanted.items():
        given = str(getattr(asked, name))
        if name in said and _read(given) != _read(text):
            found.append(f"abort_on.{name}: the run aborts on {text}, not on {visible(given, limit=80)}")
    standing = AbortOn().supply_chain
    if "supply_chain" in said and asked.supply_chain != standing:
        found.append(
            f"abort_on.supply_chain: the run aborts on {standing!r}, not on "
            f"{visible(asked.supply_chain, limit=80)!r}"
        )
    return found


def _read(text: str) -> Threshold | None:
    try:
        return parse(text.replace(" ", ""))
    except ValueError:
        return None
