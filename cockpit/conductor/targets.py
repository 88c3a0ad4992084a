"""The objects a release changes: one HTTPRoute and two Deployments a service, under the fence.

Kubernetes knows no fences, so each object carries the holder's number as an annotation, and every write
names the resourceVersion it read: a late write of an older holder gets 409 and then sees the newer number.
An abort also marks what it writes, so that even a write which changes nothing else gives the object a new
version: a forward write still on its way when the abort began then gets 409 as well.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from cockpit.backends.cluster import DEPLOYMENT, HTTPROUTE, POD, REPLICASET, Cluster, Kind, Object
from cockpit.base.errors import BackendGarbage, Conflict, EffectRefused
from cockpit.base.text import visible
from cockpit.conductor.lease import ReleaseLease
from cockpit.plan.model import Plan, Service

FENCE = "release-cockpit.dev/fence"
ABORT = "release-cockpit.dev/abort"
_ATTEMPTS = 12


@dataclass(frozen=True, slots=True)
class DeploymentSeen:
    """A Deployment as observed: replicas wanted and ready, the image it asks for, whether it has settled."""

    name: str
    wanted: int
    ready: int
    updated: int
    total: int
    image: str
    settled: bool

    @property
    def gone(self) -> bool:
        """Whether it wants no pod and its controller reports none."""
        return self.wanted == 0 and self.total == 0 and self.ready == 0 and self.settled


class Targets:
    """Reads and, under the fence, writes the release's objects. Hands out no write without a lease."""

    def __init__(self, cluster: Cluster, plan: Plan, lease: ReleaseLease, *, abort: str = "") -> None:
        """Write as the holder of `lease`; `abort` names the abort whose mark each write is to carry."""
        self._cluster = cluster
        self._plan = plan
        self._lease = lease
        self._route = plan.targets.kubernetes.route
        self._abort = abort
        self._writes = itertools.count(1)

    @property
    def services(self) -> tuple[Service, ...]:
        """The services of the release."""
        return self._plan.services

    def names(self) -> list[tuple[Kind, str]]:
        """Return every object the release may change."""
        found: list[tuple[Kind, str]] = [(HTTPROUTE, self._route)]
        for service in self._plan.services:
            found.append((DEPLOYMENT, service.stable_deployment))
            found.append((DEPLOYMENT, service.canary_deployment))
        return found

    async def highest_fence(self) -> int:
        """Return the highest fence any of the objects carries."""
        items = await asyncio.gather(*(self._cluster.get(kind, name) for kind, name in self.names()))
        return max(_fence(item) for item in items)

    # -- reading --------------------------------------------------------------------------------------

    async def weight(self) -> int:
        """Return the canary's weight in percent as the route has it now.

        Raises BackendGarbage when the route is not of the shape the canary needs. Rules that disagree give
        the largest weight: what may reach the canary.
        """
        return max(await self.weights())

    async def weights(self) -> list[int]:
        """Return the canary's weight in percent in each rule of the route; see `weight`."""
        return [canary_share(rule, self._plan) for rule in _rules(await self._read_route())]

    async def deployment(self, name: str, container: str) -> DeploymentSeen:
        """Return a Deployment as observed."""
        return _seen(await self._cluster.get(DEPLOYMENT, name), container)

    async def stable(self) -> list[DeploymentSeen]:
        """Return all stable Deployments."""
        return list(
            await asyncio.gather(*(self.deployment(s.stable_deployment, s.container) for s in self.services))
        )

    async def canary(self) -> list[DeploymentSeen]:
        """Return all canary Deployments."""
        return list(
            await asyncio.gather(*(self.deployment(s.canary_deployment, s.container) for s in self.services))
        )

    async def canary_pods(self) -> int:
        """Return how many pods of canary Deployments exist, whatever their state."""
        count = 0
        for service in self.services:
            deployment = await self._cluster.get(DEPLOYMENT, service.canary_deployment)
            count += len(await self._cluster.list(POD, selector=_selector(deployment)))
        return count

    async def strangers(self) -> list[str]:
        """Return who else keeps pods that a Deployment of the release selects, as `Rollout/web (web-stable)`.

        Two controllers with one selector serve one Service: what runs there is then not the release's to say.
        """
        names = [name for kind, name in self.names() if kind is DEPLOYMENT]
        deployments = await asyncio.gather(*(self._cluster.get(DEPLOYMENT, name) for name in names))
        own = {str(deployment["metadata"].get("uid")) for deployment in deployments}
        sets = await asyncio.gather(
            *(self._cluster.list(REPLICASET, selector=_selector(deployment)) for deployment in deployments)
        )
        return [
            visible(f"{owner.get('kind')}/{owner.get('name')} ({name})", limit=200)
            for name, found in zip(names, sets, strict=True)
            for uid, owner in {str(one.get("uid")): one for one in map(_keeper, found) if one}.items()
            if uid not in own
        ]

    # -- writing --------------------------------------------------------------------------------------

    async def stamp(self, kind: Kind, name: str) -> None:
        """Put our fence on an object."""
        await self.update(kind, name, lambda _: {})

    async def shift(self, weight: int) -> None:
        """Give the canary `weight` percent of every rule's traffic."""

        def change(route: Object) -> Object:
            rules = copy.deepcopy(_rules(route))
            for rule in rules:
                for ref, is_canary in _split(rule, self._plan):
                    ref["weight"] = weight if is_canary else 100 - weight
            return {"spec": {"rules": rules}}

        await self.update(HTTPROUTE, self._route, change)

    async def scale(self, name: str, replicas: int, *, container: str = "", image: str = "") -> None:
        """Set a Deployment's replicas and, with `image`, the image of its container."""

        def change(deployment: Object) -> Object:
            spec: Object = {"replicas": replicas}
            if image:
                spec["template"] = {"spec": {"containers": _with_image(deployment, container, image)}}
            return {"spec": spec}

        await self.update(DEPLOYMENT, name, change)

    async def set_image(self, name: str, container: str, image: str) -> None:
        """Set the image of a Deployment's container; its replicas stay."""
        await self.update(
            DEPLOYMENT,
            name,
            lambda deployment: {
                "spec": {"template": {"spec": {"containers": _with_image(deployment, container, image)}}}
            },
        )

    async def update(self, kind: Kind, name: str, change: Callable[[Object], Object]) -> None:
        """Read, change, write on the version read; again when a controller wrote in between.

        Raises EffectRefused when a newer holder's fence stands on the object.
        """
        for attempt in range(_ATTEMPTS):
            current = await self._cluster.get(kind, name)
            if _fence(current) > self._lease.fence:
                self._lease.note_foreign_fence()
                raise EffectRefused(
                    f"{kind.plural}/{name} carries a newer holder's fence",
                    reason="fence",
                    hint="another conductor has taken the release over",
                )
            body = change(current)
            annotations = {FENCE: str(self._lease.fence)}
            if self._abort:
                annotations[ABORT] = f"{self._abort}/{next(self._writes)}"
            metadata = {"annotations": annotations}
            version = str(current["metadata"].get("resourceVersion", ""))
            if not version:
                raise BackendGarbage(f"{kind.plural}/{name} has no resourceVersion")
            try:
                await self._cluster.patch(
                    kind, name, {**body, "metadata": metadata}, resource_version=version
                )
            except Conflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
                continue
            return

    async def _read_route(self) -> Object:
        return await self._cluster.get(HTTPROUTE, self._route)


