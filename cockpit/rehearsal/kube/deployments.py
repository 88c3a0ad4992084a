"""The Deployment controller: a ReplicaSet per pod template, rolled over within its surge bounds."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, TypeAlias

from cockpit.rehearsal.kube.ownership import Manager
from cockpit.rehearsal.kube.registry import CONTROLLERS, Registry, Write, metadata_name
from cockpit.rehearsal.kube.resources import DEPLOYMENTS, PODS, REPLICA_SETS
from cockpit.rehearsal.kube.storage import Change
from cockpit.rehearsal.kube.values import (
    Obj,
    clone,
    controller_name,
    controller_uid,
    owner_reference,
    seconds_since,
    timestamp,
)
from cockpit.rehearsal.kube.workqueue import WorkQueue

Key: TypeAlias = tuple[str, str]
HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
_WRITE = Write(CONTROLLERS)
_STATUS_WRITE = Write(Manager(CONTROLLERS.name, subresource="status"))
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


class DeploymentController:
    """Keeps the ReplicaSets and the status of every Deployment."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queue: WorkQueue[Key] = WorkQueue()
        registry.store.listen(self._noticed)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.drain(self._reconcile)

    def _noticed(self, change: Change) -> None:
        if change.resource is DEPLOYMENTS:
            self._queue.add((change.namespace, change.name))
        elif change.resource is REPLICA_SETS:
            self._wake_owner(change.obj)
        elif change.resource is PODS and change.type == "DELETED":
            # A Recreate rollout goes on when the last old pod is really gone.
            name = controller_name(change.obj, "ReplicaSet")
            owner = self._registry.store.get(REPLICA_SETS, change.namespace, name)
            if owner is not None:
                self._wake_owner(owner)

    def _wake_owner(self, replica_set: Obj) -> None:
        if name := controller_name(replica_set, "Deployment"):
            self._queue.add((replica_set["metadata"]["namespace"], name))

    def _reconcile(self, key: Key) -> None:
        deployment = self._registry.store.get(DEPLOYMENTS, *key)
        if deployment is None or "deletionTimestamp" in deployment["metadata"]:
            return
        current, older = self._sets(deployment)
        if current is None and not deployment["spec"].get("paused"):
            current = self._new_set(deployment, older)
        if current is not None and not deployment["spec"].get("paused"):
            current = self._mark_revision(deployment, current, older)
            self._roll(deployment, current, older)
        else:
            self._rescale(deployment, [*([current] if current else []), *older])
        # Read again: what was just written is what the status has to speak of.
        deployment = self._registry.get(DEPLOYMENTS, *key)
        current, older = self._sets(deployment)
        self._tidy(deployment, older)
        self._publish(deployment, current, older)

    def _sets(self, deployment: Obj) -> tuple[Obj | None, list[Obj]]:
        """Return the ReplicaSet of the present template and the others, oldest revision first."""
        metadata = deployment["metadata"]
        owned = [
            item
            for item in self._registry.store.items(REPLICA_SETS, metadata["namespace"])
            if controller_uid(item) == metadata["uid"] and "deletionTimestamp" not in item["metadata"]
        ]
        wanted = template_hash(deployment)
        current = next(
            (item for item in owned if (item["metadata"].get("labels") or {}).get(HASH_LABEL) == wanted), None
        )
        return current, sorted((item for item in owned if item is not current), key=_revision)

    def _new_set(self, deployment: Obj, older: list[Obj]) -> Obj:
        metadata, spec = deployment["metadata"], clone(deployment["spec"])
        hashed = template_hash(deployment)
        template, selector = spec["template"], spec["selector"]
        labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: hashed}
        template["metadata"] = {**(template.get("metadata") or {}), "labels": labels}
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: hashed}
        body = {
            "metadata": {
                "name": f"{metadata['name']}-{hashed}",
                "labels": labels,
                "annotations": {REVISION: str(_last_revision(older) + 1)},
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {
                "replicas": 0,
                "selector": selector,
                "template": template,
                "minReadySeconds": spec.get("minReadySeconds", 0),
            },
        }
        return self._registry.create(REPLICA_SETS, metadata["namespace"], body)

    def _mark_revision(self, deployment: Obj, current: Obj, older: list[Obj]) -> Obj:
        """Give the present template the highest revision, also when it is an old one rolled back to."""
        if _revision(current) <= _last_revision(older):
            changed = clone(current)
            changed["metadata"].setdefault("annotations", {})[REVISION] = str(_last_revision(older) + 1)
            current = self._write_set(changed)
        annotations = deployment["metadata"].get("annotations") or {}
        if annotations.get(REVISION) != str(_revision(current)):
            noted = clone(deployment)
            noted["metadata"]["annotations"] = {**annotations, REVISION: str(_revision(current))}
            # Past the registry: the controller's own note does not count as a new generation.
            self._registry.store.put(DEPLOYMENTS, noted)
        return current

    def _roll(self, deployment: Obj, current: Obj, older: list[Obj]) -> None:
        desired = deployment["spec"]["replicas"]
        if deployment["spec"]["strategy"].get("type") == "Recreate":
            for item in older:
                self._scale(item, 0)
            if not any(self._pods_left(item) for item in older):
                self._scale(current, desired)
            return
        surge, unavailable = rolling_bounds(deployment)
        total = current["spec"]["replicas"] + sum(item["spec"]["replicas"] for item in older)
        size = current["spec"]["replicas"]
        if size > desired:
            size = desired
        elif size < desired:
            size += max(0, min(desired + surge - total, desired - size))
        if size != current["spec"]["replicas"]:
            total += size - current["spec"]["replicas"]
            current = self._scale(current, size)
        self._shrink(current, older, total, desired - unavailable)

    def _shrink(self, current: Obj, older: list[Obj], total: int, minimum: int) -> None:
        """Scale the old sets down: first what is not available, then what the minimum lets go."""
        starting = max(0, current["spec"]["replicas"] - _count(current, "availableReplicas"))
        room = total - minimum - starting
        sizes = {metadata_name(item): item["spec"]["replicas"] for item in older}
        for item in older:
            idle = item["spec"]["replicas"] - _count(item, "availableReplicas")
            taken = max(0, min(room, idle))
            sizes[metadata_name(item)] -= taken
            room -= taken
        for item in older:
            taken = max(0, min(room, sizes[metadata_name(item)]))
            sizes[metadata_name(item)] -= taken
            room -= taken
        for item in older:
            self._scale(item, sizes[metadata_name(item)])

    def _rescale(self, deployment: Obj, sets: list[Obj]) -> None:
        # While paused only the size may change, and only where one set holds all the pods.
        active = [item for item in sets if item["spec"]["replicas"] > 0] or sets[:1]
        if len(active) == 1:
            self._scale(active[0], deployment["spec"]["replicas"])

    def _tidy(self, deployment: Obj, older: list[Obj]) -> None:
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        idle = [item for item in older if item["spec"]["replicas"] == 0 and not _count(item, "replicas")]
        for item in idle[: max(0, len(idle) - limit)]:
            self._registry.delete(REPLICA_SETS, item["metadata"]["namespace"], item["metadata"]["name"])

    def _scale(self, item: Obj, replicas: int) -> Obj:
        if item["spec"]["replicas"] == replicas:
            return item
        changed = clone(item)
        changed["spec"]["replicas"] = replicas
        return self._write_set(changed)

    def _write_set(self, changed: Obj) -> Obj:
        metadata = changed["metadata"]
        del metadata["resourceVersion"]
        return self._registry.update(REPLICA_SETS, metadata["namespace"], metadata["name"], changed, _WRITE)

    def _pods_left(self, item: Obj) -> bool:
        pods = self._registry.store.items(PODS, item["metadata"]["namespace"])
        return any(controller_uid(pod) == item["metadata"]["uid"] for pod in pods)

    def _publish(self, deployment: Obj, current: Obj | None, older: list[Obj]) -> None:
        namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
        sets = [*([current] if current else []), *older]
        total = sum(_count(item, "replicas") for item in sets)
        available = sum(_count(item, "availableReplicas") for item in sets)
        counts = {
            "replicas": total,
            "updatedReplicas": _count(current, "replicas") if current else 0,
            "readyReplicas": sum(_count(item, "readyReplicas") for item in sets),
            "availableReplicas": available,
            "unavailableReplicas": max(0, deployment["spec"]["replicas"] - available),
        }
        # Zero counts are left out, as the real API does.
        status: Obj = {
            "observedGeneration": deployment["metadata"]["generation"],
            **{field: count for field, count in counts.items() if count},
        }
        before: Obj = deployment.get("status") or {}
        old = {item.get("type", ""): item for item in before.get("conditions") or []}
        moved = {**before, "conditions": None} != {**status, "conditions": None}
        progress = self._progress(deployment, status, current, old.get("Progressing"), moved=moved)
        status["conditions"] = [
            _settled(item, old) for item in (_availability(deployment, available), progress)
        ]
        if status != before:
            body = {"metadata": {"name": name, "namespace": namespace}, "status": status}
            self._registry.update(DEPLOYMENTS, namespace, name, body, _STATUS_WRITE)

    def _progress(
        self, deployment: Obj, status: Obj, current: Obj | None, before: Obj | None, *, moved: bool
    ) -> Obj:
        desired = deployment["spec"]["replicas"]
        counts = [status.get(field, 0) for field in ("updatedReplicas", "replicas", "availableReplicas")]
        name = f'ReplicaSet "{current["metadata"]["name"]}"' if current else "ReplicaSet"
        if deployment["spec"].get("paused"):
            return _condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
        if counts == [desired] * 3:
            return _condition(
                "Progressing", "True", "NewReplicaSetAvailable", f"{name} has successfully progressed."
            )
        limit = float(deployment["spec"].get("progressDeadlineSeconds", 600))
        if before is not None and not moved and before.get("reason") != "NewReplicaSetAvailable":
            left = limit - seconds_since(before.get("lastUpdateTime"))
            if left <= 0:
                text = f"{name} has timed out progressing."
                return _condition("Progressing", "False", "ProgressDeadlineExceeded", text)
            self._queue.add((deployment["metadata"]["namespace"], deployment["metadata"]["name"]), after=left)
            return before
        self._queue.add((deployment["metadata"]["namespace"], deployment["metadata"]["name"]), after=limit)
        return _condition("Progressing", "True", "ReplicaSetUpdated", f"{name} is progressing.")


def template_hash(deployment: Obj) -> str:
    """Return ten letters that name the pod template, the same for equal templates."""
    text = json.dumps(deployment["spec"]["template"], sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:10])


