"""The hard stop of seed section 8, after HALT and ROLLBACK: incident → evidence → notify → fix train.

| stage | who | what |
| --- | --- | --- |
| incident | A37 APPLY | the incident of this stop, as an issue and in the run folder |
| evidence | A38 EVIDENCE, A37 APPLY | the world is frozen; digests and timeline go to the incident |
| notify | A41 APPLY | the macro `hard_stop`, to those on call and the change advisory board |
| fix_train | A2 APPLY | the hotfix issue and the next window that can take it |

Each stage is bounded in time and recorded; one that fails never stops the next, and one that is recorded as
done is not done again by a resumed conductor. Nothing here waits for the end of a HALT, and what it sends
goes out in the abort lane (`HARD_STOP`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cockpit.base.clock import Clock, SystemClock
from cockpit.base.errors import BackendUnreachable, CockpitError, JournalError
from cockpit.base.tasks import alongside
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.conductor.bake import Breach
from cockpit.conductor.phases import Phases
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import Noted
from cockpit.journal.events_people import HardStopStage
from cockpit.journal.reader import JOURNAL_NAME, verified_events
from cockpit.journal.stops import Stops, StopSeen
from cockpit.journal.upcast import decode
from cockpit.rpc.messages import Op

HARD_STOP = "hard_stop"
"""The parameter that marks a call as part of a hard stop."""

STAGES = ("incident", "evidence", "notify", "fix_train")

_COMMANDER, _SCRIBE, _COMMS, _SCHEDULER = "A37", "A38", "A41", "A2"
HARD_STOP_AGENTS = frozenset({_COMMANDER, _SCRIBE, _COMMS, _SCHEDULER})
"""Whose calls may be marked so."""

_CALL_WITHIN = 60.0
_STAGE_WITHIN = 150.0
_READ_WITHIN = 30.0
_FREEZE_AFTER_ABORT = 8.0
"""Seconds the capture at the moment of the stop may go on when the abort has ended."""
_SHIFT_WITHIN = 3.0
"""Seconds the capture waits for the shift; an abort that hangs there is frozen as it is."""
_LOOK_PAUSE = 0.05
_ASKED_FOR = frozenset({"manual", "halt", "signal"})


def is_hard_stop(error: BaseException | None, *, shifted: bool) -> bool:
    """Tell whether what ended a release is a hard stop: prod traffic had moved, or the breach is critical.

    A rollback somebody asked for counts as well, in a rehearsal or not, once traffic had moved.
    """
    return shifted or (isinstance(error, Breach) and error.critical)


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of a stage."""

    stage: str
    ok: bool
    detail: str


