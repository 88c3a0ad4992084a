"""Working through a phase: operations in order, agents side by side, what fails it, and a HALT on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cockpit.agentkit.info import AgentInfo
from cockpit.base.clock import VirtualClock
from cockpit.base.errors import EffectRefused
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.phases import Failure, Phases, worst
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import PhaseEnded
from tests.conductor.support import events, recording

Work = Callable[[str, str], Awaitable[None]]
ROSTER = (
    AgentInfo("A1", "One", "R", "CI", "", ("P0",), mutates=True),
    AgentInfo("A2", "Two", "R", "CI", "", ("P0", "P1")),
    AgentInfo("A3", "Three", "R", "CI", "", ("P1",), gates=("slo", "perf")),
    AgentInfo("A4", "Four", "R", "CI", "", ("P2",), capabilities=("k6",)),
    AgentInfo("A5", "Five", "R", "CI", "", ("P2",), capabilities=("k6",)),
)


@dataclass
class Hold:
    """A HALT, as a test says."""

    epoch: int = 0
    free: asyncio.Event = field(default_factory=asyncio.Event)

    async def resumed(self) -> None:
        """Wait until it ended."""
        await self.free.wait()


@dataclass
class Agents:
    """A dispatch: `work` is what each call does; `verdicts` what VERIFY of an agent gives."""

    work: Work | None = None
    verdicts: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def call(self, agent: str, request: bytes) -> bytes:
        """Return an answer that is well."""
        message = json.loads(request)
        self.asked.append((agent, message["op"]))
        if self.work is not None:
            await self.work(agent, message["op"])
        given = self.verdicts.get(agent, []) if message["op"] == "VERIFY" else []
        return json.dumps(
            {
                "phase": message["phase"], "agent": next(i.name for i in ROSTER if i.id == agent),
                "result": "ok", "notes": "", "next": "", "trace_id": message["trace_id"],
                "verdicts": [verdict(name) for name in given],
            }
        ).encode()  # fmt: skip


def verdict(phase_gate: str) -> dict[str, Any]:
    judged = {"images": {}, "env": "prod", "plan_sha256": "b" * 64, "valid_s": 60}
    details = {"phase_gate": phase_gate, "outcome": "pass", "judged": judged}
    return {"gate": phase_gate, "env": "prod", "verdict": "pass", "details": details}


@asynccontextmanager
async def phases_of(
    folder: Path, agents: Agents, *, listed: tuple[str, ...] = ("A1", "A2", "A3", "A4", "A5")
) -> AsyncIterator[tuple[Phases, Hold, Recorder]]:
    hold = Hold()
    hold.free.set()
    async with asyncio.timeout(30), recording(folder) as recorder:
        calls = AgentCalls(agents, recorder, VirtualClock(auto=True), deadline=10)
        yield Phases(ROSTER, listed, calls, recorder, hold), hold, recorder


async def test_operations_in_order_and_apply_only_where_something_is_changed(tmp_path: Path) -> None:
    agents = Agents()
    async with phases_of(tmp_path, agents) as (phases, _, recorder):
        assert await phases.run("P0") == []
        assert [op for agent, op in agents.asked if agent == "A1"] == ["PLAN", "APPLY", "VERIFY", "EVIDENCE"]
        assert [op for agent, op in agents.asked if agent == "A2"] == ["PLAN", "VERIFY", "EVIDENCE"]
        (ended,) = await events(recorder, PhaseEnded)
        assert (ended.phase, ended.result) == ("P0", "pass")
        assert list((tmp_path / "heads").glob("*phase-p0*"))


async def test_agents_work_side_by_side_but_load_does_not(tmp_path: Path) -> None:
    both, at_once = asyncio.Barrier(2), 0

    async def meet(agent: str, op: str) -> None:
        await both.wait()

    async def alone(agent: str, op: str) -> None:
        nonlocal at_once
        at_once += 1
        assert at_once == 1
        await asyncio.sleep(0)
        at_once -= 1

    async with phases_of(tmp_path / "a", Agents(verdicts={"A3": ["slo", "perf"]}, work=meet)) as (
        phases,
        _,
        _r,
    ):
        assert await phases.run("P1") == []
    async with phases_of(tmp_path / "b", Agents(work=alone)) as (phases, _, _r):
        assert await phases.run("P2") == []


async def test_a_phase_with_no_agents_has_checked_nothing(tmp_path: Path) -> None:
    async with phases_of(tmp_path, Agents(), listed=("A3",)) as (phases, _, recorder):
        (failure,) = await phases.run("P0")
        assert (failure.kind, "nothing was checked" in failure.text) == ("gate", True)
        (ended,) = await events(recorder, PhaseEnded)
        assert ended.result == "fail"


async def test_a_verdict_that_is_owed_and_not_given_fails(tmp_path: Path) -> None:
    agents = Agents(verdicts={"A3": ["slo"]})
    async with phases_of(tmp_path, agents, listed=("A3",)) as (phases, _, _r):
        (failure,) = await phases.run("P1")
        assert "owes a verdict on perf" in failure.text


async def test_a_failure_stops_the_agent_and_not_the_others(tmp_path: Path) -> None:
    async def work(agent: str, op: str) -> None:
        if (agent, op) == ("A1", "PLAN"):
            raise RuntimeError("boom")

    agents = Agents(work=work)
    async with phases_of(tmp_path, agents) as (phases, _, _r):
        failures = await phases.run("P0")
        assert [failure.kind for failure in failures] == ["gate"]
        assert [op for agent, op in agents.asked if agent == "A1"] == ["PLAN", "PLAN"]
        assert [op for agent, op in agents.asked if agent == "A2"] == ["PLAN", "VERIFY", "EVIDENCE"]


async def test_nothing_is_called_while_a_halt_holds(tmp_path: Path) -> None:
    agents = Agents()
    async with phases_of(tmp_path, agents) as (phases, hold, _):
        hold.free.clear()
        running = asyncio.create_task(phases.run("P0"))
        for _turn in range(50):
            await asyncio.sleep(0.001)
        assert agents.asked == []
        hold.free.set()
        assert await running == []


async def test_what_a_halt_cut_off_is_called_again(tmp_path: Path) -> None:
    async def work(agent: str, op: str) -> None:
        if (agent, op) == ("A1", "APPLY") and hold.epoch == 0:
            hold.epoch += 1
            raise EffectRefused("cut off by HALT: its outcome is unknown", reason="halt")

    agents = Agents(work=work)
    async with phases_of(tmp_path, agents) as (phases, hold, _):
        assert await phases.run("P0") == []
        assert [op for agent, op in agents.asked if agent == "A1"] == [
            "PLAN", "APPLY", "APPLY", "VERIFY", "EVIDENCE",
        ]  # fmt: skip


async def test_what_was_refused_for_another_reason_is_a_failure(tmp_path: Path) -> None:
    async def work(agent: str, op: str) -> None:
        if (agent, op) == ("A1", "APPLY"):
            raise EffectRefused("the plan does not grant dev", reason="env")

    async with phases_of(tmp_path, Agents(work=work)) as (phases, _, _r):
        (failure,) = await phases.run("P0")
        assert "does not grant" in failure.text


def test_the_worst_kind_decides() -> None:
    gate, away, doubt = Failure("gate", "x"), Failure("unreachable", "x"), Failure("inconclusive", "x")
    assert worst([doubt, away, gate]) == "gate"
    assert worst([doubt, away]) == "unreachable"
    assert worst([doubt]) == "inconclusive"
    assert worst([]) == "gate"
