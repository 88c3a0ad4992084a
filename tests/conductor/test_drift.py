"""Somebody else, such as Helm, writes back under a canary what the promotion has set."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cockpit.backends.cluster import DEPLOYMENT, HTTPROUTE, Object
from cockpit.conductor.drift import drift
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.targets import Targets
from cockpit.journal.events import (
    EffectIntended,
    Noted,
    Released,
    RollbackStarted,
    RollbackUnfinished,
    RollbackVerified,
    StepDecided,
    StepStage,
)
from cockpit.rehearsal.kube.access import Attributes
from cockpit.rehearsal.topology import ROUTE
from tests.conductor.support import (
    NEW,
    OLD,
    FastClock,
    events,
    on_disk,
    plan_of,
    recording,
    route_manifest,
    until,
    world,
)
from tests.conductor.test_abort import site
from tests.conductor.test_release import Show, answer_with, show

Change = Callable[[Show], Awaitable[None]]


def image(text: str) -> Object:
    """Return a change that gives a Deployment an image."""
    containers = [{"name": "app", "image": text}]
    return {"spec": {"template": {"spec": {"containers": containers}}}}


async def weight_back(made: Show) -> None:
    """Give stable all traffic."""
    await made.world.change(HTTPROUTE, ROUTE, {"spec": route_manifest(["web"])["spec"]})


async def canary_image_back(made: Show) -> None:
    """Have the canary run what stable runs: it would look as good as stable."""
    await made.world.change(DEPLOYMENT, "web-canary", image(OLD.format("web")))


async def canary_down(made: Show) -> None:
    """Take the canary's pods away from under its traffic."""
    await made.world.change(DEPLOYMENT, "web-canary", {"spec": {"replicas": 0}})


async def canary_up(made: Show) -> None:
    """Give the canary more pods than it was to have, as an autoscaler does."""
    await made.world.change(DEPLOYMENT, "web-canary", {"spec": {"replicas": 3}})


BACK = [
    (weight_back, "the route gives the canary 0 % where"),
    (canary_image_back, "web-canary runs registry.example/web@sha256:11"),
    (canary_down, "web-canary is to have 0 replicas"),
]


def under(made: Show, step: int, change: Change) -> None:
    """Have the change made while the agents judge a step that has baked."""

    async def under_step(now: int) -> None:
        if now == step:
            await change(made)

    made.gates.under_step = under_step  # type: ignore[assignment, method-assign]


async def promoted(made: Show) -> list[str]:
    """Return the forward effects that gave stable the new image."""
    return [e.target for e in await events(made.recorder, EffectIntended) if e.verb == "promote"]


@pytest.mark.parametrize(("change", "told"), BACK)
@pytest.mark.parametrize("step", [1, 3])
async def test_a_step_that_was_changed_when_it_had_baked_is_no_pass(
    tmp_path: Path, step: int, change: Change, told: str
) -> None:
    async with show(tmp_path) as made:
        under(made, step, change)
        assert (await made.run()).exit == 20
        assert await made.decided() == [(n, "advance") for n in range(1, step)] + [(step, "inconclusive")]
        (started,) = await events(made.recorder, RollbackStarted)
        assert started.reason == "inconclusive" and told in started.cause
        assert await promoted(made) == []
        await made.restored()


@pytest.mark.parametrize(("change", "told"), BACK)
async def test_it_is_seen_while_it_bakes(tmp_path: Path, change: Change, told: str) -> None:
    async with show(tmp_path, canary={"bake": "40s", "interval": "1s"}) as made:

        async def change_it() -> None:
            await until(lambda: [e for e in on_disk(tmp_path, StepStage) if e.stage == "bake"])
            await change(made)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(change_it())
            assert (await made.run()).exit == 20
        (decided,) = await events(made.recorder, StepDecided)
        assert decided.decision == "inconclusive" and told in decided.reason
        assert "decide" not in [e.stage for e in await events(made.recorder, StepStage)]
        await made.restored()


async def test_each_rule_and_each_service_is_looked_at(tmp_path: Path) -> None:
    services = ("web", "search")
    clock = FastClock()
    async with world(services) as made, recording(tmp_path, clock) as recorder:
        plan = plan_of(clock, services=services, url=made.kube.url)
        lease = ReleaseLease(made.conductor, plan.targets.kubernetes, "ann", recorder, clock)
        await lease.acquire()
        targets = Targets(made.conductor, plan, lease)
        stable = {f"{name}-stable": OLD.format(name) for name in services}
        for name in services:
            await targets.scale(f"{name}-canary", 1, container="app", image=NEW.format(name))
        await targets.shift(50)
        assert await drift(targets, 50, stable) == []
        rules = (await made.admin.get(HTTPROUTE, ROUTE))["spec"]["rules"]
        rules[1]["backendRefs"] = route_manifest(services)["spec"]["rules"][1]["backendRefs"]
        await made.change(HTTPROUTE, ROUTE, {"spec": {"rules": rules}})
        assert await targets.weight() == 50
        assert await drift(targets, 50, stable) == ["the route gives the canary 50 %, 0 % where 50 % was set"]
        await targets.shift(50)
        await made.change(DEPLOYMENT, "search-stable", image(NEW.format("search")))
        assert await drift(targets, 50, stable) == [
            f"search-stable runs {NEW.format('search')} instead of {OLD.format('search')}"
        ]
        # The same digest from another registry is the same image.
        elsewhere = OLD.format("search").replace("registry.example", "mirror.example")
        await made.change(DEPLOYMENT, "search-stable", image(elsewhere))
        assert await drift(targets, 50, stable) == []


