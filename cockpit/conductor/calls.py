"""Calling agents: the request is validated, sent under a deadline, the response validated; all is recorded.

An answer that is invalid, too late or never comes is a failed call: it gives no verdict, and a missing
verdict is never a pass (design decision 6).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from cockpit.base.clock import Clock
from cockpit.base.errors import AnswerLate, CockpitError, EffectRefused, MessageInvalid
from cockpit.base.files import sha256_file
from cockpit.base.ids import new_trace_id
from cockpit.base.limits import MAX_LINE_BYTES
from cockpit.base.text import visible
from cockpit.conductor.recorder import Recorder
from cockpit.journal.base import Event
from cockpit.journal.events import AgentAnswered, AgentCalled, AgentFailed, ArtifactWritten, GateJudged
from cockpit.rpc.messages import AgentRequest, AgentResponse, GateVerdict, Inputs, Op, Phase, Scope
from cockpit.rpc.validate import check, encode
from cockpit.verdicts.gates import GA_GATES, P1_GATES, PHASE_GATES

ARTIFACTS = "artifacts"
_RETRIED: frozenset[str] = frozenset({"PLAN", "VERIFY", "EVIDENCE"})
"""Operations that change nothing outside the run folder: one that crashed is tried once more."""
_RETRY_PAUSE = 0.5
_AS_POLICY = frozenset({*GA_GATES, *P1_GATES, "all_required_gates"})
"""Phase gates of no required gate; they travel as `policy` (gates.md, reading 1)."""
_LINE_SLACK = 1024
_CANCEL_WITHIN = 2.0
"""Seconds an agent has to end when its call is over; one that does not is left behind."""


class Dispatch(Protocol):
    """Takes a request to an agent and brings back its answer, whatever that is."""

    async def call(self, agent: str, request: bytes) -> bytes:
        """Return the raw response."""
        ...


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended: the response's result, or how it failed; `response` only when it was valid."""

    agent: str
    op: Op
    status: str
    reason: str
    response: AgentResponse | None = None

    @property
    def ok(self) -> bool:
        """Whether the agent answered ok and no verdict failed."""
        return (
            self.status == "ok"
            and self.response is not None
            and all(verdict.verdict == "pass" for verdict in self.response.verdicts)
        )


Consequences = Callable[[str, AgentResponse], Sequence[Event]]


class _Invalid(MessageInvalid):
    """A response that passes its schema and still is not an answer to the request."""


class _Late(Exception):
    """No answer within the deadline."""


