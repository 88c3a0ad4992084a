"""The abort against a cluster: its order, running it twice, taking it up anywhere, what it cannot finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cockpit.backends.cluster import DEPLOYMENT, HTTPROUTE
from cockpit.conductor.abort import Abort, Stable
from cockpit.conductor.canary import Promotion, Wiring
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import FENCE, Targets
from cockpit.conductor.tools import BakeClock
from cockpit.journal.events import (
    EffectIntended,
    RollbackStage,
    RollbackUnfinished,
    RollbackVerified,
)
from cockpit.plan.model import Plan
from cockpit.rehearsal.kube import matching
from cockpit.rehearsal.topology import ROUTE
from tests.conductor.support import (
    NEW,
    OLD,
    FastClock,
    ToldAnalyst,
    World,
    events,
    gate_of,
    plan_of,
    recording,
    world,
)
from tests.unit.journal.support import Disk

T = TypeVar("T")
STABLE = Stable({"web-stable": 2}, {"web-stable": OLD.format("web")}, {"web-canary": OLD.format("web")})
UNCHANGED = {"web": (2, OLD.format("web"))}


class PassingGates:
    """A gatekeeper to whom all is well."""

    async def preflight(self, step: int) -> list[str]:
        """Find nothing."""
        return []

    async def under_step(self, step: int) -> None:
        """Find nothing."""


@dataclass
class Site:
    """A cluster and what a conductor works on it with."""

    world: World
    recorder: Recorder
    clock: FastClock
    plan: Plan
    lease: ReleaseLease
    gate: EffectsGate
    targets: Targets
    analyst: ToldAnalyst

    def abort(self, *, analyst: ToldAnalyst | None = None) -> Abort:
        """Return an abort with a mark of its own."""
        return Abort(
            effects=self.gate,
            targets=Targets(self.world.conductor, self.plan, self.lease, abort="test"),
            observer=analyst or self.analyst,
            recorder=self.recorder,
            plan=self.plan,
            clock=self.clock,
        )

    async def roll_back(
        self, *, analyst: ToldAnalyst | None = None, stable: Stable = STABLE, replacing: bool = False
    ) -> bool:
        """Abort; tell whether it was verified."""
        return await self.abort(analyst=analyst).run(
            "slo_breach", "it is wrong", "A1", stable, replacing=replacing
        )

    def promotion(self, gate: Any) -> Promotion:
        """Return a promotion over an effects gate."""

        async def resumed() -> None:
            return

        async def undecided(doubt: Exception) -> None:
            raise doubt

        async def nothing(_: int) -> None:
            return

        return Promotion(
            Wiring(
                effects=gate,
                targets=self.targets,
                analyst=self.analyst,
                gatekeeper=PassingGates(),
                recorder=self.recorder,
                plan=self.plan,
                clock=self.clock,
                resumed=resumed,
                undecided=undecided,
                bake=BakeClock(self.recorder),
                before=nothing,
                after=nothing,
                closed=lambda: "",
            )
        )

    async def canary_at(self, weight: int) -> None:
        """Put the canary up and traffic on it, as a promotion does."""
        await self.targets.scale("web-canary", 1, container="app", image=NEW.format("web"))
        await self.targets.shift(weight)

    async def untouched(self) -> bool:
        """Tell whether stable is as it was, and nothing of the canary is left."""
        stable = await self.world.admin.get(DEPLOYMENT, "web-stable")
        canary = await self.world.admin.get(DEPLOYMENT, "web-canary")
        assert canary["spec"]["template"]["spec"]["containers"][0]["image"] == OLD.format("web")
        assert set(stable["metadata"].get("annotations", {})) - {"deployment.kubernetes.io/revision"} <= {
            FENCE,
            "release-cockpit.dev/abort",
        }
        return (
            await self.world.stable() == UNCHANGED
            and await self.world.canary_replicas() == 0
            and await self.world.weights() == [{"web-stable": 100, "web-canary": 0}]
        )


@asynccontextmanager
async def site(folder: Path, *, speed: float = 25.0, **canary: Any) -> AsyncIterator[Site]:
    async with asyncio.timeout(100), world() as made:
        clock = FastClock(speed)
        plan = plan_of(clock, url=made.kube.url, canary=canary)
        async with recording(folder, clock) as recorder:
            lease = ReleaseLease(made.conductor, plan.targets.kubernetes, "ann", recorder, clock)
            await lease.acquire()
            gate = EffectsGate(recorder, lease, clock, plan.window_utc, frozenset({"prod"}))
            targets = Targets(made.conductor, plan, lease)
            analyst = ToldAnalyst(weight=targets.weight)
            yield Site(made, recorder, clock, plan, lease, gate, targets, analyst)


async def test_an_abort_goes_in_order_and_is_proven(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        made.gate.halt()  # an abort is not for the HALT to stop
        assert await made.roll_back()
        assert await made.untouched()
        effects = [(e.verb, e.target) for e in await events(made.recorder, EffectIntended)]
        assert effects == [
            ("shift", "canary weight 0"),
            ("scale", "web-canary to 0"),
            ("redeploy", f"web-canary {OLD.format('web')}"),
        ]
        stages = [e.stage for e in await events(made.recorder, RollbackStage)]
        assert stages == ["shift", "observe", "drain", "scale_down", "verify"]
        (verified,) = await events(made.recorder, RollbackVerified)
        assert set(verified.proof) == {"route", "requests", "canary", "stable"}
        assert "none" in verified.proof["requests"]


async def test_run_twice_it_changes_nothing_more(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(10)
        assert await made.roll_back()
        assert await made.roll_back()
        assert await made.untouched()


class Crash(Exception):
    """The conductor ends here."""


class CountedGate:
    """The effects gate of a conductor that ends before, or right after, its nth effect."""

    def __init__(self, gate: EffectsGate, crash_at: int, *, after: bool) -> None:
        self._gate = gate
        self._left = crash_at
        self._after = after

    @property
    def halted(self) -> bool:
        """Whether a HALT is in force."""
        return self._gate.halted

    @property
    def prod_shifted(self) -> bool:
        """Whether prod traffic was ever shifted."""
        return self._gate.prod_shifted

    def out(self) -> None:
        """The release is out."""
        self._gate.out()

    async def forward(self, verb: str, target: str, act: Callable[[], Awaitable[T]], **named: Any) -> T:
        """Do it unless it is time to end."""
        return await self._count(self._gate.forward, verb, target, act, named)

    async def abort(self, verb: str, target: str, act: Callable[[], Awaitable[T]], **named: Any) -> T:
        """Do it unless it is time to end."""
        return await self._count(self._gate.abort, verb, target, act, named)

    async def _count(
        self,
        lane: Callable[..., Awaitable[T]],
        verb: str,
        target: str,
        act: Callable[[], Awaitable[T]],
        named: dict[str, Any],
    ) -> T:
        self._left -= 1
        if self._left < 0 and not self._after:
            raise Crash
        answer = await lane(verb, target, act, **named)
        if self._left <= 0 and self._after:
            raise Crash
        return answer


async def test_it_can_be_taken_up_from_anywhere_in_a_promotion(tmp_path: Path) -> None:
    finished = 0
    async with site(tmp_path, speed=100.0, bake="4s", interval="1s") as made:
        for crash_at in range(1, 30):
            promotion = made.promotion(CountedGate(made.gate, crash_at, after=bool(crash_at % 2)))
            try:
                await promotion.run()
            except Crash:
                pass
            else:
                finished = crash_at
                break
            # The next conductor knows what the journal says, no more.
            canary = made.recorder.state().canary
            await events(made.recorder, RollbackStage)
            stable = Stable.recorded(canary)
            assert stable == STABLE
            replacing = canary.stage == "promote"
            assert await made.roll_back(stable=stable, replacing=replacing), crash_at
            assert await made.untouched(), crash_at
    assert finished >= 9  # three steps of scale and shift, then promote, shift, scale


async def test_without_metrics_the_pods_end_is_the_proof(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        assert await made.roll_back(analyst=ToldAnalyst(gone=True))
        assert await made.untouched()
        (verified,) = await events(made.recorder, RollbackVerified)
        assert "not measured" in verified.proof["requests"]


class StillServing(ToldAnalyst):
    """Metrics that say the canary goes on getting requests."""

    async def canary_requests(self, window_s: float) -> float | None:
        """Return some."""
        return 3.0


async def test_requests_that_go_on_are_told_and_the_canary_is_taken_down(tmp_path: Path) -> None:
    async with site(tmp_path, drain_deadline="10s") as made:
        await made.canary_at(50)
        assert await made.roll_back(analyst=StillServing())
        assert await made.untouched()
        (verified,) = await events(made.recorder, RollbackVerified)
        assert "still reach" in verified.proof["requests"]


@pytest.mark.parametrize("verb", ["get", "patch", "list"])
async def test_an_api_that_fails_for_a_while_is_tried_again(tmp_path: Path, verb: str) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        fault = made.world.kube.faults.fail(matching(verb), 500, times=4)
        assert await made.roll_back()
        assert fault.seen == 4
        assert await made.untouched()


async def test_cut_connections_and_lost_answers_are_tried_again(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        made.world.kube.faults.cut(matching("patch"), times=2)
        made.world.kube.faults.cut(matching("patch"), times=2, after=True)
        assert await made.roll_back()
        assert await made.untouched()


async def test_an_api_that_fails_for_good_leaves_it_to_a_person(tmp_path: Path) -> None:
    async with site(tmp_path, drain_deadline="10s", abort_scale_bound="5s") as made:
        await made.canary_at(50)
        made.world.kube.faults.fail(matching("patch"), 503, times=None)
        assert not await made.roll_back()
        (unfinished,) = await events(made.recorder, RollbackUnfinished)
        assert "503" in unfinished.reason
        commands = "\n".join(unfinished.fallback)
        assert "scale deployment/web-canary --replicas 0" in commands
        assert f"deployment/web-stable app={OLD.format('web')}" in commands
        assert await events(made.recorder, RollbackVerified) == []
        made.world.kube.faults.clear()
        assert await made.roll_back()
        assert await made.untouched()


async def test_one_canary_that_cannot_be_scaled_does_not_keep_traffic_on_it(tmp_path: Path) -> None:
    async with site(tmp_path, drain_deadline="10s") as made:
        await made.canary_at(50)
        made.world.kube.faults.fail(matching("patch", "deployments", name="web-canary"), 500, times=None)
        assert not await made.roll_back()
        assert await made.world.weights() == [{"web-stable": 100, "web-canary": 0}]


async def test_stable_that_cannot_be_read_does_not_keep_traffic_on_the_canary(tmp_path: Path) -> None:
    async with site(tmp_path, drain_deadline="10s") as made:
        await made.canary_at(50)
        made.world.kube.faults.fail(matching("get", "deployments", name="web-stable"), 500, times=None)
        assert not await made.roll_back()
        assert await made.world.weights() == [{"web-stable": 100, "web-canary": 0}]


@pytest.mark.parametrize(("kind", "name"), [(HTTPROUTE, ROUTE), (DEPLOYMENT, "web-canary")])
async def test_another_holders_fence_stops_it(tmp_path: Path, kind: Any, name: str) -> None:
    async with site(tmp_path, drain_deadline="10s") as made:
        await made.canary_at(50)
        await made.world.change(kind, name, {"metadata": {"annotations": {FENCE: "9"}}})
        assert not await made.roll_back()
        (unfinished,) = await events(made.recorder, RollbackUnfinished)
        assert "fence" in unfinished.reason
        assert await made.world.canary_replicas() == 1
        assert not await made.roll_back()  # and it stays so
        assert made.lease.fenced_out


async def test_a_lost_lease_does_not_stop_it(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        made.world.kube.faults.fail(matching(resource="leases"), 500, times=None)
        await made.lease.release()
        assert not made.lease.held
        assert await made.roll_back()
        assert await made.untouched()


async def test_stable_that_lost_replicas_gets_them_back_before_the_shift(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        await made.world.change(DEPLOYMENT, "web-stable", {"spec": {"replicas": 1}})
        assert await made.roll_back()
        assert await made.untouched()
        effects = [(e.verb, e.target) for e in await events(made.recorder, EffectIntended)]
        assert effects[:2] == [("scale", "web-stable to 2"), ("shift", "canary weight 0")]


async def test_stable_that_grew_is_never_scaled_down(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        await made.world.change(DEPLOYMENT, "web-stable", {"spec": {"replicas": 4}})
        assert await made.roll_back()
        assert await made.world.stable() == {"web": (4, OLD.format("web"))}


async def test_stable_half_replaced_gets_its_image_back_before_the_shift(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(100)
        await made.targets.set_image("web-stable", "app", NEW.format("web"))
        assert await made.roll_back(replacing=True)
        assert await made.untouched()
        verbs = [e.verb for e in await events(made.recorder, EffectIntended)]
        assert verbs.index("redeploy") < verbs.index("shift")


async def test_stable_that_cannot_have_its_image_back_freezes_it(tmp_path: Path) -> None:
    async with site(tmp_path, rollout_deadline="10s") as made:
        await made.canary_at(100)
        await made.targets.set_image("web-stable", "app", NEW.format("web"))
        while not (await made.targets.stable())[0].settled:  # noqa: ASYNC110 - the cluster tells nobody
            await asyncio.sleep(0.01)
        made.world.kube.faults.unpullable.add(OLD.format("web"))
        assert not await made.roll_back(replacing=True)
        # Traffic stays where it is served.
        assert await made.world.weights() == [{"web-stable": 0, "web-canary": 100}]
        (unfinished,) = await events(made.recorder, RollbackUnfinished)
        assert "previous images" in unfinished.reason


async def test_it_is_done_when_nothing_can_be_recorded(tmp_path: Path) -> None:
    disk = Disk()
    async with (
        site(tmp_path / "world") as made,
        recording(tmp_path / "full", made.clock, io=disk) as recorder,
    ):
        await made.canary_at(50)
        disk.eaten = disk.capacity
        gate = gate_of(recorder, clock=made.clock)
        abort = Abort(
            effects=gate,
            targets=made.targets,
            observer=made.analyst,
            recorder=recorder,
            plan=made.plan,
            clock=made.clock,
        )
        assert await abort.run("slo_breach", "it is wrong", "A1", STABLE, replacing=False)
        assert await made.untouched()


async def test_it_may_be_cut_off_and_taken_up(tmp_path: Path) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)
        for pause in (0.0, 0.002, 0.01, 0.05):
            task = asyncio.create_task(made.roll_back())
            await asyncio.sleep(pause)
            task.cancel()
            await asyncio.wait((task,))
        assert await made.roll_back()
        assert await made.untouched()
