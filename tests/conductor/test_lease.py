"""The release lock and the fence, against a cluster: who holds it, who lost it, whose write is late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cockpit.backends.cluster import DEPLOYMENT, HTTPROUTE, LEASE, KubernetesCluster
from cockpit.base.clock import SystemClock, VirtualClock
from cockpit.base.errors import BackendGarbage, BackendUnreachable, Conflict, EffectRefused, LockHeld
from cockpit.base.tasks import alongside
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import FENCE, Targets, canary_share
from cockpit.journal.events import LeaseChanged
from cockpit.rehearsal.kube import matching
from cockpit.rehearsal.topology import ROUTE
from tests.conductor.support import (
    FastClock,
    World,
    events,
    on_disk,
    plan_of,
    recording,
    route_manifest,
    until,
    world,
)

NAME = "release-cockpit"


@asynccontextmanager
async def locked(folder: Path) -> AsyncIterator[tuple[World, Recorder]]:
    async with asyncio.timeout(60), world() as made, recording(folder) as recorder:
        yield made, recorder


def lease_of(
    made: World, recorder: Recorder, holder: str, *, clock: Any = None, seconds: int = 600
) -> ReleaseLease:
    clock = clock or SystemClock()
    plan = plan_of(clock)
    target = plan.targets.kubernetes.model_copy(update={"lease_seconds": seconds})
    return ReleaseLease(made.conductor, target, holder, recorder, clock)


async def spec_of(made: World) -> dict[str, Any]:
    spec: dict[str, Any] = (await made.admin.get(LEASE, NAME))["spec"]
    return spec


async def changed(recorder: Recorder) -> list[tuple[str, str, int]]:
    return [(e.state, e.holder, e.fence) for e in await events(recorder, LeaseChanged)]


async def test_the_first_holder_makes_the_lease(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        lease = lease_of(made, recorder, "ann")
        assert (lease.held, lease.fence) == (False, 0)
        await lease.acquire()
        assert (lease.held, lease.fence, lease.fenced_out) == (True, 1, False)
        assert (await spec_of(made))["holderIdentity"] == "ann"
        assert await changed(recorder) == [("acquired", "ann", 1)]


async def test_a_second_holder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        await lease_of(made, recorder, "ann").acquire()
        before = await spec_of(made)
        other = lease_of(made, recorder, "bob")
        with pytest.raises(LockHeld, match="ann holds"):
            await other.acquire()
        assert not other.held
        assert await spec_of(made) == before
        assert (await changed(recorder))[-1] == ("refused", "ann", 1)


async def test_the_same_holder_takes_it_up_again_under_the_same_fence(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        await lease_of(made, recorder, "ann").acquire()
        again = lease_of(made, recorder, "ann")
        await again.acquire()
        assert (again.held, again.fence) == (True, 1)


async def test_a_lease_given_back_is_taken_with_a_higher_fence(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        first, second = lease_of(made, recorder, "ann"), lease_of(made, recorder, "bob")
        await first.acquire()
        await first.release()
        assert not first.held
        await second.acquire()
        assert (second.fence, (await spec_of(made))["leaseTransitions"]) == (2, 2)
        await first.release()  # twice, and after another took it: nothing
        assert (await spec_of(made))["holderIdentity"] == "bob"


async def test_a_holder_that_has_gone_is_taken_over_with_a_reason_only(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        clock = FastClock(50)
        old = lease_of(made, recorder, "ann", clock=clock, seconds=60)
        await old.acquire()
        new = lease_of(made, recorder, "bob", clock=clock, seconds=60)
        for no_reason in ("", "  "):
            with pytest.raises(LockHeld):
                await new.acquire(takeover=no_reason)
        began = clock.monotonic()
        await new.acquire(takeover="ann's machine is gone")
        assert clock.monotonic() - began >= 60.0
        assert (new.fence, new.held) == (2, True)
        await old.keep()
        assert (old.held, old.fenced_out) == (False, True)
        assert ("lost", "bob", 1) in await changed(recorder)


async def test_a_holder_that_renews_is_not_taken_over(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        clock = FastClock(50)
        old = lease_of(made, recorder, "ann", clock=clock, seconds=60)
        await old.acquire()
        async with alongside(old.keep()):
            with pytest.raises(LockHeld):
                await lease_of(made, recorder, "bob", clock=clock, seconds=60).acquire(takeover="mine now")
        assert old.held


async def test_the_fence_is_above_what_the_objects_carry(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        await made.change(DEPLOYMENT, "web-stable", {"metadata": {"annotations": {FENCE: "7"}}})
        lease = lease_of(made, recorder, "ann")
        targets = Targets(made.conductor, plan_of(SystemClock()), lease)
        await lease.acquire(floor=await targets.highest_fence())
        assert lease.fence > 7
        await targets.stamp(DEPLOYMENT, "web-stable")


@pytest.mark.parametrize(
    "spec",
    [
        {"renewTime": None},
        {"leaseDurationSeconds": None},
        {"renewTime": "9999-12-31T23:59:59.000000Z"},
    ],
)
async def test_a_lease_whose_end_cannot_be_told_is_held(tmp_path: Path, spec: dict[str, Any]) -> None:
    async with locked(tmp_path) as (made, recorder):
        await lease_of(made, recorder, "ann").acquire()
        await made.change(LEASE, NAME, {"spec": spec})
        with pytest.raises(LockHeld):
            await lease_of(made, recorder, "bob").acquire()


async def test_renewing_keeps_it_and_a_cluster_that_is_away_loses_it_for_a_while(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        clock = FastClock(50)
        lease = lease_of(made, recorder, "ann", clock=clock, seconds=60)
        await lease.acquire()
        first = (await spec_of(made))["renewTime"]
        async with alongside(lease.keep()) as keeping:
            async with asyncio.timeout(20):
                while (await spec_of(made))["renewTime"] == first:  # noqa: ASYNC110 - the cluster tells nobody
                    await asyncio.sleep(0.01)
            made.kube.faults.fail(matching(resource="leases"), 503, times=None)
            await until(lambda: not lease.held)
            await until(lambda: [e for e in on_disk(tmp_path, LeaseChanged) if e.state == "lost"])
            made.kube.faults.clear()
            await until(lambda: lease.held)
            assert not keeping.done()
            states = await until(
                lambda: (
                    (found := [e.state for e in on_disk(tmp_path, LeaseChanged)])[-1] == "acquired" and found
                )
            )
        assert states == ["acquired", "lost", "acquired"]


async def test_a_conflict_while_renewing_is_not_a_loss(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        lease = lease_of(made, recorder, "ann", clock=FastClock(50), seconds=60)
        await lease.acquire()
        first = (await spec_of(made))["renewTime"]
        fault = made.kube.faults.fail(matching("update", "leases"), 409, times=2)
        async with alongside(lease.keep()) as keeping:
            await until(lambda: fault.seen == 2)
            async with asyncio.timeout(20):
                while (await spec_of(made))["renewTime"] == first:  # noqa: ASYNC110 - the cluster tells nobody
                    await asyncio.sleep(0.01)
            assert (lease.fenced_out, keeping.done()) == (False, False)


async def test_two_at_once_one_gets_it(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        leases = [lease_of(made, recorder, name) for name in ("ann", "bob", "cy")]
        results = await asyncio.gather(*(lease.acquire() for lease in leases), return_exceptions=True)
        assert sum(result is None for result in results) == 1
        assert sum(isinstance(result, LockHeld) for result in results) == 2
        assert sum(lease.held for lease in leases) == 1


async def test_a_cluster_that_does_not_answer_is_not_a_lock(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        made.kube.faults.fail(matching(resource="leases"), 500, times=None)
        with pytest.raises(BackendUnreachable):
            await lease_of(made, recorder, "ann").acquire()


# -- targets ------------------------------------------------------------------------------------------


async def targets_of(
    made: World, recorder: Recorder, holder: str = "ann", cluster: KubernetesCluster | None = None
) -> Targets:
    lease = lease_of(made, recorder, holder)
    await lease.acquire()
    return Targets(cluster or made.conductor, plan_of(SystemClock()), lease)


async def test_every_write_carries_the_fence(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        targets = await targets_of(made, recorder)
        for kind, name in targets.names():
            await targets.stamp(kind, name)
        for kind, name in targets.names():
            assert (await made.admin.get(kind, name))["metadata"]["annotations"][FENCE] == "1"
        assert await made.weights() == [{"web-stable": 100, "web-canary": 0}]
        await targets.shift(10)
        assert await made.weights() == [{"web-stable": 90, "web-canary": 10}]
        assert await targets.weight() == 10


async def test_a_late_write_meets_the_newer_fence(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        old = await targets_of(made, recorder)
        await old.stamp(HTTPROUTE, ROUTE)
        # The old holder reads, and hangs; the new one takes over and stamps; the old one's write comes late.
        fault = made.kube.faults.delay(matching("patch", "httproutes"), 0.2, times=1)
        late = asyncio.create_task(old.shift(50))
        await until(lambda: fault.seen)
        await made.change(HTTPROUTE, ROUTE, {"metadata": {"annotations": {FENCE: "2"}}})
        with pytest.raises(EffectRefused) as error:
            await late
        assert error.value.reason == "fence"
        assert await made.weights() == [{"web-stable": 100, "web-canary": 0}]
        with pytest.raises(EffectRefused):
            await old.shift(0)


async def test_a_foreign_fence_fences_the_whole_release_out(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        lease = lease_of(made, recorder, "ann")
        await lease.acquire()
        targets = Targets(made.conductor, plan_of(SystemClock()), lease)
        await made.change(DEPLOYMENT, "web-canary", {"metadata": {"annotations": {FENCE: "7"}}})
        with pytest.raises(EffectRefused):
            await targets.scale("web-canary", 1)
        assert (lease.fenced_out, lease.held) == (True, False)


async def test_conflicts_are_tried_again_and_end(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        targets = await targets_of(made, recorder)
        fault = made.kube.faults.fail(matching("patch", "httproutes"), 409, times=5)
        await targets.shift(10)
        assert (fault.seen, await targets.weight()) == (5, 10)
        made.kube.faults.fail(matching("patch", "httproutes"), 409, times=None)
        with pytest.raises(Conflict):
            await targets.shift(50)


async def test_writes_by_controllers_in_between_do_not_matter(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        targets = await targets_of(made, recorder)
        await asyncio.gather(*(targets.scale("web-canary", n) for n in (3, 3, 3)))
        assert await made.canary_replicas() == 3


async def test_a_scale_keeps_everything_else_and_sets_the_image(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        targets = await targets_of(made, recorder)
        before = (await made.admin.get(DEPLOYMENT, "web-canary"))["spec"]["template"]["spec"]
        await targets.scale("web-canary", 1, container="app", image="r/web@sha256:" + "c" * 64)
        after = (await made.admin.get(DEPLOYMENT, "web-canary"))["spec"]["template"]["spec"]
        assert after["containers"][0].pop("image") == "r/web@sha256:" + "c" * 64
        assert before["containers"][0].pop("image") != ""
        assert after == before
        with pytest.raises(BackendGarbage, match="no one container"):
            await targets.scale("web-canary", 1, container="other", image="r/web:1")


def rule(stable: object, canary: object) -> dict[str, Any]:
    refs = [{"name": "web-stable", "weight": stable}, {"name": "web-canary", "weight": canary}]
    return {"backendRefs": [{k: v for k, v in ref.items() if v != "absent"} for ref in refs]}


@pytest.mark.parametrize(
    ("stable", "canary", "share"),
    [(100, 0, 0), (90, 10, 10), (0, 100, 100), (0, 0, 0), (999, 1, 1), (1_000_000, 1, 1), ("absent", 0, 0),
     ("absent", "absent", 50), (2, 1, 34), (0, 1, 100)],
)  # fmt: skip
def test_a_share_is_rounded_up(stable: object, canary: object, share: int) -> None:
    assert canary_share(rule(stable, canary), plan_of(VirtualClock())) == share


@pytest.mark.parametrize(
    "rules",
    [
        None, [], "all", [None], [{}], [{"backendRefs": None}], [{"backendRefs": ["web-stable"]}],
        [rule(100, -1)], [rule("100", 0)], [rule(True, 0)], [rule(1.5, 0)],
        [{"backendRefs": [{"name": "web-stable", "weight": 1}]}],
        [{"backendRefs": [{"name": "web-canary"}, {"name": "web-canary"}]}],
        [{"backendRefs": [*rule(1, 1)["backendRefs"], {"name": "shadow", "weight": 1}]}],
        [rule(100, 0), {"backendRefs": []}],
    ],
)  # fmt: skip
async def test_a_route_of_another_shape_is_garbage(tmp_path: Path, rules: Any) -> None:
    specs: list[Any] = [{"rules": rules}, None, []]
    for spec in specs:
        await _garbage(tmp_path, HTTPROUTE, {"metadata": {"name": ROUTE}, "spec": spec})


async def _garbage(folder: Path, kind: Any, item: dict[str, Any]) -> None:
    """Let a client hand out an object as no API server would, and read it."""
    async with recording(folder) as recorder:
        clock = VirtualClock()
        plan = plan_of(clock)
        odd = Odd(item)
        lease = ReleaseLease(odd, plan.targets.kubernetes, "ann", recorder, clock)
        targets = Targets(odd, plan, lease)
        if kind is HTTPROUTE:
            with pytest.raises(BackendGarbage):
                await targets.weight()
        else:
            with pytest.raises(BackendGarbage):
                await targets.stable()
                await targets.canary_pods()
    assert odd.written == 0


class Odd:
    """A cluster whose every object is the one given; it counts what is written."""

    def __init__(self, item: dict[str, Any]) -> None:
        self._item = {"apiVersion": "v1", "kind": "Any", **item}
        self.written = 0

    async def get(self, kind: Any, name: str) -> dict[str, Any]:
        return self._item

    async def list(self, kind: Any, *, selector: str = "") -> list[dict[str, Any]]:
        return []

    async def patch(
        self, kind: Any, name: str, body: dict[str, Any], *, resource_version: str
    ) -> dict[str, Any]:
        self.written += 1
        return self._item

    async def replace(self, kind: Any, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.written += 1
        return self._item

    async def create(self, kind: Any, body: dict[str, Any]) -> dict[str, Any]:
        self.written += 1
        return self._item

    async def pod_log(self, pod: str, container: str, *, limit_bytes: int) -> bytes:
        return b""

    async def delete(self, kind: Any, name: str, *, uid: str) -> None:
        self.written += 1

    async def close(self) -> None:
        pass


POD = {"template": {"spec": {"containers": [{"name": "app", "image": "r/web:1"}]}}}


@pytest.mark.parametrize(
    "item",
    [
        {}, {"spec": None}, {"spec": []}, {"spec": {"replicas": "2", **POD}},
        {"spec": {"replicas": -1, **POD}},
        {"spec": {"replicas": 2}}, {"spec": {"replicas": 2, "template": None}},
        {"spec": {"replicas": 2, "template": {"spec": {"containers": [None]}}}},
        {"spec": {"replicas": 2, **POD}, "status": []},
        {"spec": {"replicas": 2, **POD}, "status": {"readyReplicas": None}},
        {"spec": {"replicas": 2, **POD}, "status": {"readyReplicas": True}},
        {"spec": {"replicas": 2, **POD}, "metadata": {"name": "web-stable", "generation": "3"}},
        {"spec": {"replicas": 2, "selector": None, **POD}},
        {"spec": {"replicas": 2, "selector": {"matchLabels": {}}, **POD}},
    ],
)  # fmt: skip
async def test_a_deployment_of_another_shape_is_garbage(tmp_path: Path, item: dict[str, Any]) -> None:
    await _garbage(tmp_path, DEPLOYMENT, {"metadata": {"name": "web-stable"}, **item})


async def test_rules_that_disagree_give_the_largest_weight(tmp_path: Path) -> None:
    async with locked(tmp_path) as (made, recorder):
        targets = await targets_of(made, recorder)
        body = route_manifest(["web"])
        one = body["spec"]["rules"][0]
        two = {**one, "matches": [{"path": {"type": "PathPrefix", "value": "/other"}}]}
        two["backendRefs"] = [
            {"name": "web-stable", "port": 80, "weight": 999},
            {"name": "web-canary", "port": 80, "weight": 1},
        ]
        await made.change(HTTPROUTE, ROUTE, {"spec": {"rules": [one, two]}})
        assert await targets.weight() == 1
        await targets.shift(0)
        assert await targets.weight() == 0
