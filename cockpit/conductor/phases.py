"""Working through a phase: its agents do PLAN, APPLY where they change something, VERIFY, EVIDENCE."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cockpit.base.tasks import first_error
from cockpit.conductor.calls import AgentCalls, CallResult
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import PhaseEnded, PhaseStarted
from cockpit.rpc.messages import Op, Phase

FailureKind = Literal["gate", "inconclusive", "unreachable"]
_SERIAL = "k6"
"""Agents that put load on the same environment measure one after the other."""
_CHECKED_ELSEWHERE = frozenset({"all_required_gates"})
_MOST_AT_ONCE = 8


class RosterInfo(Protocol):
    """An agent as the roster declares it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def phases(self) -> tuple[str, ...]: ...
    @property
    def gates(self) -> tuple[str, ...]: ...
    @property
    def capabilities(self) -> tuple[str, ...]: ...
    @property
    def mutates(self) -> bool: ...
    @property
    def built(self) -> bool: ...
    @property
    def domain(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something did not pass: judged bad, could not be told, or could not be reached."""

    kind: FailureKind
    text: str
    agent: str = ""
    gate: str = ""
    """Phase gate that was judged; empty where there was no verdict."""


Remedy = Callable[[Phase, list[Failure]], Awaitable[list[Failure]]]
"""Takes what failed in a phase, returns what is left of it after people did something about it."""


def worst(failures: Iterable[Failure]) -> FailureKind:
    """Return the kind that decides: judged bad before unreachable before untold."""
    kinds = {failure.kind for failure in failures}
    order: tuple[FailureKind, ...] = ("gate", "unreachable", "inconclusive")
    return next((kind for kind in order if kind in kinds), "gate")


def failures_of(result: CallResult) -> list[Failure]:
    """Return what a call's answer says against promotion; empty when it is all well."""
    if result.response is None:
        return [Failure("gate", f"{result.agent} {result.op}: {result.status}: {result.reason}")]
    found: list[Failure] = []
    for verdict in result.response.verdicts:
        if verdict.verdict == "pass":
            continue
        outcome = verdict.details.outcome
        kind: FailureKind = "gate"
        if outcome == "provider_error":
            kind = "unreachable"
        elif outcome in ("no_data", "low_traffic"):
            kind = "inconclusive"
        text = f"{result.agent} {verdict.details.phase_gate}: {outcome}: {verdict.details.reason}"
        found.append(Failure(kind, text, result.agent, verdict.details.phase_gate))
    if not found and result.status != "ok":
        kind = "unreachable" if result.status == "blocked" else "gate"
        found.append(Failure(kind, f"{result.agent} {result.op}: {result.status}: {result.reason}"))
    return found


def owed_failures(info: RosterInfo, *results: CallResult) -> list[Failure]:
    """Return the verdicts an agent owes and did not give in these calls: a missing one is never a pass."""
    judged = {
        verdict.details.phase_gate
        for result in results
        if result.response is not None
        for verdict in result.response.verdicts
    }
    missing = set(info.gates) - judged - _CHECKED_ELSEWHERE
    return [Failure("gate", f"{info.id} owes a verdict on {gate} and gave none") for gate in sorted(missing)]


class Hold(Protocol):
    """Whether a HALT holds the run."""

    @property
    def epoch(self) -> int:
        """How many HALTs there have been."""
        ...

    async def resumed(self) -> None:
        """Wait until no HALT is in force."""
        ...


class Phases:
    """Runs the agents of phases, and single agents outside them. A HALT holds before the next operation."""

    def __init__(
        self,
        roster: Sequence[RosterInfo],
        listed: Sequence[str],
        calls: AgentCalls,
        recorder: Recorder,
        hold: Hold,
    ) -> None:
        self._hold = hold
        self._roster = [info for info in roster if info.id in set(listed)]
        self._calls = calls
        self._recorder = recorder
        self._serial = asyncio.Lock()
        self._slots = asyncio.Semaphore(_MOST_AT_ONCE)

    def agents(self, phase: str) -> list[RosterInfo]:
        """Return the plan's agents of a phase (or of `canary`), in roster order."""
        return [info for info in self._roster if phase in info.phases]

    def find(self, agent: str) -> RosterInfo | None:
        """Return an agent of the plan."""
        return next((info for info in self._roster if info.id == agent), None)

    def has(self, agent: str) -> bool:
        """Tell whether the plan lists an agent."""
        return any(info.id == agent for info in self._roster)

    async def start(self, phase: Phase) -> None:
        """Record that a phase begins."""
        await self._recorder.record(PhaseStarted(phase=phase))

    async def end(self, phase: Phase, failures: Sequence[Failure]) -> None:
        """Record how a phase ended, and put a signed head outside the journal."""
        reason = "; ".join(failure.text for failure in failures)
        await self._recorder.record(
            PhaseEnded(phase=phase, result="fail" if failures else "pass", reason=reason[:2000])
        )
        await self._recorder.write_head(f"phase-{phase.lower()}")

    async def run(self, phase: Phase, remedy: Remedy | None = None) -> list[Failure]:
        """Run a whole phase; return what failed. `remedy` may make it less (verify again, break-glass)."""
        await self.start(phase)
        agents = self.agents(phase)
        failures = await self.side_by_side(phase, agents)
        if not agents:
            failures = [
                Failure("gate", f"{phase}: the plan lists no agent of this phase: nothing was checked")
            ]
        elif failures and remedy is not None:
            failures = await remedy(phase, failures)
        await self.end(phase, failures)
        return failures

    async def again(self, phase: Phase, agent: str) -> list[Failure]:
        """Have one agent verify again and write its evidence; return what fails now."""
        info = self.find(agent)
        if info is None:
            return [Failure("gate", f"the plan has no agent {agent}")]
        result = await self.op(phase, info, "VERIFY")
        await self.op(phase, info, "EVIDENCE")
        return failures_of(result) or owed_failures(info, result)

    async def side_by_side(
        self, phase: Phase, agents: Sequence[RosterInfo], *, params: dict[str, Any] | None = None
    ) -> list[Failure]:
        """Run all operations of several agents at once; return what failed, in roster order."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.all_ops(phase, info, params=params)) for info in agents]
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        return [failure for task in tasks for failure in task.result()]

    async def all_ops(
        self, phase: Phase, info: RosterInfo, *, params: dict[str, Any] | None = None
    ) -> list[Failure]:
        """PLAN, APPLY where the agent changes something, VERIFY, EVIDENCE; stops at the first failure."""
        ops: list[Op] = (
            ["PLAN", "APPLY", "VERIFY", "EVIDENCE"] if info.mutates else ["PLAN", "VERIFY", "EVIDENCE"]
        )
        results: list[CallResult] = []
        async with self._slots:
            for op in ops:
                result = await self.op(phase, info, op, params=params)
                failures = failures_of(result)
                if op == "VERIFY" and failures:
                    # What was found is worth keeping, above all when it is bad.
                    await self.op(phase, info, "EVIDENCE", params=params)
                if failures:
                    return failures
                results.append(result)
        return owed_failures(info, *results)

    async def op(
        self,
        phase: Phase,
        info: RosterInfo,
        op: Op,
        *,
        params: dict[str, Any] | None = None,
        deadline: float | None = None,
    ) -> CallResult:
        """Call one operation; one that a HALT cut off is called again after it.

        `deadline`: seconds, where they are not those of the plan.
        """
        while True:
            await self._hold.resumed()
            epoch = self._hold.epoch
            if _SERIAL in info.capabilities:
                async with self._serial:
                    result = await self._call(phase, info, op, params, deadline)
            else:
                result = await self._call(phase, info, op, params, deadline)
            if result.status != "refused" or epoch == self._hold.epoch:
                return result

    async def _call(
        self, phase: Phase, info: RosterInfo, op: Op, params: dict[str, Any] | None, deadline: float | None
    ) -> CallResult:
        return await self._calls.call(
            info.id,
            info.name,
            phase,
            op,
            params=params,
            capabilities=info.capabilities,
            deadline=deadline,
        )
