"""A service that Helm installed, released by the cockpit beside it; in the long tier only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cockpit.backends.cluster import DEPLOYMENT, HTTPROUTE
from cockpit.base.tasks import alongside
from cockpit.conductor.bake import Breach, Inconclusive
from cockpit.journal.events import Released, RollbackVerified, StepDecided
from cockpit.rehearsal.real.control_plane import ControlPlane
from tests.conductor.support import events
from tests.real.fixtures import need
from tests.real.helm_support import (
    CANARY,
    NEW,
    NEW_DIGEST,
    OLD,
    REPLICAS,
    ROUTE,
    STABLE,
    Site,
    digests,
    image,
    site,
)

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.timeout(180)]
FENCE = "/f:metadata/f:annotations/f:release-cockpit.dev/fence"
REPLICAS_FIELD = "/f:spec/f:replicas"
IMAGE_FIELD = '/f:spec/f:template/f:spec/f:containers/k:{"name":"app"}/f:image'


@pytest.fixture(autouse=True)
def helm_is_there() -> None:
    need("helm")


async def test_steps_and_a_rollback_leave_what_helm_had_rendered(plane: ControlPlane, tmp_path: Path) -> None:
    async with site(plane, tmp_path) as made:
        assert await made.differences() == []
        promotion = made.promotion()

        async def fails_at_100(step: int) -> None:
            if step == 3:
                raise Breach("it is wrong", gate="slo")

        made.meanwhile = fails_at_100
        with pytest.raises(Breach):
            await promotion.run()
        assert promotion.stable.replicas == {STABLE: REPLICAS}
        assert promotion.stable.images == {STABLE: OLD}
        assert made.looked == [
            (10, [90, 10], 1, NEW, REPLICAS, OLD),
            (50, [50, 50], 2, NEW, REPLICAS, OLD),
            (100, [0, 100], REPLICAS, NEW, REPLICAS, OLD),
        ]
        assert await made.owned(HTTPROUTE, ROUTE, "release-cockpit") == {FENCE, "/f:spec/f:rules"}
        assert await made.owned(DEPLOYMENT, CANARY, "release-cockpit") == {FENCE, REPLICAS_FIELD, IMAGE_FIELD}
        assert await made.owned(DEPLOYMENT, STABLE, "release-cockpit") == set()
        assert await made.roll_back(promotion)
        assert len(await events(made.recorder, RollbackVerified)) == 1
        assert await made.differences() == []
        before = await made.specs()
        await made.helm.upgrade(*digests())
        assert await made.specs() == before
        assert await made.differences() == []


async def _upgrade(made: Site) -> None:
    """The same values again: Helm takes the canary's pods away, and leaves it its traffic."""
    await made.helm.upgrade(*digests())
    assert await made.weights() == [50, 50]


async def _upgrade_the_route(made: Site) -> None:
    """Other weights in the values: Helm writes the route as well."""
    await made.helm.upgrade(*digests(), "--set", "stable.weight=99,canary.weight=1")


async def _upgrade_the_canary_only(made: Site) -> None:
    """Values with the canary up: it goes on as well as stable, being the same, and is not what was asked."""
    await made.helm.upgrade(*digests(), "--set", "canary.replicas=2")


async def _roll_back(made: Site) -> None:
    """Helm's own rollback, to the first revision; it does not look at what the route says either."""
    await made.helm.run("rollback", "web", "1")
    assert await made.weights() == [50, 50]


@pytest.mark.parametrize(
    ("somebody", "told"),
    [
        (_upgrade, "web-canary is to have 0 replicas"),
        (_upgrade_the_route, "the route gives the canary 1 % where 50 % was set"),
        (_upgrade_the_canary_only, "web-canary runs"),
        (_roll_back, "web-canary is to have 0 replicas"),
    ],
)
async def test_what_somebody_writes_back_in_mid_canary_is_no_pass(
    plane: ControlPlane, tmp_path: Path, somebody: Callable[[Site], Awaitable[None]], told: str
) -> None:
    async with site(plane, tmp_path) as made:
        promotion = made.promotion()

        async def at_50(step: int) -> None:
            if step == 2:
                await somebody(made)

        made.meanwhile = at_50
        with pytest.raises(Inconclusive, match=told):
            await promotion.run()
        decided = [(one.step, one.decision) for one in await events(made.recorder, StepDecided)]
        assert decided == [(1, "advance"), (2, "inconclusive")]
        assert not await events(made.recorder, Released)
        assert await made.roll_back(promotion)
        assert await made.weights() == [100, 0]
        canary, stable = await made.live(DEPLOYMENT, CANARY), await made.live(DEPLOYMENT, STABLE)
        assert (canary["spec"]["replicas"], image(canary)) == (0, OLD)
        assert (stable["spec"]["replicas"], image(stable)) == (REPLICAS, OLD)


async def test_stable_put_back_while_it_takes_the_new_image_is_not_released(
    plane: ControlPlane, tmp_path: Path
) -> None:
    async with site(plane, tmp_path) as made:
        promotion = made.promotion()

        async def held(step: int) -> None:
            if step == 3:  # so that it still takes the image when Helm comes, however long Helm takes
                await made.change(DEPLOYMENT, STABLE, {"spec": {"paused": True}})

        made.meanwhile = held
        async with alongside(_once_promoted(made)):
            with pytest.raises(Inconclusive, match="web-stable runs"):
                await promotion.run()
        assert not await events(made.recorder, Released)
        assert await made.roll_back(promotion)
        assert await made.differences() == []


async def _once_promoted(made: Site) -> None:
    """Upgrade as soon as stable asks for the new image."""
    while image(await made.live(DEPLOYMENT, STABLE)) != NEW:  # noqa: ASYNC110 - the cluster tells nobody
        await asyncio.sleep(0.01)
    await made.helm.upgrade(*digests())


async def test_the_new_digests_in_the_values_keep_a_release(plane: ControlPlane, tmp_path: Path) -> None:
    async with site(plane, tmp_path) as made:
        await made.promotion().run()
        assert len(await events(made.recorder, Released)) == 1
        released = await made.specs()
        assert sorted(await made.differences()) == [
            f"Deployment/{name}.spec.template.spec.containers[0].image: {OLD!r} rendered, {NEW!r} there"
            for name in (CANARY, STABLE)
        ]
        await made.helm.upgrade(*digests(NEW_DIGEST, NEW_DIGEST))
        assert await made.specs() == released
        assert await made.differences() == []


async def test_the_old_digests_in_the_values_take_a_release_back(plane: ControlPlane, tmp_path: Path) -> None:
    async with site(plane, tmp_path) as made:
        await made.promotion().run()
        await made.helm.upgrade(*digests())
        assert image(await made.live(DEPLOYMENT, STABLE)) == OLD
        assert await made.differences() == []
        await made.helm.upgrade(*digests(NEW_DIGEST, NEW_DIGEST))
        assert image(await made.live(DEPLOYMENT, STABLE)) == NEW