class HardStop:
    """Runs the stages of one stop; `call_within` and `stage_within` are in seconds of the machine.

    `resolves`: the incident is resolved where the rollback is verified and every stage is done.
    """

    def __init__(
        self,
        phases: Phases,
        recorder: Recorder,
        *,
        clock: Clock | None = None,
        resolves: bool = False,
        call_within: float = _CALL_WITHIN,
        stage_within: float = _STAGE_WITHIN,
    ) -> None:
        self._phases = phases
        self._recorder = recorder
        self._clock = clock or SystemClock()
        self._resolves = resolves
        self._call_within = call_within
        self._stage_within = stage_within

    async def run(self, cause: str, reason: str, gate: str) -> list[StageResult]:
        """Do every stage that is not recorded as done; raises JournalError when there is no journal to go by.

        `reason` is that of Rollback v2; step, severity and what became of the rollback are the journal's.
        """
        stop = await self._stop()
        done = stop.done if stop is not None else frozenset()
        number = stop.number if stop is not None else 1
        incident = self._incident_params(number, cause, reason, gate)
        work: dict[str, Callable[[], Awaitable[StageResult]]] = {
            "incident": lambda: self._incident(incident),
            "evidence": lambda: self._evidence(incident),
            "notify": lambda: self._notify(incident),
            "fix_train": lambda: self._fix_train(incident),
        }
        results = []
        for name in STAGES:
            if name in done:
                continue
            result = await self._bounded(name, work[name])
            await self._recorder.record_abort(
                HardStopStage(stage=name, ok=result.ok, detail=visible(result.detail, limit=2000))
            )
            results.append(result)
        left = [one.stage for one in results if not one.ok]
        if self._resolves and incident["verified"] and not left:
            await self._resolve(incident)
        await self._postmortem(incident)
        return results

    @asynccontextmanager
    async def freezing(self, cause: str, reason: str, gate: str) -> AsyncIterator[None]:
        """Have the world frozen beside the body, which is the abort: its pods are gone afterwards.

        It begins when the traffic is off the canary, so as to take nothing from the shift, and while the pods
        are still there. The abort waits for nothing of it; when the abort has ended the capture has a bound.
        """
        async with alongside(self._freeze(cause, reason, gate)) as task:
            yield
            if not task.done():
                await asyncio.wait((task,), timeout=_FREEZE_AFTER_ABORT)

    # -- the stages -----------------------------------------------------------------------------------

    async def _incident(self, incident: dict[str, Any]) -> StageResult:
        return await self._call("incident", _COMMANDER, "APPLY", {"incident": incident})

    async def _evidence(self, incident: dict[str, Any]) -> StageResult:
        frozen = await self._call("evidence", _SCRIBE, "EVIDENCE", {"incident": incident, "moment": "after"})
        told = await self._call(
            "evidence", _COMMANDER, "APPLY", {"incident": {**incident, "action": "update"}}
        )
        return StageResult("evidence", frozen.ok and told.ok, f"{frozen.detail}; {told.detail}")

    async def _notify(self, incident: dict[str, Any]) -> StageResult:
        known = self._recorder.state().work.incidents
        number = f"-{incident['stop']}"
        opened = next(
            (one for one in known if one.severity != "drill" and one.incident.endswith(number)), None
        )
        params = {
            "macro": "hard_stop",
            "step": incident["step"],
            "weight": incident["weight"],
            "gate": incident["gate"],
            "cause": incident["cause"],
            "by": incident["by"],
            "incident": opened.incident if opened is not None else "",
            "url": opened.url if opened is not None else "",
        }
        return await self._call("notify", _COMMS, "APPLY", params)

    async def _fix_train(self, incident: dict[str, Any]) -> StageResult:
        asked = {"cause": incident["cause"] or incident["reason"], "stop": incident["stop"]}
        return await self._call("fix_train", _SCHEDULER, "APPLY", {"fix_train": asked})

    async def _resolve(self, incident: dict[str, Any]) -> None:
        """Have the incident resolved; one that cannot be closed stays open, and says so."""
        text = "The rollback is verified and every stage of the hard stop is done."
        asked = {"incident": {**incident, "action": "resolve", "text": text}}
        result = await self._bounded("resolve", lambda: self._call("resolve", _COMMANDER, "APPLY", asked))
        if not result.ok:
            self._recorder.note(
                Noted(level="warning", text=visible(f"the incident stays open: {result.detail}"))
            )

    async def _postmortem(self, incident: dict[str, Any]) -> None:
        """Have timeline and postmortem written with what the stages came to."""
        result = await self._bounded(
            "postmortem", lambda: self._call("postmortem", _COMMANDER, "EVIDENCE", {"incident": incident})
        )
        if not result.ok:
            text = f"no postmortem was drafted: {result.detail}"
            self._recorder.note(Noted(level="warning", text=visible(text)))

    async def _freeze(self, cause: str, reason: str, gate: str) -> None:
        result = await self._bounded("freeze", lambda: self._frozen(cause, reason, gate))
        if not result.ok:
            text = f"at the stop nothing was frozen: {result.detail}"
            self._recorder.note(Noted(level="warning", text=visible(text)))

    async def _frozen(self, cause: str, reason: str, gate: str) -> StageResult:
        give_up = self._clock.monotonic() + _SHIFT_WITHIN
        while not self._shifted() and self._clock.monotonic() < give_up:
            await self._clock.sleep(_LOOK_PAUSE)
        stop = await self._stop()
        # Before the abort has begun this stop is not in the journal: it is the one after the last.
        number = (stop.number if stop is not None else 0) + (0 if stop is not None and stop.open else 1)
        params = {"incident": self._incident_params(number, cause, reason, gate), "moment": "stop"}
        return await self._call("freeze", _SCRIBE, "EVIDENCE", params)

    def _shifted(self) -> bool:
        """Tell whether the abort of this stop is past its shift."""
        rollback = self._recorder.state().rollback
        return rollback is not None and (
            rollback.status != "running" or rollback.stage in ("observe", "drain", "scale_down", "verify")
        )

    # -- helpers --------------------------------------------------------------------------------------

    async def _bounded(self, name: str, work: Callable[[], Awaitable[StageResult]]) -> StageResult:
        try:
            async with asyncio.timeout(self._stage_within):
                return await work()
        except TimeoutError:
            return StageResult(name, False, f"not done within {self._stage_within:g} s")
        except CockpitError as error:
            return StageResult(name, False, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it was, the next stage must be tried
            return StageResult(name, False, f"internal error: {type(error).__name__}: {error}")

    async def _call(self, stage: str, agent: str, op: Op, params: dict[str, Any]) -> StageResult:
        info = self._phases.find(agent)
        if info is None:
            return StageResult(stage, False, f"the plan does not list {agent}")
        result = await self._phases.op(
            "P6", info, op, params={**params, HARD_STOP: True}, deadline=self._call_within
        )
        said = result.reason or result.status
        return StageResult(stage, result.ok, said if result.ok else f"{agent} {op} {result.status}: {said}")

    async def _stop(self) -> StopSeen | None:
        """Return the last stop of the journal; None when there is none or the journal cannot be read."""
        path = self._recorder.run_dir / JOURNAL_NAME

        def read() -> StopSeen | None:
            stops = Stops()
            for block in verified_events(path, decode):
                stops.take_all(block)
            return stops.last

        try:
            return await BoundedThreads("the journal", 1).run(read, deadline=_READ_WITHIN)
        except (JournalError, BackendUnreachable) as error:
            self._recorder.note(Noted(level="error", text=visible(f"hard stop: {error}")))
            return None

    def _incident_params(self, number: int, cause: str, reason: str, gate: str) -> dict[str, Any]:
        state = self._recorder.state()
        rollback, halt = state.rollback, state.halt
        verified = rollback is not None and rollback.status == "verified"
        unfinished = rollback is not None and rollback.status == "unfinished"
        critical = halt is not None and halt.active and halt.trigger == "critical"
        severity = "sev2"
        if critical or unfinished:
            severity = "sev1"
        elif reason in _ASKED_FOR:
            severity = "sev3"
        return {
            "stop": number,
            "severity": severity,
            "reason": visible(reason, limit=100),
            "cause": visible(cause, limit=3000),
            "gate": visible(gate, limit=200),
            "step": state.canary.step,
            "weight": state.canary.target,
            "by": visible(rollback.by if rollback is not None else "", limit=200),
            "verified": verified,
        }
