"""What a gateway says of its Gateway and HTTPRoutes: that it took them up, and what it did not find."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from cockpit.rehearsal.app.mirror import Mirror, Object
from cockpit.rehearsal.kube.gateway import CONTROLLER_NAME, condition, gateway_status
from cockpit.rehearsal.kube.values import conditions_with

_log = logging.getLogger("rehearsal.gateway")

_GROUP = "/apis/gateway.networking.k8s.io/v1"
_RETRY = 0.5
_TIMEOUT = aiohttp.ClientTimeout(total=5)


class RouteStatus:
    """Keeps the status of one namespace's Gateways and HTTPRoutes; without its Gateway a route gets none."""

    def __init__(self, session: aiohttp.ClientSession, url: str, namespace: str) -> None:
        self._session = session
        self._url = f"{url}{_GROUP}/namespaces/{namespace}"
        self._dirty = asyncio.Event()
        self._gateways = Mirror(session, url, f"{_GROUP}/namespaces/{namespace}/gateways", self._dirty.set)
        self._routes = Mirror(session, url, f"{_GROUP}/namespaces/{namespace}/httproutes", self._dirty.set)
        self._services = Mirror(session, url, f"/api/v1/namespaces/{namespace}/services", self._dirty.set)

    async def run(self) -> None:
        """Follow them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in (self._gateways, self._routes, self._services):
                tasks.create_task(mirror.run())
            while True:
                await self._dirty.wait()
                self._dirty.clear()
                if not await self._report():
                    await asyncio.sleep(_RETRY)
                    self._dirty.set()

    async def _report(self) -> bool:
        """Write every status that is not as it should be; False means: not now, try again."""
        if not all(mirror.synced.is_set() for mirror in (self._gateways, self._routes, self._services)):
            return True  # each of them wakes us once it is
        wanted = [("gateways", one, gateway_status(one)) for one in self._gateways.objects.values()]
        wanted += [("httproutes", one, self._route_status(one)) for one in self._routes.objects.values()]
        done = [await self._write(*one) for one in wanted if one[2] != _known(one[1], one[2])]
        return all(done)

    async def _write(self, plural: str, obj: Object, status: Object) -> bool:
        metadata = obj["metadata"]
        # On what was seen, so that a report is never of one generation about another.
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": status}
        try:
            async with self._session.patch(
                f"{self._url}/{plural}/{metadata['name']}/status",
                json=body,
                headers={"Content-Type": "application/merge-patch+json"},
                timeout=_TIMEOUT,
            ) as answer:
                if answer.status >= 400 and answer.status != 409:
                    _log.warning("status refused", extra={"path": plural, "status": answer.status})
                return answer.status < 400
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _route_status(self, route: Object) -> Object:
        before = {
            item.get("parentRef", {}).get("name"): item.get("conditions") or []
            for item in (route.get("status") or {}).get("parents") or []
        }
        missing = self._missing(route)
        resolved = ("False", "BackendNotFound", missing) if missing else ("True", "ResolvedRefs", "")
        parents = []
        for reference in route["spec"].get("parentRefs") or []:
            if reference["name"] not in self._gateways.objects:
                continue
            conditions: list[Object] = list(before.get(reference["name"]) or [])
            for kind, found in (("Accepted", ("True", "Accepted", "")), ("ResolvedRefs", resolved)):
                conditions = conditions_with(conditions, condition(route, kind, *found))
            parents.append(
                {"parentRef": reference, "controllerName": CONTROLLER_NAME, "conditions": conditions}
            )
        return {"parents": parents}

    def _missing(self, route: Object) -> str:
        for rule in route["spec"].get("rules") or []:
            for backend in rule.get("backendRefs") or []:
                if backend["name"] not in self._services.objects:
                    return f"Service {backend['name']} not found"
        return ""


def _known(obj: Object, wanted: Object) -> Object:
    """Return what the object's status says of the fields that are wanted."""
    status = obj.get("status") or {}
    return {name: status.get(name) for name in wanted}