def _inner(item: Object, *path: str) -> Object:
    """Return the object at `path`, empty where there is none: what is then missing in it is garbage."""
    for part in path:
        found = item.get(part)
        item = found if isinstance(found, dict) else {}
    return item


def _selector(deployment: Object) -> str:
    """Return a Deployment's selector as a query has it."""
    name, selector = deployment["metadata"]["name"], _inner(deployment, "spec", "selector")
    labels, more = selector.get("matchLabels"), selector.get("matchExpressions") or []
    if not isinstance(labels, dict) or not labels or not isinstance(more, list):
        raise BackendGarbage(f"{name} has no matchLabels selector")
    terms = [f"{key}={value}" for key, value in sorted(labels.items())]
    for one in more:
        words = {"In": "{0} in ({1})", "NotIn": "{0} notin ({1})", "Exists": "{0}", "DoesNotExist": "!{0}"}
        if not isinstance(one, dict) or one.get("operator") not in words:
            raise BackendGarbage(f"{name} has a selector that cannot be read")
        values = ",".join(map(str, one.get("values") or ()))
        terms.append(words[one["operator"]].format(one.get("key"), values))
    return ",".join(terms)


def _keeper(replica_set: Object) -> Object:
    """Return the reference to a ReplicaSet's controller; none where it keeps no pod and is to keep none."""
    kept = _inner(replica_set, "spec").get("replicas"), _inner(replica_set, "status").get("replicas")
    owners = replica_set["metadata"].get("ownerReferences")
    if not any(kept) or not isinstance(owners, list):
        return {}
    return next((one for one in owners if isinstance(one, dict) and one.get("controller") is True), {})


