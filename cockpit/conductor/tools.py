"""The operator's tools on a bake and on gates: pause, extend, verify again, hand the run over."""

from __future__ import annotations

import asyncio
import math

from cockpit.base.text import visible
from cockpit.conductor.phases import Phases
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events_people import (
    BakeExtended,
    BakePaused,
    HandoverAccepted,
    HandoverOffered,
    ReverifyAsked,
)
from cockpit.rpc.messages import Phase

_LONGEST_EXTENSION = 24 * 3600.0
_NAME = 200
_TOO_LATE = "the bake of this step is over; a HALT still stops what follows"


class BakeClock:
    """What people make of a bake's length; the promotion begins it anew with each step."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        people = recorder.state().people  # of a conductor that was killed: what was said holds
        self._paused = people.paused
        self._extra = people.extended_s
        self._pauses = 0
        self._over = False

    @property
    def paused(self) -> bool:
        """Whether the bake's clock stands still."""
        return self._paused

    @property
    def extra(self) -> float:
        """Seconds by which this step's bake was extended."""
        return self._extra

    @property
    def pauses(self) -> int:
        """How often it was paused, by this conductor."""
        return self._pauses

    def begin(self) -> None:
        """A step begins: it has its plan's length, and its clock goes."""
        self._paused, self._extra, self._over = False, 0.0, False

    def again(self) -> None:
        """A step is tried, maybe not for the first time: its bake is not over."""
        self._over = False

    def over(self, extra: float) -> bool:
        """Tell whether a step that baked `extra` seconds longer is done; if so nothing changes its bake."""
        self._over = not self._paused and self._extra <= extra
        return self._over

    def pause(self, paused: bool, by: str, reason: str) -> str:
        """Stop the bake's clock or let it go on; returns why not, or nothing. Analysis goes on in both."""
        if not reason.strip():
            return "pausing a bake, and going on, need a reason"
        if paused == self._paused:
            return "the bake is paused already" if paused else "the bake is not paused"
        if self._over:
            return _TOO_LATE
        self._paused = paused
        self._pauses += paused
        self._recorder.note(
            BakePaused(paused=paused, by=visible(by, limit=_NAME), reason=visible(reason, limit=1000))
        )
        return ""

    def extend(self, seconds: float, by: str, reason: str) -> str:
        """Make this step's bake longer; returns why not, or nothing."""
        if not reason.strip():
            return "extending a bake needs a reason"
        if not math.isfinite(seconds) or not 0 < seconds <= _LONGEST_EXTENSION:
            return f"a bake is extended by more than 0 and at most {_LONGEST_EXTENSION:g} seconds"
        if self._over:
            return _TOO_LATE
        self._extra += seconds
        self._recorder.note(
            BakeExtended(seconds=seconds, by=visible(by, limit=_NAME), reason=visible(reason, limit=1000))
        )
        return ""


class Reverify:
    """Has an agent verify again because a person asked; each attempt is counted and on record."""

    def __init__(self, phases: Phases, recorder: Recorder) -> None:
        self._phases = phases
        self._recorder = recorder
        self._asked: asyncio.Queue[tuple[str, Phase]] = asyncio.Queue(maxsize=8)

    def ask(self, agent: str, by: str, reason: str) -> str:
        """Queue another VERIFY of an agent; returns why not, or nothing."""
        if not reason.strip():
            return "verifying again needs a reason"
        info = self._phases.find(agent)
        if info is None:
            return f"the plan has no agent {visible(agent, limit=50)}"
        state = self._recorder.state()
        run = {view.phase for view in state.phases if view.status != "pending"}
        phases = [phase for phase in info.phases if phase in run]
        if not phases:
            return f"no phase of {agent} has begun"
        if self._asked.full():
            return "others are being verified again; try later"
        phase: Phase = phases[-1]  # type: ignore[assignment]
        self._asked.put_nowait((agent, phase))
        self._recorder.note(
            ReverifyAsked(
                agent=agent,
                phase=phase,
                attempt=state.people.reverified.get(agent, 1) + 1,
                by=visible(by, limit=_NAME),
                reason=visible(reason, limit=1000),
            )
        )
        return ""

    async def serve(self) -> None:
        """Do what was asked, one after the other, until cancelled."""
        while True:
            agent, phase = await self._asked.get()
            info = self._phases.find(agent)
            if info is None:
                continue
            step = self._recorder.state().canary.step
            params = {"step": step} if step else None
            for op in ("VERIFY", "EVIDENCE"):
                await self._phases.op(phase, info, op, params=params)


class Handover:
    """One operator offers the run, the next takes it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def offer(self, by: str, to: str, reason: str) -> str:
        """Offer the run to somebody; returns why not, or nothing."""
        people = self._recorder.state().people
        if by != people.operator:
            return f"{people.operator or 'nobody'} is the operator, and only they can hand over"
        if not to.strip() or to == by:
            return "name who is to take the run over"
        self._recorder.note(
            HandoverOffered(by=by, to=visible(to, limit=_NAME), reason=visible(reason, limit=1000))
        )
        return ""

    def accept(self, by: str) -> str:
        """Take the run over; returns why not, or nothing."""
        people = self._recorder.state().people
        if not people.offered_to:
            return "the run is not being handed over"
        if by != people.offered_to:
            return f"the run was offered to {people.offered_to}"
        self._recorder.note(HandoverAccepted(by=by, of=people.operator))
        return ""
