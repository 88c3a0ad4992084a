"""Whole releases against a cluster: what each ending leaves in the world, its exit code, its journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from cockpit.agentkit.info import AgentInfo
from cockpit.backends.cluster import DEPLOYMENT, LEASE
from cockpit.base.errors import (
    BackendError,
    BackendUnreachable,
    EffectRefused,
    JournalError,
    LockHeld,
    PlanError,
    UsageError,
)
from cockpit.conductor.bake import Breach, Inconclusive, ShareSeen
from cockpit.conductor.calls import AgentCalls
from cockpit.conductor.canary import PreflightFailed
from cockpit.conductor.effects import EffectsGate, outside
from cockpit.conductor.ending import (
    OUTCOMES,
    ApprovalMissing,
    Ending,
    PhaseFailed,
    Stopped,
    exit_before_traffic,
)
from cockpit.conductor.hooks import Hooks
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.parts import Parts
from cockpit.conductor.people import People, Stop
from cockpit.conductor.phases import Failure, Phases
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.release import Release
from cockpit.conductor.targets import Targets
from cockpit.conductor.tools import BakeClock
from cockpit.journal.events import (
    EffectIntended,
    HaltBegan,
    HaltEnded,
    Noted,
    PhaseEnded,
    PhaseStarted,
    Released,
    RollbackStarted,
    RollbackVerified,
    StepDecided,
    StepStage,
)
from cockpit.plan.model import Plan
from cockpit.rehearsal.kube import matching
from tests.conductor.support import (
    NEW,
    OLD,
    FastClock,
    ToldAnalyst,
    World,
    events,
    look,
    plan_of,
    recording,
    until,
    world,
)
from tests.unit.journal.support import Disk

ROSTER = (
    AgentInfo("A5", "CI/CD Engineer", "R", "CI", "", ("P0",), mutates=True),
    AgentInfo("A41", "Comms Bard", "R", "Docs", "", ("P6",), mutates=True),
)


@dataclass
class Agents:
    """A dispatch whose agents are all well, but for what `odd` makes of an answer."""

    odd: Callable[[str, dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def call(self, agent: str, request: bytes) -> bytes:
        """Return an answer."""
        message = json.loads(request)
        self.asked.append((agent, message["op"], message["inputs"]["params"]))
        name = next(info.name for info in ROSTER if info.id == agent)
        answer = {
            "phase": message["phase"], "agent": name, "result": "ok", "notes": "well", "next": "",
            "trace_id": message["trace_id"],
        }  # fmt: skip
        return json.dumps(self.odd(agent, message, answer) if self.odd else answer).encode()


@dataclass
class Gates:
    """A gatekeeper that says what it is told before a step (from 1)."""

    reasons: dict[int, list[str]] = field(default_factory=dict)
    under: dict[int, Exception] = field(default_factory=dict)

    async def preflight(self, step: int) -> list[str]:
        """Return the reasons for this step."""
        return list(self.reasons.get(step, []))

    async def under_step(self, step: int) -> None:
        """Raise what was told for this step."""
        if step in self.under:
            raise self.under[step]


@dataclass
class Sealer:
    """Seals nothing; says why it could not."""

    problem: str = ""
    sealed: list[str] = field(default_factory=list)

    async def seal(self, kind: str) -> str:
        """Return the problem told."""
        self.sealed.append(kind)
        return self.problem


@dataclass
class Show:
    """A release and everything it works with."""

    world: World
    recorder: Recorder
    plan: Plan
    clock: FastClock
    lease: ReleaseLease
    gate: EffectsGate
    people: People
    analyst: ToldAnalyst
    agents: Agents
    gates: Gates
    sealer: Sealer
    bake: BakeClock
    release: Release

    async def run(self) -> Ending:
        """Run it to its end."""
        ending = await self.release.run()
        assert ending.exit in OUTCOMES
        return ending

    async def restored(self) -> None:
        """Check that nothing of the release is left."""
        assert await self.world.stable() == {"web": (2, OLD.format("web"))}
        assert await self.world.canary_replicas() == 0
        assert await self.world.weights() == [{"web-stable": 100, "web-canary": 0}]

    async def decided(self) -> list[tuple[int, str]]:
        """Return the steps' decisions."""
        return [(e.step, e.decision) for e in await events(self.recorder, StepDecided)]


