"""The hard stop of seed section 8: incident, evidence, notify, fix train, whatever becomes of one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cockpit.agents.records import events_of
from cockpit.agents.roster import ROSTER
from cockpit.backends.issues import GitHubIssues
from cockpit.base.clock import VirtualClock
from cockpit.conductor.bake import Breach, Inconclusive
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.hardstop import HARD_STOP, STAGES, HardStop, is_hard_stop
from cockpit.conductor.people import People
from cockpit.conductor.phases import Phases
from cockpit.dispatch import LocalDispatch
from cockpit.journal.events import (
    AgentCalled,
    AnyEvent,
    EffectIntended,
    HaltBegan,
    MessagePosted,
    Noted,
    Released,
    RollbackStage,
    RollbackStarted,
    RollbackUnfinished,
    RollbackVerified,
    StepStarted,
)
from cockpit.journal.events_people import HardStopStage
from cockpit.journal.stops import Stops
from cockpit.plan.load import LoadedPlan
from cockpit.rehearsal.issues import IssuesServer
from tests.agents.support import World

EVERYBODY = ("A2", "A37", "A38", "A41")
CAUSE, REASON, GATE = "error_rate 0.4 is not < 0.01", "slo_breach", "slo"


@dataclass
class Stopped:
    """A run whose canary broke at step 2: HALT is in force and the rollback is verified."""

    world: World
    forge: IssuesServer
    gate: EffectsGate
    people: People

    def phases(self, listed: Sequence[str] = EVERYBODY) -> Phases:
        world = self.world
        loaded = LoadedPlan(world.plan, b"", world.plan_sha256, world.folder)
        dispatch = LocalDispatch(loaded, world.run_dir, world.clock, world.recorder, world.handles, self.gate)
        calls = AgentCalls(
            dispatch,
            world.recorder,
            world.clock,
            deadline=30.0,
            consequences=lambda agent, response: events_of(
                agent, response, world.run_dir, world.recorder.state()
            ),
        )
        return Phases(ROSTER, listed, calls, world.recorder, self.people)

    def stop(
        self,
        listed: Sequence[str] = EVERYBODY,
        *,
        resolves: bool = False,
        call_within: float = 60.0,
        stage_within: float = 150.0,
    ) -> HardStop:
        phases, recorder = self.phases(listed), self.world.recorder
        return HardStop(
            phases, recorder, resolves=resolves, call_within=call_within, stage_within=stage_within
        )

    async def run(
        self, listed: Sequence[str] = EVERYBODY, *, call_within: float = 60.0, stage_within: float = 150.0
    ) -> dict[str, bool]:
        stop = self.stop(listed, call_within=call_within, stage_within=stage_within)
        results = await stop.run(CAUSE, REASON, GATE)
        return {one.stage: one.ok for one in results}

    def events(self, kind: Any) -> list[Any]:
        self.world.recorder.state()
        return [event for event in self.world.recorder.events() if isinstance(event, kind)]

    def posted(self) -> list[dict[str, Any]]:
        return [one for one in self.world.posted if one.get("kind") == "hard_stop"]

    def details(self) -> dict[str, str]:
        return {event.stage: event.detail for event in self.events(HardStopStage)}


@pytest_asyncio.fixture
async def stopped(tmp_path: Path) -> AsyncIterator[Stopped]:
    async with AsyncExitStack() as stack:
        world = World(tmp_path)
        await world.open(stack)
        forge = await stack.enter_async_context(IssuesServer())
        world.data["targets"]["issues"] = {
            "url": forge.url,
            "repository": forge.repository,
            "token": "file:secret",
        }
        client = GitHubIssues(forge.url, forge.repository, forge.token, clock=world.clock, deadline=5.0)
        world.handles = replace(world.handles, issues=client)
        plan = world.plan
        gate = EffectsGate(
            world.recorder, _Holder(), world.clock, plan.window_utc, frozenset({"prod", "all"})
        )
        people = People(
            effects=gate,
            recorder=world.recorder,
            clock=world.clock,
            on_halt="ask",
            bound=60.0,
            unattended=True,
        )
        people.halt("A1", "critical", CAUSE)
        people.over()
        await world.recorder.record(StepStarted(step=2, weight=50))
        await world.recorder.record(RollbackStarted(reason=REASON, cause=CAUSE, by="A1"))
        await world.recorder.record(RollbackVerified(proof={"route": "0"}))
        yield Stopped(world, forge, gate, people)


class _Holder:
    held = True
    fenced_out = False


async def test_every_stage_is_done_while_the_halt_is_in_force(stopped: Stopped) -> None:
    assert stopped.gate.halted
    done = await stopped.run()
    assert {name: done[name] for name in ("incident", "evidence", "notify")} == {
        "incident": True,
        "evidence": True,
        "notify": True,
    }, stopped.details()
    assert tuple(done) == STAGES
    titles = [issue["title"] for issue in stopped.forge.all()]
    assert titles[0].startswith("SEV1: v3.0.0 rolled back at 50 %")
    [note] = stopped.forge.all()[0]["notes"]
    assert "sha256" in note["body"] and "verified" in note["body"]
    [message] = {str(one["key"]): one for one in stopped.posted()}.values() or [{}]
    assert stopped.forge.all()[0]["html_url"] in str(message)
    lanes = {effect.lane for effect in stopped.events(EffectIntended)}
    assert lanes == {"abort"}
    draft = next((stopped.world.run_dir / "artifacts" / "incidents").glob("*-postmortem.md")).read_text()
    assert "incident: done" in draft and CAUSE.split(" is ")[1].replace("<", "&lt;") in draft
    # It is still a HALT: nothing else goes forward.
    assert stopped.gate.halted


async def test_a_stage_that_fails_never_stops_the_next(stopped: Stopped) -> None:
    await stopped.forge.fault("error")
    done = await stopped.run()
    assert tuple(done) == STAGES
    assert (done["incident"], done["evidence"], done["notify"]) == (False, False, True), stopped.details()
    assert "500" in stopped.details()["incident"]


async def test_a_resumed_conductor_does_only_what_is_left(stopped: Stopped) -> None:
    await stopped.forge.fault("refuse")
    first = await stopped.run()
    assert not first["incident"] and first["notify"]
    messages = len(stopped.world.posted)
    await stopped.forge.fault(None)
    await stopped.world.recorder.record(RollbackStarted(reason="crash", cause="again", by="supervisor"))
    second = await stopped.run()
    assert second["incident"] and second["evidence"] and "notify" not in second
    assert len(stopped.world.posted) == messages
    third = await stopped.run()
    assert not {"incident", "evidence", "notify"} & set(third)
    assert [issue["title"] for issue in stopped.forge.all() if "SEV1" in issue["title"]].__len__() == 1


async def test_what_the_plan_does_not_list_is_said(stopped: Stopped) -> None:
    assert await stopped.run(()) == dict.fromkeys(STAGES, False)
    for name, agent in (("incident", "A37"), ("evidence", "A38"), ("notify", "A41"), ("fix_train", "A2")):
        assert f"the plan does not list {agent}" in stopped.details()[name]
    assert stopped.forge.all() == [] and stopped.posted() == []


async def test_what_hangs_is_bounded(stopped: Stopped) -> None:
    stopped.world.hook.mode = "hang"
    await stopped.forge.fault("hang")
    done = await stopped.run(call_within=0.3, stage_within=5.0)
    assert tuple(done) == STAGES and not done["incident"] and not done["notify"]
    assert "timeout" in stopped.details()["incident"]
    await stopped.forge.fault(None)


async def test_what_takes_a_stage_too_long_is_cut(stopped: Stopped) -> None:
    await stopped.forge.fault("hang")
    done = await stopped.run(call_within=30.0, stage_within=0.2)
    assert not done["incident"] and "not done within 0.2 s" in stopped.details()["incident"]
    await stopped.forge.fault(None)


def incident(stopped: Stopped) -> tuple[str, str]:
    """Return the state of the incident by the journal, and of its issue by the forge."""
    [known] = [one for one in stopped.world.recorder.state().work.incidents if one.severity != "drill"]
    [issue] = [one for one in stopped.forge.all() if "rolled back" in one["title"]]
    return known.state, issue["state"]


async def test_an_incident_stays_open_for_people_unless_the_plan_says_otherwise(stopped: Stopped) -> None:
    await stopped.run()
    assert incident(stopped) == ("mitigated", "open")
    await stopped.stop(resolves=True).run(CAUSE, REASON, GATE)
    assert incident(stopped) == ("resolved", "closed")
    [issue] = [one for one in stopped.forge.all() if "rolled back" in one["title"]]
    assert "every stage of the hard stop is done" in issue["notes"][-1]["body"]
    folder = stopped.world.run_dir / "artifacts" / "incidents"
    [told] = [path for path in folder.glob("INC-*.md") if "postmortem" not in path.name]
    assert "Resolved at" in told.read_text() and "## Timeline" in told.read_text()
    await stopped.stop(resolves=True).run(CAUSE, REASON, GATE)
    assert len(issue["notes"]) == 2


async def test_an_incident_of_a_stop_that_is_not_done_stays_open(stopped: Stopped) -> None:
    await stopped.stop(("A37", "A38", "A2"), resolves=True).run(CAUSE, REASON, GATE)
    assert incident(stopped)[1] == "open"
    await stopped.world.recorder.record(RollbackUnfinished(reason="pods are left", fallback=[]))
    await stopped.stop(resolves=True).run(CAUSE, REASON, GATE)
    assert incident(stopped)[1] == "open"


async def test_another_stop_has_its_own_incident(stopped: Stopped) -> None:
    await stopped.run()
    await stopped.world.recorder.record(Released(version="v3.0.0"))
    await stopped.world.recorder.record(RollbackStarted(reason="kpi_regression", cause="orders", by="@sre"))
    await stopped.world.recorder.record(RollbackVerified(proof={}))
    done = await stopped.run()
    assert done["incident"] and done["evidence"]
    incidents = [one for one in stopped.world.recorder.state().work.incidents if one.severity != "drill"]
    assert len(incidents) == 2


async def test_only_the_stages_agents_pass_a_halt(stopped: Stopped) -> None:
    phases = stopped.phases(("A37", "A41", "A55", "A9"))
    commander, other = phases.find("A37"), phases.find("A9")
    assert commander is not None and other is not None
    result = await phases.op("P6", commander, "APPLY", params={"incident": {"stop": 9}})
    assert not result.ok and stopped.forge.all() == []
    before = len(stopped.events(EffectIntended))
    await phases.op("P0", other, "APPLY", params={HARD_STOP: True})
    after = stopped.events(EffectIntended)[before:]
    assert [effect for effect in after if effect.lane == "abort"] == []


async def test_the_world_is_frozen_beside_the_abort(stopped: Stopped) -> None:
    stop = stopped.stop()
    async with stop.freezing(CAUSE, REASON, GATE):
        await asyncio.sleep(0)
    await stop.run(CAUSE, REASON, GATE)
    captures = stopped.world.read("incidents/forensics/index.json")["captures"]
    assert [one["moment"] for one in captures] == ["stop", "after"]
    assert len({one["incident"] for one in captures}) == 1


async def test_the_capture_takes_nothing_from_the_shift(stopped: Stopped) -> None:
    clock, record = VirtualClock(), stopped.world.recorder.record
    stop = HardStop(stopped.phases(), stopped.world.recorder, clock=clock)
    await record(RollbackStarted(reason=REASON, cause=CAUSE, by="A1"))
    async with stop.freezing(CAUSE, REASON, GATE):
        await record(RollbackStage(stage="shift"))
        clock.advance(0.1)
        await record(Noted(level="info", text="the loop has gone round"))
        assert stopped.events(AgentCalled) == []
        await record(RollbackStage(stage="observe"))
        clock.advance(0.1)
    assert [event.agent for event in stopped.events(AgentCalled)] == ["A38"]


async def test_an_abort_waits_for_no_capture_and_its_error_is_its_own(stopped: Stopped) -> None:
    stopped.world.kubernetes.mode = stopped.world.prometheus.mode = "hang"
    with pytest.raises(Inconclusive, match="the abort's own"):
        async with stopped.stop().freezing(CAUSE, REASON, GATE):
            raise Inconclusive("the abort's own")
    async with stopped.stop(call_within=0.2).freezing(CAUSE, REASON, GATE):
        await stopped.world.recorder.record(Noted(level="info", text="the abort goes on"))
    await stopped.world.recorder.record(Noted(level="info", text="what was noted before is on disk"))
    assert any("nothing was frozen" in event.text for event in stopped.events(Noted))


async def test_messages_are_journaled_once(stopped: Stopped) -> None:
    await stopped.run()
    told = [event for event in stopped.events(MessagePosted) if event.ok and "hard_stop" in event.macro]
    assert told and len({(event.macro, event.webhook) for event in told}) == len(told)


# -- when it is one, and which ---------------------------------------------------------------------------


def test_what_is_a_hard_stop() -> None:
    critical, breach = Breach("x", gate="slo", critical=True), Breach("x", gate="slo")
    assert is_hard_stop(critical, shifted=False)
    assert not is_hard_stop(breach, shifted=False)
    assert is_hard_stop(breach, shifted=True)
    assert is_hard_stop(Inconclusive("x"), shifted=True)
    assert is_hard_stop(None, shifted=True) and not is_hard_stop(None, shifted=False)


def test_stops_are_counted_by_what_went_forward_between() -> None:
    def began() -> RollbackStarted:
        return RollbackStarted(reason="r", cause="c", by="b")

    def stage(name: str, ok: bool) -> HardStopStage:
        return HardStopStage(stage=name, ok=ok, detail="")

    events: list[AnyEvent] = [
        HaltBegan(by="a", trigger="t", reason="", epoch=1),
        stage("incident", ok=True),  # of no stop
        StepStarted(step=1, weight=10),
        began(),
        stage("incident", ok=True),
        stage("evidence", ok=False),
        began(),
        stage("evidence", ok=True),
        Released(version="v1"),
        began(),
    ]
    stops = Stops()
    stops.take_all(replace_seq(event, number) for number, event in enumerate(events))
    first, second = stops.all
    assert (first.number, sorted(first.done), first.open) == (1, ["evidence", "incident"], False)
    assert (second.number, sorted(second.done), second.open, second.since) == (2, [], True, 8)
    assert stops.last is second
    assert Stops().last is None


def replace_seq(event: AnyEvent, seq: int) -> AnyEvent:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return type(event)(**{**fields, "seq": seq})


async def test_a_virtual_clock_is_enough(stopped: Stopped) -> None:
    # Limits of the forge are waited for by the run's clock, never by the machine's.
    clock = VirtualClock(auto=True)
    forge = stopped.forge
    patient = GitHubIssues(forge.url, forge.repository, forge.token, clock=clock, deadline=5.0)
    stopped.world.handles = replace(stopped.world.handles, issues=patient)
    forge.answer_next(429, headers={"Retry-After": "20"})
    assert (await stopped.run())["incident"]
    assert clock.monotonic() == 20
