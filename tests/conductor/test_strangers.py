"""Somebody else works on what is released: keeps pods beside it, or takes stable's replicas away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cockpit.backends.cluster import DEPLOYMENT, Object
from cockpit.conductor.targets import Targets
from cockpit.journal.events import EffectIntended, Released, RollbackVerified, StepStage
from cockpit.rehearsal import manifests
from cockpit.rehearsal.topology import PROD
from tests.conductor.support import NEW, OLD, events, on_disk, until
from tests.conductor.test_release import Show, show


def shadow(replicas: int) -> Object:
    """Return a Deployment of somebody else whose pods are selected with those of web-stable."""
    body = manifests.deployment(PROD, "web", "stable", OLD.format("web"), replicas)
    body["metadata"]["name"] = "web-shadow"
    body["spec"]["selector"] = {"matchLabels": {"shadow": "yes"}}
    template = body["spec"]["template"]
    template["metadata"]["labels"] = {**template["metadata"]["labels"], "shadow": "yes"}
    template["spec"].pop("readinessGates")
    return body


async def stand_beside(made: Show) -> None:
    """Have the other Deployment's pods stand beside stable's."""
    await made.world.admin.create(DEPLOYMENT, shadow(1))
    targets = Targets(made.world.admin, made.plan, made.lease)
    async with asyncio.timeout(30):
        while not await targets.strangers():  # noqa: ASYNC110 - the cluster tells nobody
            await asyncio.sleep(0.01)


async def promoted(made: Show) -> list[str]:
    """Return the forward effects that gave stable the new image."""
    return [e.target for e in await events(made.recorder, EffectIntended) if e.verb == "promote"]


async def test_pods_of_somebody_else_are_no_place_to_begin(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        await stand_beside(made)
        ending = await made.run()
        assert (ending.exit, "Deployment/web-shadow (web-stable)" in ending.cause) == (10, True)
        assert not made.gate.prod_touched


async def test_what_keeps_no_pod_is_nobody(tmp_path: Path) -> None:
    async with show(tmp_path) as made:
        await made.world.admin.create(DEPLOYMENT, shadow(0))
        assert (await made.run()).exit == 0


@pytest.mark.parametrize("at", [1, 3])
async def test_pods_that_come_in_mid_canary_roll_it_back(tmp_path: Path, at: int) -> None:
    async with show(tmp_path) as made:

        async def late(step: int) -> None:
            if step == at:
                await stand_beside(made)

        made.gates.under_step = late  # type: ignore[method-assign]
        assert (await made.run()).exit == 20
        assert await promoted(made) == []
        await made.restored()


@pytest.mark.parametrize("left", [0, 1])
async def test_stable_that_was_scaled_down_is_not_replaced(tmp_path: Path, left: int) -> None:
    async with show(tmp_path) as made:

        async def late(step: int) -> None:
            if step == 3:
                await made.world.change(DEPLOYMENT, "web-stable", {"spec": {"replicas": left}})

        made.gates.under_step = late  # type: ignore[method-assign]
        assert (await made.run()).exit == 20
        assert await promoted(made) == []
        await made.restored()


async def test_stable_scaled_down_while_it_is_replaced_gets_no_traffic(tmp_path: Path) -> None:
    async with show(tmp_path, canary={"rollout_deadline": "30s"}) as made:
        # Its new pods do not start, so that it is still being replaced when somebody comes.
        made.gates.under_step = lambda step: _spoil(made, step)  # type: ignore[method-assign]

        async def take_away() -> None:
            await until(lambda: [e for e in on_disk(tmp_path, StepStage) if e.stage == "promote"])
            await made.world.change(DEPLOYMENT, "web-stable", {"spec": {"replicas": 0}})

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(take_away())
            assert (await made.run()).exit == 20
        assert await promoted(made)
        assert await events(made.recorder, Released) == []
        assert len(await events(made.recorder, RollbackVerified)) == 1
        await made.restored()


async def _spoil(made: Show, step: int) -> None:
    if step == 3:
        made.world.kube.faults.unpullable.add(NEW.format("web"))
