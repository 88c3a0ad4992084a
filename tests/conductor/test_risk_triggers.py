"""Risk triggers under the canary: one that fires is a critical breach with its name, one untold is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from cockpit.agents.records import events_of
from cockpit.agents.roster import ROSTER
from cockpit.base.clock import VirtualClock
from cockpit.base.tasks import alongside
from cockpit.conductor.bake import Breach, Inconclusive
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.gatekeeper import ReleaseGatekeeper
from cockpit.conductor.hardstop import is_hard_stop
from cockpit.conductor.phases import Phases
from cockpit.dispatch import LocalDispatch
from cockpit.plan.load import LoadedPlan
from tests.agents.support import World


class _Free:
    """No HALT, and the lock is held."""

    epoch = 0
    held = True
    fenced_out = False

    async def resumed(self) -> None:
        return None


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = World(tmp_path)
        await made.open(stack)
        made.data["agents"] = ["A4"]
        yield made


def gatekeeper(world: World, clock: VirtualClock | None = None) -> ReleaseGatekeeper:
    plan = world.plan
    loaded = LoadedPlan(plan, b"", world.plan_sha256, world.folder)
    gate = EffectsGate(world.recorder, _Free(), world.clock, plan.window_utc, frozenset({"prod"}))
    dispatch = LocalDispatch(loaded, world.run_dir, world.clock, world.recorder, world.handles, gate)
    calls = AgentCalls(
        dispatch,
        world.recorder,
        world.clock,
        deadline=20.0,
        consequences=lambda agent, answer: events_of(agent, answer, world.run_dir, world.recorder.state()),
    )
    phases = Phases(ROSTER, plan.agents, calls, world.recorder, _Free())
    return ReleaseGatekeeper(
        plan, world.plan_sha256, ROSTER, phases, world.recorder, clock or VirtualClock(auto=True)
    )


async def test_no_trigger_is_no_matter(world: World) -> None:
    await gatekeeper(world).under_step(1)
    assert world.read("risk/register_step_1.json")["no_go"] == []


async def test_a_trigger_that_fired_is_a_critical_breach_with_its_name(world: World) -> None:
    world.facts.risk = [900.0]
    with pytest.raises(Breach) as breach:
        await gatekeeper(world).under_step(2)
    assert breach.value.gate == "risk_trigger:R-SCHEMA-CUTOVER" and breach.value.critical
    assert "R-SCHEMA-CUTOVER: trigger" in str(breach.value)
    assert is_hard_stop(breach.value, shifted=False)
    [risk] = [one for one in world.recorder.state().risks if one.id == "R-SCHEMA-CUTOVER"]
    assert (risk.state, risk.rating) == ("open", "high")


async def test_a_trigger_of_a_risk_that_is_not_high_is_no_breach(world: World) -> None:
    world.data["risks"] = [
        {**risk, "likelihood": "low", "impact": "medium", "state": "mitigated"}
        for risk in world.data["risks"]
    ]
    world.facts.risk = [900.0]
    await gatekeeper(world).under_step(1)
    states = {row["id"]: row["state"] for row in world.read("risk/register_step_1.json")["risks"]}
    assert states["R-SCHEMA-CUTOVER"] == "open"


async def test_what_cannot_be_told_is_no_breach_and_no_pass(world: World) -> None:
    world.facts.risk = [float("nan")]
    with pytest.raises(Inconclusive, match="no data"):
        await gatekeeper(world).under_step(1)
    world.facts.risk = [20.0]
    await gatekeeper(world).under_step(1)
    world.prometheus.mode = "error"
    with pytest.raises(Inconclusive):
        await gatekeeper(world).under_step(1)


async def test_an_exception_that_expired_is_a_breach_of_another_name(world: World) -> None:
    world.data["exceptions"] = [
        {
            "id": "E-1",
            "owner": "@sre",
            "reason": "because",
            "approved_by": "@security",
            "expires": "2020-01-01T00:00:00Z",
        }
    ]
    with pytest.raises(Breach) as breach:
        await gatekeeper(world).under_step(1)
    assert (breach.value.gate, breach.value.critical) == ("risk", False)


async def test_a_trigger_ends_a_bake_before_its_end(world: World) -> None:
    clock = VirtualClock(auto=True)
    keeper = gatekeeper(world, clock)
    bake = world.plan.canary.bake

    async def baking() -> None:
        world.facts.risk = [900.0]
        await asyncio.Event().wait()

    with pytest.raises(Breach, match="R-SCHEMA-CUTOVER"):
        async with alongside(keeper.watch_risks(1)):
            await baking()
    assert clock.monotonic() <= bake


async def test_while_a_step_bakes_the_untold_is_left_to_its_end(world: World) -> None:
    clock = VirtualClock()
    keeper = gatekeeper(world, clock)
    world.facts.risk = [float("nan")]
    async with alongside(keeper.watch_risks(1)) as watching:
        async with asyncio.timeout(20):
            while world.prometheus.requests < 2:
                clock.advance(10.0)
                await asyncio.sleep(0.01)
        assert not watching.done()


async def test_without_a_risk_officer_nothing_is_watched(world: World) -> None:
    world.data["agents"] = ["A41"]
    async with asyncio.timeout(5):
        await gatekeeper(world).watch_risks(1)