def rolling_bounds(deployment: Obj) -> tuple[int, int]:
    """Return maxSurge (rounded up) and maxUnavailable (rounded down) as numbers of pods, never both zero."""
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    desired = deployment["spec"]["replicas"]
    surge = math.ceil(_share(rolling.get("maxSurge", "25%"), desired))
    unavailable = math.floor(_share(rolling.get("maxUnavailable", "25%"), desired))
    return surge, (unavailable if surge or unavailable else 1)


def _share(value: Any, desired: int) -> float:
    if isinstance(value, str):
        return int(value.rstrip("%")) * desired / 100
    return float(value)


def _count(item: Obj, field: str) -> int:
    return int((item.get("status") or {}).get(field, 0))


def _revision(item: Obj) -> int:
    return int((item["metadata"].get("annotations") or {}).get(REVISION, 0))


def _hash_label(item: Obj) -> str:
    return str((item["metadata"].get("labels") or {}).get(HASH_LABEL, ""))


def _last_revision(items: list[Obj]) -> int:
    return max((_revision(item) for item in items), default=0)


def _condition(kind: str, status: str, reason: str, message: str) -> Obj:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _availability(deployment: Obj, available: int) -> Obj:
    if available >= deployment["spec"]["replicas"] - rolling_bounds(deployment)[1]:
        text = "Deployment has minimum availability."
        return _condition("Available", "True", "MinimumReplicasAvailable", text)
    text = "Deployment does not have minimum availability."
    return _condition("Available", "False", "MinimumReplicasUnavailable", text)


def _settled(condition: Obj, old: dict[str, Obj]) -> Obj:
    """Give a condition its times: both stay when nothing changed, the transition's while the status does."""
    before = old.get(condition["type"])
    if before is not None and all(before.get(field) == value for field, value in condition.items()):
        return before
    same = before is not None and before.get("status") == condition["status"]
    transition = before.get("lastTransitionTime", timestamp()) if before is not None and same else timestamp()
    return {**condition, "lastUpdateTime": timestamp(), "lastTransitionTime": transition}
