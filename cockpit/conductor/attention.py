"""When a decision waits: page who is on call, escalate when nobody attends to it, tell when it is settled.

All of it follows from the journal. What waits, what was called for and what was delivered is read from the
state, so a conductor that takes a run up again goes on where the other was, and calls nobody twice. The
events come first: the bell on the screens does not wait for a webhook that hangs.

Messages go out in the abort lane of the effects gate: a HALT, which is a decision that waits, must not stop
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from cockpit.backends.notices import About, Alert, Message, Part, Severity, Status
from cockpit.backends.notify import Delivery
from cockpit.backends.notify_shapes import speaks
from cockpit.base.clock import Clock, parse_iso
from cockpit.base.errors import CockpitError
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import MessagePosted, Noted
from cockpit.journal.events_people import DecisionAcknowledged, DecisionWaits
from cockpit.journal.state import QuestionView, ReleaseState
from cockpit.journal.state_people import WaitView
from cockpit.plan.model import Plan, Webhook

T = TypeVar("T")
_BY = "attention"
_TURN = 0.5
_PAUSE, _LONGEST_PAUSE = 5.0, 60.0
"""Seconds before another attempt at a message that was not delivered; it doubles."""
_LAST_WORD = 15.0
"""Seconds the last messages of a run may take."""


class Sender(Protocol):
    """Posts a message in a receiver's shape; raises BackendError."""

    async def send(self, receiver: Webhook, message: Message) -> Delivery: ...


class AbortLane(Protocol):
    """The lane of the effects gate that no HALT closes."""

    async def abort(
        self, verb: str, target: str, act: Callable[[], Awaitable[T]], *, env: str, by: str, detail: str = ""
    ) -> T: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """Something only a person can decide: `what` names it in the journal; `since` is RFC 3339."""

    what: str
    text: str
    since: str


def decisions(state: ReleaseState, since: datetime) -> list[Decision]:
    """Return what waits for a person: a HALT in force, open questions, open requests for approval.

    A HALT or question from before `since` is of a conductor that is no more: nobody can answer it now.
    """
    found: list[Decision] = []
    # HALTs are counted anew by each process on the journal.
    sitting = f"{state.people.sitting}." if state.people.sitting > 1 else ""
    halt = state.halt
    if halt is not None and halt.active and parse_iso(halt.at) >= since:
        reason = f" ({halt.reason})" if halt.reason else ""
        text = f"HALT by {halt.by}{reason}: roll back, resume or stay?"
        found.append(Decision(f"halt:{sitting}{halt.epoch}", text, halt.at))
    for question in state.questions:
        # The question a HALT puts is the HALT, however often it is put.
        if not question.answer and parse_iso(question.at) >= since and not _of_halt(question):
            found.append(Decision(f"question:{question.question}", question.text, question.at))
    for request in state.people.requests:
        if not request.result:
            found.append(Decision(f"request:{request.request}", request.text, request.at))
    return found


def _of_halt(question: QuestionView) -> bool:
    return {"resume", "stay"} <= set(question.options)


@dataclass(frozen=True, slots=True)
class _Call:
    """A message to one webhook; `name` tells it from the run's others."""

    name: str
    hook: Webhook
    message: Message