@asynccontextmanager
async def show(
    folder: Path,
    *,
    unattended: bool = True,
    on_halt: Literal["ask", "rollback"] = "ask",
    disk: Disk | None = None,
    connect: Exception | None = None,
    canary: dict[str, Any] | None = None,
    lease_seconds: int = 3600,
    holder: str = "ann",
    place: Callable[[], AbstractAsyncContextManager[World]] = world,
    speed: float = 50,
    **plan: Any,
) -> AsyncIterator[Show]:
    changes: dict[str, Any] = {"phases": ["P0", "P6"], "agents": ["A5", "A41"], **plan}
    async with asyncio.timeout(100), place() as made:
        clock = FastClock(speed)
        read = plan_of(clock, url=made.url, canary=canary, **changes)
        async with recording(folder, clock, io=disk) as recorder:
            kubernetes = read.targets.kubernetes.model_copy(update={"lease_seconds": lease_seconds})
            lease = ReleaseLease(made.conductor, kubernetes, holder, recorder, clock)
            gate = EffectsGate(recorder, lease, clock, read.window_utc, frozenset({"prod", "stage"}))
            people = People(
                effects=gate,
                recorder=recorder,
                clock=clock,
                on_halt=on_halt,
                bound=60.0,
                unattended=unattended,
            )
            targets = Targets(made.conductor, read, lease)
            analyst = ToldAnalyst(weight=targets.weight)
            agents, gates, sealer = Agents(), Gates(), Sealer()
            calls = AgentCalls(agents, recorder, clock, deadline=20)

            async def connected() -> None:
                if connect is not None:
                    raise connect

            parts = Parts(
                plan=read,
                recorder=recorder,
                clock=clock,
                connect=connected,
                lease=lease,
                effects=gate,
                targets=targets,
                abort_targets=Targets(made.conductor, read, lease, abort="test"),
                analyst=analyst,
                people=people,
                phases=Phases(ROSTER, read.agents, calls, recorder, people),
                gatekeeper=cast(Any, gates),
                sealer=sealer,
                bake=BakeClock(recorder),
                hooks=Hooks(closed=outside(read.window_utc, clock)),
            )
            yield Show(
                made,
                recorder,
                read,
                clock,
                lease,
                gate,
                people,
                analyst,
                agents,
                gates,
                sealer,
                parts.bake,
                Release(parts),
            )


