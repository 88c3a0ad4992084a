"""What a step is judged under: whether somebody else has changed it since the promotion set it.

Whoever deploys the same objects, be it Helm, a GitOps controller or a person, may write weights, images or
replicas back under a canary. What is measured from then on is not what is to be released: whatever the
metrics say of it, the step cannot be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cockpit.base.clock import Clock
from cockpit.base.errors import BackendUnreachable, Conflict
from cockpit.conductor.bake import Inconclusive
from cockpit.conductor.targets import DeploymentSeen, Targets
from cockpit.plan.model import Canary

_LOOKS = 4
"""How often it is looked for in a bake, at most once an interval."""


async def drift(targets: Targets, weight: int, stable: Mapping[str, str]) -> list[str]:
    """Return what is not as a step of `weight` percent has set it, nothing when all is.

    `stable`: the image of each stable Deployment. More replicas than were set are no drift, nor are fewer as
    long as the plan's least are wanted: an autoscaler may see to them. Raises BackendError.
    """
    weights, canary, now = await asyncio.gather(targets.weights(), targets.canary(), targets.stable())
    found = []
    if set(weights) != {weight}:
        said = ", ".join(f"{one} %" for one in weights)
        found.append(f"the route gives the canary {said} where {weight} % was set")
    images = {service.canary_deployment: service.image.text for service in targets.services}
    least = {service.canary_deployment: service.canary_replicas for service in targets.services}
    found += other_images(canary, images)
    found += [
        f"{one.name} is to have {one.wanted} replicas" for one in canary if one.wanted < least[one.name]
    ]
    found += other_images(now, stable)
    return found


async def watch_drift(
    targets: Targets, canary: Canary, clock: Clock, weight: int, stable: Mapping[str, str]
) -> None:
    """Look for drift, a few times in a bake, until cancelled; raises Inconclusive, or what is garbage."""
    while True:
        await clock.sleep(max(canary.interval, canary.bake / _LOOKS))
        try:
            unchanged(await drift(targets, weight, stable))
        except (BackendUnreachable, Conflict):
            pass  # it cannot be told now; the step is not decided before it can


def unchanged(found: Sequence[str]) -> None:
    """Raise Inconclusive for what somebody else has changed."""
    if found:
        raise Inconclusive(f"somebody else has changed what is released: {'; '.join(found)}")


def other_images(seen: list[DeploymentSeen], wanted: Mapping[str, str]) -> list[str]:
    """Return which Deployments run another image than is wanted of them, those not named left out.

    An image of the same digest is the same one: an admission webhook may name another registry for it.
    """
    return [
        f"{one.name} runs {one.image or 'nothing'} instead of {wanted[one.name]}"
        for one in seen
        if not _same(one.image, wanted.get(one.name, one.image))
    ]


def _same(image: str, wanted: str) -> bool:
    digest = wanted.partition("@")[2]
    return image == wanted or (digest != "" and image.partition("@")[2] == digest)
