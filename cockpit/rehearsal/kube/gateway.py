"""A small Gateway controller: says of each HTTPRoute whether it was accepted and its backends were found.

It carries no traffic; whoever does reads the weights from the routes over the API.
"""

from __future__ import annotations

from typing import TypeAlias

from cockpit.rehearsal.kube.ownership import Manager
from cockpit.rehearsal.kube.registry import Registry, Write
from cockpit.rehearsal.kube.resources import GATEWAYS, HTTP_ROUTES, SERVICES, Resource
from cockpit.rehearsal.kube.storage import Change
from cockpit.rehearsal.kube.values import Obj, conditions_with
from cockpit.rehearsal.kube.workqueue import WorkQueue

Key: TypeAlias = tuple[Resource, str, str]
CONTROLLER_NAME = "rehearsal.cockpit/gateway"
_WRITE = Write(Manager("rehearsal-gateway", subresource="status"))


class GatewayController:
    """Keeps the status of Gateways and HTTPRoutes; without its Gateway a route gets none, as in reality."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queue: WorkQueue[Key] = WorkQueue()
        registry.store.listen(self._noticed)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._queue.drain(self._reconcile)

    def _noticed(self, change: Change) -> None:
        if change.resource in (GATEWAYS, HTTP_ROUTES):
            self._queue.add((change.resource, change.namespace, change.name))
        if change.resource is GATEWAYS or (change.resource is SERVICES and change.type != "MODIFIED"):
            for route in self._registry.store.items(HTTP_ROUTES):
                self._queue.add((HTTP_ROUTES, route["metadata"]["namespace"], route["metadata"]["name"]))

    def _reconcile(self, key: Key) -> None:
        resource, namespace, name = key
        obj = self._registry.store.get(resource, namespace, name)
        if obj is None:
            return
        status = self._route_status(obj) if resource is HTTP_ROUTES else gateway_status(obj)
        if status != obj.get("status"):
            version = obj["metadata"]["resourceVersion"]
            body = {"metadata": {"name": name, "resourceVersion": version}, "status": status}
            self._registry.update(resource, namespace, name, body, _WRITE)

    def _route_status(self, route: Obj) -> Obj:
        metadata, spec = route["metadata"], route["spec"]
        before = {
            str(item.get("parentRef")): item for item in (route.get("status") or {}).get("parents") or []
        }
        missing = self._missing_backends(route)
        resolved = ("False", "BackendNotFound", missing) if missing else ("True", "ResolvedRefs", "")
        parents = []
        for reference in spec.get("parentRefs") or []:
            space = reference.get("namespace", metadata["namespace"])
            if reference["kind"] != "Gateway" or not self._registry.store.get(
                GATEWAYS, space, reference["name"]
            ):
                continue
            conditions = list((before.get(str(reference)) or {}).get("conditions") or [])
            for kind, (state, reason, text) in (
                ("Accepted", ("True", "Accepted", "")),
                ("ResolvedRefs", resolved),
            ):
                conditions = conditions_with(conditions, condition(route, kind, state, reason, text))
            parents.append(
                {"parentRef": reference, "controllerName": CONTROLLER_NAME, "conditions": conditions}
            )
        return {"parents": parents}

    def _missing_backends(self, route: Obj) -> str:
        for rule in route["spec"].get("rules") or []:
            for backend in rule.get("backendRefs") or []:
                space = backend.get("namespace", route["metadata"]["namespace"])
                if backend["kind"] != "Service" or not self._registry.store.get(
                    SERVICES, space, backend["name"]
                ):
                    return f"backend {backend['kind']} {backend['name']} not found"
        return ""


def condition(obj: Obj, kind: str, status: str, reason: str, message: str = "") -> Obj:
    """Return a condition of an object as a controller sees it now."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": obj["metadata"]["generation"],
    }


def gateway_status(gateway: Obj) -> Obj:
    """Return the status of a Gateway that is served on loopback."""
    conditions = list((gateway.get("status") or {}).get("conditions") or [])
    for kind in ("Accepted", "Programmed"):
        conditions = conditions_with(conditions, condition(gateway, kind, "True", kind))
    return {"addresses": [{"type": "IPAddress", "value": "127.0.0.1"}], "conditions": conditions}