async def test_a_good_release_ends_on_the_new_image_with_all_traffic_on_stable(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        assert (await made.run()).exit == 0
        assert await made.world.stable() == {"web": (2, NEW.format("web"))}
        assert await made.world.canary_replicas() == 0
        assert await made.world.weights() == [{"web-stable": 100, "web-canary": 0}]
        assert await made.decided() == [(1, "advance"), (2, "advance"), (3, "advance")]
        assert len(await events(made.recorder, Released)) == 1
        shifts = [e.target for e in await events(made.recorder, EffectIntended) if e.verb == "shift"]
        assert [target.split(",")[0] for target in shifts] == [f"canary weight {n}" for n in (10, 50, 100, 0)]
        stages = [e.stage for e in await events(made.recorder, StepStage) if e.step == 1]
        assert stages == ["preflight", "scale", "shift", "observe", "bake", "decide"]
        assert {window for _, window in made.analyst.windows} >= {4.0}
        assert made.sealer.sealed == ["promotion", "closing"]
        assert [p["macro"] for agent, op, p in made.agents.asked if op == "APPLY" and agent == "A41"] == [
            "start", "ga",
        ]  # fmt: skip
        assert (await made.world.admin.get(LEASE, "release-cockpit"))["spec"]["holderIdentity"] == ""


@pytest.mark.parametrize("step", [1, 2, 3])
async def test_a_breach_rolls_back_from_any_step(tmp_path: Path, step: int) -> None:
    async with show(tmp_path) as made:

        def breach(number: int) -> None:
            if made.analyst.windows[-1][0] == step:
                made.analyst.after = look("fail")

        made.analyst.on_look = breach
        assert (await made.run()).exit == 20
        await made.restored()
        (started,) = await events(made.recorder, RollbackStarted)
        assert started.reason == "slo_breach"
        assert len(await events(made.recorder, RollbackVerified)) == 1
        assert await events(made.recorder, Released) == []
        assert not [e for e in await events(made.recorder, EffectIntended) if e.verb == "promote"]
        assert ("A41", "APPLY", "breach") in [(a, op, p.get("macro")) for a, op, p in made.agents.asked]


async def test_a_critical_breach_halts_and_does_not_ask(tmp_path: Path) -> None:
    async with show(tmp_path, unattended=False) as made:
        made.people.attach("tui")
        made.analyst.looks = [look("fail", critical=True)]
        assert (await made.run()).exit == 20
        (began,) = await events(made.recorder, HaltBegan)
        assert began.trigger == "critical"
        await made.restored()


async def test_the_agents_under_a_step_can_fail_it(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.gates.under = {2: Breach("A43 smoke: fail", gate="slo")}
        assert (await made.run()).exit == 20
        await made.restored()
        assert await made.decided() == [(1, "advance")]


@pytest.mark.parametrize("outcome", ["low_traffic", "no_data", "provider_error"])
async def test_what_cannot_be_told_is_rolled_back_unattended(tmp_path: Path, outcome: Any) -> None:
    async with show(tmp_path) as made:
        made.analyst.after = look(outcome)
        assert (await made.run()).exit == 20
        assert await made.decided() == [(1, "inconclusive")]
        await made.restored()


async def test_metrics_that_never_answer_end_before_the_bake(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.analyst.gone = True
        ending = await made.run()
        assert ending.exit == 20
        await made.restored()
        assert made.analyst.windows == [] or "bake" not in {
            e.stage for e in await events(made.recorder, StepStage)
        }


async def test_a_share_that_does_not_agree_is_no_bake(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.analyst.shares = [ShareSeen(0.4)] * 500
        ending = await made.run()
        assert (ending.exit, "40.0 %" in ending.cause) == (20, True)
        assert "bake" not in {e.stage for e in await events(made.recorder, StepStage)}
        await made.restored()


async def test_the_bake_waits_for_the_share(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.analyst.shares = [ShareSeen(None, "no series"), ShareSeen(0.0), ShareSeen(0.3)]
        assert (await made.run()).exit == 0


async def test_a_bake_made_longer_while_the_agents_judge_is_kept_to(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        extended: list[str] = []

        async def under_step(step: int) -> None:
            if step == 2 and not extended:
                extended.append(made.bake.extend(20.0, "ann", "it looks odd"))

        made.gates.under_step = under_step  # type: ignore[method-assign]
        assert (await made.run()).exit == 0
        assert extended == [""]
        assert max(window for step, window in made.analyst.windows if step == 2) == 24.0
        assert max(window for step, window in made.analyst.windows if step == 3) == 4.0


async def answer_with(made: Show, *answers: str) -> None:
    """Answer the questions as they come."""
    seen: set[str] = set()

    def waiting() -> str:
        return next((q.question for q in made.recorder.state().questions if not q.answer), "")

    for answer in answers:
        question = await until(lambda: (q := waiting()) not in seen and q)
        seen.add(str(question))
        if answer == "now well":
            made.analyst.after = look()
            answer = "retry"
        assert made.people.answer(str(question), answer, "bob", "because") == ""


async def test_inconclusive_sticks_until_a_person_says_to_look_again(tmp_path: Path) -> None:
    async with show(tmp_path, unattended=False) as made:
        made.people.attach("tui")
        made.analyst.after = look("low_traffic")
        async with asyncio.TaskGroup() as group:
            group.create_task(answer_with(made, "retry", "now well"))
            running = group.create_task(made.run())
        assert running.result().exit == 0
        assert await made.decided() == [
            (1, "inconclusive"), (1, "inconclusive"), (1, "advance"), (2, "advance"), (3, "advance"),
        ]  # fmt: skip


async def test_inconclusive_and_a_person_says_roll_back(tmp_path: Path) -> None:
    async with show(tmp_path, unattended=False) as made:
        made.people.attach("tui")
        made.analyst.after = look("low_traffic")
        async with asyncio.TaskGroup() as group:
            group.create_task(answer_with(made, "rollback"))
            running = group.create_task(made.run())
        assert running.result().exit == 20
        (started,) = await events(made.recorder, RollbackStarted)
        assert (started.reason, started.by) == ("inconclusive", "bob")


async def test_a_breach_while_a_person_is_asked_rolls_back(tmp_path: Path) -> None:
    async with show(tmp_path, unattended=False) as made:
        made.people.attach("tui")
        made.analyst.after = look("low_traffic")

        async def worse() -> None:
            await until(lambda: [q for q in made.recorder.state().questions if not q.answer])
            made.analyst.after = look("fail", critical=True)

        async with asyncio.TaskGroup() as group:
            group.create_task(worse())
            running = group.create_task(made.run())
        assert running.result().exit == 20
        (started,) = await events(made.recorder, RollbackStarted)
        assert started.reason == "slo_breach"


async def halted_at_look(made: Show, number: int) -> None:
    """HALT at a look, by its number."""

    def halt(count: int) -> None:
        if count == number:
            made.people.halt("bob", "key", "")

    made.analyst.on_look = halt


async def test_a_halt_holds_everything_and_a_resume_goes_on(tmp_path: Path) -> None:
    async with show(tmp_path, unattended=False) as made:
        made.people.attach("tui")
        await halted_at_look(made, 3)

        async def resume() -> None:
            await until(lambda: made.gate.halted)
            weights = await made.world.weights()
            looks = len(made.analyst.windows)
            await until(lambda: len(made.analyst.windows) > looks + 6)  # it is still looked at
            assert await made.world.weights() == weights
            assert made.people.resume("bob", "false alarm") == ""

        async with asyncio.TaskGroup() as group:
            group.create_task(resume())
            running = group.create_task(made.run())
        assert running.result().exit == 0
        (began,) = await events(made.recorder, HaltBegan)
        (ended,) = await events(made.recorder, HaltEnded)
        under = [e for e in await events(made.recorder, EffectIntended) if began.seq < e.seq < ended.seq]
        assert under == []


async def test_a_breach_under_a_halt_rolls_back(tmp_path: Path) -> None:
    async with show(tmp_path, unattended=False) as made:
        made.people.attach("tui")
        await halted_at_look(made, 3)

        async def worse() -> None:
            await until(lambda: made.gate.halted)
            made.world.kube.faults.fail(matching("get"), 503, times=1)  # one bad answer ends no watch
            looks = len(made.analyst.windows)
            await until(lambda: len(made.analyst.windows) > looks + 5)
            made.analyst.after = look("fail")

        async with asyncio.TaskGroup() as group:
            group.create_task(worse())
            running = group.create_task(made.run())
        assert running.result().exit == 20
        await made.restored()


async def test_a_halt_answered_with_rollback_and_one_with_nobody_there(tmp_path: Path) -> None:
    async with show(tmp_path / "a", unattended=False) as made:
        made.people.attach("tui")
        await halted_at_look(made, 2)
        async with asyncio.TaskGroup() as group:
            group.create_task(answer_with(made, "stay", "rollback"))
            running = group.create_task(made.run())
        assert running.result().exit == 20
        await made.restored()
    async with show(tmp_path / "b") as made:
        await halted_at_look(made, 2)
        assert (await made.run()).exit == 20
        await made.restored()
    async with show(tmp_path / "c", unattended=False, on_halt="rollback") as made:
        made.people.attach("tui")
        await halted_at_look(made, 2)
        assert (await made.run()).exit == 20


async def test_rollback_by_a_person_at_any_moment(tmp_path: Path) -> None:
    for number, moment in enumerate((1, 4, 9)):
        async with show(tmp_path / str(number), unattended=False) as made:
            made.people.attach("tui")

            def stop(count: int, moment: int = moment, made: Show = made) -> None:
                if count == moment:
                    made.people.stop(Stop("manual", "ROLLBACK by bob: no", "bob"))

            made.analyst.on_look = stop
            assert (await made.run()).exit == 20
            await made.restored()
            (started,) = await events(made.recorder, RollbackStarted)
            assert (started.reason, started.by) == ("manual", "bob")


async def test_a_stop_before_traffic_moved_is_30_and_moves_nothing(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.people.stop(Stop("signal", "SIGTERM received: abort", "SIGTERM"))
        assert (await made.run()).exit == 30
        await made.restored()
        assert not made.gate.prod_touched


# -- what ends a release before traffic moves -----------------------------------------------------------


def waiver(*what: str) -> list[dict[str, str]]:
    return [{"what": name, "owner": "@sre", "reason": "a rehearsal"} for name in what]


async def test_without_its_waivers_it_does_not_begin(tmp_path: Path) -> None:
    for number, (waived, code) in enumerate([((), 40), (("standby",), 40), (("approvals",), 10)]):
        async with show(tmp_path / str(number), waivers=waiver(*waived)) as made:
            assert (await made.run()).exit == code
            assert await events(made.recorder, PhaseStarted) == []
            assert await events(made.recorder, EffectIntended) == []


async def test_a_window_that_has_ended_is_60(tmp_path: Path) -> None:
    now = FastClock().now()
    past = f"{now - timedelta(days=2):%Y-%m-%d %H:%M} → {now - timedelta(days=1):%Y-%m-%d %H:%M}"
    async with show(tmp_path, window_utc=past) as made:
        assert (await made.run()).exit == 60
        assert await events(made.recorder, EffectIntended) == []


async def test_a_lock_that_is_held_is_60_and_nothing_is_touched(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        target = made.plan.targets.kubernetes
        other = ReleaseLease(made.world.conductor, target, "bob", made.recorder, made.clock)
        await other.acquire()
        assert (await made.run()).exit == 60
        assert await events(made.recorder, EffectIntended) == []
        assert (await made.world.admin.get(LEASE, "release-cockpit"))["spec"]["holderIdentity"] == "bob"


async def test_a_cluster_that_is_not_there_is_50(tmp_path: Path) -> None:
    async with show(tmp_path, connect=BackendUnreachable("no answer")) as made:
        assert (await made.run()).exit == 50


async def test_a_no_go_is_10_before_the_first_step_and_20_after_it(tmp_path: Path) -> None:
    async with show(tmp_path / "a") as made:
        made.gates.reasons = {1: ["perf: fail"]}
        ending = await made.run()
        assert (ending.exit, "perf: fail" in ending.cause) == (10, True)
        await made.restored()
        assert not made.gate.prod_touched
    async with show(tmp_path / "b") as made:
        made.gates.reasons = {2: ["slo: a verdict is void"]}
        assert (await made.run()).exit == 20
        await made.restored()
    async with show(tmp_path / "c") as made:
        made.gates.reasons = {4: ["slo: a verdict is void"]}  # the last step's, before stable is given up
        assert (await made.run()).exit == 20
        await made.restored()


async def test_stable_that_is_not_healthy_is_no_place_to_start_from(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.world.kube.faults.unpullable.add("registry.example/web:broken")
        body = {
            "spec": {
                "template": {
                    "spec": {"containers": [{"name": "app", "image": "registry.example/web:broken"}]}
                }
            }
        }
        await made.world.change(DEPLOYMENT, "web-stable", body)
        assert (await made.run()).exit == 10
        assert not made.gate.prod_shifted


async def test_somebodys_canary_is_not_built_upon(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        await made.world.change(DEPLOYMENT, "web-canary", {"spec": {"replicas": 1}})
        assert (await made.run()).exit == 10
        assert not made.gate.prod_touched


def failing(outcome: str) -> Callable[[str, dict[str, Any], dict[str, Any]], dict[str, Any]]:
    def odd(agent: str, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        if agent != "A5" or request["op"] != "VERIFY":
            return answer
        judged = {"images": {}, "env": "prod", "plan_sha256": "b" * 64, "valid_s": 60}
        details = {"phase_gate": "policy_ci", "outcome": outcome, "judged": judged}
        return {
            **answer,
            "verdicts": [{"gate": "policy", "env": "prod", "verdict": "fail", "details": details}],
        }

    return odd


@pytest.mark.parametrize(
    ("outcome", "code"), [("fail", 10), ("no_data", 11), ("low_traffic", 11), ("provider_error", 50)]
)
async def test_a_failed_phase_moves_nothing(tmp_path: Path, outcome: str, code: int) -> None:
    async with show(tmp_path) as made:
        made.agents.odd = failing(outcome)
        assert (await made.run()).exit == code
        assert not made.gate.prod_touched
        assert [(e.phase, e.result) for e in await events(made.recorder, PhaseEnded)] == [("P0", "fail")]
        # What was found is kept.
        assert ("A5", "EVIDENCE") in [(agent, op) for agent, op, _ in made.agents.asked]


async def test_agents_that_answer_blocked_needs_approval_or_garbage_stop_it(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({"result": "blocked"}, 50), ({"result": "fail"}, 10),
        ({"trace_id": "0" * 32}, 10), ({"agent": "x"}, 10),
    ]  # fmt: skip
    for number, (change, code) in enumerate(cases):
        async with show(tmp_path / str(number)) as made:
            made.agents.odd = lambda agent, _, answer, change=change: (
                {**answer, **change} if agent == "A5" else answer
            )
            assert (await made.run()).exit == code
            assert not made.gate.prod_touched


async def test_a_pack_that_cannot_be_signed_holds_the_promotion(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.sealer.problem = "the log does not answer"
        assert (await made.run()).exit == 50
        assert not made.gate.prod_touched


# -- trouble on the way ---------------------------------------------------------------------------------


async def test_a_journal_that_cannot_be_written_any_more_rolls_back(tmp_path: Path) -> None:
    disk = Disk()
    async with show(tmp_path, disk=disk) as made:

        def fill(count: int) -> None:
            if count == 4:
                disk.eaten = disk.capacity

        made.analyst.on_look = fill
        assert (await made.run()).exit == 20
        await made.restored()


async def held_until(made: Show, condition: Callable[[], bool], begin: Callable[[], None]) -> None:
    """Hold the first step by low traffic: `begin` at its second look, go on once `condition` holds."""
    made.analyst.after = look("low_traffic")

    def on_look(count: int) -> None:
        if count == 2:
            begin()
        if condition():
            made.analyst.after = look()

    made.analyst.on_look = on_look


HOLDING = {"low_traffic_deadline": "2000s"}


async def test_a_lease_that_cannot_be_renewed_rolls_back(tmp_path: Path) -> None:
    async with show(tmp_path, lease_seconds=60, canary=HOLDING) as made:
        faults = made.world.kube.faults
        await held_until(
            made,
            lambda: not made.lease.held,
            lambda: void(faults.fail(matching(resource="leases"), 503, times=None)),
        )
        ending = await made.run()
        assert (ending.exit, "lock" in ending.cause) == (20, True)
        await made.restored()


def void(_: object) -> None:
    return None


async def test_another_holder_in_the_middle_is_21_and_nothing_more_is_changed(tmp_path: Path) -> None:
    async with show(tmp_path, lease_seconds=60, canary=HOLDING) as made:
        begun = asyncio.Event()
        await held_until(made, lambda: made.lease.fenced_out, begun.set)

        async def take() -> None:
            await begun.wait()
            await made.world.change(LEASE, "release-cockpit", {"spec": {"holderIdentity": "bob"}})

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            running = group.create_task(made.run())
        assert running.result().exit == 21
        assert made.lease.fenced_out
        assert (await made.world.weights())[0]["web-canary"] == 10  # it is for the other holder to abort
        assert not [e for e in await events(made.recorder, EffectIntended) if e.lane == "abort"]


async def test_a_canary_that_does_not_become_ready_is_10(tmp_path: Path) -> None:
    async with show(tmp_path, canary={"rollout_deadline": "20s"}) as made:
        made.world.kube.faults.unpullable.add(NEW.format("web"))
        assert (await made.run()).exit == 10
        await made.restored()
        assert not made.gate.prod_shifted


async def test_a_new_stable_that_does_not_become_ready_is_put_back(tmp_path: Path) -> None:
    async with show(tmp_path, canary={"rollout_deadline": "20s"}) as made:

        def spoil(count: int) -> None:
            if made.analyst.windows[-1][0] == 3:
                made.world.kube.faults.unpullable.add(NEW.format("web"))

        made.analyst.on_look = spoil
        # The canary runs already; only the new stable pods cannot start.
        assert (await made.run()).exit in (10, 20)
        await made.restored()


async def test_what_fails_after_the_release_does_not_undo_it(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.agents.odd = lambda agent, request, answer: (
            {**answer, "trace_id": "0" * 32} if request["inputs"]["params"].get("macro") == "ga" else answer
        )
        assert (await made.run()).exit == 0
        assert await made.world.stable() == {"web": (2, NEW.format("web"))}


async def test_agents_and_sealer_that_break_at_the_end_do_not_change_the_ending(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        made.analyst.after = look("fail")

        async def broken(kind: str) -> str:
            if kind == "closing":
                raise ValueError("broken")
            return ""

        made.sealer.seal = broken  # type: ignore[method-assign]
        assert (await made.run()).exit == 20
        assert [n for n in await events(made.recorder, Noted) if "broken" in n.text]


# -- taking up what was left ----------------------------------------------------------------------------


async def test_a_run_left_in_mid_canary_is_aborted_when_taken_up(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        cut = asyncio.Event()
        made.analyst.on_look = lambda count: cut.set() if count == 2 else None
        going = asyncio.create_task(made.run())
        await cut.wait()
        going.cancel()
        await asyncio.wait((going,))
        assert (await made.world.weights())[0]["web-canary"] == 10
        made.world.kube.faults.fail(matching(resource="leases"), 503, times=3)
        ending = await made.release.abort_only("the conductor ended")
        assert ending.exit == 20
        await made.restored()
        (started,) = await events(made.recorder, RollbackStarted)
        assert started.reason == "crash"


async def test_a_run_left_before_its_promotion_is_30(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        assert (await made.release.abort_only("the conductor ended")).exit == 30
        await made.restored()


async def test_a_run_left_after_its_release_stays_released(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        assert (await made.run()).exit == 0
        assert (await made.release.abort_only("the conductor ended")).exit == 0
        assert await made.world.stable() == {"web": (2, NEW.format("web"))}


# -- the table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PhaseFailed([Failure("gate", "x")]), 10),
        (PhaseFailed([Failure("inconclusive", "x")]), 11),
        (PhaseFailed([Failure("unreachable", "x")]), 50),
        (PhaseFailed([Failure("inconclusive", "x"), Failure("unreachable", "x")]), 50),
        (PhaseFailed([Failure("inconclusive", "x"), Failure("gate", "x"), Failure("unreachable", "x")]), 10),
        (PreflightFailed("x"), 10),
        (Breach("x", gate="slo"), 10),
        (Inconclusive("x"), 11),
        (Stopped(Stop("manual", "x", "bob")), 30),
        (ApprovalMissing("x"), 40),
        (LockHeld("x"), 60),
        (EffectRefused("x", reason="window"), 60),
        (EffectRefused("x", reason="fence"), 60),
        (EffectRefused("x", reason="halt"), 30),
        (EffectRefused("x", reason="approval"), 40),
        (EffectRefused("x", reason="env"), 10),
        (EffectRefused("x", reason="journal"), 70),
        (BackendUnreachable("x"), 50),
        (BackendError("x"), 50),
        (UsageError("x"), 64),
        (PlanError("x"), 64),
        (JournalError("x"), 70),
        (RuntimeError("x"), 70),
    ],
)
def test_the_exit_code_of_what_ends_a_run_before_traffic_moved(error: Exception, code: int) -> None:
    assert exit_before_traffic(error) == code
    assert Ending(code, "x").outcome
