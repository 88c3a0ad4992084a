"""The node: brings pods to Ready after their start delay and takes deleted ones away after their stop delay.

Nothing is executed here. A pod whose `spec.readinessGates` name a condition is Ready only while that
condition is True: whoever really serves for the pod says so by patching `pods/status`, as in reality.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from cockpit.rehearsal.kube.faults import Faults
from cockpit.rehearsal.kube.ownership import Manager
from cockpit.rehearsal.kube.registry import Deletion, Registry, Write
from cockpit.rehearsal.kube.resources import PODS
from cockpit.rehearsal.kube.storage import Change
from cockpit.rehearsal.kube.values import Obj, clone, condition_is_true, conditions_with, timestamp
from cockpit.rehearsal.kube.workqueue import WorkQueue

PodKey: TypeAlias = tuple[str, str]
NODE = "loopback"
_WRITE = Write(Manager("kubelet", subresource="status"))


class Kubelet:
    """Drives the status of every pod; delays are in seconds."""

    def __init__(self, registry: Registry, faults: Faults, *, start_delay: float, stop_delay: float) -> None:
        self._registry = registry
        self._faults = faults
        self._start_delay = start_delay
        self._stop_delay = stop_delay
        self._queue: WorkQueue[PodKey] = WorkQueue()
        # uid → loop time at which the pod may start, and at which it is to be gone.
        self._starts: dict[str, float] = {}
        self._stops: dict[str, float] = {}
        registry.store.listen(self._noticed)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.drain(self._reconcile)

    def _noticed(self, change: Change) -> None:
        if change.resource is not PODS:
            return
        if change.type == "DELETED":
            uid = change.obj["metadata"]["uid"]
            self._starts.pop(uid, None)
            self._stops.pop(uid, None)
        else:
            self._queue.add((change.namespace, change.name))

    def _reconcile(self, key: PodKey) -> None:
        pod = self._registry.store.get(PODS, *key)
        if pod is None:
            return
        metadata, now = pod["metadata"], asyncio.get_running_loop().time()
        if "deletionTimestamp" in metadata:
            wait = min(self._stop_delay, float(metadata.get("deletionGracePeriodSeconds", 30)))
            left = self._stops.setdefault(metadata["uid"], now + wait) - now
            if left > 0:
                self._queue.add(key, after=left)
            else:
                self._registry.delete(PODS, *key, Deletion(grace=0))
            return
        if pod["status"].get("phase") in ("Succeeded", "Failed"):
            return
        left = self._starts.setdefault(metadata["uid"], now + self._start_delay) - now
        self._publish(pod, started=left <= 0)
        if left > 0:
            self._queue.add(key, after=left)

    def _publish(self, pod: Obj, *, started: bool) -> None:
        containers = pod["spec"]["containers"]
        stuck = {item["image"] for item in containers if item["image"] in self._faults.unpullable}
        started = started and not stuck
        status = clone(pod["status"])
        status.setdefault("startTime", timestamp())
        status.update({"hostIP": "127.0.0.1", "phase": "Running" if started else "Pending"})
        if started:
            status.update({"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]})
        running = {item.get("name"): item for item in status.get("containerStatuses") or []}
        status["containerStatuses"] = [
            _container_status(item, running.get(item["name"]), started, item["image"] in stuck)
            for item in containers
        ]
        gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or []]
        closed = [gate for gate in gates if not condition_is_true(pod, gate)]
        ready = started and not closed
        conditions = list(status.get("conditions") or [])
        for kind, holds in (("PodScheduled", True), ("Initialized", True), ("ContainersReady", started)):
            conditions = conditions_with(conditions, _condition(kind, holds, "ContainersNotReady"))
        reason = "ReadinessGatesNotReady" if started else "ContainersNotReady"
        status["conditions"] = conditions_with(conditions, _condition("Ready", ready, reason))
        if status == pod["status"] and pod["spec"].get("nodeName"):
            return
        if not pod["spec"].get("nodeName"):
            bound = clone(pod)
            bound["spec"]["nodeName"] = NODE
            self._registry.store.put(PODS, bound)
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        body = {"metadata": {"name": name, "namespace": namespace}, "status": status}
        self._registry.update(PODS, namespace, name, body, _WRITE)


def _condition(kind: str, holds: bool, reason: str) -> Obj:
    condition = {"type": kind, "status": "True" if holds else "False"}
    return condition if holds else {**condition, "reason": reason}


def _container_status(container: Obj, before: Obj | None, started: bool, stuck: bool) -> Obj:
    state: Obj = {"waiting": {"reason": "ImagePullBackOff" if stuck else "ContainerCreating"}}
    if started:
        since = ((before or {}).get("state") or {}).get("running") or {"startedAt": timestamp()}
        state = {"running": since}
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": container["image"] if "@" in container["image"] else "",
        "ready": started,
        "started": started,
        "restartCount": 0,
        "state": state,
        "lastState": {},
    }