async def test_more_pods_than_were_set_are_no_matter(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        under(made, 2, canary_up)
        assert (await made.run()).exit == 0


async def test_a_person_has_the_step_set_again(tmp_path: Path) -> None:
    async with show(tmp_path, unattended=False) as made:
        made.people.attach("tui")
        changed = False

        async def once(_: Show) -> None:
            nonlocal changed
            if not changed:
                changed = True
                await canary_image_back(made)

        under(made, 2, once)
        async with asyncio.TaskGroup() as group:
            group.create_task(answer_with(made, "retry"))
            running = group.create_task(made.run())
        assert running.result().exit == 0
        assert await made.decided() == [(1, "advance"), (2, "inconclusive"), (2, "advance"), (3, "advance")]
        assert await made.world.stable() == {"web": (2, NEW.format("web"))}


async def test_another_image_of_stable_is_left_to_a_person(tmp_path: Path) -> None:
    other = "registry.example/web@sha256:" + "2" * 64

    async def upgrade(made: Show) -> None:
        await made.world.change(DEPLOYMENT, "web-stable", image(other))

    async with show(tmp_path) as made:
        under(made, 2, upgrade)
        assert (await made.run()).exit == 21
        # Traffic and canary are off all the same; what somebody deployed on purpose is not overwritten.
        assert await made.world.weights() == [{"web-stable": 100, "web-canary": 0}]
        assert await made.world.canary_replicas() == 0
        assert await made.world.stable() == {"web": (2, other)}
        (unfinished,) = await events(made.recorder, RollbackUnfinished)
        assert f"web-stable runs {other}" in unfinished.reason


@pytest.mark.parametrize("name", ["web-canary", "web-stable"])
async def test_an_image_that_is_put_back_while_it_rolls_out_is_not_what_was_rolled_out(
    tmp_path: Path, name: str
) -> None:
    async with show(tmp_path) as made:
        # The new pods do not start, so that it is still rolling out when somebody comes.
        if name == "web-canary":
            made.world.kube.faults.unpullable.add(NEW.format("web"))
        else:
            under(made, 3, _spoil)

        async def put_back() -> None:
            def asked() -> bool:
                seen = on_disk(tmp_path, EffectIntended)
                return any(e.verb in ("scale", "promote") and e.target.startswith(name) for e in seen)

            await until(asked)
            while await _image(made, name) != NEW.format("web"):  # noqa: ASYNC110 - the cluster tells nobody
                await asyncio.sleep(0.005)
            await made.world.change(DEPLOYMENT, name, image(OLD.format("web")))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(put_back())
            ending = (await made.run()).exit
        assert ending == (11 if name == "web-canary" else 20)
        assert await events(made.recorder, Released) == []
        assert made.gate.prod_shifted is (name == "web-stable")
        await made.restored()


async def test_a_canary_that_was_changed_while_people_decided_is_not_what_stable_is_given(
    tmp_path: Path,
) -> None:
    async with show(tmp_path) as made:

        async def preflight(step: int) -> list[str]:
            if step == 4:
                await canary_image_back(made)
            return []

        made.gates.preflight = preflight  # type: ignore[method-assign]
        assert (await made.run()).exit == 20
        assert await promoted(made) == []
        await made.restored()


async def test_a_canary_that_cannot_be_put_back_is_told_and_is_rolled_back_all_the_same(
    tmp_path: Path,
) -> None:
    async with site(tmp_path) as made:
        await made.canary_at(50)

        def once_verified(wanted: Attributes) -> bool:
            return wanted.verb == "patch" and bool(on_disk(tmp_path, RollbackVerified))

        refused = made.world.kube.faults.fail(once_verified, 403, times=None)
        assert await made.roll_back()
        assert refused.seen == 1
        assert any("may still ask for" in note.text for note in await events(made.recorder, Noted))


async def _image(made: Show, name: str) -> str:
    found = await made.world.admin.get(DEPLOYMENT, name)
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


async def _spoil(made: Show) -> None:
    made.world.kube.faults.unpullable.add(NEW.format("web"))