def _fence(item: Object) -> int:
    annotations = item["metadata"].get("annotations") or {}
    text = str(annotations.get(FENCE, "0")) if isinstance(annotations, dict) else "0"
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise BackendGarbage(f"the fence annotation of {item['metadata']['name']} is no number")
    return int(text)


def _rules(route: Object) -> list[Object]:
    rules = _inner(route, "spec").get("rules")
    if not isinstance(rules, list) or not rules or not all(isinstance(rule, dict) for rule in rules):
        raise BackendGarbage("the HTTPRoute has no rules")
    return rules


def _split(rule: Object, plan: Plan) -> list[tuple[Object, bool]]:
    """Return a rule's two back-end references, each with whether it is the canary."""
    refs = rule.get("backendRefs")
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise BackendGarbage("a rule of the HTTPRoute has no backendRefs")
    stable = {service.stable_deployment for service in plan.services}
    canary = {service.canary_deployment for service in plan.services}
    pairs = [(ref, ref.get("name") in canary) for ref in refs if ref.get("name") in stable | canary]
    if len(pairs) != len(refs) or sorted(is_canary for _, is_canary in pairs) != [False, True]:
        raise BackendGarbage(
            "a rule of the HTTPRoute must have one stable and one canary back end of the plan"
        )
    return pairs


def canary_share(rule: Object, plan: Plan) -> int:
    """Return the canary's share of a rule in percent, rounded up: a weight of 1 in 1000 is traffic."""
    weights = {}
    for ref, is_canary in _split(rule, plan):
        weight = ref.get("weight", 1)
        if not isinstance(weight, int) or isinstance(weight, bool) or weight < 0:
            raise BackendGarbage("a weight of the HTTPRoute is no count")
        weights[is_canary] = weight
    total = weights[True] + weights[False]
    return -(-100 * weights[True] // total) if total else 0


def _containers(deployment: Object) -> list[Object]:
    containers = _inner(deployment, "spec", "template", "spec").get("containers")
    if not isinstance(containers, list) or not all(isinstance(item, dict) for item in containers):
        raise BackendGarbage(f"{deployment['metadata']['name']} has no containers")
    return containers


def _with_image(deployment: Object, container: str, image: str) -> list[Object]:
    containers = copy.deepcopy(_containers(deployment))
    matching = [item for item in containers if item.get("name") == container]
    if len(matching) != 1:
        raise BackendGarbage(f"{deployment['metadata']['name']} has no one container named {container}")
    matching[0]["image"] = image
    return containers


def _seen(deployment: Object, container: str) -> DeploymentSeen:
    spec, status = deployment.get("spec"), deployment.get("status") or {}
    if not isinstance(spec, dict) or not isinstance(status, dict):
        raise BackendGarbage(f"{deployment['metadata']['name']} has no spec or status")

    def count(values: Object, name: str, default: int) -> int:
        value = values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BackendGarbage(f"{deployment['metadata']['name']}: {name} is no count")
        return value

    wanted = count(spec, "replicas", 1)
    ready, updated = count(status, "readyReplicas", 0), count(status, "updatedReplicas", 0)
    total = count(status, "replicas", 0)
    generation = count(deployment["metadata"], "generation", 0)
    observed = count(status, "observedGeneration", -1) if "observedGeneration" in status else -1
    images = [str(i.get("image", "")) for i in _containers(deployment) if i.get("name") == container]
    return DeploymentSeen(
        name=str(deployment["metadata"]["name"]),
        wanted=wanted,
        ready=ready,
        updated=updated,
        total=total,
        image=images[0] if images else "",
        settled=observed >= generation and ready == updated == total == wanted,
    )
