"""The cluster: reachable, on time, what is served there, what we may, and what the plan names there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial

from cockpit.backends.cluster import DEPLOYMENT, HTTPROUTE, LEASE, KubernetesCluster, Object
from cockpit.backends.rights import Right, rights_of
from cockpit.base.clock import Clock, parse_iso
from cockpit.base.errors import BackendRefused
from cockpit.base.text import visible
from cockpit.connecting import Clients
from cockpit.doctor.checks import Finding, Probe, fail, ok, warn
from cockpit.doctor.clocks import clock_probe
from cockpit.plan.model import Plan

PART = "kubernetes"
GATEWAY_GROUP, GATEWAY_VERSION = HTTPROUTE.group, HTTPROUTE.version
_AT_ONCE = 8
_ACCOUNT = "check `targets.kubernetes.token`: make a new one with `kubectl create token` (`doctor --rbac`)"
_RIGHTS = "`cockpit doctor --rbac PLAN` prints a manifest that grants what a release needs"


class ClusterPart:
    """The probes of the cluster, and its connections, which the caller closes."""

    def __init__(self, plan: Plan, clients: Clients, clock: Clock) -> None:
        self._plan = plan
        self._clients = clients
        self._clock = clock
        self._clusters: dict[str, KubernetesCluster] = {}

    async def close(self) -> None:
        """Close every connection."""
        for cluster in self._clusters.values():
            await cluster.close()

    def probes(self) -> Iterator[Probe]:
        """Yield the probes."""
        target = self._plan.targets.kubernetes
        todo = "check `targets.kubernetes.url` and `ca_file`, and that the API server runs and can be reached"
        reach = Probe(PART, "reachable", target.url, self._reach, todo, refused=_ACCOUNT)
        yield reach
        yield clock_probe(PART, target.url, self._date, self._clock, reach)
        todo = (
            "install the standard CRDs of the Gateway API (v1) and a gateway that follows its routes: "
            "kubectl apply the project's standard-install.yaml"
        )
        yield Probe(PART, "Gateway API", target.url, self._gateway_api, todo, reach)
        for namespace, rights in rights_of(self._plan).items():
            yield self._rights(namespace, rights, reach)
        yield from self._objects(reach)
        todo = "look at the Lease; another conductor may hold the release"
        yield Probe(
            PART, "lock", f"{target.namespace}/{target.lease}", self._lock, todo, reach, refused=_RIGHTS
        )

    async def _reach(self) -> Finding:
        cluster = await self._at(self._plan.targets.kubernetes.namespace)
        seen = await cluster.version()
        if not seen.version:
            return warn("it does not say which version it is", "check that this is an API server")
        return ok(seen.version, version=seen.version)

    async def _date(self) -> str:
        cluster = await self._at(self._plan.targets.kubernetes.namespace)
        return (await cluster.version()).date

    async def _gateway_api(self) -> Finding:
        cluster = await self._at(self._plan.targets.kubernetes.namespace)
        served = await cluster.served(GATEWAY_GROUP, GATEWAY_VERSION)
        named = f"{GATEWAY_GROUP}/{GATEWAY_VERSION}"
        if HTTPROUTE.plural not in served:
            raise BackendRefused(f"the cluster serves no {HTTPROUTE.plural} in {named}", status=404)
        return ok(f"{HTTPROUTE.plural} in {named}", version=GATEWAY_VERSION)

    # -- rights ---------------------------------------------------------------------------------------

    def _rights(self, namespace: str, rights: Sequence[Right], reach: Probe) -> Probe:
        async def make() -> Finding:
            cluster = await self._at(self._plan.targets.kubernetes.namespace)
            slots = asyncio.Semaphore(_AT_ONCE)

            async def lacking(right: Right, verb: str) -> str:
                async with slots:
                    return await _lacking(cluster, namespace, right, verb)

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(lacking(right, verb)) for right in rights for verb in right.verbs]
            missing = [task.result() for task in tasks if task.result()]
            asked = len(tasks)
            if missing:
                named = "; ".join(missing)
                return fail(
                    f"{namespace}: {len(missing)} of {asked} lacking: {named}",
                    _RIGHTS,
                    asked=asked,
                    lacking=named,
                )
            return ok(f"{namespace}: all {asked} granted", asked=asked, lacking="")

        return Probe(PART, "rights", namespace, make, _RIGHTS, reach, refused=_ACCOUNT)

    # -- what the plan names --------------------------------------------------------------------------

    def _objects(self, reach: Probe) -> Iterator[Probe]:
        target = self._plan.targets.kubernetes
        # A stage without steps has no canary: its stable takes the images at once.
        places = {target.namespace: target.route}
        for stage in self._plan.stages:
            places.setdefault(stage.namespace, (stage.route or target.route) if stage.steps else "")
        for namespace, route in places.items():
            todo = f"set up what the plan names in {namespace}, or correct `services` and `route`"
            make = partial(self._there, namespace, route, todo)
            yield Probe(PART, "objects", namespace, make, todo, reach, refused=_RIGHTS)

    async def _there(self, namespace: str, route: str, todo: str) -> Finding:
        cluster = await self._at(namespace)
        wanted = [(HTTPROUTE, route, "")] if route else []
        for one in self._plan.services:
            wanted.append((DEPLOYMENT, one.stable_deployment, one.container))
            if route:
                wanted.append((DEPLOYMENT, one.canary_deployment, one.container))
        problems = []
        for kind, name, container in wanted:
            try:
                found = await cluster.get(kind, name)
            except BackendRefused as error:
                if error.status != 404:
                    raise
                problems.append(f"no {kind.kind} {name}")
                continue
            if container and container not in _containers(found):
                problems.append(f"{kind.kind} {name} has no container {container}")
        if problems:
            return fail(f"{namespace}: {'; '.join(problems)}", todo, objects=len(wanted))
        return ok(f"{namespace}: all {len(wanted)} there", objects=len(wanted))

    async def _lock(self) -> Finding:
        target = self._plan.targets.kubernetes
        cluster = await self._at(target.namespace)
        try:
            spec = (await cluster.get(LEASE, target.lease)).get("spec")
        except BackendRefused as error:
            if error.status == 404:
                return ok("nobody has held it yet")
            raise
        spec = spec if isinstance(spec, dict) else {}
        holder, renewed = str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or "")
        if not holder:
            return ok("nobody holds it")
        try:
            seconds = float(spec.get("leaseDurationSeconds") or target.lease_seconds)
            over = parse_iso(renewed) + timedelta(seconds=seconds) < self._clock.now()
        except (ValueError, TypeError, OverflowError):
            over = True
        held = visible(holder, limit=200)
        if over:
            return ok(f"its last holder was {held}, at {renewed or 'no time'}", holder=held)
        todo = "another conductor runs: wait for it, or see `cockpit status` there"
        return warn(f"held by {held}, renewed at {renewed}", todo, holder=held)

    async def _at(self, namespace: str) -> KubernetesCluster:
        """Return the connected client of a namespace."""
        cluster = self._clusters.get(namespace)
        if cluster is None:
            cluster = self._clients.kubernetes(namespace)
            self._clusters[namespace] = cluster
            await cluster.connect()
        return cluster


async def _lacking(cluster: KubernetesCluster, namespace: str, right: Right, verb: str) -> str:
    """Return what is lacking, as `verb resource`, or nothing."""
    if await cluster.may(verb, right.group, right.resource, namespace=namespace):
        return ""
    # Not on all objects: then it may be granted on those the plan names, which is enough.
    names = [
        name
        for name in right.named(verb)
        if not await cluster.may(verb, right.group, right.resource, namespace=namespace, name=name)
    ]
    if right.named(verb) and not names:
        return ""
    some = f" on {', '.join(names)}" if 0 < len(names) < len(right.named(verb)) else ""
    return f"{verb} {right.qualified}{some}"


def _containers(deployment: Object) -> set[str]:
    template = deployment.get("spec", {}).get("template", {})
    containers = template.get("spec", {}).get("containers") if isinstance(template, dict) else None
    return {str(one.get("name")) for one in containers or [] if isinstance(one, dict)}