class Attention:
    """Calls people to the decisions that wait, for as long as the run lasts."""

    def __init__(
        self, *, plan: Plan, sender: Sender | None, effects: AbortLane, recorder: Recorder, clock: Clock
    ) -> None:
        """`sender` None: nobody can be called, and the events are all there is."""
        self._plan = plan
        self._sender = sender
        self._effects = effects
        self._recorder = recorder
        self._clock = clock
        self._hooks = plan.targets.webhooks if sender is not None else ()
        self._about = About(
            run_id=recorder.run_id,
            repo=plan.repo,
            version=plan.target_version,
            environment=plan.environment,
            rehearsal=plan.rehearsal,
        )
        self._since = clock.now()
        self._again: dict[tuple[str, str], tuple[float, float]] = {}
        """Message and webhook → when the next attempt may be, and the pause after it."""
        self._attended: set[str] = set()
        """Acknowledged here: it counts at once, before the disk has it."""
        self._troubles: set[str] = set()

    async def run(self) -> None:
        """Look after what waits until cancelled; raises nothing else."""
        while True:
            await self.turn()
            await self._clock.sleep(_TURN)

    async def turn(self) -> None:
        """Do what is due now; never raises for what fails."""
        try:
            await self._turn(decisions(self._recorder.state(), self._since))
        except Exception as error:  # noqa: BLE001 - calling people must never end a release
            self._trouble(error)

    async def finish(self) -> None:
        """Tell that nothing waits any more: the run is over. Bounded, and never raises."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                self._again.clear()
                await self._turn([])
        except Exception as error:  # noqa: BLE001 - see above
            self._trouble(error)

    def acknowledge(self, by: str, what: str = "") -> str:
        """Somebody attends to `what`, or to all that waits: no escalation. Returns why not, or nothing."""
        state = self._recorder.state()
        attended = {wait.what for wait in state.people.waits if wait.by} | self._attended
        waiting = [one.what for one in decisions(state, self._since) if what in ("", one.what)]
        if not waiting:
            return "no such decision waits" if what else "no decision waits for anybody"
        new = [one for one in waiting if one not in attended]
        self._attended.update(new)
        for one in new:
            self._recorder.note(DecisionAcknowledged(what=one, by=visible(by, limit=200)))
        return "" if new else "somebody has acknowledged it already"

    async def _turn(self, waiting: list[Decision]) -> None:
        waits = {wait.what: wait for wait in self._recorder.state().people.waits}
        for decision in waiting:
            level = self._due(decision, waits.get(decision.what))
            if level:
                await self._recorder.record_abort(
                    DecisionWaits(what=decision.what, level=level, text=visible(decision.text))
                )
        state = self._recorder.state()
        calls = [call for wait in state.people.waits for call in self._calls(wait, waiting, state)]
        now = self._clock.monotonic()
        async with asyncio.TaskGroup() as group:
            for call in calls:
                if now >= self._again.get((call.name, call.hook.name), (0.0, 0.0))[0]:
                    group.create_task(self._call(call))

    def _due(self, decision: Decision, wait: WaitView | None) -> str:
        """Return the level that is due and was not reached yet."""
        if decision.what in self._attended or (wait is not None and (wait.by or wait.level == "escalate")):
            return ""
        if wait is None or not wait.level:
            return "page" if self._age(decision.since) >= self._plan.attention.page_after else ""
        return "escalate" if self._age(wait.at) >= self._plan.attention.escalate_after else ""

    def _age(self, since: str) -> float:
        return (self._clock.now() - parse_iso(since)).total_seconds()

    # -- what is to be sent ---------------------------------------------------------------------------

    def _calls(self, wait: WaitView, waiting: list[Decision], state: ReleaseState) -> list[_Call]:
        """Return what was not delivered yet of what a wait asks for."""
        posted = set(state.work.posted)
        decision = next((one for one in waiting if one.what == wait.what), None)
        found: list[_Call] = []
        for hook in self._hooks:
            levels = [
                level for level in ("page", "escalate") if (f"{level}:{wait.what}", hook.name) in posted
            ]
            if decision is None:
                if levels and hook.kind in ("pager", "alertmanager"):
                    found.append(self._follow(wait, hook, "settled", "resolved", levels))
            elif wait.by:
                if levels and hook.kind == "pager":
                    found.append(self._follow(wait, hook, "acknowledge", "acknowledged", levels))
            elif wait.level == "escalate" or hook.kind == "pager" or "oncall" in hook.audience:
                found.append(self._first(wait, decision, hook))
        return [
            call
            for call in found
            if (call.name, call.hook.name) not in posted and speaks(call.hook.kind, call.message)
        ]

    def _first(self, wait: WaitView, decision: Decision, hook: Webhook) -> _Call:
        head = Part("A decision waits", "bold")
        tail = f" On-call: {','.join(self._plan.oncall)}."
        if wait.level == "escalate":
            head = Part("A decision waits, and nobody has acknowledged it", "bold")
            tail += f" CAB: {','.join(self._plan.cab)}." if self._plan.cab else ""
        parts = (
            head,
            Part(" in "),
            Part(self._plan.target_version, "code"),
            Part(": "),
            Part(decision.text, "outside"),
            Part(tail),
        )
        return self._made(wait, hook, wait.level, parts, [wait.level], "firing")

    def _follow(self, wait: WaitView, hook: Webhook, name: str, status: Status, levels: list[str]) -> _Call:
        said: tuple[Part, ...] = (Part(f"{wait.what} is settled."),)
        if status == "acknowledged":
            said = (Part(f"{wait.what} acknowledged by "), Part(wait.by, "outside"), Part("."))
        return self._made(wait, hook, name, said, levels, status)

    def _made(
        self,
        wait: WaitView,
        hook: Webhook,
        name: str,
        parts: tuple[Part, ...],
        levels: list[str],
        status: Status,
    ) -> _Call:
        severity: Severity = "critical" if wait.what.startswith("halt:") else "warning"
        alerts = tuple(
            Alert(
                # An escalation is an alert of its own: one that is open already would ring nowhere.
                matter=wait.what if level == "page" else f"{wait.what}/escalation",
                name="ReleaseDecisionWaits",
                severity=severity,
                status=status,
                since=wait.at,
            )
            for level in levels
        )
        full = f"{name}:{wait.what}"
        message = Message(
            key=f"{self._about.run_id}:{full}:{hook.name}",
            kind=name,
            parts=parts,
            about=self._about,
            at=wait.at,
            alerts=alerts,
            facts={"decision": wait.what},
        )
        return _Call(full, hook, message)

    # -- sending --------------------------------------------------------------------------------------

    async def _call(self, call: _Call) -> None:
        sender = self._sender
        assert sender is not None  # without one there are no hooks
        key = (call.name, call.hook.name)
        reason = ""
        try:
            await self._effects.abort(
                "post",
                f"webhook {call.hook.name}: {call.name}",
                lambda: sender.send(call.hook, call.message),
                env="all",
                by=_BY,
                detail=call.message.key,
            )
        except CockpitError as error:
            reason = visible(str(error), limit=300)
        if reason:
            _, pause = self._again.get(key, (0.0, _PAUSE))
            first = key not in self._again
            self._again[key] = (self._clock.monotonic() + pause, min(pause * 2, _LONGEST_PAUSE))
            if not first:
                return  # it is known that it does not arrive
        await self._recorder.record_abort(
            MessagePosted(
                macro=call.name,
                webhook=call.hook.name,
                ok=not reason,
                text=visible(call.message.text),
                reason=reason,
            )
        )

    def _trouble(self, error: BaseException) -> None:
        text = f"calling people to a decision: {type(error).__name__}: {visible(str(error), limit=300)}"
        if text not in self._troubles and len(self._troubles) < 20:
            self._troubles.add(text)
            self._recorder.note(Noted(level="error", text=text))
