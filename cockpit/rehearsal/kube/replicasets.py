"""The ReplicaSet controller: as many pods as asked for, the least useful ones deleted first."""

from __future__ import annotations

from typing import TypeAlias

from cockpit.rehearsal.kube.ownership import Manager
from cockpit.rehearsal.kube.registry import Registry, Write
from cockpit.rehearsal.kube.resources import PODS, REPLICA_SETS
from cockpit.rehearsal.kube.storage import Change
from cockpit.rehearsal.kube.values import (
    Obj,
    clone,
    condition_is_true,
    controller_name,
    controller_uid,
    owner_reference,
    seconds_since,
)
from cockpit.rehearsal.kube.workqueue import WorkQueue

Key: TypeAlias = tuple[str, str]
_STATUS_WRITE = Write(Manager("kube-controller-manager", subresource="status"))


class ReplicaSetController:
    """Keeps the pods of every ReplicaSet; orphans are not adopted."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queue: WorkQueue[Key] = WorkQueue()
        registry.store.listen(self._noticed)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.drain(self._reconcile)

    def _noticed(self, change: Change) -> None:
        if change.resource is REPLICA_SETS:
            self._queue.add((change.namespace, change.name))
        elif change.resource is PODS and (name := controller_name(change.obj, "ReplicaSet")):
            self._queue.add((change.namespace, name))

    def _reconcile(self, key: Key) -> None:
        found = self._registry.store.get(REPLICA_SETS, *key)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return
        pods = self._pods(found)
        missing = found["spec"]["replicas"] - len(pods)
        for _ in range(missing):
            self._registry.create(PODS, key[0], _pod_of(found))
        youngest_first = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
        for pod in sorted(youngest_first, key=_usefulness)[: max(0, -missing)]:
            self._registry.delete(PODS, key[0], pod["metadata"]["name"])
        self._publish(found, self._pods(found))

    def _pods(self, owner: Obj) -> list[Obj]:
        uid, namespace = owner["metadata"]["uid"], owner["metadata"]["namespace"]
        return [
            pod
            for pod in self._registry.store.items(PODS, namespace)
            if controller_uid(pod) == uid
            and "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def _publish(self, owner: Obj, pods: list[Obj]) -> None:
        namespace, name = owner["metadata"]["namespace"], owner["metadata"]["name"]
        ready = [pod for pod in pods if condition_is_true(pod, "Ready")]
        patience = float(owner["spec"].get("minReadySeconds", 0))
        waits = [patience - _ready_for(pod) for pod in ready] if patience else [0.0 for _ in ready]
        soonest = min((wait for wait in waits if wait > 0), default=None)
        if soonest is not None:
            self._queue.add((namespace, name), after=soonest)
        counts = {
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": len(ready),
            "availableReplicas": sum(wait <= 0 for wait in waits),
        }
        status = {
            "replicas": len(pods),
            "observedGeneration": owner["metadata"]["generation"],
            **{field: count for field, count in counts.items() if count},
        }
        if status != owner.get("status"):
            body = {"metadata": {"name": name, "namespace": namespace}, "status": status}
            self._registry.update(REPLICA_SETS, namespace, name, body, _STATUS_WRITE)


def _pod_of(owner: Obj) -> Obj:
    template = clone(owner["spec"]["template"])
    metadata = template.get("metadata") or {}
    return {
        "metadata": {
            "generateName": f"{owner['metadata']['name']}-",
            "labels": metadata.get("labels") or {},
            **({"annotations": metadata["annotations"]} if metadata.get("annotations") else {}),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": template["spec"],
    }


def _usefulness(pod: Obj) -> tuple[bool, bool]:
    """Order pods for deletion: those not running first, then those not ready."""
    return pod["status"].get("phase") == "Running", condition_is_true(pod, "Ready")


def _ready_for(pod: Obj) -> float:
    conditions = pod["status"]["conditions"]
    return seconds_since(
        next(item.get("lastTransitionTime") for item in conditions if item.get("type") == "Ready")
    )