class AgentCalls:
    """Calls agents and records what comes of it."""

    def __init__(
        self,
        dispatch: Dispatch,
        recorder: Recorder,
        clock: Clock,
        *,
        deadline: float,
        consequences: Consequences = lambda agent, response: (),
        sitting: int = 1,
    ) -> None:
        """`consequences` gives what else an answer means for the journal: risks, messages, signatures."""
        self._sitting = sitting
        self._consequences = consequences
        self._dispatch = dispatch
        self._recorder = recorder
        self._clock = clock
        self._deadline = deadline
        self._numbers = itertools.count(1)

    async def call(
        self,
        agent: str,
        name: str,
        phase: Phase,
        op: Op,
        *,
        env: Literal["dev", "stage", "prod", "all"] = "prod",
        params: dict[str, Any] | None = None,
        capabilities: tuple[str, ...] = (),
        deadline: float | None = None,
    ) -> CallResult:
        """Call one operation of one agent; never raises for what the agent does."""
        request = AgentRequest(
            phase=phase,
            op=op,
            scope=Scope(env=env),
            inputs=Inputs(params=params or {}),
            capabilities=list(capabilities),
            trace_id=new_trace_id(),
        )
        result = await self._attempt(agent, name, request, 1, deadline)
        if result.status == "crash" and op in _RETRIED:
            await self._clock.sleep(_RETRY_PAUSE)
            result = await self._attempt(agent, name, request, 2, deadline)
        return result

    async def _attempt(
        self, agent: str, name: str, request: AgentRequest, attempt: int, deadline: float | None
    ) -> CallResult:
        number = f"c{next(self._numbers)}"
        call = number if self._sitting == 1 else f"{self._sitting}.{number}"
        started = self._clock.monotonic()
        # What undoes is never refused for a journal that cannot be written (gates.md, reading 8).
        write = self._recorder.record_abort if request.op == "ROLLBACK" else self._recorder.record
        await write(
            AgentCalled(
                call=call,
                agent=agent,
                phase=request.phase,
                op=request.op,
                env=request.scope.env,
                trace_id=request.trace_id,
                attempt=attempt,
            )
        )
        limit = deadline or self._deadline
        try:
            raw = await self._answer(agent, encode(request), limit)
            response = check(AgentResponse, raw)
            self._answers(name, request, response)
            verdicts = self._recordable(agent, request, response)
        except MessageInvalid as error:
            return await self._failed(call, agent, request, "invalid", str(error), started)
        except _Late:
            return await self._failed(
                call, agent, request, "timeout", f"no answer within {limit:g} s", started
            )
        except AnswerLate as error:
            return await self._failed(call, agent, request, "timeout", str(error), started)
        except EffectRefused as error:
            return await self._failed(call, agent, request, "refused", str(error), started)
        except asyncio.CancelledError:
            self._recorder.note(
                self._failure(call, agent, request, "cancelled", "the call was ended", started)
            )
            raise
        except CockpitError as error:
            return await self._failed(call, agent, request, "crash", str(error), started)
        except Exception as error:  # noqa: BLE001 - an agent's own error must fail the call, not the run
            text = f"{type(error).__name__}: {error}"
            return await self._failed(call, agent, request, "crash", text, started)
        await self._record(call, agent, request, response, raw, verdicts, started)
        return CallResult(agent, request.op, response.result, response.notes, response)

    async def _answer(self, agent: str, request: bytes, limit: float) -> bytes:
        """Return the answer; raises _Late. An agent that ignores its cancellation holds nobody up."""
        task = asyncio.ensure_future(self._dispatch.call(agent, request))
        task.add_done_callback(_look_at)
        try:
            await asyncio.wait((task,), timeout=limit)
        except asyncio.CancelledError:
            await _end(task)
            raise
        if not task.done():
            await _end(task)
            raise _Late
        if task.cancelled():
            raise RuntimeError("the agent cancelled itself")
        return task.result()

    def _answers(self, name: str, request: AgentRequest, response: AgentResponse) -> None:
        """Check what a schema cannot: that it answers this request, and that its artifacts are there."""
        if response.trace_id != request.trace_id or response.phase != request.phase:
            raise _Invalid("the response answers another request")
        if response.agent != name:
            raise _Invalid(f"the response is of {visible(response.agent, limit=80)}, not of {name}")
        if request.op != "VERIFY" and any(verdict.verdict == "pass" for verdict in response.verdicts):
            raise _Invalid(f"{request.op} must not give a passing verdict: only VERIFY measures")
        for verdict in response.verdicts:
            parts = PHASE_GATES.get(verdict.gate, (verdict.gate,))
            phase_gate = verdict.details.phase_gate
            travels = phase_gate in parts or (verdict.gate == "policy" and phase_gate in _AS_POLICY)
            if not travels:
                raise _Invalid(f"a verdict on {phase_gate} cannot travel as {verdict.gate}")
        for artifact in response.artifacts:
            path = self._recorder.run_dir / ARTIFACTS / artifact.path
            try:
                found = sha256_file(path)
            except OSError as error:
                raise _Invalid(f"artifact {artifact.path} is not there: {error.strerror}") from None
            if found != artifact.sha256:
                raise _Invalid(f"artifact {artifact.path} has another SHA-256 than the response says")

    def _recordable(self, agent: str, request: AgentRequest, response: AgentResponse) -> list[bytes]:
        """Return the verdicts' text; refuses what no journal line can hold while it does not count yet."""
        texts: list[bytes] = []
        try:
            for verdict in response.verdicts:
                texts.append(verdict.model_dump_json(by_alias=True).encode())
                size = len(msgspec.json.encode(self._judged(agent, request.phase, verdict, "", 0)))
                if size > MAX_LINE_BYTES - _LINE_SLACK:
                    raise _Invalid(f"a verdict of {size} bytes is too long to be recorded")
        except (ValueError, OverflowError, RecursionError) as error:
            raise _Invalid(f"a verdict cannot be recorded: {visible(str(error), limit=200)}") from None
        return texts

    async def _record(
        self,
        call: str,
        agent: str,
        request: AgentRequest,
        response: AgentResponse,
        raw: bytes,
        verdicts: list[bytes],
        started: float,
    ) -> None:
        for artifact in response.artifacts:
            self._recorder.note(
                ArtifactWritten(agent=agent, path=artifact.path, sha256=artifact.sha256, kind=artifact.type)
            )
        for event in self._consequences(agent, response):
            self._recorder.note(event)
        kept, *judged = await self._recorder.keep_all((raw, *verdicts))
        step = request.inputs.params.get("step", 0)
        for verdict, blob in zip(response.verdicts, judged, strict=True):
            await self._recorder.record(
                self._judged(agent, request.phase, verdict, blob, step if isinstance(step, int) else 0)
            )
        await self._recorder.record(
            AgentAnswered(
                call=call,
                agent=agent,
                phase=request.phase,
                op=request.op,
                result=response.result,
                notes=visible(response.notes),
                next=visible(response.next),
                took_ms=self._took(started),
                response=kept,
            )
        )

    def _judged(self, agent: str, phase: str, verdict: GateVerdict, blob: str, step: int) -> GateJudged:
        details = verdict.details
        return GateJudged(
            gate=verdict.gate,
            phase_gate=details.phase_gate,
            agent=agent,
            phase=phase,
            env=verdict.env,
            verdict=verdict.verdict,
            outcome=details.outcome,
            reason=visible(details.reason),
            metrics=dict(verdict.metrics),
            thresholds=list(verdict.thresholds),
            images=dict(details.judged.images),
            plan_sha256=details.judged.plan_sha256,
            valid_s=details.judged.valid_s,
            verdict_blob=blob,
            step=step,
        )

    async def _failed(
        self, call: str, agent: str, request: AgentRequest, kind: str, reason: str, started: float
    ) -> CallResult:
        await self._recorder.record(self._failure(call, agent, request, kind, reason, started))
        return CallResult(agent, request.op, kind, visible(reason))

    def _failure(
        self, call: str, agent: str, request: AgentRequest, kind: str, reason: str, started: float
    ) -> AgentFailed:
        return AgentFailed(
            call=call,
            agent=agent,
            phase=request.phase,
            op=request.op,
            kind=kind,
            reason=visible(reason),
            took_ms=self._took(started),
        )

    def _took(self, started: float) -> float:
        return round((self._clock.monotonic() - started) * 1000, 3)


async def _end(task: asyncio.Future[bytes]) -> None:
    task.cancel()
    await asyncio.wait((task,), timeout=_CANCEL_WITHIN)


def _look_at(task: asyncio.Future[bytes]) -> None:
    if not task.cancelled():
        task.exception()
