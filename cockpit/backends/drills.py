"""Where drills are held: the pods of one namespace before prod, to look at, and to delete one by its uid."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from cockpit.backends.cluster import DEPLOYMENT, POD, Cluster, Object
from cockpit.base.errors import BackendGarbage


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A pod as observed; `ready` is False for one that is on its way out, whatever its conditions say."""

    name: str
    uid: str
    ready: bool
    leaving: bool
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkloadSeen:
    """A Deployment's replicas as asked for, and the pods its selector finds, by name."""

    deployment: str
    wanted: int
    pods: tuple[PodSeen, ...]

    @property
    def ready(self) -> tuple[PodSeen, ...]:
        """The pods that serve and stay."""
        return tuple(pod for pod in self.pods if pod.ready)


class DrillReader(Protocol):
    """What a drill may read; every method raises BackendError."""

    @property
    def namespace(self) -> str:
        """The only namespace this handle reaches."""
        ...

    async def workload(self, deployment: str) -> WorkloadSeen:
        """Return a Deployment and its pods."""
        ...


class DrillGround(DrillReader, Protocol):
    """Where pods may be deleted."""

    async def kill(self, pod: PodSeen) -> None:
        """Delete exactly this pod; raises Conflict when its name is another pod's by now."""
        ...


class LateCluster(Cluster, Protocol):
    """A cluster that is connected when it is first needed."""

    async def connect(self) -> None:
        """Open a connection and prove it; raises BackendError."""
        ...


class NamespaceDrills:
    """The real one: `cluster` must look at `namespace`."""

    def __init__(self, cluster: LateCluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._connecting = asyncio.Lock()
        self._connected = False

    @property
    def namespace(self) -> str:
        """The only namespace this handle reaches."""
        return self._namespace

    async def workload(self, deployment: str) -> WorkloadSeen:
        """Return a Deployment and its pods."""
        cluster = await self._there()
        found = await cluster.get(DEPLOYMENT, deployment)
        spec = found.get("spec")
        spec = spec if isinstance(spec, dict) else {}
        selector, wanted = spec.get("selector"), spec.get("replicas", 1)
        labels = selector.get("matchLabels") if isinstance(selector, dict) else None
        # Without labels every pod of the namespace would be a target; with expressions, too many would.
        if not isinstance(labels, dict) or not labels or set(selector or {}) != {"matchLabels"}:
            raise BackendGarbage(f"{deployment} does not select its pods by matchLabels alone")
        if type(wanted) is not int or wanted < 0:
            raise BackendGarbage(f"{deployment} asks for no number of replicas")
        text = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        pods = [_seen(pod) for pod in await cluster.list(POD, selector=text)]
        return WorkloadSeen(deployment, wanted, tuple(sorted(pods, key=lambda pod: pod.name)))

    async def kill(self, pod: PodSeen) -> None:
        """Delete exactly this pod."""
        cluster = await self._there()
        await cluster.delete(POD, pod.name, uid=pod.uid)

    async def close(self) -> None:
        """Close the connection."""
        await self._cluster.close()
        self._connected = False

    async def _there(self) -> LateCluster:
        async with self._connecting:
            if not self._connected:
                await self._cluster.connect()
                self._connected = True
        return self._cluster


def _seen(pod: Object) -> PodSeen:
    metadata, status, spec = pod["metadata"], pod.get("status"), pod.get("spec")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    ready = any(
        isinstance(one, dict) and one.get("type") == "Ready" and one.get("status") == "True"
        for one in (conditions if isinstance(conditions, list) else [])
    )
    containers = spec.get("containers") if isinstance(spec, dict) else None
    images = [
        str(one.get("image", ""))
        for one in (containers if isinstance(containers, list) else [])
        if isinstance(one, dict)
    ]
    leaving = bool(metadata.get("deletionTimestamp"))
    return PodSeen(
        str(metadata["name"]), str(metadata.get("uid", "")), ready and not leaving, leaving, tuple(images)
    )
